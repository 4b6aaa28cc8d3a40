"""Bodies: in memory or in a file, flags that do not depend on the cuts, line ends put right."""

from __future__ import annotations

import io
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.message.body import Body
from aiomilter.app.message.lines import LineFlags, crlf_lines
from aiomilter.app.message.spool import Spool
from aiomilter.errors import SpoolError

THRESHOLD = 1000


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def body_of(data: bytes, cut: int = 300) -> Body:
    body = Body(spool_threshold=THRESHOLD)
    for at in range(0, len(data), cut):
        body.write(data[at : at + cut])
    return body


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
def test_a_body_is_read_as_it_was_written(size: int) -> None:
    data = (b"0123456789abcdef\r\n" * 300)[:size]
    before = descriptors()
    body = body_of(data)
    assert body.is_spooled == (size > THRESHOLD)
    assert descriptors() == before + body.is_spooled
    assert body.size == len(body) == size
    assert body.read() == body.read() == data
    assert b"".join(body.iter_chunks(7)) == data
    assert all(len(chunk) == 7 for chunk in list(body.iter_chunks(7))[:-1])
    assert body.slice(3, 20) == data[3:20]
    assert body.slice(size, size + 9) == b""
    assert not body.is_changed()
    body.close()
    body.close()
    assert descriptors() == before
    with pytest.raises(SpoolError, match="the message is over"):
        body.read()


def test_the_file_has_no_name_and_is_its_owners_alone(tmp_path: Path) -> None:
    before = {fd for fd in range(1000) if is_open(fd)}
    spool = Spool(0, tmp_path)
    spool.write(b"x")
    assert list(tmp_path.iterdir()) == []
    assert spool.is_in_file
    (fd,) = (fd for fd in range(1000) if is_open(fd) and fd not in before)
    mode, is_inherited = os.fstat(fd).st_mode, os.get_inheritable(fd)
    spool.close()
    assert mode & 0o777 == 0o600
    assert not is_inherited


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_whoever_collects_knows_when_the_disk_is_touched() -> None:
    body = Body(spool_threshold=10)
    assert not body.goes_to_file(10)
    body.write(b"0123456789")
    assert body.goes_to_file(1)
    body.write(b"x")
    assert body.goes_to_file(0)
    body.close()


def test_a_place_that_cannot_be_written_is_one_clear_error() -> None:
    before = descriptors()
    body = Body(spool_threshold=10, directory="/nowhere/at/all")
    body.write(b"0123456789")
    with pytest.raises(SpoolError, match=r"cannot be kept: .*No such file.*/nowhere/at/all"):
        body.write(b"x")
    with pytest.raises(SpoolError):
        body.write(b"x")
    assert descriptors() == before


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may become larger than 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a53_a_full_disk_is_one_clear_error_and_no_descriptor_is_left() -> None:
    before = descriptors()
    body = Body(b"x" * 10, spool_threshold=10)
    body.write(b"x" * 4000)
    with pytest.raises(SpoolError, match=r"cannot be kept: .*File too large") as caught:
        body.write(b"x" * 1000)
    assert isinstance(caught.value.__cause__, OSError)
    assert descriptors() == before


@pytest.mark.usefixtures("small_disk")
def test_a53_a_new_body_that_does_not_fit_leaves_the_old_one() -> None:
    before = descriptors()
    body = Body(b"old\r\n", spool_threshold=10)
    with pytest.raises(SpoolError):
        body.replace(b"x" * 10_000)
    assert body.read() == b"old\r\n"
    assert not body.is_changed()
    assert descriptors() == before


