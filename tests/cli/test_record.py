"""The record: what is written can be read back, and what cannot be read is named."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.cli.console import CommandError
from aiomilter.cli.packets import PacketCutter
from aiomilter.cli.record import Entry, Header, RecordReader, RecordWriter
from tests.mta import EOM, MAIL

HEADER = Header("2026-01-02T03:04:05.678+00:00", "inet:9901", "unix:/run/m.sock")
HEADER_LINE = (
    '{"format":"aiomilter-record","version":1,"started":"","listen":"inet:1","to":"inet:2"}\n'
)
ENTRIES = [
    Entry(0.0, 1, "open", None, b"", "127.0.0.1:4711"),
    Entry(0.25, 1, "packet", "mta", MAIL),
    Entry(0.5, 2, "error", "milter", b"", "nobody listens there"),
    Entry(0.5, 1, "packet", "milter", b"\0\0\0\x01c"),
    Entry(0.75, 1, "bytes", "mta", b"GET / HTTP/1.1\r\n", "this is HTTP"),
    Entry(0.75, 1, "bytes", "mta", b"\xff\x00"),
    Entry(1.5, 1, "eof", "mta"),
    Entry(1.5, 1, "close"),
]


def read(data: bytes | str, warnings: list[str] | None = None) -> list[Entry]:
    """Return the entries of a record called ``r``."""
    file = io.BytesIO(data.encode() if isinstance(data, str) else data)
    said: list[str] = []
    entries = list(RecordReader(file, "r", said.append).entries())
    assert said == (warnings or [])
    return entries


def written(path: Path, entries: list[Entry]) -> bytes:
    writer = RecordWriter(path, HEADER)
    for entry in entries:
        writer.write(entry)
    # Not closed yet: each line is there as soon as it is written.
    data = path.read_bytes()
    writer.close()
    assert path.read_bytes() == data
    return data


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    data = written(tmp_path / "r.jsonl", ENTRIES)
    assert read(data) == ENTRIES
    assert RecordReader(io.BytesIO(data), "r", print).header == HEADER


def test_a_line_says_in_words_what_its_packet_says(tmp_path: Path) -> None:
    lines = written(tmp_path / "r.jsonl", ENTRIES).splitlines()
    assert json.loads(lines[0])["format"] == "aiomilter-record"
    assert json.loads(lines[2]) == {
        "t": 0.25,
        "connection": 1,
        "event": "packet",
        "from": "mta",
        "data": MAIL.hex(),
        "name": "mail",
        "fields": {"sender": "<alice@a.example>"},
    }


def test_a_record_is_its_owners_alone_and_replaces_no_other(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    written(path, ENTRIES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(CommandError, match="exists; name another file"):
        RecordWriter(path, HEADER)
    assert read(path.read_bytes()) == ENTRIES


def test_a_record_in_no_directory_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot write the record .*No such file"):
        RecordWriter(tmp_path / "none" / "r.jsonl", HEADER)


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_last_line_that_is_cut_off_is_forgiven(tmp_path: Path, cut: int) -> None:
    data = written(tmp_path / "r.jsonl", ENTRIES[:2])
    assert len(data.splitlines()[-1]) > cut
    # At one byte, only the line's end is missing.
    if cut == 1:
        assert read(data[:-1]) == ENTRIES[:2]
    else:
        assert read(data[:-cut], ["r:3: the last line is cut off; left out"]) == ENTRIES[:1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "this is no JSON: 'nonsense'"),
        ("", "this is no JSON: ''"),
        ("\x1b[31m", r"this is no JSON: '\x1b[31m'"),
        ("[" * 100_000, "this is no JSON: '[[["),
        ("[]", "this is no JSON object: '[]'"),
        (
            '{"t":0,"connection":1}',
            "'event' is one of open, packet, bytes, eof, error, close; not ",
        ),
        ('{"t":0,"connection":1,"event":"x"}', "not 'x'"),
        ('{"t":0,"connection":1,"event":["open"]}', "'event' is one of"),
        ('{"t":"0","connection":1,"event":"close"}', "'t' is a number of seconds, not '0'"),
        ('{"t":NaN,"connection":1,"event":"close"}', "'t' is a number of seconds, not 'nan'"),
        ('{"t":1e999,"connection":1,"event":"close"}', "'t' is a number of seconds, not 'inf'"),
        ('{"t":-1,"connection":1,"event":"close"}', "'t' is a number of seconds, not '-1'"),
        ('{"connection":1,"event":"close"}', "'t' is a number of seconds, not missing"),
        ('{"t":0,"connection":0,"event":"close"}', "'connection' is a number from 1 on, not '0'"),
        ('{"t":0,"connection":true,"event":"close"}', "'connection' is a number"),
        ('{"t":0,"connection":1,"event":"eof"}', "'from' is 'mta' or 'milter', not missing"),
        ('{"t":0,"connection":1,"event":"eof","from":"you"}', "not 'you'"),
        ('{"t":0,"connection":1,"event":"packet","from":"mta"}', "'data' is text in hexadecimal"),
        ('{"t":0,"connection":1,"event":"packet","from":"mta","data":"0g"}', "not '0g'"),
        ('{"t":0,"connection":1,"event":"packet","from":"mta","data":7}', "not '7'"),
        (
            '{"t":0,"connection":1,"event":"packet","from":"mta","data":"00000002"}',
            "'data' is not one whole packet: '00000002'",
        ),
        (
            '{"t":0,"connection":1,"event":"packet","from":"mta","data":"00000001450000000145"}',
            "'data' is not one whole packet",
        ),
        ('{"t":0,"connection":1,"event":"open","peer":5}', "'peer' is text, not '5'"),
    ],
)
def test_a_malformed_line_is_named_with_its_number(line: str, problem: str) -> None:
    good = '{"t":0,"connection":1,"event":"close"}\n'
    with pytest.raises(CommandError) as caught:
        read(HEADER_LINE + good + line + "\n" + good)
    assert str(caught.value).startswith("r:3: ")
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "r is empty; a record begins with a line about itself"),
        ("\x00\x00\x00\x01E", "r is no record of 'aiomilter trace --record'"),
        ('{"format":"other"}\n', "r is no record"),
        (
            '{"format":"aiomilter-record","version":2}\n',
            "of version 2; this program reads version 1",
        ),
        ('{"format":"aiomilter-record","version":1,"to":5}\n', "r:1: 'to' is text, not '5'"),
    ],
)
def test_what_is_no_record_is_refused(data: str, problem: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(data)
    assert problem in str(caught.value)


def test_keys_that_are_not_known_are_let_pass() -> None:
    line = '{"t":0,"connection":1,"event":"close","mood":"good"}\n'
    assert read(HEADER_LINE + line) == [Entry(0.0, 1, "close")]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20))
def test_the_pieces_of_any_stream_are_the_stream(chunks: list[bytes]) -> None:
    cutter = PacketCutter()
    pieces = [piece for chunk in chunks for piece in cutter.receive(chunk)]
    rest = cutter.rest()
    pieces += [rest] if rest else []
    assert b"".join(piece.data for piece in pieces) == b"".join(chunks)
    assert cutter.rest() is None


@given(st.integers(1, 30))
def test_packets_are_cut_whatever_the_chunks(size: int) -> None:
    # A length of 0 and a negative one still have their letter, as libmilter reads them.
    packets = [MAIL, b"\0\0\0\0A", EOM, b"\x80\0\0\x01A", EOM]
    stream = b"".join(packets)
    cutter = PacketCutter()
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    pieces = [piece for chunk in chunks for piece in cutter.receive(chunk)]
    assert [piece.data for piece in pieces] == packets
    assert all(piece.is_packet for piece in pieces)
