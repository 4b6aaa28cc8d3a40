"""Whole messages over real sockets: threads, deadlines, memory, and connections that end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest

from aiomilter import Message, Milter, SpoolError, Status
from tests.aio.serving import Journal, errors, serving, session, until_true, warnings
from tests.mta import (
    ABORT,
    BODY,
    CONNECT,
    EOM,
    HEADER,
    HELO,
    MAIL,
    PATIENCE_S,
    QUIT,
    QUIT_NC,
    RCPT,
    Mta,
    packet,
)

BEGUN = (MAIL, RCPT, HEADER)
PIECE = packet(b"B", b"0123456789abcde\n" * 4000)
PIECE_BYTES = 64_000


class Gatherer(Milter):
    """Notes how much of a message has come, and does what the test is about."""

    journal: ClassVar[Journal]

    async def on_message(self, message: Message) -> Any:
        self.journal.note(f"message {message.body.size}")
        return await self.act(message)

    async def act(self, message: Message) -> Any:
        """Do what the test is about."""

    async def on_abort(self) -> None:
        self.journal.note("abort")

    async def on_close(self) -> None:
        self.journal.note("close")


def gatherer(base: type[Milter] = Gatherer, **attributes: Any) -> Any:
    return type(base.__name__, (base,), {"journal": Journal(), **attributes})


def files() -> int:
    """Return how many temporary files without a name this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += " (deleted)" in os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return count


@pytest.fixture(autouse=True)
async def no_file_is_left() -> AsyncIterator[None]:
    before = files()
    yield
    assert files() == before


# Threads


@pytest.mark.parametrize("threshold", [0, 100_000, 10_000_000], ids=["file", "both", "memory"])
async def test_a_body_comes_whole_wherever_it_is_kept(threshold: int) -> None:
    async def act(self: Any, message: Message) -> None:
        body = await asyncio.to_thread(message.body.read)
        message.headers.add("X-Same", str(body == PIECE[5:] * 40))
        message.headers.add("X-Spooled", str(message.body.is_spooled))

    async with session(gatherer(act=act), spool_threshold=threshold) as mta:
        for _ in range(2):
            mta.send(CONNECT, HELO, *BEGUN, *[PIECE] * 40, EOM)
            spooled = b"True" if threshold < 40 * PIECE_BYTES else b"False"
            assert await mta.replies(3) == [
                b"hX-Same\0 True\0",
                b"hX-Spooled\0 " + spooled + b"\0",
                b"c",
            ]


async def test_sessions_at_once_have_their_own_files() -> None:
    async def act(self: Any, message: Message) -> None:
        body = await asyncio.to_thread(message.body.read)
        message.headers.add("X-Is", f"{body[:1].decode()} {len(set(body))}")

    async with (
        serving(gatherer(act=act), spool_threshold=1000) as server,
        AsyncExitStack() as stack,
    ):
        mtas = [await stack.enter_async_context(Mta.connected(server.sockets[0])) for _ in range(8)]
        for mta in mtas:
            await mta.begin()
        for _ in range(10):
            for number, mta in enumerate(mtas):
                mta.send(*([] if _ else BEGUN), packet(b"B", b"%d" % number * 30_000))
        for number, mta in enumerate(mtas):
            mta.send(EOM)
            assert await mta.replies(2) == [b"hX-Is\0 %d 1\0" % number, b"c"]


async def test_a_plain_handler_reads_and_replaces_a_large_body_in_its_thread() -> None:
    class Blocking(Milter):
        def on_message(self, message: Message) -> Status:
            assert threading.current_thread() is not threading.main_thread()
            message.body.replace(chunk.upper() for chunk in message.body.iter_chunks())
            return Status.ACCEPT

    async with session(Blocking, spool_threshold=1000) as mta:
        mta.send(*BEGUN, packet(b"B", b"abcdefghijklmn\r\n" * 4000), EOM)
        assert await mta.reply() == b"b" + b"ABCDEFGHIJKLMN\r\n" * 4000
        assert await mta.reply() == b"a"


# Time


