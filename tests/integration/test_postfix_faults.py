"""What a broken handler costs: one temporary failure, and neither the session nor the process."""

import asyncio
import dataclasses
import logging

import pytest

from aiomilter import EomActions, Milter, SocketInfo, Status, no_reply
from tests.integration.counting import Counting
from tests.integration.journal import Journal
from tests.integration.rig import CONFIG, Rig
from tests.integration.smtp import SmtpClient

pytestmark = pytest.mark.xdist_group("postfix")

CONTENT = b"Subject: x\r\n\r\nbody\r\n"
SECRET = "the password is swordfish"
STAGES = ["mail", "rcpt", "data", "header", "eoh", "body", "eom"]


class Faulty(Counting):
    """Breaks in one stage of the first message of each session."""

    journal: Journal
    stage: str
    fault: BaseException

    def at(self, stage: str) -> None:
        """Raise the fault if this is the place for it."""
        if self.messages == 1 and stage == self.stage:
            raise self.fault

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.journal.note("connect")

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
        actions.add_header("X-Message", str(self.messages))
        self.at("eom")

    async def on_close(self) -> None:
        self.journal.note("close")


def faulty(journal: Journal, stage: str, fault: BaseException) -> type[Milter]:
    """Return a milter that raises ``fault`` at ``stage``."""

    class Bound(Faulty):
        pass

    Bound.journal, Bound.stage, Bound.fault = journal, stage, fault
    return Bound


def faults_logged(caplog: pytest.LogCaptureFixture) -> int:
    """Return how many records of level ERROR or above the library has written."""
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    return sum(record.name.startswith("aiomilter") for record in records)


@pytest.mark.parametrize("listener", ["unix", "inet"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_fault_costs_a_451_and_the_next_message_passes(
    rig: Rig, journal: Journal, stage: str, listener: str, caplog: pytest.LogCaptureFixture
) -> None:
    milter = faulty(journal, stage, RuntimeError(SECRET))
    async with rig.session(milter, listener) as smtp:
        refusal = await smtp.until_refused(CONTENT)
        assert (refusal.code, refusal.text) == (451, "4.7.1 Service unavailable - try again later")
        await smtp.command("RSET")
        reply = await smtp.message(CONTENT)
    await journal.until("close")
    # The same connection to the milter served both: Postfix gives up on a filter that hangs up.
    assert journal.names == ["connect", "close"]
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Message: 2"
    assert faults_logged(caplog) == 1


@pytest.mark.parametrize(
    "fault",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        StopAsyncIteration(),
        TimeoutError(),
        BaseException(SECRET),
        BaseExceptionGroup("several", [SystemExit(2), ValueError(SECRET)]),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_any_exception_is_survived(
    rig: Rig, journal: Journal, fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig.session(faulty(journal, "eom", fault)) as smtp:
        assert (await smtp.until_refused(CONTENT)).code == 451
        reply = await smtp.message(CONTENT)
    await journal.until("close")
    assert journal.names == ["connect", "close"]
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Message: 2"
    assert faults_logged(caplog) == 1


async def test_system_exit_in_a_thread_handler_is_survived(rig: Rig) -> None:
    class Exiting(Counting):
        def on_eom(self, actions: EomActions) -> None:
            if self.messages == 1:
                raise SystemExit(3)
            actions.add_header("X-Message", str(self.messages))

    async with rig.session(Exiting) as smtp:
        assert (await smtp.until_refused(CONTENT)).code == 451
        reply = await smtp.message(CONTENT)
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Message: 2"


async def test_a_fault_leaves_no_edit_in_the_next_message(rig: Rig, journal: Journal) -> None:
    class HalfWay(Counting):
        async def on_eom(self, actions: EomActions) -> None:
            if self.messages == 1:
                actions.add_header("X-Half", "yes")
                actions.replace_body(b"half\r\n")
                actions.add_recipient("<half@dst.example>")
                raise RuntimeError(SECRET)

    async with rig.session(HalfWay) as smtp:
        assert (await smtp.until_refused(CONTENT)).code == 451
        reply = await smtp.message(CONTENT)
    delivery = await rig.delivery(reply)
    assert delivery.own_header_lines == [b"Subject: x"]
    assert delivery.body == b"body\r\n"
    assert delivery.recipients == ["<b@dst.example>"]


async def test_a_fault_with_fail_open_passes_the_message_unedited(rig: Rig) -> None:
    class HalfWay(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Half", "yes")
            actions.change_sender("<half@src.example>")
            actions.quarantine("half")
            raise RuntimeError(SECRET)

    config = dataclasses.replace(CONFIG, on_error=Status.ACCEPT)
    async with rig.session(HalfWay, config=config) as smtp:
        reply = await smtp.message(CONTENT)
    delivery = await rig.delivery(reply)
    assert delivery.sender == "<a@src.example>"
    assert delivery.own_header_lines == [b"Subject: x"]


async def test_a_wrong_result_is_a_fault(rig: Rig) -> None:
    class Wrong(Counting):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            # What a caller without a type checker may return.
            return True if self.messages == 1 else Status.CONTINUE  # type: ignore[return-value]

    async with rig.session(Wrong) as smtp:
        assert (await smtp.until_refused(CONTENT)).code == 451
        await smtp.command("RSET")
        await rig.delivery(await smtp.message(CONTENT))


async def test_a_fault_in_an_observer_shows_at_the_next_reply(rig: Rig) -> None:
    class Observer(Counting):
        @no_reply
        async def on_header(self, name: str, value: str) -> None:
            if self.messages == 1:
                raise RuntimeError(SECRET)

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Message", str(self.messages))

    async with rig.session(Observer) as smtp:
        assert (await smtp.until_refused(CONTENT)).code == 451
        reply = await smtp.message(CONTENT)
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Message: 2"


async def test_a_fault_at_connect_defers_the_session_only(rig: Rig) -> None:
    class Broken(Milter):
        sessions = 0

        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            Broken.sessions += 1
            if Broken.sessions == 1:
                raise RuntimeError(SECRET)

    async with rig.session(Broken) as first, SmtpClient.connect(rig.postfix.port("unix")) as second:
        reply = await first.command("MAIL FROM:<a@src.example>")
        assert reply.code == 451
        assert SECRET not in reply.text
        await second.ehlo()
        await rig.delivery(await second.message(CONTENT))
