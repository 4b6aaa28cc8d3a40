"""A connection in memory: an asyncio transport at the milter's end, a wire at the MTA's.

Rules of this file:

- The protocol is called as a loop calls it for a socket: from the loop, one read a turn, nothing
  after `connection_lost`.
- What the milter wrote ahead of closing can still be read. A real connection may lose that, at
  times; a test is to come out the same every time.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["MemoryTransport", "MemoryWire"]


class MemoryTransport(asyncio.Transport):
    """The milter's end: what `MemoryWire` writes is fed to the protocol."""

    def __init__(self, protocol: asyncio.BufferedProtocol, chunk_bytes: int | None) -> None:
        """Begin with a protocol that does not know of it yet.

        Args:
            protocol: What serves the connection.
            chunk_bytes: How much arrives at a time, at either end; None for whatever there is.
        """
        super().__init__()
        self._protocol = protocol
        self._chunk_bytes = chunk_bytes
        self._loop = asyncio.get_running_loop()
        self._for_milter = bytearray()
        self._for_mta = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._is_reading = True
        self._is_delivering = False
        self._has_eof = False
        self._is_closing = False

    # What the protocol calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return nothing: there is neither a socket nor an address."""
        del name
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Let the MTA read it."""
        if not self._is_closing:
            self._for_mta += data
            self._wake_reader()

    def get_write_buffer_size(self) -> int:
        """Return 0: whatever was written is at the other end."""
        return 0

    def pause_reading(self) -> None:
        """Deliver nothing for now."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        self._is_reading = True
        self._deliver_soon()

    def is_closing(self) -> bool:
        """Return whether it is closed, or about to be."""
        return self._is_closing

    def close(self) -> None:
        """End the connection; what was written can be read."""
        self._lose(None)

    def abort(self) -> None:
        """End the connection, and drop what was not read."""
        self._for_mta.clear()
        self._lose(None)

    # What the wire calls

    @property
    def is_delivered(self) -> bool:
        """Whether the protocol has got all that was sent."""
        return not self._for_milter or self._is_closing

    def feed(self, data: bytes) -> None:
        """Deliver it, in pieces, as soon as the loop turns."""
        if not self._is_closing:
            self._for_milter += data
            self._deliver_soon()

    def feed_eof(self) -> None:
        """Let the milter know, behind what was fed before, that nothing more comes."""
        self._has_eof = True
        self._deliver_soon()

    def reset(self) -> None:
        """End the connection as a host that has crashed does."""
        self._for_mta.clear()
        self._lose(ConnectionResetError("the MTA is gone"))

    async def read(self) -> bytes:
        """Return what the milter has written, as soon as there is something."""
        while not self._for_mta and not self._is_closing:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = bytes(self._for_mta[: self._chunk_bytes])
        del self._for_mta[: self._chunk_bytes]
        return data

    # Below

    def _deliver_soon(self) -> None:
        if not self._is_delivering:
            self._is_delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_delivering = False
        if not self._is_reading or self._is_closing:
            return
        if self._for_milter:
            buffer = memoryview(self._protocol.get_buffer(-1))
            piece = self._for_milter[: min(len(buffer), self._chunk_bytes or len(buffer))]
            del self._for_milter[: len(piece)]
            buffer[: len(piece)] = piece
            self._protocol.buffer_updated(len(piece))
            self._deliver_soon()
        elif self._has_eof:
            self._has_eof = False
            if not self._protocol.eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._wake_reader()
            self._loop.call_soon(self._protocol.connection_lost, error)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class MemoryWire:
    """The MTA's end, as `aiomilter.mta.Wire` wants it."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport

    async def read(self) -> bytes:
        """Return what has come in, as soon as there is something; nothing at the end."""
        return await self._transport.read()

    async def write(self, data: bytes) -> None:
        """Send; the milter gets it when the loop turns."""
        self._transport.feed(data)

    async def close(self) -> None:
        """Say that nothing more comes."""
        self._transport.feed_eof()

    def abort(self) -> None:
        """Be gone at once."""
        self._transport.reset()
