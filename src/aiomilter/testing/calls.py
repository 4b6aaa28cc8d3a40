"""The calls that a tester can play, as values, and what is used where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass

from aiomilter.app.mta.content import Content

__all__ = ["DEFAULT_MESSAGE", "PLAYABLE", "RECIPIENT", "SENDER", "Call"]

SENDER = "sender@example.com"
RECIPIENT = "recipient@example.org"

DEFAULT_MESSAGE = Content(
    [
        ("From", " Sender <sender@example.com>"),
        ("To", " Recipient <recipient@example.org>"),
        ("Subject", " A message"),
        ("Date", " Thu, 01 Jan 2026 12:00:00 +0000"),
        ("Message-ID", " <message@example.com>"),
    ],
    b"Hello!\r\n",
)
"""A small message of text."""

PLAYABLE = frozenset(
    {
        "abort",
        "body",
        "connect",
        "data",
        "disconnect",
        "end_of_headers",
        "end_of_message",
        "header",
        "helo",
        "mail",
        "new_session",
        "quit",
        "rcpt",
        "send",
        "unknown",
    }
)
"""The methods of a tester that stand for something an MTA does."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a method of a tester.

    Attributes:
        method: Its name; one of `PLAYABLE`.
        arguments: What it is called with.
    """

    method: str
    arguments: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in PLAYABLE:
            raise ValueError(
                f"an MTA does not {self.method!r}: it does {', '.join(sorted(PLAYABLE))}"
            )

    def __repr__(self) -> str:
        """Return it as it would stand in a test."""
        return f"{self.method}({', '.join(map(repr, self.arguments))})"
