"""What an author writes into a header, and what is read from one."""

from __future__ import annotations

import time
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.message.charsets import decode_charset, python_codec
from aiomilter.app.message.decoding import decode_words
from aiomilter.app.message.encoding import encode_value
from aiomilter.app.message.header import Header


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?gr=C3=BC=C3=9Fe?=", "grüße"),
        ("=?UTF-8?B?Z3LDvMOfZQ==?=", "grüße"),
        ("=?iso-8859-1?Q?a_b=E9?= c", "a bé c"),
        ("=?us-ascii*en?q?x?=", "x"),
        # Blanks between two words go away, those beside other text stay.
        ("=?utf-8?q?a?=  =?utf-8?q?b?= c =?utf-8?q?d?=", "ab c d"),
        ("=?utf-8?q?a?= =?iso-8859-1?q?=E9?=", "aé"),
        # A character that is cut in two.
        ("=?utf-8?b?w6Q=?= =?utf-8?q?=C3?= =?utf-8?q?=A4?=", "ää"),
        # Sloppy writers.
        ("=?utf-8?q?a b?=", "a b"),
        ("=?utf-8?b?w6?=", "\ufffd"),
        ("=?utf-8?b?w6Qx9?=", "ä1"),
        ("=?utf-8?b?!?=", ""),
        ("=?utf-8?b?AAAAA?=", "\ufffd\ufffd\ufffd"),
        ("=?utf-8?q?=G1=?=", "=G1="),
        ("a=?utf-8?q?b?=c", "abc"),
        # What is none.
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        ("=?x-none?q?a?= =?x-none?q?b?=", "=?x-none?q?a?= =?x-none?q?b?="),
        ("=?punycode?q?a-?=", "=?punycode?q?a-?="),
        ("=?zlib?b?eJw=?=", "=?zlib?b?eJw=?="),
        ("=?utf-8?q?a", "=?utf-8?q?a"),
        # Control characters come back as what they are not.
        ("=?utf-8?q?a=0D=0ABcc:_b?=", "a\ufffd\ufffdBcc: b"),
        ("=?utf-8?q?=00=1B=7F=C2=85=E2=80=A8?=", "\ufffd" * 5),
        ("=?utf-7?q?+2AA-?=", "\ufffd"),
        ("a\tb\r\0", "a\tb\ufffd\ufffd"),
        ("\udcff", "\ufffd"),
    ],
)
def test_encoded_words_are_decoded(words: str, text: str) -> None:
    assert decode_words(words) == text


@given(st.text() | st.text("=?utf-8qbQB_ =C3\t"))
def test_decoding_never_fails_and_can_be_written_again(text: str) -> None:
    shown = decode_words(text)
    encode_value("Subject", shown)
    assert "\n" not in shown
    assert "\r" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "=?" * 40_000,
        "=?utf-8?q?" * 20_000,
        "=?utf-8?q?a?= " * 20_000,
        "=?utf-8?b?" + "A" * 300_000 + "?=",
        "=?a?q?=?" * 30_000,
        "=?" + "a" * 300_000,
        "=?utf-8?q?" + "=" * 300_000,
        "".join(f"=?x-{number}?q?a?= " for number in range(20_000)),
    ],
)
def test_hostile_words_take_linear_time(text: str) -> None:
    began = time.process_time()
    decode_words(text)
    assert time.process_time() - began < 2


def test_charsets_are_known_by_their_names_in_mail() -> None:
    assert python_codec("ISO-8859-1") == "latin_1"
    assert python_codec("windows-1252") == "cp1252"
    assert python_codec("GB2312") == "gb2312"
    assert python_codec("KOI8-R") == "koi8_r"
    assert python_codec("unicode_escape") is None
    assert python_codec("idna") is None
    assert python_codec("x" * 100_000) is None
    assert decode_charset(b"a", "hex") is None
    # Python knows the name, but has no such codec.
    assert decode_charset(b"a", "tis260") is None
    assert decode_charset(b"\xe9", "latin1") == "é"
    assert decode_charset(b"\xff", "utf-8") == "\ufffd"


def line_lengths(name: str, value: bytes) -> list[int]:
    return [len(line) for line in (name.encode() + b":" + value).split(b"\n")]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("X", "plain", b" plain"),
        ("X", "", b" "),
        ("X", "  \t ", b" "),
        ("X", "\tindented  text  ", b"\tindented  text"),
        ("Subject", "=?utf-8?q?gr=C3=BC=C3=9Fe?=", b" =?utf-8?q?gr=C3=BC=C3=9Fe?="),
        ("Subject", "ich grüße dich", b" ich =?utf-8?q?gr=C3=BC=C3=9Fe?= dich"),
        ("Subject", "ä ö", b" =?utf-8?q?=C3=A4?= =?utf-8?q?_=C3=B6?="),
        ("Subject", "日本", b" =?utf-8?b?5pel5pys?="),
        ("X", "a;\r\n b;\n\tc", b" a;\n b;\n\tc"),
        ("X", "a\n \n  b", b" a\n  b"),
        ("X", "\n a", b" a"),
        ("Subject", "[x] \udcff ä", b" [x] \xff =?utf-8?q?=C3=A4?="),
        (
            "To",
            '"J\u00f6rg, \\"X\\"" <j@\u00f6.example>',
            b' =?utf-8?q?J=C3=B6rg=2C?= "X" <j@\xc3\xb6.example>',
        ),
        (
            "From",
            "J\u00f6rg <j@x>, ü@x (\u00fc)",
            b" =?utf-8?q?J=C3=B6rg?= <j@x>, \xc3\xbc@x (=?utf-8?q?=C3=BC?=)",
        ),
        ("Cc", '"ü"<a@x>', b" =?utf-8?q?=C3=BC?= <a@x>"),
        ("Cc", '"ü"@x', b' "\xc3\xbc"@x'),
        ("Content-Type", "text/plain; name=ä", b" text/plain; name=\xc3\xa4"),
    ],
)
def test_values_are_encoded(name: str, text: str, value: bytes) -> None:
    assert encode_value(name, text) == value


def test_long_values_are_folded() -> None:
    value = encode_value("X-Long", "word " * 40)
    assert max(line_lengths("X-Long", value)) <= 78
    assert value.replace(b"\n", b"") == b" " + b"word " * 39 + b"word"
    # The first word stays behind the name, and one that is too long stays whole.
    assert encode_value("X", "a" * 100 + " b") == b" " + b"a" * 100 + b"\n b"
    assert encode_value("X" * 70, "long-word-that-does-not-fit b").startswith(b" long")


@given(st.text(min_size=1))
def test_what_is_encoded_comes_back(text: str) -> None:
    shown = " ".join(decode_words(text).split())
    # What only looks like an encoded word is one to everybody else too.
    if "=?" in shown:
        return
    value = encode_value("Subject", shown)
    assert max(line_lengths("Subject", value)) <= 78 or shown.isascii()
    header = Header(b"Subject", value)
    assert " ".join(header.text.split()) == shown
    assert " ".join(str(make_header(decode_header(header.value))).split()) == shown
    assert all(line.strip(b" \t") for line in value.split(b"\n")) or not shown


@pytest.mark.parametrize(
    "text", ['"\\' * 100_000 + "ä", '"' * 100_001 + "ä", "<" * 200_000 + "ä", "ä " * 50_000]
)
@pytest.mark.parametrize("name", ["To", "Subject"])
def test_hostile_values_are_encoded_in_linear_time(name: str, text: str) -> None:
    began = time.process_time()
    encode_value(name, text)
    assert time.process_time() - began < 3
