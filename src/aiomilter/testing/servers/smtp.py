"""A small SMTP client for tests: raw lines out, whole replies in, every byte under control."""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

__all__ = ["SmtpClient", "SmtpReply", "dot_stuffed"]

_TIMEOUT_S = 15
"""Nothing here takes longer on a loaded machine; a test that hangs should say where."""
_LONGEST_LINE = 2**20
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on for 0 s: closing sends RST."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """One complete reply of the server.

    Attributes:
        code: The three digits.
        lines: The text of each line after the code and its separator.
    """

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines joined by line feeds."""
        return "\n".join(self.lines)

    @property
    def queue_id(self) -> str:
        """The id in Postfix's ``queued as ...``.

        Raises:
            AssertionError: The reply does not accept a message.
        """
        found = re.search(r"queued as (\w+)", self.text)
        if found is None:
            raise AssertionError(f"the message was not queued: {self}")
        return found[1]


def dot_stuffed(content: bytes) -> bytes:
    """Return ``content`` as it goes after DATA: dots doubled, ended by the line with a single dot.

    A last line without its CRLF gets one, as SMTP cannot express it otherwise.
    """
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", content) + b".\r\n"


class SmtpClient:
    """One connection to an SMTP server."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Wrap an open connection whose banner has not been read."""
        self._timeout_s = timeout_s
        self._reader = reader
        self._writer = writer
        self.banner = SmtpReply(0, ())
        self.local_port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def open(cls, port: int, timeout_s: float = _TIMEOUT_S) -> Self:
        """Connect to a loopback port; the banner is the first reply to be read."""
        async with asyncio.timeout(timeout_s):
            streams = await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST_LINE)
            return cls(*streams, timeout_s)

    @classmethod
    @asynccontextmanager
    async def connect(cls, port: int, timeout_s: float = _TIMEOUT_S) -> AsyncGenerator[Self]:
        """Connect to a loopback port and read the banner; say QUIT at the end if still possible.

        Args:
            port: The SMTP port on 127.0.0.1.
            timeout_s: How long to wait at most, each time.
        """
        client = await cls.open(port, timeout_s)
        client.banner = await client.reply()
        try:
            yield client
        finally:
            await client.quit()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are and wait for no reply."""
        self._writer.write(data)
        async with asyncio.timeout(self._timeout_s):
            await self._writer.drain()

    async def reply(self) -> SmtpReply:
        """Read one reply, single or multi-line.

        Raises:
            ConnectionError: The server hung up.
        """
        lines = [line.decode("utf-8", "surrogateescape") for line in await self.reply_lines()]
        return SmtpReply(int(lines[-1][:3]), tuple(line[4:] for line in lines))

    async def reply_lines(self) -> list[bytes]:
        """Read one reply, and return its lines as they came, without their line ends.

        Raises:
            ConnectionError: The server hung up.
        """
        lines: list[bytes] = []
        async with asyncio.timeout(self._timeout_s):
            while True:
                line = (await self._reader.readline()).rstrip(b"\r\n")
                if not line:
                    raise ConnectionError("the SMTP server hung up")
                lines.append(line)
                if line[3:4] != b"-":
                    return lines

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Change to TLS, after the server's 220 to STARTTLS.

        Raises:
            ssl.SSLError: The handshake failed.
        """
        async with asyncio.timeout(self._timeout_s):
            await self._writer.start_tls(context)

    async def command(self, line: str) -> SmtpReply:
        """Send one line (UTF-8, surrogate escapes become raw bytes) and return its reply."""
        return (await self.pipeline(line))[0]

    async def pipeline(self, *lines: str) -> list[SmtpReply]:
        """Send several lines in one write and return a reply for each."""
        await self.send(
            b"".join(line.encode("utf-8", "surrogateescape") + b"\r\n" for line in lines)
        )
        return [await self.reply() for _ in lines]

    async def ehlo(self, name: str = "client.example") -> SmtpReply:
        """Introduce ourselves."""
        return await self.command(f"EHLO {name}")

    async def content(self, content: bytes) -> SmtpReply:
        """Send DATA and the message, and return the reply to the final dot.

        Raises:
            AssertionError: DATA itself was refused.
        """
        go_on = await self.command("DATA")
        if go_on.code != 354:
            raise AssertionError(go_on)
        await self.send(dot_stuffed(content))
        return await self.reply()

    async def message(
        self,
        content: bytes,
        sender: str = "a@src.example",
        recipients: Iterable[str] = ("b@dst.example",),
    ) -> SmtpReply:
        """Send a whole message and return the reply to the final dot.

        Raises:
            AssertionError: Sender, a recipient or DATA was refused.
        """
        for line in (
            f"MAIL FROM:<{sender}>",
            *(f"RCPT TO:<{recipient}>" for recipient in recipients),
        ):
            reply = await self.command(line)
            if reply.code != 250:
                raise AssertionError(line, reply)
        return await self.content(content)

    async def until_refused(
        self, content: bytes, sender: str = "a@src.example", recipient: str = "b@dst.example"
    ) -> SmtpReply:
        """Send a message up to the first reply that refuses it, and return the last reply."""
        for line in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
            reply = await self.command(line)
            if reply.code >= 400:
                return reply
        await self.send(dot_stuffed(content))
        return await self.reply()

    async def say_quit(self) -> list[bytes]:
        """Say QUIT and return the lines of the next reply; none if the connection is gone."""
        try:
            await self.send(b"QUIT\r\n")
            return await self.reply_lines()
        except ConnectionError:
            return []

    async def quit(self) -> None:
        """Say QUIT and close; a connection that is already gone is fine."""
        try:
            if not self._writer.is_closing():
                await self.say_quit()
        except ConnectionError:
            pass
        finally:
            await self.close()

    async def close(self, *, reset: bool = False) -> None:
        """Close without a word, as a client that crashes. Calling it again does nothing.

        Args:
            reset: Whether the server sees a reset instead of an end of stream.
        """
        if reset:
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
            )
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass
