"""A message in pieces: nothing is lost but the kind of line ends."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.mta.content import Content

CASES = {
    "headers and a body": (
        b"From: a\r\nSubject: b\r\n\r\none\r\ntwo\r\n",
        [("From", " a"), ("Subject", " b")],
        b"one\r\ntwo\r\n",
    ),
    "lines that end in LF": (b"A: b\n\nc\n", [("A", " b")], b"c\r\n"),
    "a last line without end": (b"A: b\n\nc", [("A", " b")], b"c\r\n"),
    "nothing": (b"", [], b""),
    "an empty line": (b"\r\n", [], b""),
    "a body alone": (b"\r\nA: b\r\n", [], b"A: b\r\n"),
    "headers alone": (b"A: b\r\n", [("A", " b")], b""),
    "headers without end": (b"A: b", [("A", " b")], b""),
    "headers and an empty body": (b"A: b\r\n\r\n", [("A", " b")], b""),
    "a body of empty lines": (b"A: b\r\n\r\n\r\n\r\n", [("A", " b")], b"\r\n\r\n"),
    "an empty value": (b"A:\r\nB: \r\n\r\n", [("A", ""), ("B", " ")], b""),
    "blanks of a value": (b"A:b\r\nC:\td \r\n\r\n", [("A", "b"), ("C", "\td ")], b""),
    "blanks before the colon": (b"A \t: b\r\n\r\n", [("A", " b")], b""),
    "colons in a value": (b"A: b: c\r\n\r\n", [("A", " b: c")], b""),
    "folded lines": (b"A: b\r\n\tc\r\n d\r\n\r\n", [("A", " b\n\tc\n d")], b""),
    "a folded line of blanks": (b"A: b\r\n \r\nB: c\r\n\r\n", [("A", " b\n "), ("B", " c")], b""),
    "several of a name": (
        b"A: 1\r\nB: 2\r\na: 3\r\n\r\n",
        [("A", " 1"), ("B", " 2"), ("a", " 3")],
        b"",
    ),
    "8-bit values": (
        b"A: gr\xc3\xbc\xc3\x9f\r\nB: \xe9\r\n\r\n\xe9\r\n",
        [("A", " grüß"), ("B", " \udce9")],
        b"\xe9\r\n",
    ),
    "a line that is no header": (
        b"A: b\r\nno header\r\nB: c\r\n",
        [("A", " b")],
        b"no header\r\nB: c\r\n",
    ),
    "a name that is none": (b"A\xe9: b\r\n", [], b"A\xe9: b\r\n"),
    "a name with a blank": (b"A b: c\r\n", [], b"A b: c\r\n"),
    "no name": (b": c\r\n", [], b": c\r\n"),
    "a folded line that nothing precedes": (b" a: b\r\n", [], b" a: b\r\n"),
    "the line of a mailbox file": (b"From a@b Sun Nov 22\nA: b\n\nc\n", [("A", " b")], b"c\r\n"),
    "only the line of a mailbox file": (b"From a@b Sun Nov 22\n", [], b""),
    "a From header with a blank": (b"From : a\r\nA: b\r\n\r\n", [("From", " a"), ("A", " b")], b""),
    "a CR in a line": (b"A: b\rc\r\n\r\nd\re\r\n", [("A", " b\rc")], b"d\re\r\n"),
    "two CR at the end of lines": (
        b"A: b\r\r\nB: c\r\n\r\nd\r\r\ne\r\n",
        [("A", " b"), ("B", " c")],
        b"d\r\ne\r\n",
    ),
    "NUL": (b"A: b\0c\r\n\r\nd\0\r\n", [("A", " b\0c")], b"d\0\r\n"),
}


@pytest.mark.parametrize(("source", "headers", "body"), CASES.values(), ids=CASES)
def test_a_message_is_taken_apart(
    source: bytes, headers: list[tuple[str, str]], body: bytes
) -> None:
    content = Content.parse(source)
    assert list(content.headers) == headers
    assert content.body == body


@given(st.lists(st.sampled_from([b"A: b", b" c", b"\t", b"", b"d", b"\r", b"\n", b"\r\n"])))
def test_what_was_put_together_is_taken_apart_as_before(parts: list[bytes]) -> None:
    content = Content.parse(b"".join(parts))
    assert Content.parse(content.as_bytes()) == content


def test_a_whole_message_comes_back_as_it_was() -> None:
    source = b"A:  b\r\n\tc\r\na:\r\nB: \xe9\r\n\r\nd\r\n\r\n.\r\n"
    assert Content.parse(source).as_bytes() == source


def test_sources_of_all_kinds(tmp_path: Path) -> None:
    source = "Subject: grüß\n\ngrößer\n"
    file = tmp_path / "message.eml"
    file.write_bytes(source.encode())
    expected = Content([("Subject", " grüß")], "größer\r\n".encode())
    assert Content.parse(source) == expected
    assert Content.parse(source.encode()) == expected
    assert Content.parse(file) == expected
    assert Content.parse(expected) is expected


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.SMTP])
def test_a_message_of_the_email_package(policy: email.policy.Policy) -> None:
    message = email.message_from_string("A: b\nC: d\n e\n\nf\n", policy=policy)
    assert Content.parse(message) == Content([("A", " b"), ("C", " d\n e")], b"f\r\n")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Content.parse(tmp_path / "none.eml")


def test_text_that_stands_for_no_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="a message is no text that can be sent"):
        Content.parse("A: \ud800\n")


def test_headers_are_found_by_name_in_any_case() -> None:
    content = Content([("A", " one "), ("B", " two"), ("a", "\n\tthree")])
    assert content.get("a") == "one"
    assert content.get_all("A") == ["one", "three"]
    assert content.get("C") is None
    assert content.get_all("C") == []


def test_it_is_shown_as_text() -> None:
    assert str(Content([("A", " b\n c")], b"d\xff\r\n")) == "A: b\n c\n\nd\ufffd\n"


def test_equal_messages_are_equal() -> None:
    assert Content([("A", " b")], b"c\r\n") == Content((("A", " b"),), b"c\r\n")
    assert Content([("A", " b")]) != Content([("a", " b")])
    assert hash(Content([("A", " b")])) == hash(Content([("A", " b")]))
