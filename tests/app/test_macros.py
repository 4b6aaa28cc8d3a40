"""Macros as a mapping."""

from __future__ import annotations

import pytest

from aiomilter import Macros
from aiomilter.session.macros import MacroStore


def store(**packets: bytes) -> MacroStore:
    """A store that has seen a packet for each named command."""
    made = MacroStore()
    for letter, strings in packets.items():
        assert made.store(letter.encode() + strings)
    return made


def test_both_spellings_of_a_short_name_find_it() -> None:
    view = Macros(store(M=b"i\0queue\0{j}\0host\0"))
    assert view["i"] == view["{i}"] == "queue"
    assert view["j"] == view["{j}"] == "host"
    assert "{i}" in view


def test_a_long_name_needs_its_braces() -> None:
    view = Macros(store(M=b"{auth_authen}\0alice\0"))
    assert view["{auth_authen}"] == "alice"
    assert "auth_authen" not in view
    assert view.get("auth_authen") is None


def test_it_is_a_mapping() -> None:
    view = Macros(store(C=b"j\0host\0", M=b"{auth_type}\0PLAIN\0"))
    assert dict(view) == {"j": "host", "{auth_type}": "PLAIN"}
    assert len(view) == 2
    assert sorted(view) == ["j", "{auth_type}"]
    assert repr(view).startswith("Macros({")


def test_a_macro_that_was_not_sent_is_a_key_error() -> None:
    view = Macros(MacroStore())
    with pytest.raises(KeyError, match=r"\{x\}"):
        view["{x}"]
    assert view.get("i") is None


@pytest.mark.parametrize("character", ["", "x", "ü", "\ud800", "ii"])
def test_any_text_may_be_asked_for(character: str) -> None:
    view = Macros(store(M=b"i\0queue\0"))
    for name in (character, "{" + character, "{" + character + "}"):
        assert name not in view


def test_the_latest_stage_wins() -> None:
    assert Macros(store(C=b"i\0first\0", M=b"i\0second\0"))["i"] == "second"


def test_it_is_always_up_to_date() -> None:
    macro_store = store(M=b"i\0one\0")
    view = Macros(macro_store)
    assert view["i"] == "one"
    macro_store.store(b"Mi\0two\0")
    assert view["i"] == "two"
    macro_store.clear_from(0)
    assert "i" not in view


def test_bytes_that_are_no_utf8_survive() -> None:
    view = Macros(store(M=b"{x}\0\xff\0"))
    assert view["{x}"].encode("utf-8", "surrogateescape") == b"\xff"
