"""What a connection does within one turn of the event loop, and what it leaves to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiomilter import Config, Milter, Observer, no_reply
from aiomilter.aio import handler_host
from aiomilter.aio.connection import Connection
from aiomilter.aio.shared import READ_BYTES, Shared
from aiomilter.aio.threads import WorkerThreads
from tests.mta import ABORT, DATA, EOH, HEADER, HELO, MAIL, OFFER, RCPT, packet


class FakeTransport(asyncio.Transport):
    """Keeps what is written; its other end reads nothing once it has been told so."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.connection: Connection | None = None
        self.reads = True

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))
        if self.connection is not None:
            self.connection.pause_writing()

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Headers(Milter):
    """Counts headers, for which the MTA does not wait."""

    seen = 0

    @no_reply
    async def on_header(self, name: str, value: str) -> None:
        Headers.seen += 1


class Bodies(Milter):
    """Wants bodies."""

    async def on_body(self, chunk: bytes) -> None: ...


async def feed(
    connection: Connection, *pieces: bytes, look: Callable[[], object] = lambda: None
) -> list[object]:
    """Do what a transport does that reads several times in a turn; look after each of them.

    In a callback, as a transport does: the task of a test would be in the way of another one.
    """
    seen: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()

    def read() -> None:
        found: list[object] = []
        try:
            for data in pieces:
                buffer = connection.get_buffer(-1)
                buffer[: len(data)] = data
                connection.buffer_updated(len(data))
                found.append(look())
        finally:
            seen.set_result(found)

    asyncio.get_running_loop().call_soon(read)
    return await seen


async def turns() -> None:
    """Let the event loop turn some times."""
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(
    milter: type[Milter], shared: Shared
) -> AsyncIterator[tuple[Connection, FakeTransport]]:
    """Have a connection that has negotiated; it is lost in the end."""
    transport = FakeTransport()
    connection = Connection(milter, shared, "inet:1", lambda _: None)
    connection.connection_made(transport)
    await turns()
    await feed(connection, OFFER)
    await turns()
    try:
        yield connection, transport
    finally:
        connection.connection_lost(None)
        await turns()


async def test_who_sends_more_than_is_read_at_a_time_leaves_others_their_turn() -> None:
    # uvloop reads up to 32 times in one turn as long as the buffer is full each time.
    async with connected(Headers, Shared(Config(), WorkerThreads(1))) as (connection, transport):
        Headers.seen = 0
        much = (HEADER * READ_BYTES)[:READ_BYTES]
        seen = await feed(
            connection,
            MAIL + RCPT + DATA + HEADER,
            much,
            HEADER[READ_BYTES % len(HEADER) :],
            look=lambda: (Headers.seen, transport.reads),
        )
        assert seen == [(1, True), (1, True), (1, False)]
        await turns()
        assert (Headers.seen, transport.reads) == (2 + READ_BYTES // len(HEADER), True)


async def test_an_mta_that_reads_nothing_is_not_written_to_for_ever() -> None:
    # Nor where no handler is called for what it sends.
    async with connected(Headers, Shared(Config(), WorkerThreads(1))) as (connection, transport):
        transport.connection = connection
        await feed(connection, HELO)
        await turns()
        written = len(transport.written)
        await feed(connection, HELO * 10, HELO * 10)
        await turns()
        assert len(transport.written) == written
        transport.connection = None
        connection.resume_writing()
        await turns()
        assert transport.written[-1] == packet(b"c") * 20


async def test_who_has_sent_half_a_packet_is_read_from_while_memory_is_tight() -> None:
    # It is the other half that lets go of the memory.
    shared = Shared(Config(memory_budget=1_000_000), WorkerThreads(1))
    async with connected(Bodies, shared) as (connection, transport):
        await feed(connection, MAIL + RCPT + DATA + EOH)
        await turns()
        shared.memory.change(900_000)
        await feed(connection, packet(b"B", b"x" * 1000) + packet(b"B", b"x" * 60_000)[:6000])
        assert transport.reads
        assert shared.memory.used == 906_000
        await turns()
        assert transport.reads
    assert shared.memory.used == 900_000


async def test_what_comes_after_a_connection_was_cut_short_is_not_taken_for_packets() -> None:
    async with connected(Headers, Shared(Config(), WorkerThreads(1))) as (connection, _):
        Headers.seen = 0
        cut_short = [connection.cut_short]
        await feed(
            connection,
            MAIL + RCPT + DATA + HEADER[:3],
            HEADER + ABORT,
            look=lambda: cut_short.pop()() if cut_short else None,
        )
        await turns()
        assert Headers.seen == 0


async def test_a_connection_that_is_ended_while_a_handler_runs_ends_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no other task takes over for a handler that nobody waits for."""
    monkeypatch.setattr(handler_host, "_CANCEL_GRACE_S", 0.01)
    ends: list[str] = []

    class Ends(Observer):
        def connection_closed(self, listener: str, peer: str, seconds: float) -> None:
            ends.append(listener)

    class Waiting(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            await asyncio.Event().wait()

    shared = Shared(Config(), WorkerThreads(1), observers=[Ends()])
    async with connected(Waiting, shared) as (connection, _):
        await feed(connection, MAIL)
        connection.abort()
        await turns()
    await asyncio.sleep(0.05)
    assert ends == ["inet:1"]
