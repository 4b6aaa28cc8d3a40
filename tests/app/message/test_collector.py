"""A message while it comes in."""

from __future__ import annotations

import pytest

from aiomilter.app.message.collector import CollectLimits, MessageCollector
from aiomilter.errors import MessageLimitExceeded, SpoolError

LIMITS = CollectLimits(max_headers=2, max_header_bytes=20, max_body_bytes=10, spool_threshold=5)


def test_a_message_is_what_came_in() -> None:
    collector = MessageCollector(LIMITS)
    collector.mail("<a@src.example>", ["SIZE=1"])
    collector.rcpt("b@dst.example", [])
    collector.header(b"A", b" 1\n\t2")
    collector.header(b"B", b"2")
    assert collector.goes_to_file(6)
    collector.body(b"01234")
    collector.body(b"56789")
    message = collector.message(queue_id="4X", macros={"i": "4X"}, hostname="h", helo_name="e")
    assert message.as_bytes() == b"A: 1\r\n\t2\r\nB:2\r\n\r\n0123456789"
    assert str(message.sender) == "<a@src.example>"
    assert message.sender.parameters.size == 1
    assert [str(one) for one in message.recipients] == ["<b@dst.example>"]
    assert message.body.is_spooled
    message.close()


def test_a_blank_that_the_mta_has_taken_off_is_put_back() -> None:
    collector = MessageCollector(LIMITS, leading_space=False)
    collector.header(b"A", b"1")
    message = collector.message()
    assert message.as_bytes() == b"A: 1\r\n\r\n"
    assert message.sender.is_null


def test_limits_hold() -> None:
    collector = MessageCollector(LIMITS)
    for _ in range(2):
        collector.header(b"A", b"1")
    with pytest.raises(MessageLimitExceeded, match="more than 2 headers"):
        collector.header(b"A", b"1")
    with pytest.raises(MessageLimitExceeded, match="more than 20 bytes of headers"):
        MessageCollector(LIMITS).header(b"A", b"1" * 20)
    collector.body(b"0123456789")
    with pytest.raises(MessageLimitExceeded, match="more than 10 bytes of body"):
        collector.body(b"x")
    with pytest.raises(SpoolError):
        collector.body(b"")
    collector.close()
