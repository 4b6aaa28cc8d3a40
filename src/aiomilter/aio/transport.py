"""A transport for accepted sockets on asyncio's own loop: read as soon as that says so.

Rules of this file:

- It does what asyncio's transport does for a socket, as far as a milter's connection needs it. It
  is here for what it leaves out: an idle connection takes 1.0 kB less, and to begin one neither a
  task nor a turn of the loop.
- Not for uvloop: there, a reset is told once, while what came ahead of it is read, and never again.
  Who then writes nothing would wait for ever.
- One read a turn, however much has come: others have theirs.
- The protocol is not called from within `write`, `close` and `abort`, but for the flow of writing.
- It is called in the context that the connection has begun in, not in that of whoever, for some
  other connection, has made room to read on.
"""

from __future__ import annotations

import asyncio
import socket
from contextvars import Context
from typing import Any

__all__ = ["SocketTransport"]

_PAUSE_ABOVE, _RESUME_BELOW = 65_536, 16_384
"""Of bytes that were written and not sent, as in asyncio."""


class SocketTransport(asyncio.Transport):
    """Owns a socket and serves a protocol with it, until `connection_lost`."""

    __slots__ = (
        "_context",
        "_fd",
        "_has_eof",
        "_is_closing",
        "_is_reading",
        "_is_writing_paused",
        "_loop",
        "_protocol",
        "_sock",
        "_unsent",
    )

    def __init__(
        self,
        sock: socket.socket,
        protocol: asyncio.BufferedProtocol,
        loop: asyncio.SelectorEventLoop,
        context: Context,
    ) -> None:
        """Begin to read; the protocol's `connection_made` has been called when this returns.

        Args:
            sock: Connected, and does not block.
            protocol: What serves the connection. Nothing is to come between its
                `asyncio.BufferedProtocol.get_buffer` and what follows it.
            loop: The event loop that runs.
            context: In a copy of it, the protocol is told of what comes.

        Raises:
            OSError: The loop cannot wait for this socket.
            Exception: What `connection_made` has raised. In either case the socket stays the
                caller's, and the loop has forgotten it.
        """
        self._loop = loop
        self._context = context
        self._protocol = protocol
        self._fd = sock.fileno()
        self._sock: socket.socket | None = sock
        self._unsent: bytearray | None = None
        self._is_closing = self._has_eof = self._is_writing_paused = False
        self._is_reading = False
        self.resume_reading()
        try:
            protocol.connection_made(self)
        except BaseException:
            self._sock = None
            self._lose(None)
            raise

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the ``socket`` or the ``peername``, if it has them."""
        sock = self._sock
        if sock is None:
            return default
        if name == "socket":
            return sock
        if name == "peername":
            try:
                return sock.getpeername()
            except OSError:
                # It is gone already; the next read tells.
                return default
        return default

    def is_reading(self) -> bool:
        """Return whether the protocol is told of what comes."""
        return self._is_reading

    def pause_reading(self) -> None:
        """Leave what comes to the kernel."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        if not (self._is_reading or self._is_closing or self._has_eof):
            self._context.run(self._loop.add_reader, self._fd, self._read)
            self._is_reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or keep what the kernel does not take; nothing once the connection is lost."""
        sock, unsent = self._sock, self._unsent
        if sock is None:
            return
        if unsent is None:
            try:
                sent = sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            self._unsent = unsent = bytearray(memoryview(data)[sent:])
            self._loop.add_writer(self._fd, self._send_more)
        else:
            unsent += data
        if len(unsent) > _PAUSE_ABOVE and not self._is_writing_paused:
            self._is_writing_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes were written and are not sent."""
        return 0 if self._unsent is None else len(self._unsent)

    def is_closing(self) -> bool:
        """Return whether it is closed, or about to be."""
        return self._is_closing

    def close(self) -> None:
        """Read no more, and end the connection when all is sent."""
        if not self._is_closing:
            self._is_closing = True
            self.pause_reading()
            if self._unsent is None:
                self._lose(None)

    def abort(self) -> None:
        """End the connection, and drop what is not sent."""
        self._lose(None)

    def _read(self) -> None:
        sock = self._sock
        if sock is None:
            return
        protocol = self._protocol
        try:
            received = sock.recv_into(protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        try:
            if received:
                protocol.buffer_updated(received)
            else:
                self.pause_reading()
                self._has_eof = True
                protocol.eof_received()
        except Exception as error:  # noqa: BLE001  (it is handed on)
            self._loop.call_exception_handler(
                {
                    "message": "a connection was closed because of a fault of its protocol",
                    "exception": error,
                    "transport": self,
                    "protocol": protocol,
                }
            )
            self._lose(error)

    def _send_more(self) -> None:
        sock, unsent = self._sock, self._unsent
        if sock is None or unsent is None:
            return
        try:
            del unsent[: sock.send(unsent)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not unsent:
            self._unsent = None
            self._loop.remove_writer(self._fd)
            if self._is_closing:
                self._lose(None)
        if self._is_writing_paused and len(unsent) < _RESUME_BELOW:
            self._is_writing_paused = False
            self._protocol.resume_writing()

    def _lose(self, error: OSError | Exception | None) -> None:
        """Have nothing more to do with the socket, and tell the protocol when the loop turns."""
        self._is_closing = True
        self.pause_reading()
        if self._unsent is not None:
            self._unsent = None
            self._loop.remove_writer(self._fd)
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.call_soon(self._end, sock, error)

    def _end(self, sock: socket.socket, error: Exception | None) -> None:
        protocol = self._protocol
        try:
            protocol.connection_lost(error)
        finally:
            sock.close()
            # Both hold each other: many connections that are over would wait for the collector.
            del self._protocol
