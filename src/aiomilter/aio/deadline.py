"""One timer for all the clocks of a connection; far from its time, one for many connections."""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from typing import Protocol

from aiomilter.app.host import Clock

__all__ = ["DeadlineTimer", "FarTimers", "clock_of"]

_NEVER = float("inf")
_SAME_S = 1.0
"""By how much the time of a loop may be behind in a turn that takes long."""
_TOGETHER_S = 2.0
"""Timers that are due in the same of these intervals wait for its beginning together."""


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """Return the clock that a loop's timers go by.

    That is the system's, which uvloop reads only once a turn; but not for every loop: uvloop on
    macOS also counts while the machine sleeps, and a loop for tests may have a time of its own.
    """
    is_same = abs(time.monotonic() - loop.time()) < _SAME_S
    return time.monotonic if is_same else loop.time


class _Owner(Protocol):
    """Whose deadline a timer keeps."""

    def on_deadline(self) -> None:
        """Do what is to be done when the deadline has passed."""


class FarTimers:
    """Timers that are not due soon: one of the loop's for all that are due in the same seconds.

    A timer of its own takes 150 bytes of an idle connection with asyncio, 600 with uvloop. When the
    seconds come near in which they are due, each has one all the same, so that none is late.

    Attributes:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin without timers.

        Args:
            loop: The event loop. Made in the context in which timers go off: not that of one of
                many connections.
        """
        self.loop = loop
        self._context = copy_context()
        # Keys in order, as in a set: the dictionary takes half of the room, and comes out the same.
        self._groups: dict[int, dict[DeadlineTimer, None]] = {}
        self._handles: dict[int, asyncio.TimerHandle] = {}

    def join(self, timer: DeadlineTimer, when: float) -> float | None:
        """Have a timer `come_near` in time.

        Args:
            timer: The timer.
            when: When it is due, in the loop's time.

        Returns:
            When it will come near; None if that would be now.
        """
        number = int(when // _TOGETHER_S)
        begins = number * _TOGETHER_S
        group = self._groups.get(number)
        if group is None:
            if begins <= self.loop.time():
                return None
            group = self._groups[number] = {}
            self._handles[number] = self.loop.call_at(
                begins, self._come_near, number, context=self._context
            )
        group[timer] = None
        return begins

    def leave(self, timer: DeadlineTimer, begins: float) -> None:
        """Forget a timer that has joined, and would come near at ``begins``."""
        number = int(begins // _TOGETHER_S)
        group = self._groups.get(number)
        if group is None:
            return
        group.pop(timer, None)
        if not group:
            del self._groups[number]
            self._handles.pop(number).cancel()

    def _come_near(self, number: int) -> None:
        del self._handles[number]
        for timer in self._groups.pop(number):
            timer.come_near()


class DeadlineTimer:
    """Calls back when the current deadline has passed; the deadline moves all the time.

    Hot path: setting a deadline is a comparison, not a timer (0.1 µs against 2): an armed timer
    that goes off too early looks for the current deadline and arms itself again.

    Attributes:
        deadline: In the loop's time; may be moved away without `set`.
        fires_at: When the timer goes off. A deadline before that needs `set`.
    """

    __slots__ = ("_far", "_handle", "_owner", "deadline", "fires_at")

    def __init__(self, far: FarTimers, owner: _Owner) -> None:
        self._far = far
        # Not its method, which would be an object of its own.
        self._owner = owner
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
        """Never call back again, whatever is set."""
        self.deadline = _NEVER
        self._disarm()
        self.fires_at = -_NEVER

    def come_near(self) -> None:
        """Go on alone, if there is a deadline still; for `FarTimers`."""
        self.fires_at = _NEVER
        if self.deadline < _NEVER:
            self._arm(self.deadline)

    def _arm(self, when: float) -> None:
        self._disarm()
        far = self._far
        begins = far.join(self, when)
        if begins is None:
            self._handle = far.loop.call_at(when, self._fire)
        self.fires_at = when if begins is None else begins

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        elif -_NEVER < self.fires_at < _NEVER:
            self._far.leave(self, self.fires_at)
        self.fires_at = _NEVER

    def _fire(self) -> None:
        self._handle = None
        self.fires_at = _NEVER
        if self._far.loop.time() >= self.deadline:
            self.deadline = _NEVER
            self._owner.on_deadline()
        elif self.deadline < _NEVER:
            self._arm(self.deadline)
