"""Functions in processes of their own: real ones."""

from __future__ import annotations

import asyncio
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiomilter import ConfigError, ProcessCrashed, ProcessPool, ProcessPoolFull
from aiomilter.aio import process_worker
from tests.aio.process_functions import (
    add,
    count_calls,
    crash,
    fail,
    fail_oddly,
    hang,
    leave,
    open_descriptors,
    process_id,
    return_lambda,
    signal_and_hang,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def pool(no_unhandled_errors: object) -> AsyncIterator[ProcessPool]:
    async with ProcessPool(1) as pool:
        yield pool


def has_ended(descriptor: int, timeout_s: float) -> bool:
    """Whether a process, by its pidfd, ends within some time."""
    return bool(select.select([descriptor], [], [], timeout_s)[0])


async def begin_to_hang(pool: ProcessPool, pipe: Path) -> asyncio.Task[bool]:
    """Return a call that is known to be under way, and hangs."""
    os.mkfifo(pipe)
    call = asyncio.create_task(pool.run(signal_and_hang, str(pipe)))
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    loop, has_begun = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, has_begun.set)
    waiting = asyncio.create_task(has_begun.wait())
    await asyncio.wait([call, waiting], return_when=asyncio.FIRST_COMPLETED)
    loop.remove_reader(descriptor)
    os.close(descriptor)
    assert waiting.done(), call
    return call


async def test_a_function_runs_elsewhere_and_its_result_comes_back(pool: ProcessPool) -> None:
    assert not pool.pids
    assert await pool.run(add, 20, 22) == 42
    assert await pool.run(process_id) == pool.pids[0] != os.getpid()


async def test_a_process_serves_one_call_after_the_other(pool: ProcessPool) -> None:
    assert [await pool.run(count_calls) for _ in range(3)] == [1, 2, 3]


async def test_large_arguments_and_results_go_through(pool: ProcessPool) -> None:
    data = bytes(range(256)) * 20_000
    assert await pool.run(bytes.upper, data) == data.upper()


async def test_an_exception_is_raised_here_with_the_places_there(pool: ProcessPool) -> None:
    with pytest.raises(ValueError, match=r"^no such thing\n") as caught:
        await pool.run(fail, "no such thing")
    assert "process_functions.py" in caught.value.__notes__[0]
    assert await pool.run(add, 1, 1) == 2


async def test_an_exception_that_cannot_travel_has_a_stand_in(pool: ProcessPool) -> None:
    with pytest.raises(RuntimeError, match=r"Picky: picky \(an exception that cannot be pickled"):
        await pool.run(fail_oddly)


async def test_what_cannot_be_pickled_fails_its_call_alone(pool: ProcessPool) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        await pool.run(lambda: None)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        await pool.run(return_lambda)
    assert await pool.run(add, 1, 1) == 2


async def test_a_hung_function_is_ended_at_its_time_limit(pool: ProcessPool) -> None:
    await pool.run(add, 1, 1)
    old = os.pidfd_open(pool.pids[0])
    try:
        with pytest.raises(TimeoutError, match=r"^hang was ended: it took longer than 0\.05 s$"):
            await pool.run(hang, time_limit=0.05)
        assert has_ended(old, 5)
    finally:
        os.close(old)
    assert await pool.run(add, 1, 1) == 2


async def test_a_cancelled_caller_ends_its_function(pool: ProcessPool, tmp_path: Path) -> None:
    call = await begin_to_hang(pool, tmp_path / "begun")
    old = os.pidfd_open(pool.pids[0])
    try:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert has_ended(old, 5)
    finally:
        os.close(old)
    assert await pool.run(add, 1, 1) == 2


async def test_the_others_go_on_when_one_is_ended(tmp_path: Path) -> None:
    async with ProcessPool(2) as pool:
        hung = await begin_to_hang(pool, tmp_path / "begun")
        assert await pool.run(count_calls) == 1
        hung.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hung
        assert await pool.run(count_calls) == 2


@pytest.mark.parametrize(
    ("function", "words"),
    [
        pytest.param(crash, "the process that ran crash was ended by SIGSEGV", id="signal"),
        pytest.param(leave, "ran leave has ended by itself, with the exit status 3", id="exit"),
        pytest.param(sys.exit, "with the exit status 0", id="SystemExit"),
    ],
)
async def test_a_crash_fails_its_caller_alone(
    pool: ProcessPool, function: object, words: str
) -> None:
    assert callable(function)
    crashed = asyncio.create_task(pool.run(function))
    behind = asyncio.create_task(pool.run(add, 1, 1))
    with pytest.raises(ProcessCrashed, match=words):
        await crashed
    assert await behind == 2


async def test_a_process_that_was_killed_while_idle_is_replaced(pool: ProcessPool) -> None:
    await pool.run(add, 1, 1)
    old = os.pidfd_open(pool.pids[0])
    try:
        signal.pidfd_send_signal(old, signal.SIGKILL)
        assert has_ended(old, 5)
    finally:
        os.close(old)
    assert await pool.run(add, 1, 1) == 2


async def test_calls_beyond_the_queue_are_refused(tmp_path: Path) -> None:
    async with ProcessPool(1, max_waiting=1) as pool:
        hung = await begin_to_hang(pool, tmp_path / "begun")
        waiting = asyncio.create_task(pool.run(add, 1, 1))
        await asyncio.sleep(0)
        with pytest.raises(ProcessPoolFull, match=r"^1 calls are waiting for 1 processes$"):
            await pool.run(add, 1, 1)
        hung.cancel()
        assert await waiting == 2
        with pytest.raises(asyncio.CancelledError):
            await hung


