"""Edits as an MTA is asked for them, made in a message."""

from __future__ import annotations

from collections.abc import Sequence

from aiomilter.app.message.address import EnvelopeAddress
from aiomilter.app.message.header import Header
from aiomilter.app.message.headers import Headers
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
from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.esmtp import is_recipient_param
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.postfix import PostfixEnvelope, PostfixHeaders
from aiomilter.app.mta.sendmail import SendmailEnvelope, SendmailHeaders
from aiomilter.app.text import decode_text, encode_text

__all__ = ["apply_edits"]


def apply_edits(
    message: Message, edits: Sequence[Edit], mta: Mta | None, *, leading_space: bool
) -> None:
    """Make edits in a message, each on what the earlier ones have left, as the MTA would.

    Reads and writes files if the body is large, and so may block.

    Args:
        message: The message as it is now.
        edits: In the order in which they were asked for.
        mta: By whose rules; None for those of Postfix.
        leading_space: Whether the values of headers bring the blank behind the colon.

    Raises:
        SpoolError: The new body cannot be kept; some edits may have been made.
    """
    headers = [e for e in edits if isinstance(e, HeaderAdded | HeaderInserted | HeaderChanged)]
    envelope = [
        e for e in edits if isinstance(e, SenderChanged | RecipientAdded | RecipientDeleted)
    ]
    pieces = [edit.body for edit in edits if isinstance(edit, BodyReplaced)]
    if headers:
        _edit_headers(message.headers, headers, mta, "" if leading_space else " ")
    if envelope:
        _edit_envelope(message, envelope, mta)
    if pieces:
        message.body.replace(pieces)
    for edit in edits:
        if isinstance(edit, Quarantined):
            message.quarantine(edit.reason)


def _edit_headers(
    headers: Headers,
    edits: Sequence[HeaderAdded | HeaderInserted | HeaderChanged],
    mta: Mta | None,
    blank: str,
) -> None:
    before = [(header.name, decode_text(header.raw_value)) for header in headers]
    model = SendmailHeaders(before) if mta is Mta.SENDMAIL else PostfixHeaders(before)
    for edit in edits:
        match edit:
            case HeaderAdded(name, value):
                model.add(name, blank + value)
            case HeaderInserted(index, name, value):
                model.insert(index, name, blank + value)
            case HeaderChanged(name, index, value):
                model.change(name, index, blank + value if value else None)
    for header in list(headers):
        headers.remove(header)
    for name, value in model.result():
        headers.add(Header(encode_text(name, "a name"), encode_text(value, "a value")))


def _edit_envelope(
    message: Message,
    edits: Sequence[SenderChanged | RecipientAdded | RecipientDeleted],
    mta: Mta | None,
) -> None:
    before = Envelope(message.sender, list(message.recipients))
    model = SendmailEnvelope(before) if mta is Mta.SENDMAIL else PostfixEnvelope(before)
    for edit in edits:
        match edit:
            case SenderChanged(address, params):
                model.change_sender(address, params)
            case RecipientAdded(address, params):
                model.add_recipient(address, params)
            case RecipientDeleted(address):
                model.delete_recipient(address)
    after = model.result()
    if after.sender is not before.sender:
        message.sender = EnvelopeAddress.received(after.sender.address, after.sender.params)
    _edit_recipients(message, after.recipients)


def _edit_recipients(message: Message, after: Sequence[Path]) -> None:
    """Make the recipients those of an envelope, in which one may be twice."""
    wanted: dict[tuple[str, str], EnvelopeAddress] = {}
    for path in after:
        recipient = EnvelopeAddress.received(path.address, path.params)
        wanted.setdefault(recipient.key, recipient)
    recipients = message.recipients
    for recipient in recipients:
        if recipient.key not in wanted:
            recipients.discard(recipient)
    for recipient in wanted.values():
        here = recipients.get(recipient)
        if recipient.is_null or (here is not None and here.params == recipient.params):
            continue
        recipients.add(recipient.address, [*filter(is_recipient_param, recipient.params)])
