"""The transport of accepted sockets on asyncio's own loop, against a socket that blocks."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import random
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, cast

import pytest

from aiomilter.aio.transport import SocketTransport
from tests.aio.serving import until_true

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

MUCH = random.Random(1).randbytes(3_000_000)
"""More than a socket takes at a time."""


class Notes(asyncio.BufferedProtocol):
    """Notes what it is called with, and that nothing is called from within something else."""

    def __init__(self) -> None:
        self.received = b""
        self.pieces = 0
        self.calls: list[str] = []
        self.lost: Exception | None = None
        self.buffer = memoryview(bytearray(1000))
        self.transport: SocketTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        self.pieces += 1

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost = exc

    @property
    def is_lost(self) -> bool:
        return "lost" in self.calls


def serve(sock: socket.socket, protocol: Notes) -> SocketTransport:
    """Have the running loop serve a socket."""
    loop = cast("asyncio.SelectorEventLoop", asyncio.get_running_loop())
    return SocketTransport(sock, protocol, loop, copy_context())


@contextmanager
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Have both ends of a connection; the first does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


@asynccontextmanager
async def connected(
    protocol: Notes | None = None,
) -> AsyncIterator[tuple[SocketTransport, Notes, socket.socket]]:
    """Have a transport, its protocol and the other end; it is aborted in the end."""
    protocol = protocol or Notes()
    with sockets() as (ours, theirs):
        transport = serve(ours, protocol)
        try:
            yield transport, protocol, theirs
        finally:
            transport.abort()
            await until_true(lambda: protocol.is_lost)
            assert ours.fileno() == -1
            assert protocol.calls.count("lost") == 1
            assert protocol.calls[-1] == "lost"


async def read_all(sock: socket.socket, size: int) -> bytes:
    """Read so many bytes in a thread."""

    def read() -> bytes:
        found = bytearray()
        while len(found) < size and (piece := sock.recv(65_536)):
            found += piece
        return bytes(found)

    return await asyncio.to_thread(read)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0.001)


async def test_what_comes_is_read_and_what_is_written_is_sent() -> None:
    async with connected() as (transport, protocol, theirs):
        assert protocol.calls == ["made"]
        theirs.sendall(b"a question")
        await until_true(lambda: bool(protocol.received))
        assert protocol.received == b"a question"
        for answer in (b"an answer", bytearray(b", another"), memoryview(b", a third")):
            transport.write(answer)
        assert transport.get_write_buffer_size() == 0
        assert await read_all(theirs, 27) == b"an answer, another, a third"


async def test_one_read_a_turn_is_enough() -> None:
    async with connected() as (_, protocol, theirs):
        theirs.sendall(MUCH[:10_000])
        seen: list[int] = []
        while len(protocol.received) < 10_000:
            seen.append(protocol.pieces)
            await asyncio.sleep(0)
        assert protocol.received == MUCH[:10_000]
        assert max(after - before for before, after in itertools.pairwise(seen)) == 1


async def test_what_the_kernel_does_not_take_is_sent_later_and_in_order() -> None:
    async with connected() as (transport, protocol, theirs):
        transport.write(MUCH)
        transport.write(b"the end")
        kept = transport.get_write_buffer_size()
        assert 65_536 < kept < len(MUCH) + 7
        assert protocol.calls == ["made", "pause"]
        assert await read_all(theirs, len(MUCH) + 7) == MUCH + b"the end"
        await until_true(lambda: protocol.calls == ["made", "pause", "resume"])
        assert transport.get_write_buffer_size() == 0
        transport.write(b"again")
        assert await read_all(theirs, 5) == b"again"


async def test_a_little_too_much_does_not_pause_writing() -> None:
    async with connected() as (transport, protocol, theirs):
        written = 0
        while not transport.get_write_buffer_size():
            transport.write(MUCH[written : written + 10_000])
            written += 10_000
        assert await read_all(theirs, written) == MUCH[:written]
        assert protocol.calls == ["made"]


async def test_closing_sends_what_is_kept_and_reads_no_more() -> None:
    async with connected() as (transport, protocol, theirs):
        transport.write(MUCH)
        transport.close()
        transport.close()
        assert transport.is_closing()
        theirs.sendall(b"too late")
        await turns()
        assert not protocol.is_lost
        assert await read_all(theirs, len(MUCH)) == MUCH
        await until_true(lambda: protocol.is_lost)
        assert (protocol.received, protocol.lost) == (b"", None)


async def test_closing_an_idle_connection_tells_the_protocol_a_turn_later() -> None:
    async with connected() as (transport, protocol, theirs):
        transport.close()
        assert protocol.calls == ["made"]
        await until_true(lambda: protocol.is_lost)
        assert await read_all(theirs, 1) == b""
        transport.write(b"nobody reads this")
        transport.pause_reading()
        transport.resume_reading()
        assert not transport.is_reading()
        assert transport.get_extra_info("socket") is None


async def test_aborting_drops_what_is_kept() -> None:
    async with connected() as (transport, protocol, theirs):
        transport.write(MUCH)
        transport.close()
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert not protocol.is_lost
        await until_true(lambda: protocol.is_lost)
        assert len(await read_all(theirs, len(MUCH))) < len(MUCH)


async def test_an_end_of_the_stream_is_told_once_and_writing_goes_on() -> None:
    async with connected() as (transport, protocol, theirs):
        theirs.sendall(b"last words")
        theirs.shutdown(socket.SHUT_WR)
        await until_true(lambda: "eof" in protocol.calls)
        transport.resume_reading()
        await turns()
        assert (protocol.calls, protocol.received) == (["made", "eof"], b"last words")
        transport.write(b"an answer")
        assert await read_all(theirs, 9) == b"an answer"


async def test_nothing_is_read_while_reading_is_paused() -> None:
    async with connected() as (transport, protocol, theirs):
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        theirs.sendall(b"later")
        await turns()
        assert protocol.received == b""
        transport.resume_reading()
        transport.resume_reading()
        await until_true(lambda: protocol.received == b"later")


def reset(sock: socket.socket) -> None:
    """Close a TCP socket so that the other end has an error."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("is_reading", [True, False])
