"""A whole session that ends at each of its bytes in turn, as seen from both of its ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from aiomilter import Server
from aiomilter.errors import MilterUnavailable, RemoteProtocolError
from aiomilter.mta import Envelope, Outcome, connect
from tests.aio.serving import errors, serving, until_true
from tests.faults.proxy import Cut, HalfClose, HoldUntil, Proxy, Reset, Script, Split, Step
from tests.faults.sessions import Diarist, assert_orderly, diarist, nothing_left
from tests.mta import (
    BODY,
    CONNECT,
    DATA,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    OFFER,
    QUIT,
    RCPT,
    Mta,
    split_packets,
)

SESSION = {
    "offer": OFFER,
    "connect": CONNECT,
    "helo": HELO,
    "mail": MAIL,
    "rcpt": RCPT,
    "data": DATA,
    "header": HEADER,
    "eoh": EOH,
    "body": BODY,
    "eom": EOM,
    "quit": QUIT,
}
SESSION_BYTES = sum(map(len, SESSION.values()))
WHOLE_DIARY = [*list(SESSION)[1:-1], "close"]

AGREED_BYTES = 17
CONTINUE = b"\0\0\0\1c"
EDITS_AND_VERDICT = b"".join(
    (
        b"\0\0\0\x0bhX-First\x001\0",
        b"\0\0\0\x15e<changed@a.example>\0",
        b"\0\0\0\x0abchanged\r\n",
        b"\0\0\0\x0ahX-Last\x002\0",
        b"\0\0\0\x01a",
    )
)
ANSWER_BYTES = AGREED_BYTES + 8 * len(CONTINUE) + len(EDITS_AND_VERDICT)

MESSAGE = b"From: a@a.example\r\nSubject: hello\r\n\r\nhello\r\n"
ENVELOPE = Envelope("alice@a.example", "bob@b.example")

ends = pytest.mark.parametrize("action", [Cut(), Reset(), HalfClose()], ids=["FIN", "RST", "half"])
losses = pytest.mark.parametrize("action", [Cut(), Reset()], ids=["FIN", "RST"])


async def talk(mta: Mta) -> None:
    """Say a session step by step, until its end or that of the connection."""
    try:
        for command in SESSION.values():
            mta.send(command)
            if command is QUIT:
                await mta.rest()
                return
            while (await mta.reply())[:1] in (b"h", b"e", b"b"):
                pass
    except (asyncio.IncompleteReadError, ConnectionError):
        pass


def said_before(offset: int) -> list[str]:
    """Return the commands that have arrived whole when so many bytes have."""
    borders = zip(SESSION, accumulate(map(len, SESSION.values())), strict=True)
    return [name for name, border in borders if border <= offset]


async def assert_serves(server: Server, milter: type[Diarist]) -> None:
    """Make sure that the next session is as every other."""
    async with Mta.connected(server.sockets[0]) as mta:
        await talk(mta)
    assert milter.diaries[-1] == WHOLE_DIARY


@pytest.fixture(params=["inet", "unix"])
def paths(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path | None]]:
    """Where to listen: the server, and the proxy in front of it (None: on a port)."""
    if request.param == "unix":
        yield f"unix:{tmp_path}/milter", tmp_path / "proxy"
    else:
        yield "inet:0", None


@ends
async def test_hooks_run_once_wherever_the_mta_ends(
    action: Cut | Reset | HalfClose,
    paths: tuple[str, Path | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, path = paths
    milter = diarist()
    async with (
        serving(milter, address) as server,
        Proxy.before(server.sockets[0], path=path) as proxy,
    ):
        for offset in range(SESSION_BYTES + 1):
            milter.diaries.clear()
            proxy.scripts.append(Script(to_milter=[Step(offset, action)]))
            async with nothing_left(server), Mta.connected(proxy.listener) as mta:
                await talk(mta)
            seen = [name for name in said_before(offset) if name not in ("offer", "quit")]
            if milter.diaries:
                assert_orderly(milter.diaries[0])
                handled = [entry for entry in milter.diaries[0] if entry not in ("abort", "close")]
                # What came right ahead of a reset may be lost with the answer to it.
                assert handled == seen or (handled == seen[:-1] and action == Reset()), offset
            else:
                assert not seen, offset
            await assert_serves(server, milter)
    assert errors(caplog) == []


@losses
async def test_hooks_run_once_wherever_the_answers_end(
    action: Cut | Reset, paths: tuple[str, Path | None], caplog: pytest.LogCaptureFixture
) -> None:
    address, path = paths
    milter = diarist()
    async with (
        serving(milter, address) as server,
        Proxy.before(server.sockets[0], path=path) as proxy,
    ):
        for offset in range(ANSWER_BYTES + 1):
            milter.diaries.clear()
            proxy.scripts.append(Script(to_mta=[Step(offset, action)]))
            async with nothing_left(server), Mta.connected(proxy.listener) as mta:
                await talk(mta)
            for diary in milter.diaries:
                assert_orderly(diary)
            # At 0 the connection ends at once, before or after the offer.
            assert len(milter.diaries) == 1 or not offset, offset
            await assert_serves(server, milter)
    assert errors(caplog) == []


async def ask(proxy: Proxy) -> Outcome:
    """Have the library's own MTA send the message."""
    async with connect(proxy.address) as milter:
        return await milter.send(ENVELOPE, MESSAGE)


