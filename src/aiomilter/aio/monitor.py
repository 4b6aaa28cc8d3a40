"""A look at the event loop from within: whether it turns, and how late it is.

Rules of this file:

- The signs of life come from a timer of the loop itself, so that a loop that is stuck gives none.
- A handler that blocks stalls all connections at once; that it stays below its time limit does
  not make that any better. Each such stall is measured, and the log has one line in a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

__all__ = ["LoopMonitor"]

_logger = logging.getLogger("aiomilter")

_INTERVAL_S = 0.1
"""How often the loop is looked at. A stall shows by what is left of it when the next look is due,
so that this is well below the stalls that are warned of. All looks together take 0.15 % of a
processor that has nothing else to do."""
_WARNED_FROM_S = 0.25
"""Short of what a user notices, far above what a busy loop needs for a turn."""
_LOGGED_EVERY_S = 10.0


class LoopMonitor:
    """Measures by how much the event loop is late, and gives signs of life."""

    def __init__(
        self,
        *,
        beat: Callable[[], None] | None = None,
        beat_period: float | None = None,
        on_lag: Callable[[float], None] | None = None,
        interval: float = _INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; it begins with `start`.

        Args:
            beat: The sign of life.
            beat_period: How often it is given, in seconds; None for never.
            on_lag: Called at each look with the seconds by which the loop was late, mostly
                nearly 0.
            interval: How often the loop is looked at, in seconds.
            clock: A clock that is not set.
        """
        self._beat = beat
        self._beat_period = beat_period
        self._on_lag = on_lag
        self._interval = interval if beat_period is None else min(interval, beat_period)
        self._clock = clock
        self._due = 0.0
        self._beat_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stalls = 0
        self._worst = 0.0
        self._logged_at = float("-inf")

    def start(self) -> None:
        """Begin, within the event loop that is watched; the first sign of life is given at once."""
        self._loop = asyncio.get_running_loop()
        self._beat_due = self._clock()
        self._look_later(self._beat_due)
        self._beat_if_due(self._beat_due)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self, now: float) -> None:
        self._due = now + self._interval
        self._timer = self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        now = self._clock()
        # uvloop counts from the beginning of its turn, and may be early.
        lag = max(0.0, now - self._due)
        # The next look is there ahead of what might raise.
        self._look_later(now)
        self._beat_if_due(now)
        if lag >= _WARNED_FROM_S:
            self._warn(lag, now)
        if self._on_lag is not None:
            self._on_lag(lag)

    def _beat_if_due(self, now: float) -> None:
        if self._beat is not None and self._beat_period is not None and now >= self._beat_due:
            # Counted from now, and early by up to one look rather than late.
            self._beat_due = now + self._beat_period - self._interval
            self._beat()

    def _warn(self, lag: float, now: float) -> None:
        self._stalls += 1
        self._worst = max(self._worst, lag)
        if now - self._logged_at < _LOGGED_EVERY_S:
            return
        self._logged_at = now
        _logger.warning(
            "the event loop stood still %d time(s), for up to %.2f s, and all connections with it: "
            "something blocks in an asynchronous handler; plain def handlers run in a thread",
            self._stalls,
            self._worst,
        )
        self._stalls, self._worst = 0, 0.0
