"""A budget for what all connections together have taken in and not yet served.

One connection is bounded by itself (two packets, then it is no longer read from); many of them
are bounded by this: above three quarters of the budget nobody is read from who waits for a handler,
until enough was served, and the others are read from in small pieces. What comes on top are packets
that have arrived in part: one for each connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiomilter.aio.line import Line

__all__ = ["COUNTED_BYTES", "SIP_BYTES", "KeptBytes", "MemoryBudget"]

COUNTED_BYTES = 4096
"""Less than this is not worth counting: all connections have that much."""
SIP_BYTES = 8192
"""How much is read at a time while memory is tight."""
_PAUSE_ABOVE, _RESUME_BELOW = 0.75, 0.6
"""As shares of the budget. The distance between them keeps connections from taking turns."""


class MemoryBudget:
    """Counts bytes, and has those who wait told when there is room again.

    Attributes:
        used: How many bytes are kept now.
        is_tight: Whether connections that wait for a handler should not be read from.
    """

    def __init__(self, max_bytes: int) -> None:
        self.used = 0
        # Hot path: asked ahead of each read, and so no property.
        self.is_tight = False
        self._pause_above = int(max_bytes * _PAUSE_ABOVE)
        self._resume_below = int(max_bytes * _RESUME_BELOW)
        self._waiting: dict[object, Callable[[], None]] = {}

    def change(self, by: int) -> None:
        """Count bytes that were taken in, or served (below 0)."""
        self.used += by
        self.is_tight = self.used > self._pause_above
        if self._waiting and self.used < self._resume_below:
            waiting, self._waiting = self._waiting, {}
            for resume in waiting.values():
                resume()

    def wait(self, who: object, resume: Callable[[], None]) -> None:
        """Have ``resume`` called once, when there is room again."""
        self._waiting[who] = resume

    def forget(self, who: object) -> None:
        """Take back a `wait`, if there is one."""
        self._waiting.pop(who, None)


class KeptBytes:
    """What one connection has taken in and not yet served.

    Attributes:
        bytes: How many they are, as far as they count.
    """

    __slots__ = ("_budget", "_gathered_bytes", "bytes")

    def __init__(self, budget: MemoryBudget) -> None:
        self.bytes = 0
        self._gathered_bytes = 0
        self._budget = budget

    def gather(self, gathered_bytes: int) -> bool:
        """Tell the budget how much of a message is kept; return whether memory is tight."""
        by, self._gathered_bytes = gathered_bytes - self._gathered_bytes, gathered_bytes
        self.bytes += by
        if by:
            self._budget.change(by)
        return self._budget.is_tight

    def count(self, buffered_bytes: int, busy_line: Line | None = None) -> None:
        """Tell the budget how much is kept now.

        Args:
            buffered_bytes: All that has come in and is not served.
            busy_line: The line, if it need not be read from because a handler runs: it is not,
                as long as memory is tight. Whoever has sent half a packet is read from all the
                same: it is the other half that lets go of the memory.
        """
        buffered_bytes = buffered_bytes if buffered_bytes >= COUNTED_BYTES else 0
        kept = buffered_bytes + self._gathered_bytes
        budget = self._budget
        if kept != self.bytes:
            by, self.bytes = kept - self.bytes, kept
            budget.change(by)
        if buffered_bytes and busy_line is not None and budget.is_tight:
            busy_line.pause_reading()
            budget.wait(self, busy_line.resume_reading)

    def release(self) -> None:
        """The connection is over."""
        self._budget.forget(self)
        self._budget.change(-self.bytes)
        self.bytes = self._gathered_bytes = 0
