"""What is told about a message when it is over: one record, one line.

Rules of this file:

- Nothing of the mail's content: no header, no body, no text of a reply.
- Whatever came over the wire is made printable (control and format characters escaped) and cut
  where the record is made, so that nobody who passes it on can forget to.
- All of it fits into one line of 2 KiB, as text and as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiomilter.app.text import printable

__all__ = ["MessageRecord", "count_edits", "cut_recipients", "cut_text"]

_MAX_RECIPIENT_BYTES = 360
_ELLIPSIS = "…"
_QUOTED = frozenset(' "\\')
_EDIT_KINDS = {
    ord("h"): "add_header",
    ord("i"): "insert_header",
    ord("m"): "change_header",
    ord("e"): "change_sender",
    ord("+"): "add_recipient",
    ord("2"): "add_recipient",
    ord("-"): "delete_recipient",
    ord("b"): "replace_body",
    ord("q"): "quarantine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    r"""What is known about a message that is over.

    Text is as it stands in the log: control characters escaped (``\x1b``), cut with ``…``. What
    the milter was not shown, because it has no handler for it, is taken from the MTA's macros
    where they tell, and else None or empty.

    Attributes:
        session_id: The SMTP session.
        listener: The address that the MTA has connected to.
        queue_id: The MTA's, or None.
        client: Address and port of the SMTP client, or the address alone.
        hostname: The client's name.
        helo_name: The name that it gave.
        sender: The envelope sender as sent, usually in brackets.
        recipients: The first recipients that nobody refused.
        recipient_count: How many of these there were in all.
        refused_recipients: How many the milter refused.
        verdict: ``accept``, ``reject``, ``tempfail``, ``discard``, ``continue`` (the milter let it
            go on at the end of the message) or ``abort`` (no verdict: the message was given up).
        code: Of a reply in the milter's own words, such as 550; else None.
        enhanced_code: Such as ``5.7.1``, or None.
        stage: Where the verdict was given: ``mail``, ``rcpt``, …, ``eom``; of an abort the last
            stage that the milter was shown, or ``-``.
        edits: How many edits of each kind were sent: ``{"add_header": 2}``.
        is_quarantined: Whether one of them was to hold the message.
        seconds: From the first command of the message to the verdict.
        size_bytes: Of the headers and the body that the milter was shown.
        faults: How many handlers failed.
    """

    session_id: str
    listener: str = ""
    queue_id: str | None = None
    client: str | None = None
    hostname: str | None = None
    helo_name: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    recipient_count: int = 0
    refused_recipients: int = 0
    verdict: str
    code: int | None = None
    enhanced_code: str | None = None
    stage: str
    edits: Mapping[str, int] = field(default_factory=dict[str, int])
    is_quarantined: bool = False
    seconds: float = 0.0
    size_bytes: int = 0
    faults: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return the record as JSON takes it, without what is None or empty."""
        found: dict[str, object] = {}
        for name in self.__slots__:
            value: object = getattr(self, name)
            # 0 and False say something.
            if value or value == 0:
                found[name] = value
        found["seconds"] = round(self.seconds, 6)
        if self.recipients:
            found["recipients"] = list(self.recipients)
        if self.edits:
            found["edits"] = dict(self.edits)
        return found

    def __str__(self) -> str:
        """Return the record as one line of text for people."""
        parts = [
            f"{self.verdict} at {self.stage}",
            _pair("client", self.client),
            _pair("host", self.hostname),
            _pair("helo", self.helo_name),
            _pair("from", self.sender),
            *(_pair("to", recipient) for recipient in self.recipients),
        ]
        hidden = self.recipient_count - len(self.recipients)
        if self.code is not None:
            enhanced = "" if self.enhanced_code is None else f"/{self.enhanced_code}"
            parts.insert(1, f"code={self.code}{enhanced}")
        if hidden:
            parts.append(f"more={hidden}")
        if self.refused_recipients:
            parts.append(f"refused={self.refused_recipients}")
        if self.edits:
            parts.append("edits=" + ",".join(f"{k}:{n}" for k, n in self.edits.items()))
        if self.faults:
            parts.append(f"faults={self.faults}")
        parts.append(f"bytes={self.size_bytes} seconds={self.seconds:.3f}")
        line = " ".join(part for part in parts if part)
        return f"[{self.session_id} {self.queue_id or '-'}] {line}"


def _pair(name: str, value: str | None) -> str:
    """Return ``name=value``, the value in quotes where it could be taken for something else."""
    if value is None:
        return ""
    if not value or _QUOTED & set(value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name}={value}"


def cut_text(text: str | None, max_bytes: int, *, for_json: bool = True) -> str | None:
    """Return text made printable, and cut to a size.

    Args:
        text: Anything from the wire, possibly very long; or None.
        max_bytes: As UTF-8.
        for_json: Whether quotes and backslashes count twice, as they do in JSON and in a record.
    """
    if text is None:
        return None
    shown = printable(text[: max_bytes + 1])
    if len(shown) * 4 <= max_bytes:
        return shown
    room = max_bytes - len(_ELLIPSIS.encode())
    used = fits = 0
    for at, char in enumerate(shown):
        used += len(char.encode()) + (for_json and char in '"\\')
        if used <= room:
            fits = at + 1
        if used > max_bytes:
            return shown[:fits] + _ELLIPSIS
    return shown


def cut_recipients(recipients: Sequence[str]) -> tuple[str, ...]:
    """Return the first recipients, made printable, as far as they fit into a record."""
    found: list[str] = []
    room = _MAX_RECIPIENT_BYTES
    for recipient in recipients:
        shown = cut_text(recipient, min(room, 254))
        assert shown is not None
        # With its quotes and the comma.
        room -= len(shown.encode()) + shown.count("\\") + shown.count('"') + 4
        if found and room < 0:
            break
        found.append(shown)
        if room < 40:
            break
    return tuple(found)


def count_edits(packets: bytes) -> dict[str, int]:
    """Return how many edits of each kind there are; the pieces of a body are one.

    Args:
        packets: Whole packets of edits, as they are sent.
    """
    found: dict[str, int] = {}
    at = 0
    while at < len(packets):
        kind = _EDIT_KINDS[packets[at + 4]]
        found[kind] = 1 if kind == "replace_body" else found.get(kind, 0) + 1
        at += 4 + int.from_bytes(packets[at : at + 4])
    return found
