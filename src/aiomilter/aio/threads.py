"""Threads for handlers that block.

Not `concurrent.futures.ThreadPoolExecutor`: the interpreter waits for its threads at exit, and a
handler that hangs in a thread must not keep a process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import queue
import threading
from collections.abc import Callable

__all__ = ["Job", "JobState", "WorkerThreads"]

_Outcome = tuple[object, BaseException | None]


def _nothing() -> None:
    """Stand in for a function that is not to run."""


class JobState(enum.Enum):
    """How far a job has come."""

    WAITING = "it waits for a thread"
    RUNNING = "it runs"
    DONE = "it has ended"
    DROPPED = "its caller gave up before it had a thread, and it will never run"


class Job:
    """A function on its way through a thread.

    Attributes:
        state: How far it has come.
    """

    __slots__ = ("_context", "_function", "_lock", "future", "loop", "state")

    def __init__(self, function: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[_Outcome] = loop.create_future()
        self.state = JobState.WAITING
        self._function = function
        self._context = contextvars.copy_context()
        # Between a caller that gives up and a thread that begins.
        self._lock = threading.Lock()

    def done(self) -> bool:
        """Return whether it is not, or never will be, at work."""
        return self.state is not JobState.RUNNING

    async def result(self) -> object:
        """Wait for the function and return what it returns, or raise what it raises.

        If the caller is cancelled, a function that runs runs on, and its result is lost; one
        that has no thread yet never runs.
        """
        try:
            # The function's exception travels as a value: a future refuses StopIteration, and
            # what it does with SystemExit is not for a handler to decide.
            result, error = await self.future
        except asyncio.CancelledError:
            with self._lock:
                if self.state is JobState.WAITING:
                    self.state = JobState.DROPPED
                    # What it was to work on need not wait with it.
                    self._function = _nothing
            raise
        if error is not None:
            raise error
        return result

    def work(self) -> _Outcome:
        """Run the function; in the thread."""
        with self._lock:
            if self.state is JobState.DROPPED:
                return None, None
            self.state = JobState.RUNNING
        try:
            return self._context.run(self._function), None
        except BaseException as error:  # noqa: BLE001  (a handler may raise anything)
            return None, error
        finally:
            self.state = JobState.DONE


class WorkerThreads:
    """A bounded number of daemon threads, started as they are needed.

    Attributes:
        max_threads: At least 1.
    """

    def __init__(self, max_threads: int) -> None:
        self.max_threads = max_threads
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._is_closed = False

    def submit(self, function: Callable[[], object]) -> Job:
        """Run ``function`` in a thread, with the caller's context variables, or wait for one.

        Raises:
            RuntimeError: The threads have been closed.
        """
        if self._is_closed:
            raise RuntimeError("the server has stopped: no thread can be started")
        job = Job(function, asyncio.get_running_loop())
        if self._busy >= self._threads and self._threads < self.max_threads:
            name = f"aiomilter-{self._threads + 1}"
            # May fail, for want of memory or by a limit of the system: then it was not there.
            threading.Thread(target=self._work, name=name, daemon=True).start()
            self._threads += 1
        self._busy += 1
        self._jobs.put(job)
        return job

    async def run(self, function: Callable[[], object]) -> object:
        """Run ``function`` in a thread and return its result; see `submit` and `Job.result`."""
        return await self.submit(function).result()

    def close(self) -> None:
        """Let idle threads end; those that are busy end with their work or with the process."""
        self._is_closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            outcome = job.work()
            try:
                job.loop.call_soon_threadsafe(self._finish, job, outcome)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return
            del job, outcome

    def _finish(self, job: Job, outcome: _Outcome) -> None:
        self._busy -= 1
        if not job.future.done():
            job.future.set_result(outcome)
