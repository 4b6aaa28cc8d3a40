"""The line to an MTA: a transport, its flow control and the options of its socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket

__all__ = ["Line"]

_TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class Line:
    """Writes to a transport, and waits while the other end does not read.

    Attributes:
        peer: The other end's address, for the log.
        transport: What it writes to; whoever does so directly asks ``is_lost`` first.
        is_lost: Whether the connection is gone.
        is_reading_paused: Whether nothing is taken in for now.
        is_writing_paused: Whether the other end has much to read before more should be written.
    """

    __slots__ = (
        "_loop",
        "_sock",
        "_unread_before",
        "_waiter",
        "is_lost",
        "is_reading_paused",
        "is_writing_paused",
        "peer",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self._loop = loop
        self._sock: socket.socket | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.is_reading_paused = False
        self._unread_before = 0
        self.is_lost = False
        self.is_writing_paused = False
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a unix socket"
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            self._sock = sock
            # A connection may be gone before it is looked at.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # As in libmilter: an MTA's host that is gone does not hold a line for ever.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def write(self, data: bytes) -> None:
        """Send, or keep until the other end reads; nothing at all once the line is lost."""
        if not self.is_lost:
            self.transport.write(data)

    def acknowledge_at_once(self) -> None:
        """Let the other end know, if it is on TCP, that its bytes have come, without delay."""
        if self._sock is not None and _TCP_QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)

    def pause_reading(self) -> None:
        """Take in nothing more for now; may be called again."""
        if not self.is_reading_paused and not self.transport.is_closing():
            self.is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`, if that was called."""
        if self.is_reading_paused and not self.transport.is_closing():
            self.is_reading_paused = False
            self.transport.resume_reading()

    async def drain(self) -> None:
        """Wait until the other end has read enough, or the line is lost."""
        self._waiter = self._loop.create_future()
        self._unread_before = self.transport.get_write_buffer_size()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def has_been_read_from(self) -> bool:
        """Return whether the other end has read anything since this was last asked."""
        unread = self.transport.get_write_buffer_size()
        before, self._unread_before = self._unread_before, unread
        return unread < before

    def resume_writing(self) -> None:
        """Note that the other end has read enough."""
        self.is_writing_paused = False
        self._wake()

    def lose(self) -> None:
        """Note that the connection is gone."""
        self.is_lost = True
        self._wake()

    def close(self, linger_s: float) -> None:
        """Close when all is written; if nobody reads it, after ``linger_s`` seconds."""
        self.transport.close()
        self._unread_before = self.transport.get_write_buffer_size()
        if self._unread_before:
            self._loop.call_later(linger_s, self._end_linger, linger_s)

    def abort(self) -> None:
        """Close without waiting for anything."""
        self.transport.abort()

    def _end_linger(self, linger_s: float) -> None:
        if self.has_been_read_from() and self._unread_before:
            self._loop.call_later(linger_s, self._end_linger, linger_s)
        else:
            self.transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
