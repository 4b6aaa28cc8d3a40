"""What a handler is given for an event, and what the facts learn from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiomilter.app.facts import Facts
from aiomilter.app.text import decode_text
from aiomilter.session.events import Event
from aiomilter.wire.commands import (
    Body,
    Connect,
    Data,
    EndOfHeaders,
    Header,
    Helo,
    Mail,
    Rcpt,
    Unknown,
)

__all__ = ["ARGUMENTS"]


def _mail_arguments(facts: Facts, event: Mail) -> tuple[object, ...]:
    sender, *params = map(decode_text, event.arguments)
    facts.sender = sender
    return sender, params


def _rcpt_arguments(facts: Facts, event: Rcpt) -> tuple[object, ...]:
    del facts
    recipient, *params = map(decode_text, event.arguments)
    return recipient, params


def _connect_arguments(facts: Facts, event: Connect) -> tuple[object, ...]:
    facts.connect = event
    return decode_text(event.hostname), facts.client


def _helo_arguments(facts: Facts, event: Helo) -> tuple[object, ...]:
    # There is no message: it does not count as one of the last one's.
    facts.end_message()
    facts.context.enter()
    facts.helo_name = decode_text(event.hostname)
    return (facts.helo_name,)


def _unknown_arguments(facts: Facts, event: Unknown) -> tuple[object, ...]:
    # It may come between two messages, or within one.
    facts.context.enter()
    return (decode_text(event.line),)


# Event and arguments belong together by their types, which a table cannot express.
_Arguments = Callable[[Facts, Any], tuple[object, ...]]

ARGUMENTS: dict[type[Event], _Arguments] = {
    Connect: _connect_arguments,
    Helo: _helo_arguments,
    Mail: _mail_arguments,
    Rcpt: _rcpt_arguments,
    Data: lambda _facts, _event: (),
    # Hot path: `decode_text` without its call, as there are more headers than all the rest.
    Header: lambda _facts, event: (
        event.name.decode("utf-8", "surrogateescape"),
        event.value.decode("utf-8", "surrogateescape"),
    ),
    EndOfHeaders: lambda _facts, _event: (),
    Body: lambda _facts, event: (event.chunk,),
    Unknown: _unknown_arguments,
}
"""What a handler is given for an event; the end of a message is not among them."""
