"""One timer for all the clocks of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["DeadlineTimer"]

_NEVER = float("inf")


class DeadlineTimer:
    """Calls back when the current deadline has passed; the deadline moves all the time.

    Hot path: setting a deadline is a comparison, not a timer (0.1 µs against 2): an armed timer
    that goes off too early looks for the current deadline and arms itself again.

    Attributes:
        deadline: In the loop's time; may be moved away without `set`.
        fires_at: When the timer goes off. A deadline before that needs `set`.
    """

    __slots__ = ("_expired", "_handle", "_loop", "deadline", "fires_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self.deadline = _NEVER
        self.fires_at = _NEVER
        self._handle: asyncio.TimerHandle | None = None

    def set(self, deadline: float) -> None:
        """Move the deadline.

        Args:
            deadline: In the loop's time.
        """
        self.deadline = deadline
        if deadline < self.fires_at:
            self._arm(deadline)

    def clear(self) -> None:
        """Have no deadline until the next one is set."""
        self.deadline = _NEVER

    def close(self) -> None:
        """Never call back again."""
        self.deadline = _NEVER
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self.fires_at = when
        self._handle = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self.fires_at = _NEVER
        if self._loop.time() >= self.deadline:
            self.deadline = _NEVER
            self._expired()
        elif self.deadline < _NEVER:
            self._arm(self.deadline)