async def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    async with ProcessPool(1) as pool:
        hung = await begin_to_hang(pool, tmp_path / "begun")
        waiting = asyncio.create_task(pool.run(add, 1, 1))
        await asyncio.sleep(0)
    with pytest.raises(ProcessCrashed, match="the pool is closed"):
        await hung
    with pytest.raises(RuntimeError, match="the pool is closed"):
        await waiting
    assert not pool.pids


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with ProcessPool(1) as pool:
        await pool.run(add, 1, 1)
    async with ProcessPool(2) as pool:
        descriptors = len(os.listdir("/proc/self/fd"))
        threads = threading.active_count()
        hung = await begin_to_hang(pool, tmp_path / "begun")
        await pool.run(add, 1, 1)
        processes = [os.pidfd_open(pid) for pid in pool.pids]
    with pytest.raises(ProcessCrashed):
        await hung
    assert all(has_ended(process, 0) for process in processes)
    for process in processes:
        os.close(process)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


async def test_a_process_inherits_no_descriptor(pool: ProcessPool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        os.set_inheritable(listener.fileno(), True)
        assert sorted(await pool.run(open_descriptors)) == ["pipe", "socket"]


PROGRAM = """\
import asyncio, sys
from aiomilter import ProcessPool
from tests.aio.process_functions import hang, process_id

class Wrong(Exception):
    pass

def own(number):
    import multiprocessing  # it has ideas of its own about main modules
    if number < 0:
        raise Wrong(number)
    return number + 1

async def main():
    async with ProcessPool(2) as pool:
        assert await pool.run(own, 1) == 2
        try:
            await pool.run(own, -1)
        except Wrong:
            pass
        calls = [asyncio.create_task(pool.run(hang)) for _ in range(2)]
        while len(pool.pids) < 2:
            await asyncio.sleep(0.001)
        print(*pool.pids, flush=True)
        await asyncio.gather(*calls)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_processes_end_with_a_program_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        str(path),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert program.stdout is not None
    processes: list[int] = []
    try:
        async with asyncio.timeout(20):
            line = await program.stdout.readline()
        # Of functions in the program's own file, too.
        processes = [os.pidfd_open(int(pid)) for pid in line.split()]
        assert len(processes) == 2
        assert not any(has_ended(process, 0) for process in processes)
        program.kill()
        await program.wait()
        assert all(has_ended(process, 5) for process in processes)
    finally:
        if program.returncode is None:
            program.kill()
        await program.communicate()
        for process in processes:
            os.close(process)


async def test_control_c_is_not_for_processes(pool: ProcessPool) -> None:
    await pool.run(add, 1, 1)
    os.kill(pool.pids[0], signal.SIGINT)
    assert await pool.run(count_calls) == 1
    assert os.getpgid(pool.pids[0]) != os.getpgid(0)


async def test_a_pool_that_is_not_open_says_so() -> None:
    pool = ProcessPool(1)
    with pytest.raises(RuntimeError, match="is not open"):
        await pool.run(add, 1, 1)
    async with pool:
        with pytest.raises(RuntimeError, match="is open already"):
            await pool.__aenter__()
        with pytest.raises(ValueError, match="more than 0 seconds"):
            await pool.run(add, 1, 1, time_limit=0)
    async with pool:
        assert await pool.run(add, 1, 1) == 2


def test_senseless_settings_are_refused() -> None:
    assert ProcessPool().max_workers >= 1
    with pytest.raises(ConfigError, match="max_workers is at least 1"):
        ProcessPool(0)
    with pytest.raises(ConfigError, match="max_waiting is at least 0"):
        ProcessPool(1, max_waiting=-1)


# The program of a process, in this one


def frame(data: bytes) -> bytes:
    return len(data).to_bytes(8) + data


def answers_to(*calls: bytes) -> list[bytes]:
    """Return what `serve_calls` answers."""
    here, there = socket.socketpair()
    with here, there:
        greeting = pickle.dumps((list(sys.path), None, None))
        here.sendall(b"".join(map(frame, (greeting, *calls))))
        here.shutdown(socket.SHUT_WR)
        process_worker.serve_calls(there.fileno())
        there.close()
        data = b"".join(iter(lambda: here.recv(65_536), b""))
    found: list[bytes] = []
    while data:
        end = 8 + int.from_bytes(data[:8])
        found.append(data[8:end])
        data = data[end:]
    return found


def test_each_call_has_a_beginning_and_an_answer() -> None:
    good = pickle.dumps((add, (1, 2)))
    bad = pickle.dumps((fail, ("no",)))
    begun, result, begun_too, failed = answers_to(good, bad)
    assert begun == begun_too == b"b"
    assert (result[:1], pickle.loads(result[1:])) == (b"r", 3)
    assert failed[:1] == b"e"
    assert repr(pickle.loads(failed[1:])) == "ValueError('no')"


def test_a_call_that_cannot_be_read_is_an_error() -> None:
    (failed,) = answers_to(b"")
    assert failed[:1] == b"e"
    assert "the call cannot be read" in str(pickle.loads(failed[1:]))


def test_half_a_call_is_the_end() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(frame(pickle.dumps((list(sys.path), None, None))) + b"\0\0")
        here.close()
        process_worker.serve_calls(there.fileno())
