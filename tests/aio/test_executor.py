"""Threads for `asyncio.to_thread` that do not keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from aiomilter.aio.executor import DaemonExecutor
from aiomilter.aio.runner import new_event_loop

PATIENCE_S = 10.0


def test_results_and_exceptions_come_back() -> None:
    executor = DaemonExecutor(2)
    assert executor.submit(divmod, 7, 2).result(PATIENCE_S) == (3, 1)
    failed = executor.submit(int, "x")
    assert isinstance(failed.exception(PATIENCE_S), ValueError)

    def leave() -> None:
        raise SystemExit(3)

    assert isinstance(executor.submit(leave).exception(PATIENCE_S), SystemExit)
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    executor.shutdown()


def test_there_are_no_more_threads_than_needed_and_all_are_daemons() -> None:
    executor = DaemonExecutor(2)
    seen: set[threading.Thread] = set()
    release, begun = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        seen.add(threading.current_thread())
        begun.release()
        release.wait(PATIENCE_S)

    for _ in range(3):
        executor.submit(seen.add, threading.current_thread()).result(PATIENCE_S)
    assert len(executor._started) <= 2
    waiting = [executor.submit(wait) for _ in range(3)]
    for _ in range(2):
        assert begun.acquire(timeout=PATIENCE_S)
    assert not waiting[2].running()
    release.set()
    for one in waiting:
        one.result(PATIENCE_S)
    executor.shutdown()
    seen.discard(threading.current_thread())
    assert len(seen) == 2
    assert all(thread.daemon and not thread.is_alive() for thread in seen)


def test_after_a_shutdown_nothing_is_taken() -> None:
    executor = DaemonExecutor(1)
    release = threading.Event()
    executor.submit(release.wait, PATIENCE_S)
    waits = executor.submit(int)
    given_up = executor.submit(int)
    given_up.cancel()
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="have been shut down"):
        executor.submit(int)
    release.set()
    assert waits.result(PATIENCE_S) == 0
    executor.shutdown()
    assert not any(thread.is_alive() for thread in executor._started)


def test_a_shutdown_may_drop_what_has_no_thread_yet() -> None:
    executor = DaemonExecutor(1)
    release, begun = threading.Event(), threading.Event()

    def wait() -> int:
        begun.set()
        release.wait(PATIENCE_S)
        return 1

    runs = executor.submit(wait)
    assert begun.wait(PATIENCE_S)
    waits = executor.submit(int)
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waits.result(PATIENCE_S)
    release.set()
    assert runs.result(PATIENCE_S) == 1


@pytest.mark.parametrize("uvloop", [False, True])
def test_event_loops_take_it(uvloop: bool) -> None:
    async def use() -> str:
        thread = await asyncio.to_thread(threading.current_thread)
        assert thread.daemon
        return thread.name

    with asyncio.Runner(loop_factory=lambda: new_event_loop(uvloop)) as runner:
        assert runner.run(use()).startswith("asyncio_")