def test_a_file_that_shrinks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    body = body_of(b"x" * 5000)
    monkeypatch.setattr("os.pread", lambda *_: b"")
    with pytest.raises(SpoolError, match="cannot be read: the temporary file ends at 0 of 5000"):
        body.read()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        (b"", b""),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\nb", b"a\r\nb\r\n"),
        (b"a\rb\r", b"a\r\nb\r\n"),
        ([b"a\r", b"\nb\r", b"", b"c\n", b"\nd"], b"a\r\nb\r\nc\r\n\r\nd\r\n"),
        ([bytearray(b"a"), memoryview(b"b")], b"ab\r\n"),
        (io.BytesIO(b"a\n"), b"a\r\n"),
        ([b"\r"], b"\r\n"),
        (bytearray(b"\r\n"), b"\r\n"),
        (b".\r\n\0\xff", b".\r\n\0\xff\r\n"),
    ],
)
def test_a_new_body_has_its_line_ends_put_right(new: bytes, kept: bytes) -> None:
    body = Body(b"old\r\n")
    body.replace(new)
    assert body.read() == kept
    assert body.is_changed()
    assert b"".join(body.iter_original()) == b"old\r\n"
    body.close()


def test_a_new_body_may_be_made_from_the_old_one() -> None:
    before = descriptors()
    body = body_of(b"line\r\n" * 1000)
    for _ in range(3):
        body.replace(chunk.upper() for chunk in body.iter_chunks(10))
    assert body.read() == b"LINE\r\n" * 1000
    assert body.is_changed()
    assert body.is_spooled
    body.replace(b"line\r\n" * 1000)
    assert not body.is_changed()
    body.replace(b"line\r\n" * 999 + b"lime\r\n")
    assert body.is_changed()
    assert descriptors() == before + 2
    body.close()
    assert descriptors() == before


@pytest.mark.parametrize("new", ["text", ["text"], [7], io.StringIO("text")])
def test_a_body_is_bytes(new: bytes) -> None:
    body = Body(b"old\r\n")
    with pytest.raises(TypeError, match="bytes"):
        body.replace(new)
    assert body.read() == b"old\r\n"


def test_a_piece_has_a_size() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        list(Body(b"x").iter_chunks(0))


def flags_of(data: bytes, cuts: list[int]) -> tuple[bool, ...]:
    flags = LineFlags()
    ends = sorted({*(cut % (len(data) + 1) for cut in cuts), 0, len(data)})
    for start, end in pairwise(ends):
        flags.feed(data[start:end])
        flags.feed(b"")
    return flags.bare_cr, flags.bare_lf, flags.nul, flags.eight_bit, flags.line_over_998


def expected_flags(data: bytes) -> tuple[bool, ...]:
    rest = data.replace(b"\r\n", b"")
    lines = data.split(b"\n")
    lengths = [len(line.removesuffix(b"\r")) for line in lines]
    return (b"\r" in rest, b"\n" in rest, b"\0" in data, not data.isascii(), max(lengths) > 998)


PARTS = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"a", b"\0", b"\xff", b"a" * 500, b"a" * 998, b"a" * 997, b"a\r" * 499]
)


@given(st.lists(PARTS, max_size=9).map(b"".join), st.lists(st.integers(0, 5000), max_size=6))
def test_flags_do_not_depend_on_the_cuts(data: bytes, cuts: list[int]) -> None:
    # Removing pairs can make new ones of what is left.
    if b"\r\r\n\n" not in data:
        assert flags_of(data, cuts) == expected_flags(data)
    assert flags_of(data, cuts) == flags_of(data, [])


@pytest.mark.parametrize(
    ("data", "is_long"),
    [
        (b"a" * 998 + b"\r\n", False),
        (b"a" * 999 + b"\r\n", True),
        (b"a" * 999 + b"\n", True),
        (b"x\n" + b"a" * 998 + b"\r\n", False),
        (b"x\n" + b"a" * 999 + b"\n", True),
        (b"x\n" + b"a" * 500 + b"\n" + b"a" * 498 + b"\n", False),
        (b"x\n" + b"a" * 998 + b"\r", False),
        (b"x\n" + b"a" * 999, True),
        (b"a" * 998 + b"\r", False),
    ],
)
def test_a_long_line_is_found_to_the_byte(data: bytes, is_long: bool) -> None:
    assert flags_of(data, [])[-1] is is_long
    assert flags_of(data, list(range(len(data))))[-1] is is_long


