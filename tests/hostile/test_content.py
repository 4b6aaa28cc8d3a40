"""Hostile headers and bodies, A33 to A38, as a milter with single events sees them.

What collects whole messages has limits of its own, and tests of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from aiomilter import EomActions, Status
from aiomilter.app.text import printable
from aiomilter.session.filter import FilterSession
from aiomilter.session.macros import MacroStore
from aiomilter.wire.commands import Header
from tests.aio.serving import Recorder, recorder, session
from tests.hostile.support import (
    RecordProperty,
    Teller,
    measured_memory,
    one_warning,
    serves_a_message,
)
from tests.mta import BODY, DATA, EOH, EOM, HEADER, MAIL, MESSAGE, RCPT, macros, packet

MOST_BYTES = 65_535


def header(payload: bytes) -> bytes:
    """Return a header packet with a payload as it is."""
    return packet(b"L", payload)


@pytest.mark.parametrize(
    "payload", [b"", b"one", b"one\0", b"a\0b", b"\0value\0", b"a\0value\0rest", b"\0\0", b"a\0"]
)
async def test_a33_a_header_with_broken_framing_ends_the_connection(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(MAIL, RCPT, DATA) == b"ccc"
        mta.send(header(payload))
        assert await mta.rest() == b""
    await milter.journal.until("close")
    assert milter.journal.entries == ["mail", "rcpt", "data", "abort", "close"]
    assert "a header packet without" in one_warning(caplog)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" leading",
        b"folded\n\tonce\n twice",
        b"bare\rCR",
        b"\x80\xff 8-bit",
        b"\xc3\xa4 UTF-8",
        b"cut \xe2\x82",
        b"\xed\xa0\x80 a surrogate",
        b"\x1b[31m",
        bytes(range(1, 256)),
    ],
)
async def test_a33_any_other_value_goes_to_the_handler_and_back_byte_for_byte(
    value: bytes,
) -> None:
    class Copying(Recorder):
        async def on_header(self, name: str, value: str) -> None:
            self.copied = name, value

        async def on_eom(self, actions: EomActions) -> Status:
            name, value = self.copied
            assert value.encode("utf-8", "surrogateescape") == sent
            assert printable(value).isprintable()
            # A copy of a line that is broken inside is what an edit refuses.
            actions.add_header(name, value.replace("\n", " ").replace("\r", " "))
            return Status.ACCEPT

    sent = value
    async with session(recorder(Copying)) as mta:
        assert await mta.converse(MAIL, RCPT, DATA, header(b"X\0%b\0" % value), EOH) == b"ccccc"
        mta.send(EOM)
        copied = b"hX\0%b\0" % value.replace(b"\n", b" ").replace(b"\r", b" ")
        assert await mta.replies(2) == [copied, b"a"]


async def test_a33_behind_an_inner_nul_nothing_is_read() -> None:
    milter = recorder(Teller)
    async with session(milter) as mta:
        assert await mta.converse(MAIL, RCPT, DATA, header(b"a\0one\0two\0")) == b"cccc"
        assert await mta.converse(EOH) == b"c"
    assert "header a 'one'" in milter.journal.entries


@pytest.mark.parametrize("size", [60_000, 65_530, MOST_BYTES - 3])
async def test_a34_a_long_header_is_delivered_whole(size: int) -> None:
    lengths: list[int] = []

    class Measuring(Recorder):
        async def on_header(self, name: str, value: str) -> None:
            lengths.append(len(value))

    async with session(recorder(Measuring)) as mta:
        assert await mta.converse(MAIL, RCPT, DATA) == b"ccc"
        assert await mta.ask(header(b"X\0%b\0" % (b"v" * size))) == b"c"
    assert lengths == [size]


def test_the_measure_of_memory_sees_what_is_kept_and_what_was() -> None:
    with measured_memory() as measure:
        memory = measure()
        kept = [bytes(2**20)]
        kept[0] += bytes(2**20)
        assert memory.growth() > 2**21
        assert memory.peak() > 3 * 2**20


async def test_a35_a_hundred_thousand_headers_leave_no_memory_behind(
    record_property: RecordProperty,
) -> None:
    class Counting(Recorder):
        count = 0

        async def on_header(self, name: str, value: str) -> None:
            self.count += 1

    milter = recorder(Counting)
    async with session(milter) as mta:
        assert await mta.converse(MAIL, RCPT, DATA) == b"ccc"

        async def send(count: int) -> None:
            for _ in range(count // 500):
                mta.send(HEADER * 500)
                assert await mta.reader.readexactly(5 * 500) == b"\0\0\0\1c" * 500

        await send(80_000)
        # Tracing takes its time; what were kept of each header would show in the last of them.
        with measured_memory() as measure:
            await send(1_000)
            memory = measure()
            await send(19_000)
            growth, peak = memory.growth(), memory.peak()
    assert growth < 2**16
    assert peak < 2**20
    record_property(
        "summary",
        f"A35, 100,000 headers, the last 19,000: "
        f"memory {growth / 1024:+.0f} KiB, {peak / 1024:+.0f} KiB at most",
    )


def shortest_s(call: Callable[[], object]) -> float:
    """Return the least processor time of a few calls."""
    times: list[float] = []
    for _ in range(3):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def take_headers(count: int) -> None:
    """Take in a message with so many headers, in one piece."""
    session = FilterSession()
    session.receive_data(MAIL + RCPT + DATA + HEADER * count)
    seen = 0
    while (event := session.next_event()) is not None:
        if type(event).__name__ == "SessionStart":
            session.start(0xFFFF)
        elif session.is_unanswered:
            seen += type(event) is Header
            session.respond(Status.CONTINUE)
    assert seen == count
    assert len(session.data_to_send()) == 5 * (count + 3)


def take_macros(count: int) -> None:
    """Look at a packet of so many macros."""
    store = MacroStore()
    store.store(macros(b"M", *(b"{m%d}" % (number // 2) for number in range(2 * count)))[5:])
    assert len(store.visible()) == count


def show_text(count: int) -> None:
    """Make text fit for a line of a log."""
    assert printable("a\x1b\n\u202e" * count).isprintable()


@pytest.mark.parametrize(
    ("work", "count"), [(take_headers, 1_000), (take_macros, 500), (show_text, 2_000)]
)
def test_p34_ten_times_as_much_takes_ten_times_as_long(
    work: Callable[[int], None], count: int, record_property: RecordProperty
) -> None:
    work(count)
    ratios: list[float] = []
    # A machine with other work to do has its moments; what is quadratic has none: it is 100.
    for _ in range(3):
        ratios.append(shortest_s(lambda: work(10 * count)) / shortest_s(lambda: work(count)))
        if ratios[-1] < 12:
            break
    assert min(ratios) < 20
    record_property(
        "summary", f"P34, {work.__name__}: 10 x the input, {min(ratios):.1f} x the time"
    )


async def pieces_seen(pieces: list[bytes]) -> list[bytes]:
    """Return what `on_body` gets of a body in pieces."""
    seen: list[bytes] = []

    class Collecting(Recorder):
        async def on_body(self, chunk: bytes) -> None:
            seen.append(chunk)

    async with session(recorder(Collecting)) as mta:
        assert await mta.converse(MAIL, RCPT, DATA, HEADER, EOH) == b"c" * 5
        assert await mta.converse(*(packet(b"B", piece) for piece in pieces)) == b"c" * len(pieces)
    return seen


async def test_a36_pieces_of_a_body_are_as_they_came_wherever_they_are_cut() -> None:
    body = b"line\r\n.\r\n..\r\n\xe2\x82\xac\r\rend\n"
    for at in range(1, len(body)):
        assert await pieces_seen([body[:at], body[at:]]) == [body[:at], body[at:]]


async def test_a37_a_body_of_any_size_leaves_no_memory_behind(
    record_property: RecordProperty,
) -> None:
    seen = 0

    class Counting(Recorder):
        async def on_body(self, chunk: bytes) -> None:
            nonlocal seen
            seen += len(chunk)

    piece = packet(b"B", b"x" * MOST_BYTES)
    async with session(recorder(Counting)) as mta:
        assert await mta.converse(MAIL, RCPT, DATA, HEADER, EOH) == b"c" * 5
        with measured_memory() as measure:
            assert await mta.ask(piece) == b"c"
            memory = measure()
            count = 4_096
            for _ in range(count):
                assert await mta.ask(piece) == b"c"
            growth, peak = memory.growth(), memory.peak()
    assert seen == (count + 1) * MOST_BYTES
    assert growth < 2**16
    # Both ends are in this process.
    assert peak < 2**20
    record_property(
        "summary",
        f"A37, {count * MOST_BYTES / 2**20:.0f} MiB of body: "
        f"memory {growth / 1024:+.0f} KiB, {peak / 1024:+.0f} KiB at most",
    )


@pytest.mark.parametrize("with_header", [False, True])
@pytest.mark.parametrize("with_body", [False, True])
async def test_a38_a_message_needs_neither_headers_nor_a_body(
    with_header: bool, with_body: bool
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        middle = [HEADER] * with_header + [EOH] + [BODY] * with_body
        assert await mta.converse(MAIL, RCPT, DATA, *middle) == b"c" * (3 + len(middle))
        mta.send(EOM)
        assert await mta.replies(2) == [b"hX-Message\x001\0", b"a"]
        await serves_a_message(mta, 2)


async def test_a38_an_empty_piece_of_a_body_ends_the_connection_as_in_libmilter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(*MESSAGE[:5]) == b"c" * 5
        mta.send(packet(b"B"))
        assert await mta.rest() == b""
    await milter.journal.until("close")
    assert milter.journal.entries[-2:] == ["abort", "close"]
    assert "a body packet without payload" in one_warning(caplog)
