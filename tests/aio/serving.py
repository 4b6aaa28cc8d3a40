"""A server, an MTA and a record of what the milter saw, for the tests of this folder."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ClassVar

import pytest

from aiomilter import Config, EomActions, Milter, Server, SocketInfo, Status
from tests.mta import PATIENCE_S, Mta

__all__ = [
    "Journal",
    "Recorder",
    "errors",
    "no_descriptors",
    "recorder",
    "serving",
    "session",
    "until_true",
    "warnings",
]


class Journal:
    """What has happened, in order; may be written from any thread."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def note(self, entry: str) -> None:
        """Append an entry."""
        self.entries.append(entry)
        self._loop.call_soon_threadsafe(self._changed.set)

    async def until(self, entry: str, count: int = 1) -> None:
        """Wait until the entry has been noted ``count`` times."""
        async with asyncio.timeout(PATIENCE_S):
            while self.entries.count(entry) < count:
                self._changed.clear()
                await self._changed.wait()


class Recorder(Milter):
    """Has all handlers, notes them in the class's journal, and counts messages from 1 on.

    What a subclass puts into ``act`` is done in each handler, after the note.
    """

    journal: ClassVar[Journal]
    messages = 0

    async def act(self, stage: str) -> Any:
        """Do what the test is about."""

    def begin_message(self) -> None:
        self.messages += 1

    async def on_connect(self, hostname: str, client: SocketInfo) -> Any:
        self.journal.note("connect")
        return await self.act("connect")

    async def on_helo(self, hostname: str) -> Any:
        self.journal.note("helo")
        return await self.act("helo")

    async def on_mail(self, sender: str, params: list[str]) -> Any:
        self.journal.note("mail")
        return await self.act("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
        self.journal.note("rcpt")
        return await self.act("rcpt")

    async def on_data(self) -> Any:
        self.journal.note("data")
        return await self.act("data")

    async def on_header(self, name: str, value: str) -> Any:
        self.journal.note("header")
        return await self.act("header")

    async def on_eoh(self) -> Any:
        self.journal.note("eoh")
        return await self.act("eoh")

    async def on_body(self, chunk: bytes) -> Any:
        self.journal.note("body")
        return await self.act("body")

    async def on_eom(self, actions: EomActions) -> Any:
        self.journal.note("eom")
        actions.add_header("X-Message", str(self.messages))
        result = await self.act("eom")
        return Status.ACCEPT if result is None else result

    async def on_unknown(self, command: str) -> Any:
        self.journal.note("unknown")
        return await self.act("unknown")

    async def on_abort(self) -> None:
        self.journal.note("abort")
        await self.act("abort")

    async def on_close(self) -> None:
        self.journal.note("close")
        await self.act("close")


def recorder(base: type[Recorder] = Recorder, **attributes: Any) -> type[Recorder]:
    """Return a subclass of a recorder with a journal of its own."""
    return type(base.__name__, (base,), {"journal": Journal(), **attributes})


@asynccontextmanager
async def serving(
    factory: Callable[[], Milter], *listen: Any, grace: float = 0, **settings: Any
) -> AsyncIterator[Server]:
    """Serve on a loopback port, or on other addresses; stop without grace."""
    config = Config(stop_grace=grace, **settings)
    async with Server(factory, *(listen or ("inet:0",)), config=config) as server:
        yield server


@asynccontextmanager
async def session(
    factory: Callable[[], Milter], *listen: Any, **settings: Any
) -> AsyncIterator[Mta]:
    """Serve, connect, and negotiate."""
    async with (
        serving(factory, *listen, **settings) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()
        yield mta


async def until_true(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  (there is no event to wait for)
            await asyncio.sleep(0.001)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave no descriptor to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the library's lines of the level ERROR and above."""
    return _lines(caplog, logging.ERROR, logging.CRITICAL)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the library's lines of the level WARNING."""
    return _lines(caplog, logging.WARNING, logging.WARNING)


def _lines(caplog: pytest.LogCaptureFixture, least: int, most: int) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("aiomilter") and least <= record.levelno <= most
    ]
