"""A program on the real libmilter, over a real socket, consulted by `aiomilter.mta`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aiomilter import Actions, Options, Status
from aiomilter.mta import Client, Envelope, HeaderAdded, Mta, Offer, connect
from tests.integration.peers.libmilter_noop import running_libmilter

pytestmark = pytest.mark.xdist_group("peers")

MESSAGE = b"From: a@src.example\r\nSubject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 10_000
ENVELOPE = Envelope("a@src.example", ["b@dst.example", "c@dst.example"])
ADDED = (HeaderAdded("X-Bench", "1"),)
STAGES = ["connect", "helo", "mail", "rcpt", "rcpt", "data", "header", "header", "eoh"]


@pytest.fixture(scope="module")
def answering() -> Iterator[str]:
    """Answers every command."""
    with running_libmilter() as address:
        yield address


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """Answers at the end of a message only."""
    with running_libmilter("no-reply") as address:
        yield address


@pytest.mark.parametrize("mta", Mta)
async def test_messages_on_one_connection(answering: str, mta: Mta) -> None:
    async with connect(answering, mta=mta) as milter:
        for number in range(4):
            outcome = await milter.send(ENVELOPE, MESSAGE)
            assert (outcome.status, outcome.stage, outcome.edits) == (Status.ACCEPT, "eom", ADDED)
            stages = [step.stage for step in outcome.steps if step.is_answered]
            # A body of 180 kB goes in three pieces.
            assert stages == [*STAGES[2 if number else 0 :], *["body"] * 3, "eom"]
            delivery = outcome.apply()
            assert delivery is not None
            assert delivery.content.headers[-1] == ("X-Bench", " 1")
            assert delivery.content.as_bytes().endswith(MESSAGE[-1000:])


@pytest.mark.parametrize("mta", Mta)
async def test_milter_that_is_not_waited_for(silent: str, mta: Mta) -> None:
    async with connect(silent, mta=mta) as milter:
        assert milter.agreed.options & Options.NO_REPLY_CONNECT
        assert milter.agreed.options & Options.NO_REPLY_BODY
        for _ in range(4):
            outcome = await milter.send(ENVELOPE, MESSAGE)
            assert [step.stage for step in outcome.steps if step.is_answered] == ["eom"]
            assert outcome.edits == ADDED


async def test_mta_that_always_waits(silent: str) -> None:
    offer = Offer(actions=Actions.ADD_HEADER, options=Options(0x7F))
    async with connect(silent, offer=offer) as milter:
        assert milter.agreed.options == 0
        outcome = await milter.send(ENVELOPE, MESSAGE)
        assert all(step.is_answered for step in outcome.steps)
        assert outcome.edits == ADDED


async def test_sessions_on_one_connection(answering: str) -> None:
    # libmilter heeds QUIT_NC only behind the end of a message, where Sendmail sends no ABORT.
    async with connect(answering, mta=Mta.SENDMAIL) as milter:
        for number in (1, 2, 3):
            client = Client(f"client{number}.example", f"192.0.2.{number}")
            outcome = await milter.send(ENVELOPE, MESSAGE, client=client)
            assert outcome.edits == ADDED
            assert outcome.steps[0].argument.startswith(
                f"client{number}.example [192.0.2.{number}]"
            )


@pytest.mark.parametrize("mta", Mta)
async def test_abandoned_message(answering: str, mta: Mta) -> None:
    async with connect(answering, mta=mta) as milter:
        await milter.connect()
        await milter.helo()
        for _ in range(3):
            await milter.mail("a@src.example")
            await milter.rcpt("b@dst.example")
            await milter.data()
            await milter.header("Subject", " given up")
            await milter.abort()
        assert (await milter.send(ENVELOPE, MESSAGE)).edits == ADDED


async def test_unknown_command(answering: str) -> None:
    async with connect(answering) as milter:
        await milter.connect()
        await milter.helo()
        assert (await milter.unknown("XYZZY")).status is Status.CONTINUE
        assert (await milter.send(ENVELOPE, MESSAGE)).edits == ADDED