async def test_a_connection_that_is_reset_is_lost_with_the_error(is_reading: bool) -> None:
    protocol = Notes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    transport = serve(ours, protocol)
    assert transport.get_extra_info("peername") == theirs.getsockname()
    if not is_reading:
        transport.pause_reading()
    reset(theirs)
    await turns()
    if not is_reading:
        # Nobody has looked; the next write does.
        assert not protocol.is_lost
        assert transport.get_extra_info("peername", "?") == "?"
        transport.write(b"an answer")
        transport.write(b"another")
        assert not protocol.is_lost
    await until_true(lambda: protocol.is_lost)
    assert isinstance(protocol.lost, OSError)
    assert ours.fileno() == -1


@pytest.mark.parametrize("is_reading", [True, False])
async def test_an_other_end_that_goes_away_ends_what_is_still_to_be_sent(is_reading: bool) -> None:
    async with connected() as (transport, protocol, theirs):
        if not is_reading:
            # It is found out by sending.
            transport.pause_reading()
        transport.write(MUCH)
        theirs.close()
        await until_true(lambda: protocol.is_lost)
        assert isinstance(protocol.lost, OSError)
        assert transport.get_write_buffer_size() == 0


async def test_a_fault_of_the_protocol_is_told_to_the_loop_and_ends_the_connection() -> None:
    class Faulty(Notes):
        def buffer_updated(self, nbytes: int) -> None:
            raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context))
    try:
        async with connected(Faulty()) as (transport, protocol, theirs):
            theirs.sendall(b"x")
            await until_true(lambda: protocol.is_lost)
            assert isinstance(protocol.lost, ZeroDivisionError)
            assert transport.is_closing()
    finally:
        loop.set_exception_handler(before)
    (context,) = told
    assert isinstance(context["exception"], ZeroDivisionError)


async def test_a_socket_that_the_loop_cannot_wait_for_stays_the_callers() -> None:
    class Full:
        def add_reader(self, *arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    protocol = Notes()
    with sockets() as (ours, _):
        full = cast("asyncio.SelectorEventLoop", Full())
        with pytest.raises(OSError, match="No space"):
            SocketTransport(ours, protocol, full, copy_context())
        assert ours.fileno() >= 0
    assert protocol.calls == []


async def test_a_protocol_that_cannot_begin_leaves_nothing_at_the_loop() -> None:
    class Broken(Notes):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.held = transport
            raise ZeroDivisionError

    protocol = Broken()
    with sockets() as (ours, theirs):
        with pytest.raises(ZeroDivisionError):
            serve(ours, protocol)
        assert not asyncio.get_running_loop().remove_reader(ours)
        assert ours.fileno() >= 0
        transport = cast("SocketTransport", protocol.held)
        transport.write(b"nobody reads this")
        transport.resume_reading()
        transport.abort()
        theirs.sendall(b"x")
        await turns()
    assert (protocol.calls, protocol.received) == ([], b"")


async def test_what_comes_is_read_in_the_context_of_the_beginning() -> None:
    variable = ContextVar("variable", default="none")
    seen: list[str] = []

    class Looks(Notes):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            seen.append(variable.get())

    async with connected(Looks()) as (transport, protocol, theirs):
        theirs.sendall(b"one")
        await until_true(lambda: protocol.received == b"one")
        transport.pause_reading()
        variable.set("of whoever has made room")
        transport.resume_reading()
        theirs.sendall(b"two")
        await until_true(lambda: protocol.received == b"onetwo")
    assert seen == ["none", "none"]


async def test_what_is_over_needs_no_collector() -> None:
    class Holds(Notes):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.held = transport

    async def end_one() -> weakref.ref[Holds]:
        protocol = Holds()
        async with connected(protocol) as (transport, _, theirs):
            theirs.sendall(b"x")
            await until_true(lambda: bool(protocol.received))
            transport.abort()
            await until_true(lambda: protocol.is_lost)
        return weakref.ref(protocol)

    gc.disable()
    try:
        protocol = await end_one()
        await turns()
        assert protocol() is None
    finally:
        gc.enable()
