"""One timer for all the clocks of a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiomilter.app.host import Clock

__all__ = ["DeadlineTimer", "clock_of"]

_NEVER = float("inf")
_SAME_S = 1.0
"""By how much the time of a loop may be behind in a turn that takes long."""


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """Return the clock that a loop's timers go by.

    That is the system's, which uvloop reads only once a turn; but not for every loop: uvloop on
    macOS also counts while the machine sleeps, and a loop for tests may have a time of its own.
    """
    is_same = abs(time.monotonic() - loop.time()) < _SAME_S
    return time.monotonic if is_same else loop.time


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
