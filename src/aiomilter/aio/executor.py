"""The threads of ``asyncio.to_thread``, without a hold on the end of the process.

The interpreter waits at its exit for all threads of a `ThreadPoolExecutor`. One handler that hangs
in ``asyncio.to_thread`` would keep a stopped program from ending until somebody kills it.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["DaemonExecutor"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MOST_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""As many as in asyncio's own."""


class DaemonExecutor(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` of daemon threads.

    Event loops take no other class. Only its interface is used; calls and threads are kept here.
    """

    def __init__(self, max_workers: int = _MOST_THREADS) -> None:
        """Prepare; threads are started as they are needed.

        Args:
            max_workers: How many functions run at a time, at least 1.
        """
        super().__init__(max_workers)
        self._most = max_workers
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._guard = threading.Lock()
        self._started: list[threading.Thread] = []
        self._unfinished = 0
        self._is_shut_down = False

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run a function in a thread.

        Raises:
            RuntimeError: The executor has been shut down.
        """
        future: Future[_T] = Future()
        with self._guard:
            if self._is_shut_down:
                raise RuntimeError("the threads have been shut down")
            if self._unfinished >= len(self._started) < self._most:
                name = f"asyncio_{len(self._started)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                # May fail, for want of memory or by a limit of the system: then it was not there.
                thread.start()
                self._started.append(thread)
            self._unfinished += 1
        self._calls.put((future, functools.partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more functions, and let threads end when they are done.

        Args:
            wait: Whether to wait for them.
            cancel_futures: Whether functions that have no thread yet never run.
        """
        with self._guard:
            threads = list(self._started)
            if not self._is_shut_down:
                self._is_shut_down = True
                if cancel_futures:
                    self._cancel_waiting()
                for _ in threads:
                    self._calls.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _cancel_waiting(self) -> None:
        try:
            while (call := self._calls.get_nowait()) is not None:
                call[0].cancel()
        except queue.Empty:
            pass

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            finish = self._run(*call)
            with self._guard:
                self._unfinished -= 1
            finish()
            # Nothing of it is kept while this waits for the next one.
            del call, finish

    @staticmethod
    def _run(future: Future[Any], function: Callable[[], Any]) -> Callable[[], object]:
        """Run a function; return what tells of its end."""
        if not future.set_running_or_notify_cancel():
            return future.cancelled
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  (it is the caller's)
            return functools.partial(future.set_exception, error)
        return functools.partial(future.set_result, result)
