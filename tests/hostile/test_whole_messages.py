"""Whole messages that are too many, too large, or have nowhere to go: A35, A37, A53 and P22."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aiomilter import Message, Milter
from bench.large import measure
from tests.aio.serving import errors, serving, session, until_true, warnings
from tests.hostile.support import RecordProperty, measured_memory
from tests.mta import ABORT, BODY, EOM, HEADER, MAIL, RCPT, Mta, packet

MIB = 1 << 20
PIECE_BYTES = 65_535
PIECE = packet(b"B", b"x" * PIECE_BYTES)
WAITS = (0x1FF, 0x1FFFFF & ~0xFF080)
"""What an MTA offers that waits for each answer."""


class Sizes(Milter):
    """Notes how many headers, and how much of a body, each message has."""

    seen: ClassVar[list[tuple[int, int]]]

    def on_message(self, message: Message) -> None:
        self.seen.append((len(message.headers), message.body.size))


def sizes() -> type[Sizes]:
    return type("Sizes", (Sizes,), {"seen": []})


def files() -> int:
    """Return how many files without a name this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += " (deleted)" in os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return count


@asynccontextmanager
async def agreed(
    milter: type[Milter], offered: tuple[int, ...], **settings: Any
) -> AsyncIterator[Mta]:
    """Serve, connect, and negotiate with an offer (see `tests.mta.offer`)."""
    async with (
        serving(milter, **settings) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.negotiate(*offered)
        yield mta


# A35


@pytest.mark.parametrize("waits", [False, True])
async def test_a35_of_a_hundred_thousand_headers_no_more_are_collected_than_may_be(
    waits: bool, caplog: pytest.LogCaptureFixture, record_property: RecordProperty
) -> None:
    milter = sizes()
    async with agreed(milter, WAITS if waits else ()) as mta:
        mta.send(MAIL, RCPT)
        if waits:
            await mta.replies(2)
            # At the header that is one too many; what is sent all the same is ignored.
            mta.send(HEADER * 10_000)
            assert await mta.replies(10_000) == [b"c"] * 10_000
            assert await mta.ask(HEADER) == b"t"
            mta.send(ABORT)
        else:
            mta.send(HEADER * 10_001)
            await until_true(lambda: bool(warnings(caplog)))

            async def send(thousands: int) -> None:
                for _ in range(thousands):
                    mta.send(HEADER * 1_000)
                    await mta.writer.drain()

            await send(87)
            # Tracing takes its time.
            with measured_memory() as measure_it:
                memory = measure_it()
                await send(3)
                assert await mta.ask(EOM) == b"t"
                growth, peak = memory.growth(), memory.peak()
            assert growth < 2**16
            assert peak < 2 * MIB
            record_property(
                "summary",
                f"A35, the last 3,000 of 100,000 headers, none collected: memory "
                f"{growth / 1024:+.0f} KiB, {peak / 1024:+.0f} KiB at most",
            )
        # Those that may be are.
        mta.send(MAIL, RCPT, HEADER * 10_000, EOM)
        while await mta.reply() == b"c" and not milter.seen:
            pass
    assert milter.seen == [(10_000, 0)]
    (line,) = warnings(caplog)
    assert "on_message: more than 10000 headers; the answer is TEMPFAIL" in line


async def test_a35_ten_times_the_headers_take_ten_times_as_long(
    record_property: RecordProperty,
) -> None:
    milter = sizes()

    async def shortest_s(count: int) -> float:
        times: list[float] = []
        for _ in range(3):
            began = time.process_time()
            mta.send(MAIL, RCPT, HEADER * count, EOM)
            assert await mta.reply() == b"c"
            times.append(time.process_time() - began)
        return min(times)

    async with session(milter, max_message_headers=100_000, max_message_header_bytes=10**9) as mta:
        await shortest_s(1_000)
        few, many = await shortest_s(1_000), await shortest_s(10_000)
    assert milter.seen[-1] == (10_000, 0)
    assert many < 20 * few
    record_property(
        "summary", f"A35, collected: 10 times the headers take {many / few:.1f} times as long"
    )


# A37


async def test_a37_a_body_above_the_limit_has_its_verdict_at_once_where_the_mta_waits() -> None:
    milter, before = sizes(), files()
    async with agreed(milter, WAITS, max_message_body_bytes=10 * MIB) as mta:
        assert await mta.converse(MAIL, RCPT, HEADER) == b"ccc"
        for _ in range(10 * MIB // PIECE_BYTES):
            assert await mta.ask(PIECE) == b"c"
        assert files() == before + 1
        assert await mta.ask(PIECE) == b"t"
        assert files() == before
        mta.send(ABORT)
        assert await mta.converse(MAIL, RCPT, BODY, EOM) == b"cccc"
    assert milter.seen == [(0, 7)]


async def test_a37_what_comes_beyond_the_limit_is_drained_and_not_kept(
    caplog: pytest.LogCaptureFixture, record_property: RecordProperty
) -> None:
    milter, before, count = sizes(), files(), 4_096
    async with session(milter, max_message_body_bytes=10 * MIB) as mta:
        mta.send(MAIL, RCPT, HEADER)
        for _ in range(10 * MIB // PIECE_BYTES + 1):
            mta.send(PIECE)
            await mta.writer.drain()
        await until_true(lambda: bool(warnings(caplog)))
        assert files() == before
        with measured_memory() as measure_it:
            memory = measure_it()
            for _ in range(count):
                mta.send(PIECE)
                await mta.writer.drain()
            assert await mta.ask(EOM) == b"t"
            growth, peak = memory.growth(), memory.peak()
        mta.send(MAIL, RCPT, BODY, EOM)
        assert await mta.reply() == b"c"
    assert milter.seen == [(0, 7)]
    assert growth < 2**16
    # Both ends are in this process.
    assert peak < 2 * MIB
    record_property(
        "summary",
        f"A37, {count * PIECE_BYTES / MIB:.0f} MiB beyond the limit of a collected body: "
        f"memory {growth / 1024:+.0f} KiB, {peak / 1024:+.0f} KiB at most",
    )


def test_a37_a_large_body_that_is_collected_passes_through_little_memory(
    record_property: RecordProperty,
) -> None:
    large = measure(1, 64 * MIB, 256 * MIB)
    assert (large.wrong, large.descriptors) == (0, 0)
    assert large.peak_bytes - large.idle_bytes < 16 * MIB
    record_property(
        "summary",
        f"A37, a body of 64 MiB collected and read: "
        f"{(large.peak_bytes - large.idle_bytes) / MIB:+.1f} MiB at most",
    )


# A53


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can become larger than a mebibyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a53_a_spool_that_is_full_defers_that_message_and_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter, before = sizes(), files()
    async with session(milter, spool_threshold=1000) as mta:
        with full_disk():
            mta.send(MAIL, RCPT, HEADER, *[PIECE] * 20, EOM)
            assert await mta.reply() == b"t"
            assert files() == before
            mta.send(MAIL, RCPT, HEADER, *[PIECE] * 10, EOM)
            assert await mta.reply() == b"c"
        mta.send(MAIL, RCPT, HEADER, *[PIECE] * 20, EOM)
        assert await mta.reply() == b"c"
        assert files() == before
    assert milter.seen == [(1, 10 * PIECE_BYTES), (1, 20 * PIECE_BYTES)]
    (line,) = errors(caplog)
    assert "fault " in line
    assert "the body of a message cannot be kept: [Errno 27] File too large" in line


async def test_a53_a_spool_that_is_not_there_any_more_defers_what_needs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    milter, before = sizes(), files()
    spool = tmp_path / "spool"
    spool.mkdir()
    async with session(milter, spool_threshold=1000, spool_directory=str(spool)) as mta:
        spool.rmdir()
        mta.send(MAIL, RCPT, HEADER, PIECE, EOM)
        assert await mta.reply() == b"t"
        # What is small needs none.
        mta.send(MAIL, RCPT, HEADER, BODY, EOM)
        assert await mta.reply() == b"c"
        spool.mkdir()
        mta.send(MAIL, RCPT, HEADER, PIECE, EOM)
        assert await mta.reply() == b"c"
        assert files() == before
        assert list(spool.iterdir()) == []
    assert milter.seen == [(1, 7), (1, PIECE_BYTES)]
    (line,) = errors(caplog)
    assert "the body of a message cannot be kept: [Errno 2] No such file or directory" in line


# P22


def test_p22_many_large_messages_at_once_keep_to_the_budget(
    record_property: RecordProperty,
) -> None:
    budget = 32 * MIB
    large = measure(20, 4 * MIB, budget)
    assert (large.wrong, large.descriptors) == (0, 0)
    grown = large.peak_bytes - large.idle_bytes
    assert grown < 1.3 * budget
    record_property(
        "summary",
        f"P22, 20 x 4 MiB at once with a budget of 32 MiB: {grown / MIB:+.1f} MiB at most",
    )
