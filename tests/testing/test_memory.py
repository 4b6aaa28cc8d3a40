from __future__ import annotations

import asyncio

from aiomilter.testing.memory import MemoryTransport, MemoryWire


class Reader(asyncio.BufferedProtocol):
    """Notes what a transport does to it."""

    def __init__(self) -> None:
        self.buffer = bytearray(4)
        self.calls: list[object] = []
        self.keeps_open = True

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.calls.append(bytes(self.buffer[:nbytes]))

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(type(exc))


async def turn() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def join(chunk_bytes: int | None = None) -> tuple[Reader, MemoryTransport, MemoryWire]:
    reader = Reader()
    transport = MemoryTransport(reader, chunk_bytes)
    return reader, transport, MemoryWire(transport)


async def test_bytes_arrive_in_order_and_in_pieces() -> None:
    reader, _, wire = join()
    await wire.write(b"abcd")
    await wire.write(b"efg")
    await wire.close()
    assert reader.calls == []
    await turn()
    assert reader.calls == [b"abcd", b"efg", "eof"]
    reader, transport, wire = join(2)
    await wire.write(b"abc")
    await turn()
    assert reader.calls == [b"ab", b"c"]
    transport.write(b"xyz")
    assert [await wire.read(), await wire.read()] == [b"xy", b"z"]


async def test_a_reader_that_pauses_gets_all_of_it_later() -> None:
    reader, transport, wire = join()
    transport.pause_reading()
    await wire.write(b"abc")
    await turn()
    assert reader.calls == []
    assert not transport.is_delivered
    transport.resume_reading()
    await turn()
    assert reader.calls == [b"abc"]
    assert transport.is_delivered


async def test_what_was_written_ahead_of_the_end_can_be_read() -> None:
    reader, transport, wire = join()
    waiting = asyncio.ensure_future(wire.read())
    await turn()
    transport.write(b"bye")
    assert await waiting == b"bye"
    transport.write(b"bye")
    transport.close()
    transport.write(b"too late")
    await wire.write(b"nobody reads it")
    assert [await wire.read(), await wire.read()] == [b"bye", b""]
    await turn()
    assert reader.calls == [type(None)]
    assert transport.is_closing()


async def test_the_end_comes_once() -> None:
    reader, transport, wire = join()
    transport.write(b"unread")
    wire.abort()
    transport.abort()
    assert await wire.read() == b""
    await turn()
    assert reader.calls == [ConnectionResetError]


async def test_a_protocol_that_is_done_at_the_end_of_the_stream() -> None:
    reader, transport, wire = join()
    reader.keeps_open = False
    await wire.close()
    await turn()
    assert reader.calls == ["eof", type(None)]
    assert transport.get_extra_info("peername", "x") == "x"
    assert transport.get_write_buffer_size() == 0
