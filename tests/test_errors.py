from __future__ import annotations

import pickle

import pytest

from aiomilter.errors import (
    ActionNotNegotiated,
    ConfigError,
    LocalProtocolError,
    MessageLimitExceeded,
    MilterError,
    ProtocolError,
    RemoteProtocolError,
    SpoolError,
    escape,
)


@pytest.mark.parametrize(
    ("leaf", "parents"),
    [
        (RemoteProtocolError, (ProtocolError, MilterError)),
        (LocalProtocolError, (ProtocolError, MilterError)),
        (ActionNotNegotiated, (LocalProtocolError, ProtocolError, MilterError)),
        (ConfigError, (MilterError,)),
        (MessageLimitExceeded, (MilterError,)),
        (SpoolError, (MilterError,)),
    ],
)
def test_every_error_is_caught_by_its_parents(
    leaf: type[Exception], parents: tuple[type[Exception], ...]
) -> None:
    assert issubclass(leaf, parents)


def test_the_two_ends_are_told_apart() -> None:
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
    assert not issubclass(ConfigError, ProtocolError)


def test_remote_error_without_bytes_is_its_rule() -> None:
    error = RemoteProtocolError("a body packet without payload")
    assert str(error) == "a body packet without payload"
    assert (error.rule, error.value) == ("a body packet without payload", None)


def test_remote_error_keeps_the_bytes_whole_and_shows_them_short_and_on_one_line() -> None:
    value = b"GET / HTTP/1.1\r\n" + b"\0" * 1000
    error = RemoteProtocolError("this is HTTP", value)
    assert error.value == value
    text = str(error)
    assert text.startswith("this is HTTP: 'GET / HTTP/1.1\\r\\n\\x00")
    assert text.endswith("... (1016 in all)")
    assert text.isprintable()


def test_remote_error_survives_a_process_boundary() -> None:
    copy = pickle.loads(pickle.dumps(RemoteProtocolError("a rule", b"\0")))
    assert (copy.rule, copy.value) == ("a rule", b"\0")


def test_action_that_was_not_agreed_is_named_with_the_remedy() -> None:
    error = ActionNotNegotiated("ADD_HEADER", "add_header()")
    assert error.action == "ADD_HEADER"
    assert "add_header()" in str(error)
    assert "class attribute 'actions'" in str(error)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"", "''"),
        (b"plain", "'plain'"),
        ("plain", "'plain'"),
        (b"a\r\nb\0\x7f\xff", r"'a\r\nb\x00\x7f\xff'"),
        ("\udcff\u2028é", r"'\udcff\u2028\xe9'"),
        (b"a" * 80, "'" + "a" * 80 + "'"),
        (b"a" * 81, "'" + "a" * 80 + "'... (81 in all)"),
    ],
)
def test_escape_is_one_short_line_of_ascii(value: bytes | str, shown: str) -> None:
    assert escape(value) == shown


def test_escape_takes_a_limit() -> None:
    assert escape("abcdef", 3) == "'abc'... (6 in all)"
