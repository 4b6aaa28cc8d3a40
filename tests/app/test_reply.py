"""SMTP replies: what is refused, and the bytes of what is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter import Reply
from aiomilter.errors import RemoteProtocolError
from tests.wire.strategies import REPEATABLE

WIRE: list[tuple[str, Reply, bytes]] = [
    # The shapes of libmilter's smfi_setreply, its trailing blank included.
    ("code alone", Reply(550), b"550 "),
    ("code and enhanced code", Reply(550, "5.7.1"), b"550 5.7.1"),
    ("empty text", Reply(550, "5.7.1", ""), b"550 5.7.1 "),
    ("text alone", Reply(451, None, "later"), b"451 later"),
    ("all three", Reply(550, "5.7.1", "no thanks"), b"550 5.7.1 no thanks"),
    ("highest numbers", Reply(599, "5.999.999", "x"), b"599 5.999.999 x"),
    ("lowest numbers", Reply(400, "4.0.0", "x"), b"400 4.0.0 x"),
    # smfi_setmlreply puts an enhanced code where there is none.
    ("two lines", Reply(550, "5.7.1", "a", "b"), b"550-5.7.1 a\r\n550 5.7.1 b"),
    ("two lines, 4xx", Reply(451, None, "a", "b"), b"451-4.0.0 a\r\n451 4.0.0 b"),
    ("two lines, 5xx", Reply(550, None, "a", "b"), b"550-5.0.0 a\r\n550 5.0.0 b"),
    (
        "three lines",
        Reply(550, "5.7.1", "a", "", "c"),
        b"550-5.7.1 a\r\n550-5.7.1 \r\n550 5.7.1 c",
    ),
    ("percent signs", Reply(550, None, "100% %s", "%%"), b"550-5.0.0 100%% %%s\r\n550 5.0.0 %%%%"),
    ("not ASCII", Reply(550, None, "niß"), b"550 ni\xc3\x9f"),
    ("a byte that is not UTF-8", Reply(550, None, "\udcff"), b"550 \xff"),
    ("other control bytes", Reply(550, None, "\t\x1b"), b"550 \t\x1b"),
]


@pytest.mark.parametrize(("reply", "wire"), [case[1:] for case in WIRE], ids=[c[0] for c in WIRE])
def test_a_reply_is_laid_out_as_libmilter_does(reply: Reply, wire: bytes) -> None:
    assert reply.encode() == wire


@pytest.mark.parametrize("code", [0, 99, 250, 354, 399, 600, 1000, 4500, -450])
def test_a_code_other_than_4xx_and_5xx_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match=f"from 400 to 599, not {code}"):
        Reply(code)


@pytest.mark.parametrize("code", ["450", "450\n", "\uff14\uff15\uff10", 450.0, True, None, b"450"])
def test_a_code_that_is_no_integer_is_refused(code: Any) -> None:
    with pytest.raises(TypeError, match="the code of a reply is an integer"):
        Reply(code)


@pytest.mark.parametrize(
    "enhanced_code",
    [
        "",
        "5",
        "5.7",
        "5.7.1.1",
        "5.7.1\n",
        " 5.7.1",
        "5.7.1000",
        "5..1",
        "\uff12.7.1",
        "5.\uff17.1",
        "3.7.1",
        "2.0.0",
        "x",
    ],
)
def test_an_enhanced_code_of_the_wrong_form_is_refused(enhanced_code: str) -> None:
    with pytest.raises(ValueError, match="an enhanced code is three numbers"):
        Reply(550, enhanced_code)


@pytest.mark.parametrize(("code", "enhanced_code"), [(550, "4.7.1"), (450, "5.7.1")])
def test_an_enhanced_code_of_another_class_is_refused(code: int, enhanced_code: str) -> None:
    with pytest.raises(ValueError, match=f"{enhanced_code} does not go with {code}"):
        Reply(code, enhanced_code)


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\r\nb", "a\0b", "a\n", "\n"])
def test_a_line_with_a_line_break_or_nul_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no CR, LF or NUL") as caught:
        Reply(550, None, "fine", text)
    assert "\n" not in str(caught.value)


def test_a_line_of_980_bytes_is_the_longest() -> None:
    assert Reply(550, None, "x" * 980).encode() == b"550 " + b"x" * 980
    with pytest.raises(ValueError, match="at most 980 bytes, not 981"):
        Reply(550, None, "x" * 981)


def test_the_length_of_a_line_is_counted_in_bytes_before_percent_signs_are_doubled() -> None:
    assert Reply(550, None, "%" * 980).encode() == b"550 " + b"%" * 1960
    with pytest.raises(ValueError, match="not 982"):
        Reply(550, None, "ß" * 491)


def test_32_lines_are_the_most() -> None:
    assert Reply(550, None, *["x"] * 32).encode().count(b"\r\n") == 31
    with pytest.raises(ValueError, match="at most 32 lines, not 33"):
        Reply(550, None, *["x"] * 33)


@pytest.mark.parametrize("line", [b"bytes", None, 1])
def test_a_line_that_is_no_text_is_refused(line: Any) -> None:
    with pytest.raises(TypeError, match="a line of a reply is text"):
        Reply(550, None, line)


def test_text_that_has_no_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="no text that can be sent"):
        Reply(550, None, "\ud800")


def test_a_reply_knows_its_parts() -> None:
    reply = Reply(450, "4.7.1", "100%", "b")
    assert (reply.code, reply.enhanced_code, reply.lines) == (450, "4.7.1", ("100%", "b"))
    assert not reply.is_permanent
    assert Reply(550).is_permanent
    assert repr(reply) == "Reply(450, '4.7.1', '100%', 'b')"


def test_replies_with_the_same_text_are_equal() -> None:
    assert Reply(550, None, "a", "b") == Reply(550, "5.0.0", "a", "b")
    assert hash(Reply(550, None, "a")) == hash(Reply(550, None, "a"))
    assert Reply(550, None, "a") != Reply(551, None, "a")
    assert Reply(550) != "550 "


# As an MTA reads it

FROM_WIRE: list[tuple[bytes, Reply]] = [
    (b"550", Reply(550)),
    (b"550 ", Reply(550)),
    (b"451 later", Reply(451, None, "later")),
    (b"550 5.7.1", Reply(550, "5.7.1")),
    (b"550 5.7.1 no", Reply(550, "5.7.1", "no")),
    (b"550 5.7.1  no ", Reply(550, "5.7.1", " no ")),
    (b"550-5.7.1 a\r\n550 5.7.1 b", Reply(550, "5.7.1", "a", "b")),
    (b"550-5.7.1 a\r\n550-5.7.1 \r\n550 5.7.1 c", Reply(550, "5.7.1", "a", "", "c")),
    (b"550-a\r\n550", Reply(550, None, "a", "")),
    (b"550 100%% of %%s", Reply(550, None, "100% of %s")),
    # A single one Postfix drops.
    (b"550 100% of %s%", Reply(550, None, "100 of s")),
    (b"550 %%%", Reply(550, None, "%")),
    (b"550 \xff\xc3\xa9", Reply(550, None, "\udcff\u00e9")),
    # An enhanced code of another class, or that not all lines have, is text.
    (b"550 4.7.1 no", Reply(550, None, "4.7.1 no")),
    (b"550-5.7.1 a\r\n550 5.7.2 b", Reply(550, None, "5.7.1 a", "5.7.2 b")),
    (b"550-5.7.1 a\r\n550 b", Reply(550, None, "5.7.1 a", "b")),
    (b"550 5.7.1x", Reply(550, None, "5.7.1x")),
]


@pytest.mark.parametrize(("wire", "reply"), FROM_WIRE)
def test_a_reply_is_read_as_postfix_does(wire: bytes, reply: Reply) -> None:
    found = Reply.from_wire(wire)
    assert (found.code, found.enhanced_code, found.lines) == (
        reply.code,
        reply.enhanced_code,
        reply.lines,
    )


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"5",
        b"55",
        b"5500",
        b"hello",
        b" 550 no",
        b"250 2.0.0 fine",
        b"354 go on",
        b"999 9.9.9 odd",
        b"600 x",
        b"550x",
        b"550\tno",
        b"550-no",
        b"550 a\r\n",
        b"550 a\r\n\r\n",
        b"\r\n550 a",
        b"550-a\n550 b",
        b"550 a\n",
        b"550 a\rb",
        b"550 a\r\n550 b",
        b"550\r\n550 b",
        b"550-a\r\n550-b",
        b"550-a\r\n551 b",
        b"550-a\r\nb",
        b"\xff50 a",
    ],
)
def test_what_is_no_reply_is_refused(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Reply.from_wire(wire)
    assert caught.value.rule == "the text of a reply code is no SMTP reply of 4xx or 5xx"
    assert caught.value.value == wire


@pytest.mark.parametrize("wire", [b"550 " + b"x" * 981, b"550-x\r\n" * 32 + b"550 x"])
def test_a_milter_may_say_more_than_a_filter_may(wire: bytes) -> None:
    assert Reply.from_wire(wire).encode() == wire


@pytest.mark.parametrize("wire", [case[2] for case in WIRE], ids=[case[0] for case in WIRE])
def test_what_a_filter_sends_an_mta_reads(wire: bytes) -> None:
    # A blank behind the last word is lost, no more.
    assert Reply.from_wire(wire).encode().rstrip() == wire.rstrip()


_words = st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=30)


@REPEATABLE
@given(
    st.integers(400, 599),
    st.one_of(st.none(), st.tuples(st.integers(0, 999), st.integers(0, 999))),
    st.lists(_words, max_size=5),
)
def test_any_reply_comes_through(code: int, ends: tuple[int, int] | None, lines: list[str]) -> None:
    enhanced = None if ends is None else f"{code // 100}.{ends[0]}.{ends[1]}"
    wire = Reply(code, enhanced, *lines).encode()
    assert Reply.from_wire(wire).encode().rstrip(b" ") == wire.rstrip(b" ")


@REPEATABLE
@given(st.one_of(st.binary(max_size=40), st.from_regex(rb"[45]\d\d[ -][^\0]{0,20}")))
def test_any_text_is_a_reply_or_refused(wire: bytes) -> None:
    try:
        reply = Reply.from_wire(wire)
    except RemoteProtocolError:
        return
    assert wire.startswith(str(reply.code).encode())
