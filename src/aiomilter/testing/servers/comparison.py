"""What a case expects beside what came: messages, quarantine and notes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from aiomilter.testing.servers.case import Expected
from aiomilter.testing.servers.result import difference
from aiomilter.testing.servers.server import HeldMessage
from aiomilter.testing.servers.sink import Delivery
from aiomilter.testing.servers.template import Pattern

__all__ = ["compare_delivery", "compare_held", "compare_notes"]

_END_OF_LINES = re.compile(rb"\r\n(?![ \t])")
_OF_THE_TRANSPORT = ("SIZE=", "BODY=")
"""What a mail server says by itself when it hands a message on."""


def compare_delivery(expected: Expected, delivery: Delivery, names: Mapping[str, object]) -> str:
    """Return how a delivered message differs, as a diff; empty if it does not."""
    recipients = [_prefixed(b"to ", recipient.fill(names)) for recipient in expected.recipients]
    # Postfix sorts them, and Sendmail has an order of its own: it says nothing.
    recipients.sort(key=Pattern.show)
    envelope = [_prefixed(b"from ", expected.sender.fill(names)), *recipients]
    content = expected.content.fill(names)
    came = _envelope_lines(delivery)
    if _all_match(envelope, came) and content.matches(delivery.content):
        return ""
    return "\n".join(
        [
            *difference(envelope, came),
            "",
            *difference(content.lines(), _END_OF_LINES.split(delivery.content)),
        ]
    )


def compare_held(
    expected: Sequence[Expected], held: Sequence[HeldMessage], names: Mapping[str, object]
) -> list[str]:
    """Return how the messages in quarantine differ, a diff each."""
    differences: list[str] = []
    rest = list(held)
    for message in expected:
        sender = message.sender.fill(names).show().split(b" ")[0].strip(b"<>").decode()
        found = next((one for one in rest if one.sender == sender), None)
        if found is None:
            differences.append(f"no message from <{sender}> is held; held are {rest}")
            continue
        rest.remove(found)
        if message.reason is not None and found.reason is not None:
            # Postfix keeps none.
            reason = message.reason.fill(names)
            if not reason.matches(found.reason.encode()):
                differences.append(f"it is held for {found.reason!r}, not {reason.show()!r}")
    if rest:
        differences.append(f"held without being expected: {rest}")
    return differences


def compare_notes(expected: Sequence[Pattern], notes: Sequence[bytes]) -> list[str]:
    """Return how the notes of the milter differ, as one diff, or nothing."""
    if _all_match(expected, notes):
        return []
    return ["what the milter notes differs\n" + "\n".join(difference(expected, notes))]


def _envelope_lines(delivery: Delivery) -> list[bytes]:
    """Return the envelope as a case writes it, without what every message has."""
    params = [
        word for word in delivery.sender_params if not word.upper().startswith(_OF_THE_TRANSPORT)
    ]
    lines = [" ".join(("from", delivery.sender, *params))]
    recipients: list[str] = []
    for recipient in delivery.recipients:
        # With DSN, a server names the original recipient; that it is the same one says nothing.
        same = f"ORCPT=rfc822;{recipient.strip('<>')}".lower()
        params = [word for word in delivery.recipient_params[recipient] if word.lower() != same]
        recipients.append(" ".join(("to", recipient, *params)))
    lines += sorted(recipients)
    return [line.encode("utf-8", "surrogateescape") for line in lines]


def _prefixed(prefix: bytes, pattern: Pattern) -> Pattern:
    return Pattern((prefix, *pattern.parts))


def _all_match(patterns: Sequence[Pattern], lines: Sequence[bytes]) -> bool:
    return len(patterns) == len(lines) and all(
        pattern.matches(line) for pattern, line in zip(patterns, lines, strict=True)
    )