async def test_the_mta_hears_of_progress_while_on_message_runs() -> None:
    gate = asyncio.Event()

    async def act(self: Any, message: Message) -> None:
        message.headers.add("X-A", "b")
        await gate.wait()

    async with session(gatherer(act=act), progress_interval=0.02) as mta:
        mta.send(*BEGUN, BODY, EOM)
        assert await mta.replies(3) == [b"p"] * 3
        gate.set()
        while (reply := await mta.reply()) == b"p":
            pass
        assert (reply, await mta.reply()) == (b"hX-A\0 b\0", b"c")


@pytest.mark.parametrize(
    ("on_error", "answer"),
    [("tempfail", b"t"), ("reject", b"r"), ("accept", b"a"), ("continue", b"c")],
)
async def test_a_message_that_takes_too_long_has_the_verdict_of_a_fault(
    on_error: str, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(self: Any, message: Message) -> None:
        message.headers.add("X-A", "b")
        if len(self.journal.entries) == 1:
            await asyncio.Event().wait()

    milter = gatherer(act=act)
    async with session(milter, eom_timeout=0.05, on_error=on_error, spool_threshold=1) as mta:
        mta.send(*BEGUN, BODY, EOM)
        assert await mta.reply() == answer
        mta.send(*BEGUN, EOM)
        assert await mta.replies(2) == [b"hX-A\0 b\0", b"c"]
    (line,) = errors(caplog)
    assert "longer than its time limit" in line


async def test_a_handler_that_does_not_heed_its_end_has_no_message_any_more() -> None:
    before = files()
    ends: list[str] = []
    gate = asyncio.Event()

    async def act(self: Any, message: Message) -> None:
        for _ in range(5):
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        try:
            message.body.read()
        except SpoolError as error:
            ends.append(str(error))

    async with session(gatherer(act=act), eom_timeout=0.05, spool_threshold=1) as mta:
        mta.send(*BEGUN, BODY, EOM)
        assert await mta.reply() == b"t"
        await until_true(lambda: files() == before)
        gate.set()
        await until_true(lambda: bool(ends))
    assert ends == ["the body of a message is closed: the message is over"]


async def test_a_thread_that_goes_on_reading_reads_nothing_of_another_message() -> None:
    before = files()
    reading, gate = threading.Event(), threading.Event()
    ends: list[object] = []

    class Stuck(Milter):
        def on_message(self, message: Message) -> None:
            chunks = message.body.iter_chunks(8)
            next(chunks)
            reading.set()
            gate.wait(PATIENCE_S)
            try:
                ends.append(next(chunks))
            except SpoolError as error:
                ends.append(error)

    async with (
        serving(Stuck, eom_timeout=0.05, spool_threshold=1) as server,
        Mta.connected(server.sockets[0]) as stuck,
        Mta.connected(server.sockets[0]) as other,
    ):
        await stuck.begin()
        stuck.send(*BEGUN, packet(b"B", b"mine" * 10), EOM)
        assert await stuck.reply() == b"t"
        assert reading.is_set()
        # The number of the descriptor is free, and taken by another message.
        await other.begin()
        other.send(*BEGUN, packet(b"B", b"other's" * 10))
        await until_true(lambda: files() == before + 1)
        gate.set()
        await until_true(lambda: bool(ends))
        (end,) = ends
        assert isinstance(end, SpoolError)


# Connections that end


@pytest.mark.parametrize("how", ["close", "reset", "quit", "abort"])
async def test_whoever_ends_in_the_middle_of_a_body_leaves_no_file(how: str) -> None:
    milter = gatherer()
    before = files()
    async with session(milter, spool_threshold=1000) as mta:
        mta.send(CONNECT, HELO, *BEGUN, PIECE)
        await until_true(lambda: files() == before + 1)
        if how == "reset":
            mta.reset()
        elif how == "close":
            mta.send(PIECE[:1000])
            await mta.hang_up()
        else:
            mta.send(ABORT if how == "abort" else QUIT)
        await milter.journal.until("abort")
        await until_true(lambda: files() == before)
        if how == "abort":
            mta.send(*BEGUN, BODY, EOM)
            assert await mta.reply() == b"c"
            assert milter.journal.entries == ["abort", "message 7"]


async def test_on_message_is_cancelled_when_the_mta_is_gone() -> None:
    async def act(self: Any, message: Message) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.journal.note("cancelled")
            raise

    milter = gatherer(act=act)
    async with session(milter, spool_threshold=1) as mta:
        mta.send(*BEGUN, BODY, EOM)
        await milter.journal.until("message 7")
        mta.reset()
        await milter.journal.until("close")
    assert milter.journal.entries == ["message 7", "cancelled", "abort", "close"]


@pytest.mark.parametrize("stubborn", [False, True], ids=["waits", "never ends"])
async def test_a_server_that_stops_leaves_no_file(stubborn: bool) -> None:
    async def act(self: Any, message: Message) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                self.journal.note("cancelled")
                if not stubborn or self.journal.entries.count("cancelled") > 5:
                    raise

    gate = asyncio.Event()
    milter = gatherer(act=act)
    before = files()
    async with serving(milter, spool_threshold=1) as server, AsyncExitStack() as stack:
        mtas = [await stack.enter_async_context(Mta.connected(server.sockets[0])) for _ in range(3)]
        for mta in mtas:
            await mta.begin()
        # In the middle of a body, at its end, and between messages.
        mtas[0].send(*BEGUN, BODY)
        mtas[1].send(*BEGUN, BODY, EOM)
        await milter.journal.until("message 7")
        await until_true(lambda: files() == before + 2)
        await server.stop(0)
        await until_true(lambda: files() == before)
        answer = await mtas[1].rest()
        gate.set()
        await asyncio.sleep(0)
    assert answer[4:] == b"t"


async def test_a_connection_that_is_aborted_leaves_no_file() -> None:
    before = files()
    async with (
        serving(gatherer(), spool_threshold=1) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()
        mta.send(*BEGUN, BODY)
        await until_true(lambda: files() == before + 1)
        (connection,) = server._connections
        connection.abort()
        await until_true(lambda: files() == before)


async def test_sessions_and_messages_one_after_the_other_on_one_connection() -> None:
    milter = gatherer()
    async with session(milter, spool_threshold=1) as mta:
        for number in range(3):
            mta.send(CONNECT, HELO)
            for _ in range(3):
                mta.send(*BEGUN, *[BODY] * number, EOM)
                assert await mta.reply() == b"c"
            mta.send(*BEGUN, BODY, ABORT, QUIT_NC)
        await milter.journal.until("close", 3)
    sizes = [f"message {number * 7}" for number in range(3)]
    expected = [line for size in sizes for line in (*[size] * 3, "abort", "close")]
    # The last one began with what was left of nothing: it is closed with the connection.
    assert milter.journal.entries[:15] == expected


# Memory


async def test_p22_what_is_gathered_counts_and_bodies_go_to_files_when_it_is_much() -> None:
    milter = gatherer()
    before = files()
    async with (
        serving(milter, memory_budget=400_000) as server,
        AsyncExitStack() as stack,
    ):
        memory = server._shared.memory
        mtas = [await stack.enter_async_context(Mta.connected(server.sockets[0])) for _ in range(8)]
        for mta in mtas:
            await mta.begin()
            mta.send(*BEGUN, PIECE, PIECE)
        # Some had their first pieces in memory, and keep them until the next comes.
        await until_true(lambda: files() >= before + 4)
        for mta in mtas:
            mta.send(PIECE, EOM)
            assert await mta.reply() == b"c"
        assert milter.journal.entries == [f"message {3 * PIECE_BYTES}"] * 8
        await until_true(lambda: memory.used == 0)
        for mta in mtas:
            mta.send(QUIT)
            assert await mta.rest() == b""


async def test_a_message_above_the_limit_is_drained_and_not_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = gatherer()
    before = files()
    async with session(milter, max_message_body_bytes=100_000, spool_threshold=1000) as mta:
        mta.send(*BEGUN, PIECE)
        await until_true(lambda: files() == before + 1)
        mta.send(*[PIECE] * 100)
        await until_true(lambda: files() == before)
        mta.send(EOM)
        assert await mta.reply() == b"t"
        mta.send(*BEGUN, BODY, EOM)
        assert await mta.reply() == b"c"
    assert milter.journal.entries[:1] == ["message 7"]
    (line,) = warnings(caplog)
    assert "more than 100000 bytes of body; the answer is TEMPFAIL" in line