def summary(outcome: Outcome) -> object:
    """Return all that an MTA would do."""
    delivery = outcome.apply()
    assert delivery is not None
    content = delivery.content.as_bytes()
    return outcome.status, outcome.edits, delivery.envelope.sender, content


async def unharmed(proxy: Proxy) -> tuple[object, bytes, bytes]:
    """Return what comes of the message, and what goes over the wire, if nothing happens to it."""
    proxy.scripts.append(Script())
    outcome = await ask(proxy)
    link = proxy.links[-1]
    await until_true(link.is_over.is_set)
    return summary(outcome), bytes(link.to_milter.data), bytes(link.to_mta.data)


@losses
@pytest.mark.parametrize("direction", ["to_milter", "to_mta"])
async def test_the_mta_has_the_whole_outcome_or_one_error(
    action: Cut | Reset, direction: str, caplog: pytest.LogCaptureFixture
) -> None:
    milter = diarist()
    async with serving(milter, "inet:0") as server, Proxy.before(server.sockets[0]) as proxy:
        expected, said, answered = await unharmed(proxy)
        assert answered.endswith(EDITS_AND_VERDICT)
        asked_at = said.rindex(EOM) + len(EOM)
        last = len(said) if direction == "to_milter" else len(answered)
        decided_at = asked_at if direction == "to_milter" else len(answered)
        for offset in range(last + 1):
            steps = [Step(offset, action)]
            proxy.scripts.append(Script(**{direction: steps}))
            async with nothing_left(server):
                try:
                    async with asyncio.timeout(5):
                        outcome = await ask(proxy)
                except (MilterUnavailable, RemoteProtocolError):
                    # The last answer may be lost with the connection.
                    assert offset <= decided_at, offset
                else:
                    assert offset >= decided_at, offset
                    assert summary(outcome) == expected
        proxy.scripts.clear()
        assert (await unharmed(proxy))[0] == expected
    for diary in milter.diaries:
        assert_orderly(diary)
    assert errors(caplog) == []


@pytest.mark.parametrize("size", [1, 2, 3, 5, 13])
async def test_pieces_of_any_size_are_the_same_session(size: int) -> None:
    milter = diarist()
    async with serving(milter, "inet:0") as server, Proxy.before(server.sockets[0]) as proxy:
        whole = await unharmed(proxy)
        proxy.scripts.append(Script([Step(0, Split(size))], [Step(0, Split(size))]))
        outcome = await ask(proxy)
        assert summary(outcome) == whole[0]
        await until_true(proxy.links[-1].is_over.is_set)
        link = proxy.links[-1]
        assert (bytes(link.to_milter.data), bytes(link.to_mta.data)) == whole[1:]
    assert milter.diaries[0] == milter.diaries[1]


async def test_answers_held_back_while_commands_go_on_come_in_order() -> None:
    # An MTA that sends everything ahead: no answer passes until all commands have.
    milter = diarist()
    async with serving(milter, "inet:0") as server, Proxy.before(server.sockets[0]) as proxy:
        proxy.scripts.append(Script(to_mta=[Step(0, HoldUntil(SESSION_BYTES))]))
        async with nothing_left(server), Mta.connected(proxy.listener) as mta:
            mta.send(*SESSION.values())
            answers = split_packets(await mta.rest())
    letters = b"".join(answer[:1] for answer in answers)
    assert letters == b"O" + 8 * b"c" + b"hebha"
    assert milter.diaries == [WHOLE_DIARY]


async def test_commands_held_at_each_byte_until_answers_have_passed() -> None:
    # One answer is due for each command; each command's second half waits for the one before.
    borders = list(accumulate(map(len, SESSION.values())))
    steps = [
        Step(border + 2, HoldUntil(AGREED_BYTES + number * len(CONTINUE)))
        for number, border in enumerate(borders[:9])
    ]
    milter = diarist()
    async with serving(milter, "inet:0") as server, Proxy.before(server.sockets[0]) as proxy:
        proxy.scripts.append(Script(to_milter=steps))
        async with nothing_left(server), Mta.connected(proxy.listener) as mta:
            mta.send(*SESSION.values())
            answers = split_packets(await mta.rest())
    assert len(answers) == 1 + 8 + 5
    assert milter.diaries == [WHOLE_DIARY]
