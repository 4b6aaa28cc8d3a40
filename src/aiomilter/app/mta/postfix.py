"""What Postfix makes of a milter's edits.

Rules of this file, measured on Postfix 3.7.11:

- Headers are one list with Postfix' own Received header on top. An index of insertion counts all
  of it: 0 is above the own header, 1 just below.
- An index of a change counts the headers of that name as they stand at that moment, with those
  that were added and without those that were deleted. The own Received header is never meant
  (unless a Received header without a value was inserted above it; that is left out here).
- What is added comes last. A header that is changed keeps its place and takes the new spelling
  of its name; one that is not there is added.
- A recipient is added unless one with the same address (in any case), NOTIFY and ORCPT was there.
  One that the client has given has its own address for ORCPT, one that was added has none: so the
  same recipient, once from the client and once from the milter, is delivered to twice.
- A recipient is deleted, with all its duplicates, if the address is exactly the same. Then one
  with that address (in any case) may be added again.
- Of the parameters, NOTIFY and ORCPT of a recipient and RET and ENVID of the sender count, if
  rightly written. They replace those of the client one by one; all others are ignored.
- An empty recipient is ignored, an empty sender is the null sender.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.esmtp import address_of, is_recipient_param, keyword_of, param_of

__all__ = ["PostfixEnvelope", "PostfixHeaders"]

_UNFOLDED_LINE = re.compile(r"\n(?![ \t])")
_SENDER_PARAM = re.compile(r"RET=(FULL|HDRS)|ENVID=.+", re.IGNORECASE)
_OWN = ("Received", "")
"""Postfix' own Received header; it is known by its identity."""


class PostfixHeaders:
    """The headers of a message in the hands of Postfix."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        self._headers = [_OWN, *headers]

    def add(self, name: str, value: str) -> None:
        """Put a header behind all others."""
        self._headers.append((name, _folded(value)))

    def insert(self, index: int, name: str, value: str) -> None:
        """Put a header at a position; beyond the end is the end."""
        self._headers.insert(index, (name, _folded(value)))

    def change(self, name: str, index: int, value: str | None) -> None:
        """Replace one of the headers of a name, add it if it is not there, or delete it."""
        at = self._find(name, index)
        if value is None:
            if at is not None:
                del self._headers[at]
        elif at is None:
            self.add(name, value)
        else:
            self._headers[at] = (name, _folded(value))

    def result(self) -> list[tuple[str, str]]:
        """Return what is delivered, without the own Received header."""
        return [header for header in self._headers if header is not _OWN]

    def _find(self, name: str, index: int) -> int | None:
        wanted = name.lower()
        same = [
            at
            for at, header in enumerate(self._headers)
            if header is not _OWN and header[0].lower() == wanted
        ]
        number = max(index, 1) - 1
        return same[number] if number < len(same) else None


class PostfixEnvelope:
    """The envelope of a message in the hands of Postfix."""

    __slots__ = ("_recipients", "_seen", "_sender")

    def __init__(self, envelope: Envelope) -> None:
        self._sender = envelope.sender
        self._recipients: list[Path] = []
        self._seen: set[_Key] = set()
        for recipient in envelope.recipients:
            self._add(recipient, default_orcpt=f"rfc822;{recipient.address[1:-1]}")

    def change_sender(self, address: str, params: str | None) -> None:
        """Replace the sender."""
        kept = {keyword_of(param): param for param in self._sender.params}
        for param in (params or "").split():
            if _SENDER_PARAM.fullmatch(param):
                kept[keyword_of(param)] = param
        self._sender = Path(address_of(address), *kept.values())

    def add_recipient(self, address: str, params: str | None) -> None:
        """Add a recipient."""
        known = filter(is_recipient_param, (params or "").split())
        recipient = Path(address_of(address), *known)
        if recipient.address != "<>":
            self._add(recipient, default_orcpt="")

    def delete_recipient(self, address: str) -> None:
        """Delete a recipient."""
        wanted = address_of(address)
        self._recipients = [path for path in self._recipients if path.address != wanted]
        self._seen = {key for key in self._seen if key.address != wanted.lower()}

    def result(self) -> Envelope:
        """Return the envelope with which the message is delivered."""
        return Envelope(self._sender, self._recipients)

    def _add(self, recipient: Path, *, default_orcpt: str) -> None:
        key = _Key(
            recipient.address.lower(),
            param_of(recipient.params, "NOTIFY").upper(),
            (param_of(recipient.params, "ORCPT") or default_orcpt).lower(),
        )
        if key not in self._seen:
            self._seen.add(key)
            self._recipients.append(recipient)


class _Key(NamedTuple):
    """By what Postfix tells recipients from each other."""

    address: str
    notify: str
    orcpt: str


def _folded(value: str) -> str:
    """Return a value none of whose lines could be taken for another header."""
    return _UNFOLDED_LINE.sub("\n\t", value)
