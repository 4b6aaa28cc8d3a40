"""The MTA's end of a milter connection, for tests: bytes written by hand, replies cut apart.

Nothing here uses the code under test, so that a mistake in one is not hidden by the same in the
other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = [
    "ABORT",
    "BODY",
    "CONNECT",
    "DATA",
    "EOH",
    "EOM",
    "HEADER",
    "HELO",
    "MAIL",
    "MESSAGE",
    "OFFER",
    "QUIT",
    "QUIT_NC",
    "RCPT",
    "UNKNOWN",
    "Mta",
    "macros",
    "offer",
    "packet",
    "split_packets",
]

PATIENCE_S = 20.0
"""Far above what any answer takes, even on a busy machine."""


def packet(letter: bytes, payload: bytes = b"") -> bytes:
    """Return a packet: length, letter, payload."""
    return struct.pack(">I", 1 + len(payload)) + letter + payload


def offer(actions: int = 0x1FF, options: int = 0x1FFFFF, version: int = 6) -> bytes:
    """Return an offer of options; by default all that Postfix and Sendmail can offer together."""
    return packet(b"O", struct.pack(">III", version, actions, options))


def macros(command: bytes, *strings: bytes) -> bytes:
    """Return a packet of macros, names and values in turn, for a command."""
    return packet(b"D", command + b"".join(string + b"\0" for string in strings))


OFFER = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
CONNECT = b"\0\0\0\x19Cmx.example\x004\x30\x39192.0.2.1\0"
HELO = b"\0\0\0\x0cHmx.example\0"
MAIL = b"\0\0\0\x13M<alice@a.example>\0"
RCPT = b"\0\0\0\x11R<bob@b.example>\0"
DATA = b"\0\0\0\x01T"
HEADER = b"\0\0\0\x0fLSubject\0hello\0"
EOH = b"\0\0\0\x01N"
BODY = b"\0\0\0\x08Bhello\r\n"
EOM = b"\0\0\0\x01E"
ABORT = b"\0\0\0\x01A"
UNKNOWN = b"\0\0\0\x06UXYZZ\0"
QUIT = b"\0\0\0\x01Q"
QUIT_NC = b"\0\0\0\x01K"
MESSAGE = (MAIL, RCPT, DATA, HEADER, EOH, BODY, EOM)
"""One command of each kind that a message has."""


def split_packets(data: bytes) -> list[bytes]:
    """Return letter and payload of each packet; the data must end where a packet does."""
    found: list[bytes] = []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        found.append(data[4 : 4 + length])
        assert len(found[-1]) == length
        data = data[4 + length :]
    return found


class Mta:
    """An open connection to a milter.

    Every wait ends in `TimeoutError` after some seconds: a milter that does not answer fails its
    test and hangs none.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, listener: socket.socket) -> AsyncIterator[Mta]:
        """Connect to a listening socket of this process."""
        name = listener.getsockname()
        sock = socket.socket(listener.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        async with cls._over(sock, name if listener.family == socket.AF_UNIX else name[:2]) as mta:
            yield mta

    @classmethod
    @asynccontextmanager
    async def connected_to_path(cls, path: str) -> AsyncIterator[Mta]:
        """Connect to a unix socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        async with cls._over(sock, path) as mta:
            yield mta

    @classmethod
    @asynccontextmanager
    async def _over(cls, sock: socket.socket, address: object) -> AsyncIterator[Mta]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]  # as getsockname() gives it
                if sock.family == socket.AF_UNIX:
                    reader, writer = await asyncio.open_unix_connection(sock=sock)
                else:
                    reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        mta = cls(reader, writer)
        try:
            yield mta
        finally:
            await mta.hang_up()

    def send(self, *packets: bytes) -> None:
        """Send bytes, in one write."""
        self.writer.write(b"".join(packets))

    def send_eof(self) -> None:
        """Close this half; the milter's answers can still be read."""
        self.writer.write_eof()

    async def reply(self) -> bytes:
        """Return the next reply, letter and payload."""
        async with asyncio.timeout(PATIENCE_S):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            return await self.reader.readexactly(length)

    async def replies(self, count: int) -> list[bytes]:
        """Return the next ``count`` replies."""
        return [await self.reply() for _ in range(count)]

    async def ask(self, *packets: bytes) -> bytes:
        """Send bytes and return the next reply."""
        self.send(*packets)
        return await self.reply()

    async def converse(self, *packets: bytes) -> bytes:
        """Send packets that have one reply each, one by one; return the letters of the replies."""
        return b"".join([(await self.ask(one))[:1] for one in packets])

    async def negotiate(self, *args: int) -> tuple[int, int, int]:
        """Offer options (see `offer`); return version, actions and options of the answer."""
        answer = await self.ask(offer(*args))
        assert answer[:1] == b"O"
        version, actions, options = struct.unpack(">III", answer[1:13])
        return version, actions, options

    async def begin(self) -> None:
        """Negotiate with the offer of a current MTA."""
        assert (await self.ask(OFFER))[:1] == b"O"

    async def rest(self) -> bytes:
        """Return all that comes until the milter closes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    async def hang_up(self) -> None:
        """Close the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Drop the connection as a host that has crashed does: with RST where there is one."""
        sock = self.writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
