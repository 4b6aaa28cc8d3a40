"""What has to be done at the MTA to make the message that an author wants of the one that came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from aiomilter.app.message.body import Body
from aiomilter.app.message.envelope_edits import recipient_edits, sender_edits
from aiomilter.app.message.header_edits import header_edits
from aiomilter.app.message.message import Message
from aiomilter.app.mta.edits import (
    BodyReplaced,
    Edit,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.app.mta.kind import Mta

__all__ = ["EditTarget", "Plan", "plan_difference", "plan_edits"]


class EditTarget(Protocol):
    """Whoever takes edits; `EomActions` does."""

    def add_header(self, name: str, value: str) -> None:
        """Put a header behind all others."""

    def insert_header(self, index: int, name: str, value: str) -> None:
        """Put a header at a position."""

    def change_header(self, name: str, index: int, value: str | None) -> None:
        """Replace or delete a header."""

    def change_sender(self, address: str, params: str | Sequence[str] | None = None) -> None:
        """Replace the sender."""

    def add_recipient(self, address: str, params: str | Sequence[str] | None = None) -> None:
        """Add a recipient."""

    def delete_recipient(self, address: str) -> None:
        """Delete a recipient."""

    def replace_body(self, data: bytes) -> None:
        """Add a piece to the new body."""

    def quarantine(self, reason: str) -> None:
        """Have the message held."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The edits of one message.

    Attributes:
        edits: In the order in which they have to be made; a new body is not among them.
        body: The new body, or None if it is the old one.
        losses: What this MTA cannot be brought to do, in words for a log; mostly empty.
    """

    edits: tuple[Edit, ...]
    body: Body | None
    losses: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.edits) or self.body is not None

    def apply(self, target: EditTarget) -> None:
        """Make all edits.

        Reads the body if there is a new one, which blocks if that is in a file
        (`Body.is_spooled`). What the target raises ends it; edits made until then are the
        target's.

        Raises:
            SpoolError: The new body cannot be read.
        """
        for edit in self.edits:
            _make(edit, target)
        if self.body is not None:
            if not self.body.size:
                target.replace_body(b"")
            for chunk in self.body.iter_chunks():
                target.replace_body(chunk)


def plan_edits(message: Message, mta: Mta | None = None, *, leading_space: bool = True) -> Plan:
    """Return the smallest set of edits that makes a message what it is now.

    Args:
        message: The message, changed or not.
        mta: Which MTA it is (`detect_mta`). None: not known; then the edits are right on Postfix
            and on Sendmail, and there may be some more of them.
        leading_space: Whether the option LEADING_SPACE was agreed.

    Raises:
        SpoolError: Its bodies cannot be compared.
    """
    sender, lost_of_sender = sender_edits(message.original_sender, message.sender, mta)
    recipients, lost_of_recipients = recipient_edits(message.recipients, mta)
    headers = message.headers
    edits: list[Edit] = [*sender, *recipients]
    if headers.is_changed:
        edits += header_edits(headers.original, list(headers), mta, leading_space=leading_space)
    if message.quarantine_reason is not None:
        edits.append(Quarantined(message.quarantine_reason))
    return Plan(
        tuple(edits),
        message.body if message.body.is_changed() else None,
        (*lost_of_sender, *lost_of_recipients),
    )


def plan_difference(
    before: Message, after: Message, mta: Mta | None = None, *, leading_space: bool = True
) -> Plan:
    """Return the smallest set of edits that makes one message of another, both changed or not.

    Args:
        before: The message to begin with.
        after: The same one with more changes (`Message.copy`).
        mta: As for `plan_edits`.
        leading_space: As for `plan_edits`.

    Raises:
        SpoolError: Their bodies cannot be compared.
    """
    sender, lost_of_sender = sender_edits(before.sender, after.sender, mta)
    recipients, lost_of_recipients = recipient_edits(after.recipients.since(before.recipients), mta)
    edits: list[Edit] = [*sender, *recipients]
    edits += header_edits(
        list(before.headers), list(after.headers), mta, leading_space=leading_space
    )
    reason = after.quarantine_reason
    if reason is not None and reason != before.quarantine_reason:
        edits.append(Quarantined(reason))
    is_other_body = after.body.differs_from(before.body)
    return Plan(
        tuple(edits),
        after.body if is_other_body else None,
        (*lost_of_sender, *lost_of_recipients),
    )


def _make(edit: Edit, target: EditTarget) -> None:
    match edit:
        case HeaderAdded(name, value):
            target.add_header(name, value)
        case HeaderInserted(index, name, value):
            target.insert_header(index, name, value)
        case HeaderChanged(name, index, value):
            target.change_header(name, index, value)
        case SenderChanged(address, params):
            target.change_sender(address, params)
        case RecipientAdded(address, params):
            target.add_recipient(address, params)
        case RecipientDeleted(address):
            target.delete_recipient(address)
        case BodyReplaced(body):
            target.replace_body(body)
        case Quarantined(reason):
            target.quarantine(reason)
        case _:
            assert_never(edit)
