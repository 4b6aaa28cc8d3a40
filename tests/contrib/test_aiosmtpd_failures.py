"""What becomes of mail when a milter is not there, or does not do what a milter does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from aiomilter.contrib.aiosmtpd import MilterHandler
from aiomilter.mta import Timeouts
from aiomilter.testing.servers.ports import ReservedPort
from aiomilter.testing.servers.smtp import SmtpClient, SmtpReply
from tests.aio.serving import serving
from tests.contrib.rig import MESSAGE, Inbox, address_of, decider, listening
from tests.packets import packet

POLICIES: list[tuple[Literal["tempfail", "accept", "reject"], SmtpReply]] = [
    ("tempfail", SmtpReply(451, ("4.7.1 Service unavailable - try again later",))),
    ("reject", SmtpReply(550, ("5.5.0 Service unavailable",))),
]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NEGOTIATED = packet("O", b"\0\0\0\x06\0\0\0\0\0\0\0\0")


@asynccontextmanager
async def peer(serve: Serve) -> AsyncIterator[str]:
    """Run something that is no proper milter; its address."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield f"inet:{server.sockets[0].getsockname()[1]}@127.0.0.1"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def replying(**replies: bytes) -> Serve:
    """Return a peer that negotiates, says CONTINUE, but something else to some commands.

    Args:
        replies: By the letter of the command; empty for hanging up.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4))
                letter = (await reader.readexactly(size))[:1].decode()
                reply = NEGOTIATED if letter == "O" else packet("c", b"")
                reply = replies.get(letter, b"" if letter in "DAQ" else reply)
                if not reply and letter in replies:
                    return
                writer.write(reply)
                await writer.drain()
        except asyncio.IncompleteReadError:
            return

    return serve


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Take all and say nothing."""
    await reader.read()


async def no_milter(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak another protocol."""
    writer.write(b"220 mx.example.org ESMTP\r\n")
    await writer.drain()


async def refused_at(smtp: SmtpClient) -> tuple[str, SmtpReply] | None:
    for line in ("EHLO x", "MAIL FROM:<a@src.example>", "RCPT TO:<b@dst.example>"):
        reply = await smtp.command(line)
        if reply.code >= 400:
            return line[:4], reply
    reply = await smtp.content(MESSAGE)
    return ("DATA", reply) if reply.code >= 400 else None


FAULTS: dict[str, tuple[Serve, str, str]] = {
    "silent": (silent, "EHLO", "has not answered negotiate within 1 s"),
    "no-milter": (no_milter, "EHLO", "milter inet:"),
    "hangs-up-at-connect": (replying(C=b""), "EHLO", "instead of an answer to connect"),
    "wrong-at-helo": (replying(H=packet("?", b"")), "EHLO", "milter inet:"),
    "hangs-up-at-mail": (replying(M=b""), "MAIL", "instead of an answer to mail"),
    "edit-at-rcpt": (replying(R=packet("h", b"a\0b\0")), "RCPT", "is no reply to rcpt"),
    "hangs-up-at-header": (replying(L=b""), "DATA", "instead of an answer to header"),
    "garbage-at-eom": (replying(E=packet("y", b"999 no\0")), "DATA", "the text of a reply code"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("policy", "expected"), POLICIES, ids=["tempfail", "reject"])
async def test_failure_refuses_mail_for_the_rest_of_the_session(
    fault: str,
    policy: Literal["tempfail", "accept", "reject"],
    expected: SmtpReply,
    caplog: pytest.LogCaptureFixture,
) -> None:
    serve, where, text = FAULTS[fault]
    inbox = Inbox()
    async with peer(serve) as address:
        handler = MilterHandler(
            inbox, address, on_failure=policy, timeouts=Timeouts(command=1.0, content=1.0)
        )
        async with listening(handler) as port, SmtpClient.connect(port) as smtp:
            assert await refused_at(smtp) == (where, expected)
            last = ["EHLO again", "MAIL FROM:<a@src.example>"]
            if where == "RCPT":
                last.insert(0, "RCPT TO:<c@dst.example>")
            for line in last:
                assert await smtp.command(line) == expected
    assert inbox.mails == []
    [line] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert line.startswith(f"milter {address}: ")
    assert text in line
    assert repr(f"{expected.code} {expected.text}") in line


@pytest.mark.parametrize("fault", FAULTS)
async def test_failure_may_let_mail_pass(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    inbox, other = Inbox(), decider()
    async with peer(FAULTS[fault][0]) as address, serving(other) as server:
        handler = MilterHandler(
            inbox,
            address,
            address_of(server),
            on_failure="accept",
            timeouts=Timeouts(command=1.0, content=1.0),
        )
        async with listening(handler) as port, SmtpClient.connect(port) as smtp:
            assert await refused_at(smtp) is None
            assert (await smtp.message(MESSAGE)).code == 250
    assert [mail.content for mail in inbox.mails] == [MESSAGE] * 2
    assert other.journal.entries.count("eom") == 2
    [line] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert line.endswith("the rest of the SMTP session is not filtered by it")


async def test_unreachable_milter_is_tried_again_in_the_next_session() -> None:
    milter, inbox = decider(), Inbox()
    with ReservedPort() as port:
        address = f"inet:{port.number}@127.0.0.1"
        async with listening(MilterHandler(inbox, address)) as smtp_port:
            async with SmtpClient.connect(smtp_port) as smtp:
                assert (await smtp.ehlo()).code == 451
            async with serving(milter, address), SmtpClient.connect(smtp_port) as smtp:
                assert (await smtp.ehlo()).code == 250
                assert (await smtp.message(MESSAGE)).code == 250
    assert len(inbox.mails) == 1


async def test_failure_of_one_milter_ends_the_connections_to_the_others() -> None:
    other = decider()
    async with peer(replying(R=b"")) as address, serving(other) as server:
        handler = MilterHandler(Inbox(), address_of(server), address)
        async with listening(handler) as port, SmtpClient.connect(port) as smtp:
            await smtp.ehlo()
            await smtp.command("MAIL FROM:<a@src.example>")
            assert (await smtp.command("RCPT TO:<b@dst.example>")).code == 451
            await other.journal.until("close")
            assert other.journal.entries == ["connect", "helo", "mail", "rcpt", "abort", "close"]


async def test_milter_that_goes_away_between_messages() -> None:
    inbox = Inbox()
    async with peer(replying(A=b"")) as address:
        handler = MilterHandler(inbox, address)
        async with listening(handler) as port, SmtpClient.connect(port) as smtp:
            await smtp.ehlo()
            await smtp.command("MAIL FROM:<a@src.example>")
            assert (await smtp.command("RSET")).code == 250
            assert (await smtp.command("MAIL FROM:<a@src.example>")).code == 451
