"""Threads for handlers that block.

Not `concurrent.futures.ThreadPoolExecutor`: the interpreter waits for its threads at exit, and a
handler that hangs in a thread must not keep a process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable

__all__ = ["WorkerThreads"]

_Outcome = tuple[object, BaseException | None]


class _Job:
    __slots__ = ("context", "function", "future", "loop")

    def __init__(self, function: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.future: asyncio.Future[_Outcome] = loop.create_future()
        self.context = contextvars.copy_context()


class WorkerThreads:
    """A bounded number of daemon threads, started as they are needed.

    Attributes:
        max_threads: At least 1.
    """

    def __init__(self, max_threads: int) -> None:
        self.max_threads = max_threads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._is_closed = False

    async def run(self, function: Callable[[], object]) -> object:
        """Run ``function`` in a thread, with the caller's context variables.

        If the caller is cancelled, the function runs on and its result is lost. If all threads
        are busy, it waits for one.

        Raises:
            RuntimeError: The threads have been closed.
            BaseException: Whatever the function raises.
        """
        if self._is_closed:
            raise RuntimeError("the server has stopped: no thread can be started")
        job = _Job(function, asyncio.get_running_loop())
        self._busy += 1
        if self._busy > self._threads and self._threads < self.max_threads:
            self._threads += 1
            name = f"aiomilter-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._jobs.put(job)
        # The function's exception travels as a value: a future refuses StopIteration, and what
        # it does with SystemExit is not for a handler to decide.
        result, error = await job.future
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Let idle threads end; those that are busy end with their work or with the process."""
        self._is_closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            outcome: _Outcome = None, None
            try:
                # A caller that was cancelled while it waited for a thread wants it no more.
                if not job.future.cancelled():
                    outcome = job.context.run(job.function), None
            except BaseException as error:  # noqa: BLE001  (a handler may raise anything)
                outcome = None, error
            try:
                job.loop.call_soon_threadsafe(self._finish, job, outcome)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return
            del job, outcome

    def _finish(self, job: _Job, outcome: _Outcome) -> None:
        self._busy -= 1
        if not job.future.done():
            job.future.set_result(outcome)
