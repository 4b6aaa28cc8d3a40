"""``aiomilter decode``: every kind of packet as a line, from records, dumps and streams."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from aiomilter.cli import view
from aiomilter.cli.decode import decode
from aiomilter.cli.record import Entry
from tests.packets import packet

HEADER = {"format": "aiomilter-record", "version": 1, "started": "", "listen": "", "to": ""}
MAIL = packet("M", b"<a@example.com>\0SIZE=5\0")

MTA_PACKETS = [
    (
        packet("O", b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"),
        "negotiate version 6, actions all, options all",
    ),
    (
        packet("O", b"\0\0\0\x02\0\0\0\x01\x40\0\0\x00"),
        "negotiate version 2, actions ADD_HEADER, options 0x40000000",
    ),
    (
        packet("D", b"M{mail_addr}\0a@b\0i\x004Xb\0_\0"),
        "macro mail: {mail_addr}=a@b, i=4Xb, _ (no value)",
    ),
    (packet("C", b"mx.example\x004\0\x19192.0.2.1\0"), "connect mx.example IPv4 192.0.2.1 port 25"),
    (packet("C", b"mx\x006\0\x19IPv6:2001:db8::1\0"), "connect mx IPv6 IPv6:2001:db8::1 port 25"),
    (packet("C", b"localhost\0L\0\0/run/s\0"), "connect localhost unix /run/s"),
    (packet("C", b"unknown\0U"), "connect unknown unknown"),
    (packet("H", b"client.example\0"), "helo client.example"),
    (MAIL, "mail <a@example.com> SIZE=5"),
    (packet("R", b"<b@example.com>\0"), "rcpt <b@example.com>"),
    (packet("T"), "data"),
    (packet("L", b"Subject\0a\n b\0"), r"header Subject: a\n b"),
    (packet("N"), "eoh"),
    (packet("N", b"x"), "eoh with 1 byte: x, which say nothing"),
    (packet("B", b"caf\xc3\xa9 \xe9\r\n"), r"body 9 bytes: café \xe9\r\n"),
    (packet("B", b"x" * 2000), f"body 2,000 bytes: {'x' * 60}..."),
    (packet("E"), "eom"),
    (packet("E", b"tail"), "eom 4 bytes: tail"),
    (packet("A"), "abort"),
    (packet("U", b"XYZZ\0"), "unknown XYZZ"),
    (packet("Q"), "quit"),
    (packet("K"), "quit_nc"),
    (packet("z", b"12"), "letter 'z' no letter of the protocol, 2 bytes: 12"),
    (packet("\x1b"), "letter 0x1b no letter of the protocol, 0 bytes"),
    (packet("M", b"no end"), "mail malformed: a mail packet without NUL: 6 bytes: no end"),
    (b"\0\0\0\0A", "abort (its length field says 0)"),
]

MILTER_PACKETS = [
    (
        packet("O", b"\0\0\0\x06\0\0\0\x11\0\0\0\x42" + b"\0\0\0\x02i {x}\0" + b"\0\0\0\x63y\0"),
        (
            "negotiation version 6, actions ADD_HEADER|CHANGE_HEADER, options NO_HELO|NO_EOH, "
            "macros mail: i {x}, macros 99: y"
        ),
    ),
    (
        packet("O", b"\0\0\0\x06\0\0\0\0\0\0\0\0"),
        "negotiation version 6, actions none, options none",
    ),
    (packet("c"), "continue"),
    (packet("a"), "accept"),
    (packet("r"), "reject"),
    (packet("t"), "tempfail"),
    (packet("d"), "discard"),
    (packet("s"), "skip"),
    (packet("p"), "progress"),
    (packet("4"), "shutdown"),
    (packet("f"), "connection_failed"),
    (
        packet("y", b"550 5.1.1 no\r\n550 5.1.1 such\0"),
        r"reply_code 550 5.1.1 no\r\n550 5.1.1 such",
    ),
    (packet("y", b"451 later\0"), "reply_code 451 later"),
    (packet("h", b"X-A\0b\0"), "add_header X-A: b"),
    (packet("i", b"\0\0\0\0X-A\0b\0"), "insert_header at 0: X-A: b"),
    (packet("m", b"\0\0\0\x02X-A\0b\0"), "change_header no. 2: X-A: b"),
    (packet("m", b"\0\0\0\x01X-A\0\0"), "change_header no. 1: X-A (deleted)"),
    (packet("e", b"<a@b>\0SIZE=1\0"), "change_sender <a@b> SIZE=1"),
    (packet("+", b"<a@b>\0"), "add_recipient <a@b>"),
    (packet("2", b"<a@b>\0NOTIFY=NEVER\0"), "add_recipient_with_params <a@b> NOTIFY=NEVER"),
    (packet("-", b"<a@b>\0"), "delete_recipient <a@b>"),
    (packet("b", b"new\r\n"), r"replace_body 5 bytes: new\r\n"),
    (packet("b"), "replace_body 0 bytes"),
    (packet("q", b"odd\0"), "quarantine odd"),
    (packet("c", b"x"), "continue malformed: Continue: a reply without payload has one: 1 byte: x"),
    (packet("M"), "letter 'M' no letter of the protocol, 0 bytes"),
]


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(decode, arguments, input=stdin)


def content(result: Result) -> list[str]:
    """Return the lines without time and connection."""
    assert result.exit_code == 0, result.stderr
    return [text.split(None, 2)[2] for text in result.stdout.splitlines()]


def line(**fields: object) -> str:
    return json.dumps(fields) + "\n"


def record(*lines: str) -> bytes:
    return (line(**HEADER) + "".join(lines)).encode()


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("sender", "data", "text"),
    [
        *(("mta", *row) for row in MTA_PACKETS),
        *(("milter", *row) for row in MILTER_PACKETS),
    ],
)
def test_every_packet_is_one_line(sender: str, data: bytes, text: str) -> None:
    result = run("--raw", "--from", sender, "-", stdin=data)
    arrow = ">" if sender == "mta" else "<"
    assert [squeezed(line) for line in content(result)] == [f"{arrow} {squeezed(text)}"]


def test_the_lines_are_in_columns(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(
        record(
            line(t=0, connection=1, event="open", peer="127.0.0.1:1"),
            line(t=1.5, connection=1, event="packet", data=MAIL.hex(), **{"from": "mta"}),
            line(t=12.0625, connection=12, event="packet", data="0000000163", **{"from": "milter"}),
            line(t=13, connection=1, event="bytes", data="ff0a", reason="x", **{"from": "mta"}),
            line(t=13, connection=1, event="error", reason="lost", **{"from": "mta"}),
            line(t=13, connection=1, event="eof", **{"from": "milter"}),
            line(t=13, connection=1, event="close"),
        )
    )
    assert run(str(path)).stdout.splitlines() == [
        "     0.000    1 - open              127.0.0.1:1",
        "     1.500    1 > mail              <a@example.com> SIZE=5",
        "    12.062   12 < continue",
        r"    13.000    1 > bytes             x: 2 bytes: \xff\n",
        "    13.000    1 > error             lost",
        "    13.000    1 < eof",
        "    13.000    1 - close",
    ]


def test_one_connection_of_a_record() -> None:
    data = record(*(line(t=0, connection=n, event="close") for n in (1, 2, 3)))
    result = run("--connection", "2", "--connection", "3", stdin=data)
    assert [text.split()[1] for text in result.stdout.splitlines()] == ["2", "3"]


def test_a_cut_last_line_is_a_warning() -> None:
    data = record(line(t=0, connection=1, event="close"))[:-5]
    result = run("-", stdin=data)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "aiomilter: stdin:2: the last line is cut off; left out\n"


XXD = b"00000000: 0000 0001 5400 0000 1152 3c62 4065 7861  ....T....R<b@exa\n\
00000010: 6d70 6c65 2e63 6f6d 3e00                 mple.com>.\n"
HEXDUMP = b"00000000  00 00 00 01 54 00 00 00  11 52 3c 62 40 65 78 61  |....T....R<b@exa|\n\
00000010  6d 70 6c 65 2e 63 6f 6d  3e 00                    |mple.com>.|\n0000001a\n"
TCPDUMP = b"\t0x0000:  0000 0001 5400 0000 1152 3c62 4065 7861  ....T....R<b@exa\n\
\t0x0010:  6d70 6c65 2e63 6f6d 3e00                 mple.com>.\n"
PLAIN = b"0000000154\n00000011523c62406578616d706c652e636f6d3e00\n"
SPACED = b"00 00 00 01 54\n00:00:00:11:52 0x3c,0x62 406578616d706c652e636f6d3e00"


@pytest.mark.parametrize(
    "dump",
    [XXD, HEXDUMP, TCPDUMP, PLAIN, SPACED],
    ids=["xxd", "hexdump", "tcpdump", "plain", "odd"],
)
def test_a_hex_dump(dump: bytes) -> None:
    result = run("--hex", stdin=dump)
    assert [squeezed(text) for text in content(result)] == ["> data", "> rcpt <b@example.com>"]


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        (b"00 00\nzz\n", "stdin:2: this is no hex dump: 'zz'"),
        (b"\x1b[31m\n", r"stdin:1: this is no hex dump: '\x1b[31m'"),
        (b"000", "stdin: an odd number of hexadecimal digits; is the dump whole?"),
        (b"00000000: 0000\n*\n", "stdin:2: lines are left out here; use hexdump -v -C"),
        (b"", "stdin is empty; there is nothing to decode"),
    ],
)
def test_what_is_no_hex_dump_is_refused(stdin: bytes, problem: str) -> None:
    result = run("--hex", stdin=stdin)
    assert (result.exit_code, result.stderr) == (2, f"aiomilter: {problem}\n")


def test_a_stream_that_ends_within_a_packet() -> None:
    result = run("--raw", stdin=MAIL + b"\0\0\0")
    assert [squeezed(text) for text in content(result)] == [
        "> mail <a@example.com> SIZE=5",
        r"> bytes the beginning of a packet: 3 bytes: \x00\x00\x00",
    ]


def test_a_stream_of_another_protocol() -> None:
    result = run("--raw", stdin=b"GET / HTTP/1.1\r\n")
    assert [squeezed(text) for text in content(result)] == [
        r"> bytes this is HTTP, not the milter protocol: 16 bytes: GET / HTTP/1.1\r\n"
    ]


HOSTILE = "\x1b]0;x\x07\x1b[2J\r\n\u202e\x9b[red]b[/red]"


@pytest.mark.parametrize("form", ["raw", "record"])
def test_nothing_hostile_reaches_the_terminal(form: str) -> None:
    packets = [packet(chr(letter), HOSTILE.encode() + b"\0v\0") for letter in range(256)]
    packets += [packet("y", HOSTILE.encode() + b"\0"), packet("M", HOSTILE.encode() + b"\0")]
    packets += [packet("D", b"\x1b" + HOSTILE.encode() + b"\0v\0")]
    for sender in ("mta", "milter"):
        if form == "raw":
            result = run("--raw", "--from", sender, stdin=b"".join(packets))
        else:
            lines = [
                line(t=0, connection=1, event="packet", data=data.hex(), **{"from": sender})
                for data in packets
            ]
            lines += [line(t=0, connection=1, event="open", peer=HOSTILE)]
            lines += [line(t=0, connection=1, event="error", reason=HOSTILE, **{"from": sender})]
            result = run(stdin=record(*lines))
        lines_out = result.stdout.removesuffix("\n").split("\n")
        assert len(lines_out) >= len(packets)
        assert all(text.isprintable() for text in lines_out)
        assert "[red]b[/red]" in result.stdout


def test_a_terminal_shows_what_fits_in_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(
        force_terminal=True, width=50, highlight=False, soft_wrap=True, color_system="standard"
    )
    monkeypatch.setattr(view, "stdout", console)
    view.show(Entry(1.0, 1, "packet", "milter", packet("h", b"X-A\0" + b"b" * 100 + b"\0")))
    view.show(Entry(1.0, 1, "packet", "milter", packet("r")))
    first, second = capsys.readouterr().out.splitlines()
    assert "\x1b[36madd_header        X-A: bbbbbb" in first
    assert "…" in first
    assert len(first.encode("ascii", "ignore")) < 80
    assert "\x1b[31mreject" in second


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.jsonl"], "cannot read none.jsonl: No such file or directory"),
        (["/"], "cannot read /: Is a directory"),
        (["--hex", "--raw"], "--hex and --raw exclude each other; leave one out"),
        (["--from", "mta"], "--from belongs to --hex or --raw"),
        (["--raw", "--connection", "1"], "--connection belongs to a record"),
        (["-"], "stdin is empty; a record begins with a line about itself"),
    ],
)
def test_an_error_is_one_sentence(arguments: list[str], problem: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"aiomilter: {problem}")
    assert result.stderr.count("\n") == 1


def test_a_closed_stdin_is_one_sentence() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m aiomilter.cli decode - <&-', sys.executable],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "aiomilter: stdin is closed; name a file\n"


def test_a_length_far_beyond_any_packet_is_told() -> None:
    result = run("--raw", stdin=b"\xff\xff\xff\xffO")
    assert "(its length field says 4294967295)" in result.stdout
