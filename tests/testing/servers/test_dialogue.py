"""The client of a case, against a server that says what the test has written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from aiomilter.testing.servers import CaseError, MailServer, Mta, load_case
from aiomilter.testing.servers.dialogue import Dialogue, UnexpectedReplyError
from aiomilter.testing.servers.script import Script

GREETING = b"220 mx ESMTP\r\n"
REPLIES = {
    b"EHLO x": b"250-mx\r\n250 SIZE\r\n",
    b"BAD": b"550-5.7.1 no\r\n550 5.7.1 way\r\n",
    b"QUIT": b"221 bye\r\n",
    b"LEAVE": b"",
}


@dataclass
class FakeServer:
    """Greets, and answers each line by a table; the rest is 250 ok. An empty answer hangs up."""

    greeting: bytes
    smtp_port: int = 0
    received: list[bytes] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    submitted: list[tuple[bytes, str, list[str]]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting)
        try:
            while line := await reader.readline():
                self.received.append(line.removesuffix(b"\r\n"))
                reply = REPLIES.get(self.received[-1], b"250 ok\r\n")
                writer.write(reply)
                if not reply or self.received[-1] == b"QUIT":
                    break
            else:
                self.ends.append("eof")
        except ConnectionError:
            self.ends.append("reset")
        writer.close()
        self.over.set()

    async def submit(self, content: bytes, sender: str, recipients: list[str]) -> None:
        self.submitted.append((content, sender, recipients))


@asynccontextmanager
async def fake_server(greeting: bytes = GREETING) -> AsyncGenerator[FakeServer]:
    fake = FakeServer(greeting)
    server = await asyncio.start_server(fake.talk, "127.0.0.1", 0)
    fake.smtp_port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()


async def play(
    folder: Path, steps: str, greeting: bytes = GREETING
) -> tuple[FakeServer, list[str]]:
    """Play a dialogue, and return what the server has seen, and the transcript."""
    path = folder / "x.case"
    path.write_text(f"It holds.\n\n== message\nSubject: x\n.b\n== smtp\n{steps}")
    case = load_case(path)
    waited: list[str] = []

    async def until_noted(text: str) -> None:
        waited.append(text)

    async with fake_server(greeting) as fake:
        dialogue = Dialogue(cast("MailServer", fake), Script(case, lambda _line: None))
        await dialogue.play(case.steps_for(Mta.POSTFIX), until_noted)
        await asyncio.wait_for(fake.over.wait(), 5)
    return fake, [*dialogue.transcript, *waited]


async def test_replies_of_all_kinds(tmp_path: Path) -> None:
    steps = (
        "C: EHLO x\nS: 250-mx\nS: 250 {{any}}\nC: ONE\nC: TWO\nS: 250\nS: 250 ok\n"
        "C: BAD\nS: 550\nC: BAD\nS: 550-5.7.1 no\nS: 550 5.7.1 way\n"
    )
    fake, transcript = await play(tmp_path, steps)
    assert fake.received == [b"EHLO x", b"ONE", b"TWO", b"BAD", b"BAD", b"QUIT"]
    bad = ["C: BAD", "S: 550-5.7.1 no", "S: 550 5.7.1 way"]
    assert transcript == [
        *("S: 220 mx ESMTP", "C: EHLO x", "S: 250-mx", "S: 250 SIZE"),
        *("C: ONE", "C: TWO", "S: 250 ok", "S: 250 ok", *bad, *bad),
    ]


@pytest.mark.parametrize(
    ("steps", "expected", "got"),
    [
        ("C: ONE\nS: 251\n", "251", "250 ok"),
        ("C: ONE\nS: 250 no\n", "250 no", "250 ok"),
        ("C: BAD\nS: 550 5.7.1 way\n", "550 5.7.1 way", "550-5.7.1 no\n550 5.7.1 way"),
        ("C: EHLO x\nS: 550\n", "550", "250-mx\n250 SIZE"),
        ("C: ONE\nS: (hangs up)\n", "(hangs up)", "250 ok"),
        ("S: 554\n", "554", "220 mx ESMTP"),
    ],
)
async def test_another_reply_is_told(tmp_path: Path, steps: str, expected: str, got: str) -> None:
    with pytest.raises(UnexpectedReplyError) as caught:
        await play(tmp_path, steps)
    assert (caught.value.expected, caught.value.got) == (expected, got)


async def test_a_greeting_that_nobody_expects_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedReplyError):
        await play(tmp_path, "C: ONE\nS: 250\n", b"554 no\r\n")


async def test_the_message_goes_out_dotted(tmp_path: Path) -> None:
    fake, _ = await play(tmp_path, "C: {{message}}\nS: 250\nS: 250\nS: 250\n")
    assert fake.received == [b"Subject: x", b"..b", b".", b"QUIT"]


async def test_a_server_that_hangs_up(tmp_path: Path) -> None:
    fake, transcript = await play(tmp_path, "C: LEAVE\nS: (hangs up)\nC: ONE\nS: 250\n")
    assert fake.received == [b"LEAVE", b"ONE", b"QUIT"]
    assert transcript[2] == "S: (hangs up)"


async def test_a_reply_that_does_not_come_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        await play(tmp_path, "C: LEAVE\nS: 250\n")


@pytest.mark.parametrize(("what", "end"), [("disconnect", "eof"), ("reset", "reset")])
async def test_leaving_without_a_word(tmp_path: Path, what: str, end: str) -> None:
    fake, _ = await play(tmp_path, f"C: ONE\nS: 250\ndo: {what}\n")
    assert (fake.received, fake.ends) == ([b"ONE"], [end])


async def test_another_connection(tmp_path: Path) -> None:
    fake, _ = await play(tmp_path, "C: ONE\nS: 250\ndo: connect\nS: 220\nC: TWO\nS: 250\n")
    assert fake.received == [b"ONE", b"QUIT", b"TWO", b"QUIT"]


async def test_other_things_that_can_be_done(tmp_path: Path) -> None:
    steps = (
        "C: ONE\nS: 250\ndo: wait mail <a>\ndo: submit a@src.example b@dst.example c@dst.example\n"
    )
    fake, transcript = await play(tmp_path, steps)
    recipients = ["b@dst.example", "c@dst.example"]
    assert fake.submitted == [(b"Subject: x\n.b\n", "a@src.example", recipients)]
    assert transcript[-1] == "mail <a>"


@pytest.mark.parametrize("what", ["dance", "tls"])
async def test_what_cannot_be_done(tmp_path: Path, what: str) -> None:
    with pytest.raises(CaseError, match=f"x.case:8: '{what}' cannot be done"):
        await play(tmp_path, f"\ndo: {what}\n")
