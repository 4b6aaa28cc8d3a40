"""Addresses of headers, also of hostile ones."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.message.address_list import MailAddress, parse_addresses
from aiomilter.errors import MessageLimitExceeded


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("a@x", [("", "a@x")]),
        ("<a@x>", [("", "a@x")]),
        ("A B <a@x>, c@y", [("A B", "a@x"), ("", "c@y")]),
        ('"B, A \\"C\\"" <a@x>', [('B, A "C"', "a@x")]),
        ("=?utf-8?q?J=C3=BCrg?= <a@x>", [("Jürg", "a@x")]),
        ("a@x (Mr (the) A)", [("Mr (the) A", "a@x")]),
        ("a (c) @ (d) x", [("c", "a@x")]),
        ('"a b" @x', [("", '"a b"@x')]),
        ('<"a b"@x>', [("", '"a b"@x')]),
        ("Group: a@x, B <b@y>;, c@z", [("", "a@x"), ("B", "b@y"), ("", "c@z")]),
        ("undisclosed-recipients:;", []),
        ("a@[IPv6:::1]", [("", "a@[IPv6:::1]")]),
        ("<@r,@s:a@x>", [("", "a@x")]),
        ("<a@x, b@y>", [("", "a@x"), ("", "b@y")]),
        ("<>, ,", []),
        ("root", [("", "root")]),
        ("A <a@x", [("A", "a@x")]),
        ("(never closed", []),
        ("a@x (never closed", [("never closed", "a@x")]),
        ('"never closed', [("", '"never closed')]),
        ("A\r\n B <a@x>", [("A B", "a@x")]),
        ("a@x>", [("", "a@x")]),
        ("", []),
    ],
)
def test_addresses_are_found(value: str, addresses: list[tuple[str, str]]) -> None:
    assert parse_addresses(value) == [MailAddress(*one) for one in addresses]


def test_an_address_has_a_domain() -> None:
    assert [one.domain for one in parse_addresses("a@b@c, root")] == ["c", ""]


@given(st.text('ab@<>()[],;:"\\ \té=?'))
def test_nothing_raises(value: str) -> None:
    assert all(one.address for one in parse_addresses(value))


@pytest.mark.parametrize(
    "value",
    [
        "(" * 300_000,
        '"\\' * 150_000,
        "<" * 300_000,
        "[" * 300_000,
        "@a," * 100_000,
        "a:" * 150_000,
        "<@" + "a," * 150_000,
        "a " * 150_000,
        "()" * 150_000,
        "<a" * 150_000,
    ],
)
def test_hostile_lists_take_linear_time(value: str) -> None:
    began = time.process_time()
    try:
        parse_addresses(value)
    except MessageLimitExceeded:
        pass
    assert time.process_time() - began < 3


def test_too_many_addresses_are_an_error() -> None:
    assert len(parse_addresses("a@b, " * 20, max_addresses=20)) == 20
    for value in ("a@b, " * 21, "a@b, " * 20 + "a@b"):
        with pytest.raises(MessageLimitExceeded, match="more than 20 addresses"):
            parse_addresses(value, max_addresses=20)
