"""One of several milters that are served as one, in one session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aiomilter.app.compose.trial import Trial
from aiomilter.app.facts import Facts
from aiomilter.app.handlers import EVENTS, Handler, HandlerTable
from aiomilter.app.milter import Milter

__all__ = ["CONTENT", "Member", "name_in_log"]

CONTENT = ("on_message", "on_header", "on_eoh", "on_body", "on_eom")
"""The handlers that are called when all of a message is there."""
_OF_MESSAGES = ("on_mail", "on_rcpt", "on_data", *CONTENT)


def name_in_log(name: str, *, is_dry: bool) -> str:
    """Return what a milter is called in the log."""
    return f"{name} (dry run: it has no effect)" if is_dry else name


@dataclass(slots=True, eq=False)
class Member:
    """A milter among others.

    Attributes:
        milter: The milter.
        table: Its handlers.
        facts: What it knows of the session.
        trial: What keeps account of what it would do, or None if it does it.
        in_session: Whether it is asked at all; False once it has accepted the session.
        in_message: Whether it has been shown the beginning of a message that it has not decided.
        is_at_work: Whether a handler of it runs, possibly one that was cut short.
        skipped: The handlers that it wants to hear no more of in this message.
        unwanted: The option bits of events that its `on_negotiate` does without.
        has_leading_space: Whether its handler of headers wants the blank behind the colon.
        wants_rejected: Whether it is also asked about recipients that the MTA has refused.
        has_dropped: Whether the log has told that a verdict of it was without effect.
    """

    milter: Milter
    table: HandlerTable
    facts: Facts
    trial: Trial | None = None
    in_session: bool = True
    in_message: bool = False
    is_at_work: bool = False
    skipped: set[str] = field(default_factory=set[str])
    unwanted: int = 0
    has_leading_space: bool = False
    wants_rejected: bool = False
    has_dropped: bool = False

    @property
    def name(self) -> str:
        """The name of its class, as it stands in the log."""
        return name_in_log(self.table.class_name, is_dry=self.trial is not None)

    @property
    def handles_messages(self) -> bool:
        """Whether it has a handler for anything that belongs to a message."""
        return any(name in self.table.by_name for name in _OF_MESSAGES)

    def handler(self, name: str) -> Handler | None:
        """Return a handler, or None if there is none or no more of this kind is wanted."""
        handler = self.table.by_name.get(name)
        if handler is None or name in self.skipped:
            return None
        row = EVENTS.get(name)
        if row is not None and row.no_option is not None and self.unwanted & row.no_option:
            return None
        return handler

    def follow(self, leader: Facts) -> None:
        """Know what is known of the session."""
        self.facts.follow(leader, self.trial.refused if self.trial is not None else ())

    def work(self, call: Callable[[], object]) -> object:
        """Run a handler that is a plain function, in a thread."""
        self.is_at_work = True
        try:
            return call()
        finally:
            self.is_at_work = False
