"""What the task of a connection waits for between two reads: the next event.

Rules of this file:

- What needs no waiting is served without the task (`aiomilter.app.stepping`); for the rest it is
  woken at once, in the callback that has brought the bytes. A future of asyncio wakes it in the
  next turn of the loop, which costs another call of epoll, a handle and a new future.
- To the task it is a future like any other: `asyncio.Task` knows one by the attribute
  ``_asyncio_future_blocking`` (so does `asyncio.isfuture`), asks it to call back, and takes its own
  steps. So whatever a handler may use that asks for the current task, such as `asyncio.timeout`,
  sees what it always sees.
- One step of a task cannot be taken within another's. Whoever may be called from a task wakes with
  `wake_soon`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from itertools import repeat
from typing import TypeAlias

from aiomilter.app.stepping import Waiting
from aiomilter.session.events import Event

__all__ = ["Arrival", "Wakeup"]

Wakeup: TypeAlias = Callable[["Arrival"], object]
"""A task's own: called with what it has waited for, it takes the next step."""


class Arrival:
    """Awaited by one task again and again; then there may be an event.

    Attributes:
        context: That of the task.
        event: What the task was woken with, for the task to take away.
        wakeup: What makes the task go on, if it waits and nothing has woken it yet; else None.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_is_cancelled",
        "_is_due",
        "_loop",
        "context",
        "event",
        "wakeup",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        # The name is asyncio's: where it looks for the loop of a future.
        self._loop = loop
        self._asyncio_future_blocking = False
        self.wakeup: Wakeup | None = None
        self.context = context
        self.event: Event | Waiting | None = None
        self._is_due = self._is_cancelled = False

    def wake_now(self, event: Event | Waiting) -> None:
        """Let the task go on with an event, before this returns.

        For a callback of the event loop: not from within a task. If the task has been woken
        already, it finds the event when it goes on, and looks for more before it waits again: that
        is what it was woken for.
        """
        wakeup = self.wakeup
        self.event = event
        if wakeup is None:
            self._is_due = True
            return
        self.wakeup = None
        try:
            self.context.run(wakeup, self)
        except RuntimeError:
            # asyncio refuses it, ahead of anything else, where a task is at work: a transport that
            # somebody feeds from one.
            self._loop.call_soon(wakeup, self, context=self.context)

    def wake_soon(self) -> None:
        """Let the task go on without an event: when the loop next turns, or when it next waits."""
        wakeup = self.wakeup
        if wakeup is None:
            self._is_due = True
        else:
            self.wakeup = None
            self._loop.call_soon(wakeup, self, context=self.context)

    # What asyncio.Task asks of a future

    def __await__(self) -> Generator[Arrival, None, None]:
        if self._is_due:
            self._is_due = False
            return repeat(self, 0)  # type: ignore[return-value]  # pyright: ignore[reportReturnType]
        self._asyncio_future_blocking = True
        # Any iterator will do. Of each idle connection, a generator would take 200 bytes, and an
        # iterator in Python the 300 of a frame that its StopIteration has passed through.
        return repeat(self, 1)  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    def add_done_callback(self, wakeup: Wakeup, *, context: Context) -> None:
        """Keep what wakes the task, which is its own context."""
        del context
        self.wakeup = wakeup

    def cancel(self, msg: object = None) -> bool:
        """Wake the task with a cancellation; return False if it is awake already."""
        del msg
        if self.wakeup is None:
            return False
        self._is_cancelled = True
        self.wake_soon()
        return True

    def result(self) -> None:
        """Raise what the task is woken with, if that is an exception."""
        if self._is_cancelled:
            self._is_cancelled = False
            raise asyncio.CancelledError
