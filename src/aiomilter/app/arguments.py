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

__all__ = ["CALLS", "arguments_of"]

_Function = Callable[..., Any]


def _call_for_mail(function: _Function, milter: object, facts: Facts, event: Mail) -> Any:
    sender, *params = map(decode_text, event.arguments)
    facts.sender = sender
    return function(milter, sender, params)


def _call_for_rcpt(function: _Function, milter: object, _facts: Facts, event: Rcpt) -> Any:
    recipient, *params = map(decode_text, event.arguments)
    return function(milter, recipient, params)


def _call_for_connect(function: _Function, milter: object, facts: Facts, event: Connect) -> Any:
    facts.connect = event
    return function(milter, decode_text(event.hostname), facts.client)


def _call_for_helo(function: _Function, milter: object, facts: Facts, event: Helo) -> Any:
    # There is no message: it does not count as one of the last one's.
    facts.end_message()
    facts.context.enter()
    facts.helo_name = decode_text(event.hostname)
    return function(milter, facts.helo_name)


def _call_for_header(function: _Function, milter: object, _facts: Facts, event: Header) -> Any:
    # Hot path: `decode_text` without its call, as there are more headers than all the rest.
    return function(
        milter,
        event.name.decode("utf-8", "surrogateescape"),
        event.value.decode("utf-8", "surrogateescape"),
    )


def _call_for_body(function: _Function, milter: object, _facts: Facts, event: Body) -> Any:
    return function(milter, event.chunk)


def _call_for_unknown(function: _Function, milter: object, facts: Facts, event: Unknown) -> Any:
    # It may come between two messages, or within one.
    facts.context.enter()
    return function(milter, decode_text(event.line))


def _call_without(function: _Function, milter: object, _facts: Facts, _event: Event) -> Any:
    return function(milter)


# Event and arguments belong together by their types, which a table cannot express.
_Call = Callable[[_Function, object, Facts, Any], Any]

# Hot path: making a tuple of the arguments and taking it apart again costs as much as the call.
CALLS: dict[type[Event], _Call] = {
    Connect: _call_for_connect,
    Helo: _call_for_helo,
    Mail: _call_for_mail,
    Rcpt: _call_for_rcpt,
    Data: _call_without,
    Header: _call_for_header,
    EndOfHeaders: _call_without,
    Body: _call_for_body,
    Unknown: _call_for_unknown,
}
"""Call a function with a milter and what its handler is given for an event; return its result.

The end of a message is not among the events.
"""


def arguments_of(facts: Facts, event: Event) -> tuple[object, ...]:
    """Return what a handler is given for an event, beside the milter."""
    arguments: tuple[object, ...] = CALLS[type(event)](_as_tuple, None, facts, event)
    return arguments


def _as_tuple(_milter: object, *arguments: object) -> tuple[object, ...]:
    return arguments
