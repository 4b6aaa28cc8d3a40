"""The edits that a milter asks for at the end of a message, as values.

Rules of this file:

- Text is what came from the wire, bytes that are no UTF-8 as lone surrogates, as in handlers.
- Two edits are equal if the MTA would do the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiomilter.app.text import decode_text, shorten
from aiomilter.wire.replies import (
    AddHeader,
    AddRecipient,
    AddRecipientWithParams,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    MilterReply,
    Quarantine,
    ReplaceBody,
)

__all__ = [
    "BodyReplaced",
    "Edit",
    "HeaderAdded",
    "HeaderChanged",
    "HeaderInserted",
    "Quarantined",
    "RecipientAdded",
    "RecipientDeleted",
    "SenderChanged",
    "edit_of",
    "join_bodies",
]


@dataclass(frozen=True, slots=True)
class HeaderAdded:
    """A header behind all others; in Sendmail, ahead of others of its name."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class HeaderInserted:
    """A header at a position among all headers; 0 is the very top."""

    index: int
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class HeaderChanged:
    """Another value for a header of a name, or None if it is deleted; the first one is 1."""

    name: str
    index: int
    value: str | None


@dataclass(frozen=True, slots=True)
class SenderChanged:
    """Another envelope sender; ``params`` is None if nothing was said of them."""

    address: str
    params: str | None = None


@dataclass(frozen=True, slots=True)
class RecipientAdded:
    """An envelope recipient more; ``params`` is None if nothing was said of them."""

    address: str
    params: str | None = None


@dataclass(frozen=True, slots=True)
class RecipientDeleted:
    """An envelope recipient less."""

    address: str


@dataclass(frozen=True, slots=True)
class BodyReplaced:
    """Another body: all pieces of it together."""

    body: bytes

    def __repr__(self) -> str:
        return f"BodyReplaced(body={shorten(self.body)})"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The message is to be held for an administrator."""

    reason: str


Edit = (
    HeaderAdded
    | HeaderInserted
    | HeaderChanged
    | SenderChanged
    | RecipientAdded
    | RecipientDeleted
    | BodyReplaced
    | Quarantined
)
"""Anything that a milter may ask for at the end of a message."""


def edit_of(reply: MilterReply) -> Edit:
    """Return what a reply asks for; a piece of a new body is an edit of its own.

    Raises:
        TypeError: The reply is no edit.
    """
    match reply:
        case AddHeader(name, value):
            return HeaderAdded(decode_text(name), decode_text(value))
        case InsertHeader(index, name, value):
            return HeaderInserted(index, decode_text(name), decode_text(value))
        case ChangeHeader(index, name, value):
            return HeaderChanged(decode_text(name), index, decode_text(value) if value else None)
        case ChangeSender(address, params):
            return SenderChanged(decode_text(address), _optional(params))
        case AddRecipient(address):
            return RecipientAdded(decode_text(address))
        case AddRecipientWithParams(address, params):
            return RecipientAdded(decode_text(address), _optional(params))
        case DeleteRecipient(address):
            return RecipientDeleted(decode_text(address))
        case ReplaceBody(chunk):
            return BodyReplaced(chunk)
        case Quarantine(reason):
            return Quarantined(decode_text(reason))
        case _:
            raise TypeError(f"{type(reply).__name__} is no edit")


def join_bodies(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """Return the edits with the pieces of a new body as one, where the first one was."""
    bodies = [edit.body for edit in edits if isinstance(edit, BodyReplaced)]
    if len(bodies) < 2:
        return edits
    whole = BodyReplaced(b"".join(bodies))
    joined: list[Edit] = []
    is_placed = False
    for edit in edits:
        if not isinstance(edit, BodyReplaced):
            joined.append(edit)
        elif not is_placed:
            is_placed = True
            joined.append(whole)
    return tuple(joined)


def _optional(params: bytes | None) -> str | None:
    return None if params is None else decode_text(params)
