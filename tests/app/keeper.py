"""A milter that keeps whole messages, and what MTAs may offer it, for tests of gathering."""

from __future__ import annotations

import os
from typing import Any

from aiomilter import (
    Message,
    Milter,
    Status,
)
from aiomilter.app.host import FaultPolicy
from aiomilter.app.message.collector import CollectLimits
from tests.mta import (
    BODY,
    EOM,
    HEADER,
    MAIL,
    OFFER,
    RCPT,
    offer,
)

__all__ = [
    "ANSWERS",
    "CURRENT",
    "LETTER",
    "MESSAGE",
    "NO_REPLIES",
    "OLD",
    "WAITING",
    "WHOLE",
    "Keeper",
    "change_everything",
    "descriptors",
    "keeper",
    "policy",
]

MESSAGE = (MAIL, RCPT, HEADER, BODY, EOM)
"""All of a message that is sent where only `on_message` is wanted."""

CURRENT = OFFER
OLD = offer(0x3F, 0x7F, 2)
"""Version 2: no replies are left out, nothing is skipped, blanks are taken off."""
WAITING = offer(0x1FF, 0x1FFFFF & ~0xFF000 & ~0x80)
"""A current MTA that waits for every answer: it offers no NO_REPLY_* (and so SKIP is of use)."""
NO_REPLIES = 0x80 | 0xFF000
ANSWERS = [Status.TEMPFAIL, Status.REJECT, Status.ACCEPT, Status.CONTINUE]
LETTER = {
    Status.TEMPFAIL: b"t",
    Status.REJECT: b"r",
    Status.ACCEPT: b"a",
    Status.CONTINUE: b"c",
    Status.DISCARD: b"d",
}


def policy(**limits: Any) -> FaultPolicy:
    on_limit = limits.pop("on_limit", Status.TEMPFAIL)
    on_error = limits.pop("on_error", Status.TEMPFAIL)
    return FaultPolicy(on_error, 8.0, 240.0, CollectLimits(**limits), on_limit)


class Keeper(Milter):
    """Notes each message as it is when it comes, and keeps the object."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[str], list[tuple[str, bytes]], bytes]] = []
        self.kept: list[Message] = []

    async def on_message(self, message: Message) -> Any:
        headers = [(header.name, header.raw_value) for header in message.headers]
        recipients = [str(one) for one in message.recipients]
        self.seen.append((str(message.sender), recipients, headers, message.body.read()))
        self.kept.append(message)
        return self.decide(message)

    def decide(self, message: Message) -> Any:
        return None


def keeper(base: type[Keeper] = Keeper, **attributes: Any) -> type[Keeper]:
    return type(base.__name__, (base,), attributes)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


WHOLE = (
    "<alice@a.example>",
    ["<bob@b.example>"],
    [("Subject", b"hello")],
    b"hello\r\n",
)


def change_everything(message: Message) -> None:
    message.headers.add("X-New", "1")
    message.recipients.add("<c@c.example>")
    message.body.replace(b"new\r\n")
    message.sender = "<s@s.example>"
    message.quarantine("why not")
