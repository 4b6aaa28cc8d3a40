"""What an MTA makes of a milter's edits: a message as it is delivered, or held.

Rules of this file:

- The edits are made in their order, each on what the earlier ones have left. How headers and the
  envelope are edited differs: see `postfix` and `sendmail` beside this file.
- Nothing is checked here, and nothing is refused: an edit that means nothing does what it does in
  the MTA, mostly nothing. Postfix refuses a message if another edit stands between two pieces of
  a new body; whoever calls has to see to that.
- The new body is the same in both MTAs (Postfix 3.7.11, Sendmail 8.17.1.9): all pieces together,
  each LF with or without a CR in front of it as CRLF, a missing one at the end completed; a CR
  elsewhere and a NUL stay. (Sendmail doubles a CR between which and the rest stands an empty
  piece; that is left out.)
- What an MTA does to any message, edited or not, is left out: its own Received header, and Date,
  From and Message-Id that it adds; Bcc, Content-Length and Return-Path that it drops (Postfix
  those of the client, Sendmail also those of a milter, and Full-Name, and Resent-… unless the
  client has sent one); addresses in From, To and the like that Sendmail completes; long lines
  that are folded; addresses without a domain, with a source route or needless quotes.
- One edit holds one address: of several, Postfix takes the first recipient, Sendmail all.
- The order of recipients is that in which they came; neither MTA keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from aiomilter.app.mta.content import Content
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
from aiomilter.app.mta.envelope import Envelope
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.postfix import PostfixEnvelope, PostfixHeaders
from aiomilter.app.mta.sendmail import SendmailEnvelope, SendmailHeaders

__all__ = ["Delivery", "deliver"]

_LINE_END = re.compile(rb"\r?\n")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is delivered, or held.

    Attributes:
        envelope: With the recipients that are left; there may be none.
        content: Without the MTA's own Received header.
        quarantine: The reason, if the message is held for an administrator, else None. It may be
            empty, and always is with Postfix, which does not keep it. The last one counts.
    """

    envelope: Envelope
    content: Content
    quarantine: str | None


def deliver(
    mta: Mta, envelope: Envelope, content: Content, edits: Sequence[Edit], *, leading_space: bool
) -> Delivery:
    """Return what an MTA makes of a message.

    Args:
        mta: Whose rules are used.
        envelope: With the recipients that were accepted.
        content: As the client has sent it.
        edits: In the order in which the milter has asked for them.
        leading_space: Whether the option LEADING_SPACE was agreed. Without it the MTA puts a
            blank in front of each value of a header.
    """
    if mta is Mta.POSTFIX:
        draft = _Draft(PostfixHeaders(content.headers), PostfixEnvelope(envelope))
    else:
        draft = _Draft(SendmailHeaders(content.headers), SendmailEnvelope(envelope))
    blank = "" if leading_space else " "
    for edit in edits:
        draft.make(edit, blank)
    return Delivery(
        draft.envelope.result(),
        Content(draft.headers.result(), draft.body_in_place_of(content.body)),
        "" if draft.quarantine is not None and mta is Mta.POSTFIX else draft.quarantine,
    )


class _Draft:
    """A message between two edits."""

    __slots__ = ("_pieces", "envelope", "headers", "quarantine")

    def __init__(
        self,
        headers: PostfixHeaders | SendmailHeaders,
        envelope: PostfixEnvelope | SendmailEnvelope,
    ) -> None:
        self.headers = headers
        self.envelope = envelope
        self.quarantine: str | None = None
        self._pieces: list[bytes] = []

    def make(self, edit: Edit, blank: str) -> None:
        match edit:
            case HeaderAdded(name, value):
                self.headers.add(name, blank + value)
            case HeaderInserted(index, name, value):
                self.headers.insert(index, name, blank + value)
            case HeaderChanged(name, index, value):
                self.headers.change(name, index, blank + value if value else None)
            case SenderChanged(address, params):
                self.envelope.change_sender(address, params)
            case RecipientAdded(address, params):
                self.envelope.add_recipient(address, params)
            case RecipientDeleted(address):
                self.envelope.delete_recipient(address)
            case BodyReplaced(body):
                self._pieces.append(body)
            case Quarantined(reason):
                self.quarantine = reason
            case _:
                assert_never(edit)

    def body_in_place_of(self, old: bytes) -> bytes:
        if not self._pieces:
            return old
        new = _LINE_END.sub(b"\r\n", b"".join(self._pieces))
        return new if not new or new.endswith(b"\n") else new + b"\r\n"
