"""Random odd mail, as no good client sends it: nothing in it may be a protocol error.

Rules of this file:

- The seed and the number of a session say all that it sends, whatever the server answers.
- What a mail server refuses by itself is of no interest. What it accepts has to arrive, and to
  have been seen by the milter: its stamp is in it.
- Line ends that a server answers by hanging up are kept rare, or little else would be tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections import Counter
from dataclasses import dataclass, field

from aiomilter import EomActions, Milter, Server, SocketInfo, Status
from aiomilter.testing.servers import Mta
from aiomilter.testing.servers.sink import Delivery, Sink
from aiomilter.testing.servers.smtp import SmtpClient
from tests.integration.load.servers import UNIX, complaints, mail_server

__all__ = ["Oddities", "send_odd"]

_SETTLE_S = 120
_A_SESSION = 12
_STAMP = b"X-Seen: "

_ATOMS = (
    b"", b"a", b"A B", b"\t", b" ", b"\0", b"\xff\xfe", "ä".encode(), b"\x1b[2J", b"%s%n", b"%",
    b"\\", b'"', b"<", b">", b"<>", b"@", b":", b";", b",", b"(c", b")", b"\x7f", b"\r", b"{i}",
    b"..", b"=?utf-8?q?=0D=0A?=", b"x" * 60, b"x" * 500, "\u2028".encode(), b"\x85", b"\x0b",
)  # fmt: skip
_ADDRESSES = (
    b"<a@src.example>", b"<>", b"a@src.example", b"<a>", b'<"a b"@src.example>',
    b"<@x:a@b.example>",
    b"<" + b"x" * 64 + b"@src.example>", b"<" + b"x" * 240 + b"@src.example>",
    b'<"\\""@b.example>',
    b"<a@[192.0.2.1]>", b"<a@[IPv6:::1]>", b"<a%b@src.example>", b"<a!b@src.example>", b"< a@b >",
    "<ä@src.example>".encode(), b"<\xe4@src.example>", b"<a@b@c>", b"<a b@c>", b"<..@b.example>",
)  # fmt: skip
_MAIL_PARAMS = (
    b"SIZE=10", b"SIZE=-1", b"BODY=8BITMIME", b"BODY=7BIT", b"RET=HDRS", b"ENVID=a+20b", b"X=y",
    b"AUTH=<>", b"SMTPUTF8", b"SIZE=10 BODY=8BITMIME RET=FULL ENVID=QQ314159",
)  # fmt: skip
_RCPT_PARAMS = (b"NOTIFY=NEVER", b"NOTIFY=SUCCESS,DELAY", b"ORCPT=rfc822;a@b", b"X=y", b"NOTIFY=")
# Not ETRN: Sendmail then runs its queue over the connection to the sink that the session keeps,
# which breaks for both, and puts mail off.
_COMMANDS = (
    b"NOOP", b"NOOP \xff", b"VRFY a", b"EXPN a", b"HELP", b"XYZZY", b"XYZZY \xff\0a", b"RSET", b"",
    b"HELO", b"EHLO x.example", b"HELO \xe4", b"TURN a", b"x" * 900, b"RSET extra", b"MAIL",
    b"DATA",
    b"RCPT TO:", b"AUTH PLAIN AGEAYg==", b"TURN", b"BDAT", b"MAIL FROM:<a@src.example>",
)  # fmt: skip
_NAMES = (
    b"Subject", b"From", b"To", b"subject", b"X", b"X-" + b"y" * 100, b"X" * 900, b"Received",
    b"Return-Path", b"Content-Length", b"Message-ID", b"X-Seen-Not", b"Bcc", b"Resent-To",
    b"X\xff", b"X Y", b"X ", b"\t", b"", b"From ", b"DKIM-Signature", b"Content-Type",
)  # fmt: skip


class Seeing(Milter):
    """Looks at all that there is to see, and stamps what it has seen."""

    def begin_message(self) -> None:
        self.headers = self.body_bytes = 0

    def look(self, *texts: str) -> None:
        """Do what milters do with text."""
        for text in texts:
            text.lower().encode("utf-8", "surrogateescape")
        for name in self.macros:
            self.macros[name].strip()

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.look(hostname, str(client))

    async def on_helo(self, hostname: str) -> None:
        self.look(hostname)

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.look(sender, *params)

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.look(recipient, *params)

    async def on_data(self) -> None:
        self.look()

    async def on_header(self, name: str, value: str) -> None:
        self.look(name, value)
        self.headers += 1

    async def on_eoh(self) -> None:
        self.look()

    async def on_body(self, chunk: bytes) -> None:
        self.body_bytes += len(chunk)

    async def on_unknown(self, command: str) -> None:
        self.look(command)

    async def on_abort(self) -> None:
        self.look()

    async def on_close(self) -> None:
        self.look()

    async def on_eom(self, actions: EomActions) -> Status:
        self.look(str(self.sender), *self.recipients)
        actions.add_header("X-Seen", f"{self.headers} {self.body_bytes}")
        return Status.CONTINUE


@dataclass(slots=True)
class Oddities:
    """What came of odd mail.

    Attributes:
        counts: ``sessions``, ``messages`` tried, ``accepted``, ``refused``, ``cut`` (given up by
            the client or the server), ``delivered``; and what must be 0: ``unseen`` (delivered
            without the milter's stamp), ``missing`` (accepted and not delivered) and ``twice``.
        expected: The recipients of accepted messages that no other message has.
        records: What the library has logged, from warnings on.
        complaints: What the mail server's log says of the milter.
    """

    counts: Counter[str] = field(default_factory=Counter)
    expected: set[str] = field(default_factory=set)
    records: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Whether there was no protocol error, and nothing passed unseen."""
        bad = ("unseen", "missing", "twice")
        return not (self.records or self.complaints or any(self.counts[name] for name in bad))


class _Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        # Of a machine that has other work to do.
        if "the event loop stood still" not in line:
            self._lines.append(line)


async def send_odd(kind: Mta, messages: int, seed: int, clients: int = 8) -> Oddities:
    """Send odd messages through a mail server, and wait until all are delivered.

    Args:
        kind: The mail server.
        messages: How many at least.
        seed: What they are drawn from.
        clients: How many SMTP sessions there are at a time.
    """
    odd = Oddities()
    logger, handler = logging.getLogger("aiomilter"), _Kept(odd.records)
    logger.addHandler(handler)
    try:
        with Sink() as sink, mail_server(kind, sink) as server:
            async with Server(Seeing, server.milter_address, config=UNIX):
                async with asyncio.TaskGroup() as group:
                    for _ in range(clients):
                        group.create_task(_client(server.smtp_port, seed, messages, odd))
                await server.settle(_SETTLE_S)
            odd.complaints = complaints(server)
            deliveries = sink.since(0)
    finally:
        logger.removeHandler(handler)
    came = Counter(one for delivery in deliveries for one in delivery.recipients)
    odd.counts["delivered"] = len(deliveries)
    odd.counts["missing"] = len(odd.expected - came.keys())
    odd.counts["twice"] = sum(came[one] > 1 for one in odd.expected)
    odd.counts["unseen"] = sum(map(_is_unseen, deliveries))
    return odd


def _is_unseen(delivery: Delivery) -> bool:
    """Whether no milter has seen it; a report of the server itself is none of a client's."""
    if delivery.sender == "<>" and b"multipart/report" in delivery.content:
        return False
    return not any(line.startswith(_STAMP) for line in delivery.header_lines)


async def _client(port: int, seed: int, messages: int, odd: Oddities) -> None:
    while odd.counts["messages"] < messages:
        number = odd.counts["sessions"]
        odd.counts["sessions"] += 1
        choice = random.Random(f"{seed}.{number}")
        smtp = await SmtpClient.open(port)
        try:
            await smtp.reply()
            await _say(smtp, choice.choice((b"EHLO ", b"HELO ")) + _text(choice, 2))
            for turn in range(_A_SESSION):
                odd.counts["messages"] += 1
                if not await _message(smtp, choice, odd, f"<{number}.{turn}@dst.example>"):
                    break
        except (ConnectionError, ValueError):
            # The server hangs up on some; a reply to half a line is none.
            odd.counts["cut"] += 1
        finally:
            with contextlib.suppress(OSError):
                await smtp.close(reset=choice.random() < 0.2)


async def _message(smtp: SmtpClient, choice: random.Random, odd: Oddities, recipient: str) -> bool:
    """Send one message; return whether the session goes on."""
    await _say(smtp, b"MAIL FROM:" + _address(choice, _MAIL_PARAMS))
    if choice.random() < 0.2:
        await _say(smtp, choice.choice(_COMMANDS))
    for _ in range(choice.randrange(1, 4)):
        await _say(smtp, b"RCPT TO:" + _address(choice, _RCPT_PARAMS))
    # So that most come to their content, whatever became of what was said before.
    await _say(smtp, b"MAIL FROM:<b@src.example>")
    is_known = await _say(smtp, b"RCPT TO:" + recipient.encode()) == 250
    if choice.random() < 0.1:
        await _say(smtp, choice.choice((b"RSET", b"QUIT", b"NOOP")))
    if choice.random() < 0.03:
        odd.counts["cut"] += 1
        return False
    if await _say(smtp, b"DATA") != 354:
        odd.counts["refused"] += 1
        await _say(smtp, b"RSET")
        return True
    content = _content(choice)
    if choice.random() < 0.03:
        await smtp.send(content[: choice.randrange(len(content) + 1)])
        odd.counts["cut"] += 1
        return False
    await smtp.send(content + b"\r\n.\r\n")
    accepted = (await smtp.reply()).code == 250
    odd.counts["accepted" if accepted else "refused"] += 1
    if accepted and is_known:
        odd.expected.add(recipient)
    return True


async def _say(smtp: SmtpClient, line: bytes) -> int:
    # One line of a client is one reply; an end of line within it would be two.
    await smtp.send(line.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n")
    return (await smtp.reply()).code


def _text(choice: random.Random, most: int) -> bytes:
    return b"".join(choice.choices(_ATOMS, k=choice.randrange(most + 1)))


def _address(choice: random.Random, params: tuple[bytes, ...]) -> bytes:
    address = choice.choice(_ADDRESSES)
    if choice.random() < 0.2:
        address = b"<" + _text(choice, 4) + b"@dst.example>"
    if choice.random() < 0.3:
        address += b" " + choice.choice(params)
    return address


def _content(choice: random.Random) -> bytes:
    lines = [_header(choice) for _ in range(choice.choice((0, 1, 2, 3, 5, 40)))]
    if choice.random() < 0.9:
        lines.append(b"")
    lines.extend(
        _text(choice, 6) if choice.random() < 0.9 else choice.randbytes(200)
        for _ in range(choice.choice((0, 0, 1, 2, 5, 50)))
    )
    end = b"\r\n"
    # A bare CR ends the session with Sendmail.
    stray = b"\r" if choice.random() < 0.05 else b""
    text = b"\r\n".join(re.sub(rb"\r(?!\n[ \t])|(?<!\r)\n", stray, line) for line in lines)
    if choice.random() < 0.02:
        end = choice.choice((b"\n", b"\r", b"\r\r\n"))
        text = text.replace(b"\r\n", end)
    if choice.random() < 0.02:
        text += b"\r\n" + b"z" * choice.choice((998, 2048, 65_535, 65_536, 200_000))
    # A dot at the start of a line is doubled, or the message would end there.
    return text.replace(b"\n.", b"\n..").replace(b"\r.", b"\r..").removeprefix(b".")


def _header(choice: random.Random) -> bytes:
    kind = choice.random()
    if kind < 0.05:
        return choice.randbytes(choice.randrange(1, 80)).replace(b"\r", b"")
    line = (
        choice.choice(_NAMES) + b":" + choice.choice((b"", b" ", b"  ", b"\t")) + _text(choice, 5)
    )
    while choice.random() < 0.2:
        line += b"\r\n" + choice.choice((b" ", b"\t", b" \t ")) + _text(choice, 3)
    return line
