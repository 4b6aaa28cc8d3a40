"""What an MTA says, as bytes, and a connection that says it with little effort.

The load must cost less than what it measures, so this is no general client: each exchange knows
how many bytes its answers have.
"""

from __future__ import annotations

import asyncio
import socket
import struct

__all__ = [
    "ABORT",
    "CONNECT",
    "CONTINUE",
    "DATA",
    "EOH",
    "EOM",
    "HEADERS",
    "HELO",
    "OFFER",
    "QUIT",
    "TEMPFAIL",
    "Gone",
    "Peer",
    "added_header",
    "packet",
]


def packet(letter: bytes, payload: bytes = b"") -> bytes:
    """Return a packet: length, letter, payload."""
    return struct.pack(">I", 1 + len(payload)) + letter + payload


def added_header(name: bytes, value: bytes) -> bytes:
    """Return the answer that adds a header."""
    return packet(b"h", name + b"\0" + value + b"\0")


OFFER = packet(b"O", struct.pack(">III", 6, 0x1FF, 0x1FFFFF))
CONNECT = packet(b"C", b"mx.example\x004\x30\x39192.0.2.1\0")
HELO = packet(b"H", b"mx.example\0")
DATA = packet(b"T")
HEADERS = tuple(
    packet(b"L", name + b"\0" + value + b"\0")
    for name, value in (
        (b"From", b" alice@a.example"),
        (b"To", b" bob@b.example"),
        (b"Subject", b" hello"),
        (b"Message-ID", b" <1@a.example>"),
    )
)
EOH = packet(b"N")
EOM = packet(b"E")
ABORT = packet(b"A")
QUIT = packet(b"Q")
CONTINUE = packet(b"c")
TEMPFAIL = packet(b"t")

_PATIENCE_S = 30.0
_AGREED_BYTES = 17
_NO_LINGER = struct.pack("ii", 1, 0)


class Gone(ConnectionError):
    """The milter has closed the connection, or does not answer."""


class Peer(asyncio.Protocol):
    """One connection to a milter on a unix socket."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_lost = False
        self.transport: asyncio.Transport

    @classmethod
    async def connected(cls, path: str) -> Peer:
        """Connect, and negotiate nothing yet."""
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_unix_connection(cls, path)
        return peer

    @classmethod
    async def negotiated(cls, path: str) -> Peer:
        """Connect and agree with the milter; it must not ask for macros."""
        peer = await cls.connected(path)
        await peer.ask(OFFER, _AGREED_BYTES)
        return peer

    async def ask(self, data: bytes, answer_bytes: int) -> bytes:
        """Send, and return so many bytes of the answer.

        Raises:
            Gone: The milter has closed, or takes longer than half a minute.
        """
        self.transport.write(data)
        return await self.answer(answer_bytes)

    async def answer(self, answer_bytes: int) -> bytes:
        """Return the next so many bytes; see `ask`."""
        if len(self._received) < answer_bytes:
            if self._is_lost:
                raise Gone("closed")
            loop = asyncio.get_running_loop()
            self._wanted = answer_bytes
            self._waiter = loop.create_future()
            # One timer of the loop's own: `asyncio.timeout` would cost as much as the exchange.
            timer = loop.call_later(_PATIENCE_S, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        answer = bytes(self._received[:answer_bytes])
        if len(answer) < answer_bytes:
            raise Gone("closed" if self._is_lost else "no answer")
        del self._received[:answer_bytes]
        return answer

    def quit(self) -> None:
        """Say goodbye and close."""
        self.transport.write(QUIT)
        self.transport.close()

    def hang_up(self) -> None:
        """Close without a word."""
        self.transport.close()

    def reset(self) -> None:
        """Close at once; what the milter has said and nobody has read is an error to it."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer."""
        self._received += data
        if len(self._received) >= self._wanted:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        del exc
        self._is_lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
