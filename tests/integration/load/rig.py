"""A Postfix for many messages at a time, a milter and a sink: each a process of its own."""

import json
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiomilter.testing.servers.postfix import Postfix
from tests.integration.load.process import Watched

__all__ = ["Delivered", "LoadRig", "assert_no_fault", "assert_stamped_once", "stop"]

HERE = Path(__file__).parent
MILTERS = HERE.parent / "milters"

EMPTY_S = 20


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the sink tells of a message.

    Attributes:
        queue_id: The id that Postfix put in its trace field.
        recipients: The envelope recipients in their brackets.
        stamps: The values of the field that the milter adds.
        body_bytes: The size of the body, with the CRLF of its last line.
    """

    queue_id: str
    recipients: list[str]
    stamps: list[str]
    body_bytes: int


@dataclass(frozen=True, slots=True)
class LoadRig:
    """The processes around a milter under load.

    Attributes:
        postfix: With the listeners ``plain``, which asks nobody, and ``milter``.
        sink: Where it delivers.
    """

    postfix: Postfix
    sink: Watched

    @classmethod
    @asynccontextmanager
    async def started(cls) -> AsyncIterator["LoadRig"]:
        """Start the sink and a Postfix in front of it."""
        async with Watched.started(sys.executable, str(HERE / "sink_program.py")) as sink:
            await sink.has_lines(1)
            with Postfix(int(sink.lines[0])) as postfix:
                postfix.start({"plain": {"smtpd_milters": ""}, "milter": {}})
                yield cls(postfix, sink)

    @asynccontextmanager
    async def milter(self, name: str) -> AsyncIterator[Watched]:
        """Run one of the milters of this folder with the command line until the block ends."""
        async with Watched.started(
            *(sys.executable, "-m", "aiomilter.cli", "run", f"{MILTERS}/stamp.py:{name}"),
            *("--listen", self.postfix.milter_address, "--unix-group", "postfix"),
        ) as milter:
            await milter.has_lines(1)
            assert "listening on" in milter.lines[0], milter.lines
            yield milter

    async def delivered(self, count: int, timeout_s: float) -> None:
        """Wait until so many messages have come since the start."""
        await self.sink.has_lines(1 + count, timeout_s)

    async def all_delivered(self) -> list[Delivered]:
        """Wait until Postfix has nothing left to deliver, and return what has come."""
        await self.postfix.settle(EMPTY_S)
        return [Delivered(**json.loads(line)) for line in self.sink.lines[1:]]


async def stop(milter: Watched) -> None:
    """End a milter as a service manager does: that is a good end, with nothing to complain of."""
    milter.send_signal(signal.SIGTERM)
    status = await milter.ended()
    assert status == 0, (status, milter.lines[-5:])
    assert_no_fault(milter.lines)


def assert_no_fault(lines: Iterable[str]) -> None:
    """Nothing but information was logged, so no traceback either."""
    faults = [line for line in lines if line.split(" ")[2:3] != ["INFO"]]
    assert not faults, faults[:10]


def assert_stamped_once(deliveries: Iterable[Delivered]) -> None:
    """Each message carries one edit, and it is the one that was meant for it."""
    wrong = [
        delivered
        for delivered in deliveries
        if delivered.stamps
        != [" ".join((delivered.queue_id, *delivered.recipients, str(delivered.body_bytes)))]
    ]
    assert not wrong, (len(wrong), wrong[:3])
