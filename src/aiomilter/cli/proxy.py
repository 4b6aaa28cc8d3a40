"""A transparent proxy between MTAs and a milter, which reports what passes.

Rules of this file:

- Bytes go on as they come, before anybody looks at them; neither direction waits for the other.
- One end's end of stream is passed on as such, and its reset as a reset. So each end sees of the
  other what it would see without a proxy.
- Nothing that a report does may hold up the mail: it returns at once and does not raise.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from aiomilter.aio.address import Address
from aiomilter.aio.admission import Admission, host_of
from aiomilter.aio.config import Config
from aiomilter.aio.dial import dial
from aiomilter.aio.line import Line
from aiomilter.aio.listeners import Listener
from aiomilter.cli.packets import End, PacketCutter, Piece
from aiomilter.cli.record import Entry, Event
from aiomilter.errors import MilterError

__all__ = ["Counts", "Proxy"]

_READ_BYTES = 128 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on for 0 s: closing sends RST."""


@dataclass(slots=True)
class Counts:
    """What has passed."""

    connections: int = 0
    packets: int = 0


class Proxy:
    """Connects each MTA that comes to the milter.

    Attributes:
        counts: What has passed so far.
    """

    def __init__(
        self, to: Address, report: Callable[[Entry], None], config: Config | None = None
    ) -> None:
        """Prepare a proxy; time begins now.

        Args:
            to: Where the milter is.
            report: Told of everything that happens.
            config: Says who may connect (`Config.allowed_networks`); None for everybody.
        """
        self._admission = Admission(config or Config(), time.monotonic)
        self.counts = Counts()
        self._to = to
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: Listener, backlog: int) -> asyncio.Server:
        """Take the connections of MTAs from a listening socket, until what is returned is closed.

        Args:
            listener: Where MTAs connect; it stays the caller's.
            backlog: How many connections may wait to be accepted.
        """
        if listener.sock.family != socket.AF_UNIX:
            return await asyncio.start_server(self.accept, sock=listener.sock, backlog=backlog)
        # Removing the path is the listener's.
        keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        return await asyncio.start_unix_server(
            self.accept, sock=listener.sock, backlog=backlog, **keep
        )

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection from an MTA, if it may connect."""
        try:
            is_allowed = self._admission.is_allowed(host_of(writer.get_extra_info("socket")))
        except OSError:
            is_allowed = False  # it is gone already
        if not is_allowed:
            writer.transport.abort()
            return
        task = self._loop.create_task(self._serve(_Side("mta", reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cut all connections off."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, mta: _Side) -> None:
        number = next(self._numbers)
        self.counts.connections += 1
        self._note(number, "open", detail=mta.line.peer)
        try:
            with mta:
                await self._connect(number, mta)
        finally:
            self._note(number, "close")

    async def _connect(self, number: int, mta: _Side) -> None:
        try:
            stream = await dial(self._to)
        except MilterError as error:
            self._note(number, "error", "milter", detail=str(error))
            return
        with _Side("milter", stream.reader, stream.writer) as milter:
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(number, mta, milter))
                    pumps.create_task(self._pump(number, milter, mta))
            except* _LostError as group:
                lost = group.exceptions[0]
                assert isinstance(lost, _LostError)
                self._note(number, "error", lost.end, detail=lost.reason)
                mta.reset()
                milter.reset()
            else:
                await milter.close()
                await mta.close()

    async def _pump(self, number: int, source: _Side, target: _Side) -> None:
        """Pass on what one end sends, until it sends no more."""
        cutter = PacketCutter()
        try:
            while data := await source.read():
                target.write(data)
                source.line.acknowledge_at_once()
                for piece in cutter.receive(data):
                    self._note_piece(number, source.end, piece)
                await target.drain()
            target.write_eof()
        finally:
            if rest := cutter.rest():
                self._note_piece(number, source.end, rest)
        self._note(number, "eof", source.end)

    def _note_piece(self, number: int, sender: End, piece: Piece) -> None:
        self.counts.packets += piece.is_packet
        event: Event = "packet" if piece.is_packet else "bytes"
        self._note(number, event, sender, piece.data, piece.reason)

    def _note(
        self,
        number: int,
        event: Event,
        sender: End | None = None,
        data: bytes = b"",
        detail: str = "",
    ) -> None:
        t = self._loop.time() - self._start
        self._report(Entry(t, number, event, sender, data, detail))


class _LostError(Exception):
    """The connection to one end is gone."""

    def __init__(self, end: End, error: OSError) -> None:
        super().__init__(end, error)
        self.end: End = end
        self.reason = f"the connection to the {end} is lost: {error.strerror or error}"


class _Side:
    """The connection to one of the two ends; what fails on it is a `_LostError`.

    A context manager: leaving it leaves no socket open.
    """

    def __init__(
        self, end: End, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.end: End = end
        self._reader = reader
        self._writer = writer
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        self.line = Line(transport, asyncio.get_running_loop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.transport.abort()

    async def read(self) -> bytes:
        try:
            return await self._reader.read(_READ_BYTES)
        except OSError as error:
            raise _LostError(self.end, error) from error

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise _LostError(self.end, error) from error

    def write_eof(self) -> None:
        try:
            self._writer.write_eof()
        except OSError as error:
            raise _LostError(self.end, error) from error

    def reset(self) -> None:
        """Have the other end see a reset, where the socket knows of such."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    async def close(self) -> None:
        """Close when all is written."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
