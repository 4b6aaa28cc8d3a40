"""What the tests of hostile input share: a clock that jumps, and a measure of memory."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aiomilter import EomActions, SocketInfo, Status
from tests.aio import serving
from tests.aio.serving import Recorder
from tests.mta import MESSAGE, Mta

__all__ = [
    "MESSAGE_REPLIES",
    "Clock",
    "Memory",
    "RecordProperty",
    "Teller",
    "measured_memory",
    "one_warning",
    "serves_a_message",
    "warnings",
]

MESSAGE_REPLIES = [b"c"] * 6 + [b"hX-Message\x001\0", b"a"]
"""To `MESSAGE`, from a `Recorder` that has not served one before."""


RecordProperty = Callable[[str, object], None]
"""The type of pytest's fixture; the summary of a run shows what is recorded as ``summary``."""


class Clock:
    """The clock of the running loop, which goes on as always and can be put forward.

    Only the standard loop asks its own ``time`` on each turn.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self._ahead_s = 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead_s)

    async def advance(self, seconds: float) -> None:
        """Let time pass, and whatever is due happen."""
        self._ahead_s += seconds
        for _ in range(10):
            await asyncio.sleep(0)


class Teller(Recorder):
    """Notes also what each handler is given, and which macros it sees."""

    def note(self, *words: object) -> None:
        """Append an entry to the journal."""
        self.journal.note(" ".join(map(str, words)))

    async def on_connect(self, hostname: str, client: SocketInfo) -> Any:
        self.note("connect", hostname, client)
        return await self.act("connect")

    async def on_helo(self, hostname: str) -> Any:
        self.note("helo", hostname)
        return await self.act("helo")

    async def on_mail(self, sender: str, params: list[str]) -> Any:
        self.note("mail", sender, params)
        return await self.act("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
        self.note("rcpt", recipient, params)
        return await self.act("rcpt")

    async def on_header(self, name: str, value: str) -> Any:
        self.note("header", name, repr(value))
        return await self.act("header")

    async def on_body(self, chunk: bytes) -> Any:
        self.note("body", chunk)
        return await self.act("body")

    async def on_eom(self, actions: EomActions) -> Any:
        self.note("eom", self.macros.get("i"))
        actions.add_header("X-Message", str(self.messages))
        result = await self.act("eom")
        return Status.ACCEPT if result is None else result


class Memory:
    """What has been allocated since it was made, however it is allotted within the process."""

    def __init__(self) -> None:
        gc.collect()
        tracemalloc.reset_peak()
        self._before, _ = tracemalloc.get_traced_memory()

    def growth(self) -> int:
        """Return by how many bytes more is allocated, after a collection."""
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - self._before

    def peak(self) -> int:
        """Return by how many bytes more was ever allocated."""
        return tracemalloc.get_traced_memory()[1] - self._before


@contextmanager
def measured_memory() -> Iterator[type[Memory]]:
    """Have all allocations traced, which takes its time."""
    tracemalloc.start()
    try:
        yield Memory
    finally:
        tracemalloc.stop()


async def serves_a_message(mta: Mta, number: int = 1) -> None:
    """Assert that a whole message is answered as ever."""
    mta.send(*MESSAGE)
    replies = await mta.replies(8)
    assert replies == [b"c"] * 6 + [b"hX-Message\0%d\0" % number, b"a"]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the library's warnings, without those of a machine that has other work to do."""
    return [line for line in serving.warnings(caplog) if "the event loop stood still" not in line]


def one_warning(caplog: pytest.LogCaptureFixture) -> str:
    """Return the library's only warning."""
    (line,) = warnings(caplog)
    assert line.isprintable()
    return line
