"""What a filter session reports beside the commands of the MTA.

Rules of this file:

- Each of these is a turn in the life of a session or a message, which the protocol only
  implies: a MAIL inside a message, for one, is an abort and then a MAIL.
- They come in pairs that never nest wrongly: `SessionStart` … `SessionEnd` around everything,
  `MessageStart` and then exactly one of: a verdict, `MessageAborted`, the end of the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiomilter.session.negotiation import NegotiationOffer
from aiomilter.spec import State
from aiomilter.wire.commands import (
    Body,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Mail,
    Rcpt,
    Unknown,
)

__all__ = [
    "ConnectionEnd",
    "Event",
    "Ignored",
    "MessageAborted",
    "MessageStart",
    "SessionEnd",
    "SessionStart",
]


@dataclass(slots=True)
class SessionStart:
    """A new SMTP session begins: tell the session which stages have a handler."""


@dataclass(slots=True)
class MessageStart:
    """A new message begins."""


@dataclass(slots=True)
class MessageAborted:
    """The message in progress is over without a verdict."""


@dataclass(slots=True)
class SessionEnd:
    """The SMTP session is over; on the same connection another one may start."""


@dataclass(slots=True)
class ConnectionEnd:
    """Nothing more will come: close the connection."""


@dataclass(slots=True)
class Ignored:
    """A command was swallowed without an answer, as libmilter does.

    Attributes:
        command: Its name.
        state: The state in which it came.
        reason: Why, in words.
    """

    command: str
    state: State
    reason: str


Event = (
    SessionStart
    | NegotiationOffer
    | Connect
    | Helo
    | MessageStart
    | Mail
    | Rcpt
    | Data
    | Header
    | EndOfHeaders
    | Body
    | EndOfMessage
    | Unknown
    | MessageAborted
    | SessionEnd
    | ConnectionEnd
    | Ignored
)
"""Anything that a filter session reports."""
