"""What a connection is to its dispatcher: the host of handlers, with their clock and threads.

Rules of this file:

- A handler's clock starts when it waits for the first time, and counts from its call. Nearly all
  handlers wait for nothing, and a clock would cost as much as half of what is done for their
  command here.
- A handler that is cut short is cancelled, has a moment to end, and is then given up: it may go on,
  but the connection goes on without it.
- Whoever cancels the task of the connection from outside ends the connection, but the MTA has its
  answer, and the hooks run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context

from aiomilter.aio.arrival import Arrival
from aiomilter.aio.deadline import DeadlineTimer, clock_of
from aiomilter.aio.line import Line
from aiomilter.aio.memory import KeptBytes
from aiomilter.aio.phase import Phase
from aiomilter.aio.shared import Shared
from aiomilter.aio.task import ServingTask
from aiomilter.aio.threads import Job, JobState
from aiomilter.app.handlers import HandlerKind
from aiomilter.app.host import Cut
from aiomilter.app.running import LONG_S
from aiomilter.session.filter import FilterSession

__all__ = ["TIMER_LAG_S", "HandlerHost"]

TIMER_LAG_S = LONG_S
"""By how much a timer may be late in a loop that nobody blocks."""
_CANCEL_GRACE_S = 0.4
"""How long a cancelled handler may take to end before it is given up."""

# Hot path: members of an enum as globals.
_BETWEEN, _HANDLER = Phase.BETWEEN, Phase.HANDLER
_EOM, _HOOK = HandlerKind.EOM, HandlerKind.HOOK


class HandlerHost:
    """What a `Connection` knows and does to run handlers; see `aiomilter.app.host.Host`."""

    __slots__ = (
        "_arrival",
        "_config",
        "_cut",
        "_deadline_of_handler",
        "_flush_is_due",
        "_is_aborted",
        "_is_stopping",
        "_job",
        "_kept",
        "_line",
        "_loop",
        "_phase",
        "_session",
        "_strays",
        "_task",
        "_threads",
        "_timer",
        "ticket",
        "time",
    )

    def __init__(self, shared: Shared) -> None:
        self._config = shared.config
        self._kept = KeptBytes(shared.memory)
        self._threads = shared.threads
        self._loop = asyncio.get_running_loop()
        self._session = FilterSession(shared.config.max_packet_bytes)
        self._timer = DeadlineTimer(shared.far_timers(self._loop), self)
        self._phase = _BETWEEN
        self._arrival = Arrival(self._loop, copy_context())
        self._task: ServingTask | None = None
        self._line: Line | None = None
        # Of the clock that was started last; goes up, too, when a handler is given up.
        self.ticket = 0
        self.time = clock_of(self._loop)
        self._cut: Cut | None = None
        self._deadline_of_handler = 0.0
        # The last handler in a thread, and those that were given up and go on.
        self._job: Job | None = None
        self._strays: Sequence[ServingTask | Job] = ()
        self._is_aborted = self._is_stopping = self._flush_is_due = False

    def start_clock(self, limit_s: float, kind: HandlerKind, began: float | None = None) -> int:
        """Begin a handler's budget."""
        ticket, self.ticket = self.ticket, self.ticket + 1
        now = self.time() if began is None else began
        if self._is_stopping and kind is not _HOOK:
            # It was on its way when the server stopped: cut short as soon as it waits.
            limit_s = 0
        deadline = self._deadline_of_handler = now + limit_s
        self._phase = Phase.HOOK if kind is _HOOK else _HANDLER
        if kind is _EOM:
            deadline = min(deadline, now + self._config.progress_interval)
        self._timer.set(deadline)
        if self._session.outgoing and not self._flush_is_due:
            # Of commands before this one: in one write with its answer, unless the loop turns.
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        return ticket

    def stop_clock(self, ticket: int) -> Cut | None:
        """End a handler's budget; return why the handler was cut short, or None."""
        if ticket + 1 != self.ticket or self._is_aborted:
            return Cut.ABANDONED
        # Whatever the timer does now is of no account until the next phase sets it.
        self._phase = _BETWEEN
        task = self._task
        assert task is not None
        overdue_s = self.time() - self._deadline_of_handler
        if self._cut or task.is_asked_to_end or task.cancelling() or overdue_s > TIMER_LAG_S:
            return self._settle_cut(task, overdue_s)
        return None

    def _settle_cut(self, task: ServingTask, overdue_s: float) -> Cut | None:
        """Take back the cancellations of a handler that has ended; return what they meant."""
        cut, self._cut = self._cut, None
        by_handler = task.settle()
        if cut is not None and task.cancelling():
            task.uncancel()
        if task.cancelling():
            # Somebody else has cancelled the task: the loop is ending. The MTA gets its answer.
            while task.cancelling():
                task.uncancel()
            self._session.receive_eof()
            self._session.discard_input()
            self._arrival.wake_soon()
            return Cut.FROM_OUTSIDE
        if cut is None and not by_handler and overdue_s > TIMER_LAG_S:
            # The timer had no chance to say so.
            return Cut.BLOCKED_LOOP
        if cut is Cut.TIME_LIMIT and self._job and self._job.state is JobState.DROPPED:
            return Cut.NO_THREAD
        return cut or (Cut.FROM_OUTSIDE if by_handler else None)

    def run_in_thread(self, function: Callable[[], object]) -> Awaitable[object]:
        """Run a function that may block; a hook perhaps while a handler is still at work."""
        self.is_stray_at_work()
        self._job = self._threads.submit(function)
        return self._job.result()

    def keep(self, gathered_bytes: int) -> bool:
        """Count what is kept of a message; return whether memory is tight."""
        return self._kept.gather(gathered_bytes)

    def is_stray_at_work(self) -> bool:
        """Return whether a handler that was cut short goes on all the same."""
        strays = self._strays if self._job is None else (*self._strays, self._job)
        self._strays = [stray for stray in strays if not stray.done()]
        return bool(self._strays)

    async def send_progress(self) -> None:
        """Tell the MTA that the end of the message takes longer."""
        self._session.send_progress()
        self._flush()

    def _on_handler_deadline(self) -> None:
        now = self._loop.time()
        if self._cut is not None:
            self._abandon_handler()
        elif now < self._deadline_of_handler:
            # At the end of a message the timer also keeps the MTA waiting.
            self._session.send_progress()
            self._flush()
            self._timer.set(min(self._deadline_of_handler, now + self._config.progress_interval))
        elif self._is_stopping and self._phase is _HANDLER:
            self._cut_handler(Cut.STOPPING)
        elif self._session.has_eof and self._phase is _HANDLER:
            self._cut_handler(Cut.CONNECTION_LOST)
        else:
            self._cut_handler(Cut.TIME_LIMIT)

    def _cut_handler(self, cut: Cut) -> None:
        if self._cut is None and self._task is not None:
            self._task.cancel()
            self._timer.set(self._loop.time() + _CANCEL_GRACE_S)
        self._cut = cut

    def on_deadline(self) -> None:
        """Note that the time is up that the timer was set to."""
        raise NotImplementedError

    def _abandon_handler(self) -> None:
        """Go on without the handler that does not end."""
        raise NotImplementedError

    def _flush(self) -> None:
        self._flush_is_due = False
        data = self._session.data_to_send()
        if data and self._line is not None:
            self._line.write(data)
