"""Threads for handlers that block: bounded, with context, and no hindrance at the end."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading

import pytest

from aiomilter import EomActions, Milter, Status
from aiomilter.aio.threads import WorkerThreads
from tests.aio.serving import Journal, session
from tests.mta import EOM, MAIL, RCPT

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


async def test_a_function_runs_in_another_thread_with_the_callers_context() -> None:
    threads = WorkerThreads(2)
    variable.set("caller's")
    assert await threads.run(variable.get) == "caller's"
    assert await threads.run(threading.get_ident) != threading.get_ident()
    await threads.run(lambda: variable.set("thread's"))
    assert variable.get() == "caller's"
    threads.close()


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_what_a_function_raises_comes_back(error: BaseException) -> None:
    def fail() -> None:
        raise error

    threads = WorkerThreads(1)
    with pytest.raises(type(error)) as caught:
        await threads.run(fail)
    assert caught.value is error
    assert await threads.run(lambda: 1) == 1
    threads.close()


async def test_idle_threads_are_used_again() -> None:
    threads = WorkerThreads(8)
    seen = {await threads.run(threading.get_ident) for _ in range(20)}
    assert len(seen) == 1
    threads.close()


async def test_there_are_never_more_threads_than_allowed() -> None:
    threads = WorkerThreads(3)
    lock = threading.Lock()
    running = most = 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.005)
        with lock:
            running -= 1

    await asyncio.gather(*(threads.run(work) for _ in range(20)))
    assert 1 < most <= 3
    threads.close()


async def test_a_caller_that_was_cancelled_while_it_waited_is_not_served() -> None:
    threads = WorkerThreads(1)
    release = threading.Event()
    called: list[str] = []
    busy = asyncio.ensure_future(threads.run(release.wait))
    waiting = asyncio.ensure_future(threads.run(lambda: called.append("too late")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    assert await busy is True
    assert await threads.run(lambda: "next") == "next"
    assert called == []
    threads.close()


async def test_a_function_whose_caller_was_cancelled_runs_on_unheard() -> None:
    threads = WorkerThreads(1)
    release = threading.Event()
    journal = Journal()

    def work() -> None:
        journal.note("begun")
        release.wait()
        journal.note("done")

    task = asyncio.ensure_future(threads.run(work))
    await journal.until("begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await journal.until("done")
    assert await threads.run(lambda: 1) == 1
    threads.close()


async def test_after_the_end_no_function_is_run() -> None:
    threads = WorkerThreads(1)
    assert await threads.run(lambda: 1) == 1
    threads.close()
    with pytest.raises(RuntimeError, match="the server has stopped"):
        await threads.run(lambda: 1)


async def test_idle_threads_end_with_the_server() -> None:
    class Blocking(Milter):
        def on_mail(self, sender: str, params: list[str]) -> None:
            journal.note(threading.current_thread().name)

    journal = Journal()
    async with session(Blocking) as mta:
        assert await mta.ask(MAIL) == b"c"
    (name,) = journal.entries
    for thread in threading.enumerate():
        if thread.name == name:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()


async def test_handlers_in_threads_do_not_wait_for_each_other_nor_hold_up_the_loop() -> None:
    barrier = threading.Barrier(3, timeout=5)

    class Meeting(Milter):
        def on_mail(self, sender: str, params: list[str]) -> None:
            barrier.wait()

    async with session(Meeting, "inet:0", "inet:0", "inet:0") as mta:
        mta.send(MAIL)
        await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(2)))
        assert await mta.reply() == b"c"


async def test_plain_and_async_handlers_may_be_mixed_in_one_milter() -> None:
    class Mixed(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            self.seen = [threading.get_ident()]

        def on_rcpt(self, recipient: str, params: list[str]) -> None:
            self.seen.append(threading.get_ident())

        def on_eom(self, actions: EomActions) -> Status:
            self.seen.append(threading.get_ident())
            actions.add_header("X", str(self.seen[0] not in self.seen[1:]))
            return Status.ACCEPT

    async with session(Mixed) as mta:
        assert await mta.converse(MAIL, RCPT) == b"cc"
        assert await mta.ask(EOM) == b"hX\0True\0"


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending() -> None:
    code = (
        "import asyncio, threading\n"
        "from aiomilter.aio.threads import WorkerThreads\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(WorkerThreads(1).run(threading.Event().wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=10)


def test_a_function_that_ends_after_its_loop_is_nobodys_trouble() -> None:
    code = (
        "import asyncio, threading\n"
        "from aiomilter.aio.threads import WorkerThreads\n"
        "release = threading.Event()\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(WorkerThreads(1).run(release.wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
        "release.set()\n"
        "for thread in threading.enumerate():\n"
        "    if thread is not threading.main_thread():\n"
        "        thread.join(5)\n"
        "        assert not thread.is_alive()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=10, capture_output=True, text=True
    )
    assert run.stderr == ""
