"""A milter's end of a connection, written by hand, for the tests of the MTA's end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from tests.mta import PATIENCE_S, packet

__all__ = ["AGREED", "CONTINUE", "Milter", "listening", "milter"]

CONTINUE = packet(b"c")
AGREED = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0"


class Milter:
    """One connection, seen from the milter.

    Attributes:
        seen: Letter and payload of all that came, macros left out.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.seen: list[bytes] = []

    async def command(self) -> bytes:
        """Return the next command, letter and payload, that is no macros; b"" at the end."""
        while True:
            try:
                (length,) = struct.unpack(">I", await self.reader.readexactly(4))
                found = await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""
            if found[:1] != b"D":
                self.seen.append(found)
                return found

    async def until(self, letter: bytes, replies: Mapping[bytes, bytes] = {}) -> bytes:
        """Answer the commands before the first one with a letter, and return that one."""
        while (found := await self.command()) and found[:1] != letter:
            if found[:1] not in b"AQK":
                default = AGREED if found[:1] == b"O" else CONTINUE
                self.write(replies.get(found[:1], default))
        return found

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    def reset(self) -> None:
        """Drop the connection with RST."""
        sock = self.writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    @property
    def letters(self) -> str:
        """The commands so far."""
        return "".join(chr(one[0]) for one in self.seen)


class Listening:
    """Where a milter listens.

    Attributes:
        address: For `connect`.
        milters: The connections so far.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.milters: list[Milter] = []
        self._ended = asyncio.Semaphore(0)

    async def until_ended(self) -> None:
        """Wait until a connection is over, seen from the milter."""
        async with asyncio.timeout(PATIENCE_S):
            await self._ended.acquire()

    def note_end(self) -> None:
        """Tell that one is."""
        self._ended.release()


@asynccontextmanager
async def listening(
    behave: Callable[[Milter], Awaitable[object]], path: str | None = None
) -> AsyncGenerator[Listening]:
    """Listen on a port of the loopback, or on a path, and behave so on each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = Milter(reader, writer)
        where.milters.append(one)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await behave(one)
        except (ConnectionError, asyncio.CancelledError):
            # The latter at the end of the test; streams would tell of a task that was cancelled.
            pass
        finally:
            writer.close()
            where.note_end()

    tasks: set[asyncio.Task[object]] = set()
    if path is None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        where = Listening(f"inet:{server.sockets[0].getsockname()[1]}@127.0.0.1")
    else:
        server = await asyncio.start_unix_server(serve, path)
        where = Listening(f"unix:{path}")
    try:
        yield where
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


def milter(
    letter: bytes = b"", data: bytes | None = None, **replies: bytes
) -> Callable[[Milter], Awaitable[object]]:
    """Return a behaviour: CONTINUE to all, but ``data`` to one letter and then the end.

    Args:
        letter: Of the command; empty for none.
        data: What is sent then.
        **replies: What else is answered, by letter.
    """
    by_letter = {name.encode(): reply for name, reply in replies.items()}

    async def behave(one: Milter) -> None:
        await one.until(letter or b"?", by_letter)
        if data:
            one.write(data)

    return behave