def test_a_body_says_what_is_odd_about_it() -> None:
    body = Body(b"a\rb\nc\0\xff" + b"x" * 999)
    assert body.bare_cr
    assert body.bare_lf
    assert body.nul
    assert body.eight_bit
    assert body.line_over_998
    body.replace(b"plain\r\n")
    assert body.nul
    plain = Body(b"plain\r\n")
    flags = (plain.bare_cr, plain.bare_lf, plain.nul, plain.eight_bit, plain.line_over_998)
    assert flags == (False,) * 5
    assert repr(plain) == "<Body: 7 bytes>"


def test_a_file_that_cannot_be_closed_well_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close

    def close_badly(descriptor: int) -> None:
        close(descriptor)
        raise OSError("input/output error")

    before = descriptors()
    body = Body(b"x", spool_threshold=0)
    assert body.is_spooled
    monkeypatch.setattr("os.close", close_badly)
    body.close()
    monkeypatch.undo()
    assert descriptors() == before


def test_a_thread_that_comes_too_late_reads_from_no_other_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The message is over, and another one begins, just as a thread is about to read.
    pread = os.pread
    others: list[Body] = []

    def pread_later(descriptor: int, size: int, start: int) -> bytes:
        if not others:
            body.close()
            others.append(Body(b"another", spool_threshold=0))
        return pread(descriptor, size, start)

    before = descriptors()
    body = Body(b"message", spool_threshold=0)
    monkeypatch.setattr("os.pread", pread_later)
    assert body.slice(0, 7) == b"message"
    with pytest.raises(SpoolError, match="over"):
        body.slice(0, 7)
    others[0].close()
    assert descriptors() == before


def test_a_thread_that_comes_too_late_writes_to_no_other_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = os.write
    others: list[Body] = []

    def write_later(descriptor: int, data: bytes) -> int:
        monkeypatch.undo()
        body.close()
        others.append(Body(b"another", spool_threshold=0))
        return write(descriptor, data)

    before = descriptors()
    body = Body(b"message", spool_threshold=0)
    monkeypatch.setattr("os.write", write_later)
    body.write(b" of the past")
    assert others[0].read() == b"another"
    others[0].close()
    assert descriptors() == before


def test_a_file_that_is_made_too_late_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.TemporaryFile

    def make_later(**arguments: Any) -> Any:
        body.close()
        return make(**arguments)

    before = descriptors()
    body = Body(spool_threshold=0)
    monkeypatch.setattr("tempfile.TemporaryFile", make_later)
    body.write(b"message")
    assert not body.is_spooled
    assert descriptors() == before


def test_flags_are_cheap() -> None:
    chunk = (b"A line of a message as people write them, seventy or so long.....\r\n" * 1000)[
        :65_535
    ]
    flags = LineFlags()
    began = time.process_time()
    for _ in range(1000):
        flags.feed(chunk)
    # 64 MiB: 0.05 s here; a loop over bytes in Python would take a hundred times as long.
    assert time.process_time() - began < 1.5


@given(st.lists(st.lists(PARTS, max_size=4).map(b"".join), max_size=4))
def test_line_ends_do_not_depend_on_the_cuts(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if text and not text.endswith(b"\n"):
        text += b"\n"
    assert b"".join(crlf_lines(pieces)) == text.replace(b"\n", b"\r\n")


def test_a_large_body_needs_little_memory() -> None:
    """64 MiB here, collected, replaced and read; how much it is does not matter."""
    chunk = (b"x" * 70 + b"\r\n") * 910
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    body = Body()
    for _ in range(1024):
        body.write(chunk)
    body.replace(piece.replace(b"x", b"y") for piece in body.iter_chunks())
    assert sum(map(len, body.iter_chunks())) == 1024 * len(chunk)
    assert body.is_changed()
    body.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 16 * 1024
