"""What a broken handler leaves in the log, behind Postfix; what it costs is in ``cases/faults``."""

import asyncio
import logging

import pytest

from aiomilter import EomActions, Milter
from tests.integration.counting import Counting
from tests.integration.rig import Rig

pytestmark = pytest.mark.xdist_group("postfix")

CONTENT = b"Subject: x\r\n\r\nbody\r\n"
STAGES = ["mail", "rcpt", "data", "header", "eoh", "body", "eom"]
FAULTS: list[BaseException] = [
    RuntimeError("the password is swordfish"),
    SystemExit(1),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    BaseExceptionGroup("several", [SystemExit(2), ValueError()]),
]


class Faulty(Counting):
    """Breaks in one stage of the first message of each session."""

    stage: str
    fault: BaseException

    def at(self, stage: str) -> None:
        """Raise the fault if this is the place for it."""
        if self.messages == 1 and stage == self.stage:
            raise self.fault

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.at("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.at("rcpt")

    async def on_data(self) -> None:
        self.at("data")

    async def on_header(self, name: str, value: str) -> None:
        self.at("header")

    async def on_eoh(self) -> None:
        self.at("eoh")

    async def on_body(self, chunk: bytes) -> None:
        self.at("body")

    async def on_eom(self, actions: EomActions) -> None:
        self.at("eom")


def faulty(stage: str, fault: BaseException) -> type[Milter]:
    """Return a milter that raises ``fault`` at ``stage``."""

    class Bound(Faulty):
        pass

    Bound.stage, Bound.fault = stage, fault
    return Bound


@pytest.mark.parametrize(
    ("stage", "fault"),
    [*((stage, FAULTS[0]) for stage in STAGES), *(("eom", fault) for fault in FAULTS[1:])],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_a_fault_is_one_record_in_the_log(
    rig: Rig, stage: str, fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig.session(faulty(stage, fault)) as smtp:
        assert (await smtp.until_refused(CONTENT)).code == 451
        await smtp.command("RSET")
        await rig.delivery(await smtp.message(CONTENT))
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert sum(record.name.startswith("aiomilter") for record in records) == 1
