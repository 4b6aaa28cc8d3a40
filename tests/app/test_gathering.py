"""The messages of one session, gathered one after the other."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from aiomilter import EomActions, MessageLimitExceeded
from aiomilter.app.facts import Facts, SessionLog
from aiomilter.app.gathering import Gathering
from aiomilter.app.message.collector import CollectLimits
from aiomilter.session.macros import MacroStore
from aiomilter.wire.commands import Helo, Mail, Rcpt

FACTS = Facts("s1", MacroStore(), "")


async def _never() -> None: ...


def gathering(**limits: Any) -> Gathering:
    return Gathering(CollectLimits(**limits), leading_space=True)


def test_without_a_message_nothing_is_gathered_and_nothing_counts() -> None:
    idle = gathering(max_headers=0, max_body_bytes=0)
    idle.take(Mail([b"<a@a>"]))
    idle.check_room(5)
    idle.write_body(b"hello")
    idle.save_memory()
    idle.end()
    assert not idle.goes_to_file(10**9)
    assert idle.bytes_in_memory == 0
    assert idle.collector is None
    with pytest.raises(MessageLimitExceeded, match="given up before"):
        idle.message(FACTS)


def test_a_message_is_what_was_taken_since_it_began() -> None:
    one = gathering()
    one.begin()
    one.take(Rcpt([b"<lost@a>"]))
    one.write_body(b"lost")
    one.begin()
    # What is a fact of the session is none of the message.
    one.take(Helo(b"mx"))
    one.take(Mail([b"<a@a>", b"SIZE=1"]))
    one.take(Rcpt([b"<b@b>"]))
    assert one.collector is not None
    one.collector.header(b"Subject", b" x")
    one.write_body(b"hello\r\n")
    message = one.message(FACTS)
    assert message.as_bytes() == b"Subject: x\r\n\r\nhello\r\n"
    assert (str(message.sender), [str(to) for to in message.recipients]) == ("<a@a>", ["<b@b>"])
    one.end()


def test_a_name_that_is_no_utf_8_goes_back_byte_for_byte() -> None:
    one = gathering()
    one.begin()
    one.take(Mail([b"<\xe9@a>"]))
    message = one.message(FACTS)
    assert str(message.sender).encode("utf-8", "surrogateescape") == b"<\xe9@a>"
    one.end()


def test_edits_are_made_all_or_none() -> None:
    one = gathering()
    one.begin()
    message = one.message(FACTS)
    message.headers.add("X-A", "b")
    actions = EomActions(0x1FF, _never)
    log = cast("logging.LoggerAdapter[logging.Logger]", SessionLog(logging.getLogger("x"), FACTS))
    one.make_edits(message, actions, log)
    assert actions.close() == b"\0\0\0\x08hX-A\0 b\0"
    one.end()
