"""What functions, programs and their surroundings may do to a `ProcessPool`."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from aiomilter import ProcessCrashed, ProcessPool
from tests.aio.process_functions import (
    add,
    count_calls,
    default_of_program,
    end_of_forked,
    end_of_terminated,
    fail_wordily,
    fork_and_crash,
    fork_and_return,
    process_id,
    signal_and_wait,
    start_and_crash,
    start_and_hang,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def pool(no_unhandled_errors: object) -> AsyncIterator[ProcessPool]:
    async with ProcessPool(1) as pool:
        yield pool


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    return path


@pytest.fixture
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(5)
    yield
    socket.setdefaulttimeout(None)


async def read_number(pipe: str) -> int:
    """Return the number that somebody writes to a named pipe."""
    return int(await asyncio.to_thread(Path(pipe).read_text))


def has_ended(pid: int, timeout_s: float = 5.0) -> bool:
    """Whether a process ends within some time; it is killed if not."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if select.select([process], [], [], timeout_s)[0]:
            return True
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return False
    finally:
        os.close(process)


# What stands around


@pytest.mark.usefixtures("default_timeout")
async def test_a_default_timeout_of_sockets_is_not_for_processes(pool: ProcessPool) -> None:
    assert [await pool.run(count_calls) for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_sigterm_is_for_the_program(pool: ProcessPool, pipe: str, tmp_path: Path) -> None:
    # systemd sends it to all processes of a service, which then lets its messages finish.
    go_on = str(tmp_path / "go on")
    os.mkfifo(go_on)
    call = asyncio.create_task(pool.run(signal_and_wait, pipe, go_on))
    await asyncio.to_thread(Path(pipe).read_bytes)
    (pid,) = pool.pids
    os.kill(pid, signal.SIGTERM)
    opened = os.open(go_on, os.O_RDWR)
    assert await call == pid
    os.close(opened)
    # What functions start is ended by it as ever.
    assert await pool.run(default_of_program) == "SIG_DFL"
    assert await pool.run(end_of_terminated, time_limit=20) == signal.SIGTERM


async def test_a_pool_is_for_the_loop_that_has_opened_it(pool: ProcessPool) -> None:
    async def run() -> int:
        return await pool.run(add, 1, 1)

    with pytest.raises(RuntimeError, match="belongs to the event loop that has opened it"):
        await asyncio.to_thread(asyncio.run, run())
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        assert await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), loop)) == 2


async def test_a_pool_that_is_opened_again_has_no_more_processes(pipe: str) -> None:
    pool = ProcessPool(1)
    async with pool:
        old = asyncio.create_task(pool.run(start_and_hang, pipe))
        await read_number(pipe)
    async with pool:
        calls = [asyncio.create_task(pool.run(process_id)) for _ in range(3)]
        with pytest.raises(ProcessCrashed, match="the pool is closed"):
            await old
        assert len({await call for call in calls}) == len(pool.pids) == 1


# What functions start


@pytest.mark.parametrize("function", [start_and_crash, fork_and_crash])
async def test_a_crash_leaves_nothing_at_work(
    pool: ProcessPool, pipe: str, function: Callable[[str], None]
) -> None:
    call = asyncio.create_task(pool.run(function, pipe))
    child = await read_number(pipe)
    async with asyncio.timeout(10):
        with pytest.raises(ProcessCrashed, match="was ended by SIGSEGV"):
            await call
    assert await asyncio.to_thread(has_ended, child)


async def test_a_time_limit_ends_what_the_function_has_started(
    pool: ProcessPool, pipe: str
) -> None:
    call = asyncio.create_task(pool.run(start_and_hang, pipe, time_limit=2))
    child = await read_number(pipe)
    with pytest.raises(TimeoutError):
        await call
    assert await asyncio.to_thread(has_ended, child)


async def test_a_function_that_returns_twice_has_one_answer(pool: ProcessPool) -> None:
    assert await pool.run(fork_and_return)
    assert await pool.run(end_of_forked, time_limit=20) == 0
    assert [await pool.run(add, 1, number) for number in range(3)] == [1, 2, 3]


PROGRAM = """\
import asyncio, sys
from aiomilter import ProcessPool
from tests.aio.process_functions import start_and_hang

async def main():
    async with ProcessPool(1) as pool:
        await pool.run(start_and_hang, sys.argv[1])

asyncio.run(main())
"""


async def test_what_functions_have_started_ends_with_a_program_that_is_killed(pipe: str) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, pipe, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    child = await read_number(pipe)
    program.kill()
    await program.wait()
    assert await asyncio.to_thread(has_ended, child)


# What comes back


async def test_what_only_looks_like_an_exception_has_a_stand_in(pool: ProcessPool) -> None:
    with pytest.raises(RuntimeError, match="an exception that cannot be pickled"):
        await pool.run(fail_wordily)


BAD_MAIN = """\
import asyncio
from aiomilter import ProcessPool

if __name__ != "__main__":
    raise KeyError("something that only the program has")

def own():
    pass

async def main():
    async with ProcessPool(1) as pool:
        for _ in range(2):
            try:
                await pool.run(own)
            except Exception as error:
                print(type(error).__name__)

asyncio.run(main())
"""


async def test_a_main_module_that_cannot_be_loaded_says_so_each_time(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(BAD_MAIN)
    program = await asyncio.create_subprocess_exec(
        sys.executable, str(path), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await program.communicate()
    assert output.split() == [b"KeyError"] * 2
