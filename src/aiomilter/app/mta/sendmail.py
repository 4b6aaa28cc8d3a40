"""What Sendmail makes of a milter's edits.

Rules of this file, measured on Sendmail 8.17.1.9 with the standard header lines of sendmail.cf:

- Headers are one list that begins with a slot for each header that Sendmail makes itself
  (`_OWN_NAMES`); all but its own Received header are empty if the client has sent one of that name.
  An index of insertion counts the slots: 0 is above the own Received header, 1 just below, 2 to 8
  are the same place, 9 is below the client's first header. Above 2147483647 is the top.
- A header that is deleted leaves an empty slot too. It counts on in both kinds of index, so the
  others of its name keep their numbers, and a change fills it again.
- An index of a change counts the headers of the client and of the milter; the own Received header
  is never meant. A slot that is filled keeps its place and the spelling of its name.
- What is added fills a slot of its name that Sendmail has made and nothing has filled so far. It
  else comes in front of the first header of its name, the own Received header and deleted ones
  included, and behind all others only if there is none. A change of one that is not there does
  the same.
- A slot of Sendmail's own that is filled without even a blank stays empty.
- A client's Date, From, Message-Id and so on without a value is dropped: Sendmail makes its own.
- A recipient is added unless the same address is there. A deleted one comes back with the
  parameters that it had (Sendmail also merges both NOTIFY; that is left out here).
- A recipient with an unknown or badly written parameter is not added at all, and the SMTP client
  then sees a stray line without a reply code. One that lacks its value or, as ORCPT, its type can
  even end the SMTP session.
- Parameters of a sender, also an empty list, take the place of all that the client has given;
  they are read up to the first that is unknown. Without any, those of the client stay.
- A recipient is deleted if the address is exactly the same. An empty address is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.esmtp import address_of, is_recipient_param, keyword_of

__all__ = ["SENDER_KEYWORDS", "SendmailEnvelope", "SendmailHeaders"]

_UNFOLDED_LINE = re.compile(r"\n(?![ \t])")
_OWN_RECEIVED = "Received"
_OWN_NAMES = (
    "Return-Path",
    _OWN_RECEIVED,
    "Resent-Date",
    "Date",
    "Resent-From",
    "From",
    "Full-Name",
    "Resent-Message-Id",
    "Message-Id",
)
"""The H lines of the standard sendmail.cf, in their order."""
_NEVER_EMPTY = {name.lower() for name in _OWN_NAMES} - {"return-path", "received"}
SENDER_KEYWORDS = frozenset({"AUTH", "BODY", "BY", "ENVID", "RET", "SIZE"})
"""The parameters of MAIL that Sendmail takes from a milter."""
_SIGN_BIT = 1 << 31


@dataclass(slots=True)
class _Slot:
    """A header, or a place for one: then the value is None."""

    name: str
    value: str | None
    is_own: bool = False


class SendmailHeaders:
    """The headers of a message in the hands of Sendmail."""

    __slots__ = ("_slots",)

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        self._slots = [_Slot(name, None, is_own=True) for name in _OWN_NAMES]
        for name, value in headers:
            if value.strip() or name.lower() not in _NEVER_EMPTY:
                self._slots.append(_Slot(name, value))

    def add(self, name: str, value: str) -> None:
        """Fill the slot for a header of this name, or put it in front of the others of its name."""
        slot = self._own_slot(name)
        if slot is None:
            self._put_first(name, value)
        else:
            _fill(slot, value)

    def insert(self, index: int, name: str, value: str) -> None:
        """Put a header behind the slot of that number; beyond the end is the end."""
        number = index if index < _SIGN_BIT else 0
        self._slots.insert(number + 1, _Slot(name, _folded(value)))

    def change(self, name: str, index: int, value: str | None) -> None:
        """Replace one of the headers of a name, add it if it is not there, or delete it."""
        slot = self._find(name, index) or self._own_slot(name)
        if value is None:
            if slot is not None:
                slot.value = None
        elif slot is None:
            self._put_first(name, value)
        else:
            _fill(slot, value)

    def result(self) -> list[tuple[str, str]]:
        """Return what is delivered, without the own Received header."""
        return [(slot.name, slot.value) for slot in self._slots if slot.value is not None]

    def _same(self, name: str) -> list[_Slot]:
        wanted = name.lower()
        return [slot for slot in self._slots if slot.name.lower() == wanted]

    def _own_slot(self, name: str) -> _Slot | None:
        return next(
            (slot for slot in self._same(name) if slot.is_own and slot.name != _OWN_RECEIVED), None
        )

    def _find(self, name: str, index: int) -> _Slot | None:
        same = [slot for slot in self._same(name) if not slot.is_own]
        number = max(index, 1) - 1 if index < _SIGN_BIT else 0
        return same[number] if number < len(same) else None

    def _put_first(self, name: str, value: str) -> None:
        same = self._same(name)
        at = self._slots.index(same[0]) if same else len(self._slots)
        self._slots.insert(at, _Slot(name, _folded(value)))


class SendmailEnvelope:
    """The envelope of a message in the hands of Sendmail."""

    __slots__ = ("_deleted", "_recipients", "_sender")

    def __init__(self, envelope: Envelope) -> None:
        self._sender = envelope.sender
        self._recipients: dict[str, Path] = {}
        self._deleted: set[str] = set()
        for recipient in envelope.recipients:
            self._recipients.setdefault(recipient.address, recipient)

    def change_sender(self, address: str, params: str | None) -> None:
        """Replace the sender."""
        if not address:
            return
        kept: Iterable[str] = self._sender.params
        if params is not None:
            kept = takewhile(lambda param: keyword_of(param) in SENDER_KEYWORDS, params.split())
        self._sender = Path(address_of(address), *kept)

    def add_recipient(self, address: str, params: str | None) -> None:
        """Add a recipient."""
        recipient = Path(address_of(address), *(params or "").split())
        if recipient.address != "<>" and all(map(is_recipient_param, recipient.params)):
            self._recipients.setdefault(recipient.address, recipient)
            self._deleted.discard(recipient.address)

    def delete_recipient(self, address: str) -> None:
        """Delete a recipient."""
        wanted = address_of(address)
        if wanted in self._recipients:
            self._deleted.add(wanted)

    def result(self) -> Envelope:
        """Return the envelope with which the message is delivered."""
        left = [path for address, path in self._recipients.items() if address not in self._deleted]
        return Envelope(self._sender, left)


def _fill(slot: _Slot, value: str) -> None:
    slot.value, slot.is_own = _folded(value) or None, False


def _folded(value: str) -> str:
    """Return a value none of whose lines could be taken for another header."""
    return _UNFOLDED_LINE.sub("\n ", value)
