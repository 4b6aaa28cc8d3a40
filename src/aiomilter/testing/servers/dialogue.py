"""The client of a case: says its lines, and holds each reply against the one that is expected."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable

from aiomilter.testing.servers.case import HANGS_UP, Action, Step
from aiomilter.testing.servers.script import Script
from aiomilter.testing.servers.server import MailServer
from aiomilter.testing.servers.smtp import SmtpClient
from aiomilter.testing.servers.template import CaseError, Pattern

__all__ = ["Dialogue", "UnexpectedReplyError"]

_SHOWN_BYTES = 200
_CODE_ALONE = re.compile(r"\d{3}")


class UnexpectedReplyError(Exception):
    """The server said something else than the case expects.

    Attributes:
        expected: The lines of the case.
        got: The lines that came.
    """

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected!r}, got {got!r}")
        self.expected = expected
        self.got = got


class Dialogue:
    """Plays the dialogue of one case with one mail server.

    Attributes:
        transcript: All that was said, a line each.
    """

    def __init__(self, server: MailServer, script: Script) -> None:
        """Prepare a dialogue; nothing is sent yet."""
        self.transcript: list[str] = []
        self._server = server
        self._names = script.names
        self._content = script.content
        self._client: SmtpClient | None = None
        self._outgoing: list[bytes] = []
        self._expected: list[Pattern] = []

    async def play(self, steps: list[Step], until_noted: Callable[[str], Awaitable[None]]) -> None:
        """Do all steps, and say QUIT if the connection is still open.

        Args:
            steps: The dialogue.
            until_noted: Waits for a note of the milter that begins so.

        Raises:
            UnexpectedReplyError: A reply is not the expected one.
            CaseError: A step cannot be understood.
            OSError: The connection was lost where the case expects a reply.
        """
        try:
            for step in steps:
                if self._expected and step.action is not Action.EXPECT:
                    raise CaseError(f"{step.text.where}: the reply ahead of it has no last line")
                if step.action is Action.SEND:
                    await self._greet()
                    self._outgoing.append(step.text.render(self._names) + b"\r\n")
                elif step.action is Action.EXPECT:
                    await self._expect(step)
                else:
                    await self._flush()
                    await self._do(step, until_noted)
            await self._flush()
            if self._expected:
                raise CaseError(f"{steps[-1].text.where}: the last line of a reply is missing")
            await self._quit()
        finally:
            await self._leave()

    async def _quit(self) -> None:
        """Say QUIT; what comes ahead of its 221 is a reply that nobody has expected."""
        if self._client is None:
            return
        lines = await self._client.say_quit()
        if lines and not lines[0].startswith((b"221", b"421")):
            raise UnexpectedReplyError("221", _text(lines))

    async def _open(self) -> SmtpClient:
        if self._client is None:
            self._client = await SmtpClient.open(self._server.smtp_port)
        return self._client

    async def _greet(self) -> None:
        """Connect if we are not; a case that does not speak of the greeting expects the usual."""
        if self._client is None:
            greeting = await (await self._open()).reply_lines()
            self._write("S", greeting[-1])
            if not greeting[-1].startswith(b"220 "):
                raise UnexpectedReplyError("220", greeting[-1].decode("utf-8", "backslashreplace"))

    async def _flush(self) -> None:
        if self._outgoing:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            for line in data[: 50 * _SHOWN_BYTES].removesuffix(b"\r\n").split(b"\r\n"):
                self._write("C", line)
            assert self._client is not None
            await self._client.send(data)

    async def _expect(self, step: Step) -> None:
        client = await self._open()
        await self._flush()
        text = step.text.text
        if text == HANGS_UP:
            await self._expect_hang_up(client)
            return
        self._expected.append(step.text.fill(self._names))
        if re.match(r"\d{3}-", text):
            return
        try:
            lines = await client.reply_lines()
        except TimeoutError:
            raise UnexpectedReplyError(text, "(nothing, for a long time)") from None
        for line in lines:
            self._write("S", line)
        expected, self._expected = self._expected, []
        if not _agree(expected, lines):
            raise UnexpectedReplyError(
                _text([pattern.show() for pattern in expected]), _text(lines)
            )

    async def _expect_hang_up(self, client: SmtpClient) -> None:
        try:
            lines = await client.reply_lines()
        except ConnectionError:
            self.transcript.append(f"S: {HANGS_UP}")
            await client.close()
            self._client = None
            return
        raise UnexpectedReplyError(HANGS_UP, _text(lines))

    async def _do(self, step: Step, until_noted: Callable[[str], Awaitable[None]]) -> None:
        what, _, rest = step.text.text.partition(" ")
        self.transcript.append(f"do: {step.text.text}")
        if what == "submit":
            sender, *recipients = rest.split()
            await self._server.submit(self._content.replace(b"\r\n", b"\n"), sender, recipients)
        elif what == "connect":
            await self._quit()
            await self._leave()
        elif what == "wait":
            await until_noted(rest)
        elif what == "pause":
            await asyncio.sleep(float(rest))
        elif what in ("tls", "disconnect", "reset") and self._client is not None:
            if what == "tls":
                await self._client.start_tls(_any_certificate())
            else:
                await self._client.close(reset=what == "reset")
                self._client = None
        else:
            raise CaseError(
                f"{step.text.where}: {step.text.text!r} cannot be done: write connect, disconnect, "
                "reset, tls, wait NOTE, pause SECONDS or submit SENDER RECIPIENT... in a connection"
            )

    async def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.quit()

    def _write(self, who: str, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace")
        shown = text if len(text) <= _SHOWN_BYTES else f"{text[:_SHOWN_BYTES]}..."
        self.transcript.append(f"{who}: {shown}")


def _text(lines: list[bytes]) -> str:
    return b"\n".join(lines).decode("utf-8", "backslashreplace")


def _agree(expected: list[Pattern], lines: list[bytes]) -> bool:
    if len(expected) == 1 and _CODE_ALONE.fullmatch(code := expected[0].show().decode("latin-1")):
        return all(line.startswith(code.encode()) for line in lines)
    return len(expected) == len(lines) and all(
        pattern.matches(line) for pattern, line in zip(expected, lines, strict=True)
    )


def _any_certificate() -> ssl.SSLContext:
    """The test's own server has a certificate that it has made itself."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
