"""Whose handler runs: a context variable, for the log lines of a milter's own code.

Rules of this file:

- It is set when a session and when a message begins, and for the few handlers that are called
  between messages, not for each command: what it holds looks up the queue id, which MTAs tell
  late, when somebody asks.
- Between two messages there is no queue id: the macros that are still there are the last one's.
- Tasks and threads that a handler starts inherit it. One that is still at work when the next
  message begins keeps what it knew, and is never shown the ids of another message.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

__all__ = ["MessageContext", "current_context"]


class _Source(Protocol):
    @property
    def queue_id(self) -> str | None: ...


class MessageContext:
    """The ids of a message, or of a session ahead of its first message or between two of them.

    Attributes:
        session_id: The SMTP session.
    """

    __slots__ = ("_queue_id", "_source", "session_id")

    def __init__(self, session_id: str, source: _Source | None) -> None:
        """Begin, without entering it.

        Args:
            session_id: The SMTP session.
            source: Knows the queue id as soon as there is one; None between messages.
        """
        self.session_id = session_id
        self._source = source
        self._queue_id: str | None = None

    @property
    def queue_id(self) -> str | None:
        """The queue id, or None if it is not known."""
        if self._queue_id is None and self._source is not None:
            self._queue_id = self._source.queue_id
        return self._queue_id

    def keep_queue_id(self, queue_id: str | None) -> None:
        """Take the queue id, unless it is known, and look it up no more."""
        if self._queue_id is None:
            self._queue_id = queue_id
        self._source = None

    def enter(self) -> None:
        """Make it the current one, in this task and those that it starts from now on."""
        _current.set(self)

    def end(self) -> None:
        """Note that another message begins: what comes over the wire now is that one's."""
        self._source = None


_current: ContextVar[MessageContext | None] = ContextVar("aiomilter", default=None)


def current_context() -> MessageContext | None:
    """Return the context of the handler that runs, or None outside of handlers."""
    return _current.get()
