"""Processes for work that keeps a processor busy, each of which can be ended at any moment.

Rules of this file:

- A thread cannot be ended, and shares the interpreter's lock. A process can, and does not.
- Whoever is not waited for any more is killed: after its time limit, and when its caller is
  cancelled. Another process takes its place; the others notice nothing.
- A process that ends by itself fails the call that it was at, and no other. What it has started is
  killed then, too.
- Processes are new programs, not copies of this one (fork): they have no descriptor but their two
  own, so no socket stays open because of them, and no lock is held by a thread that is not there.
- The end of this program, however it comes, is theirs: see `aiomilter.aio.process_worker`.
- No thread is needed, and no handler of SIGCHLD, which an event loop has only one of.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from aiomilter.aio import process_worker
from aiomilter.app.text import show_value
from aiomilter.errors import ConfigError, ProcessCrashed, ProcessPoolFull

__all__ = ["ProcessPool"]

_T = TypeVar("_T")

_HEAD_BYTES = 8
_START_LIMIT_S = 60.0
"""For the start of a process and the imports of a function: large models take their time."""
_WAITING_PER_WORKER = 16
_REAP_PAUSE_S = 0.002
_REAP_LIMIT_S = 5.0
"""A process that is killed is gone at once, unless a disk or network file system holds it."""


class ProcessPool:
    """Runs functions in processes of its own: for what takes processor time, or may hang.

    Use it as an asynchronous context manager, for example as the lifespan of a server::

        pool = ProcessPool()

        class Classify(Milter):
            async def on_message(self, message: Message) -> None:
                score = await pool.run(classify, message.as_bytes(), time_limit=5)

        run(Classify, "inet:8890", lifespan=pool)

    It serves the event loop in which it was opened, and so handlers that are ``async def``.

    Processes are started when they are needed, and stay. Each runs one function at a time. What a
    process has loaded (a module, a model in a global variable) is there for the next call.

    What a function logs goes nowhere unless its module sets logging up. A program that makes calls
    of functions in its own main module starts serving behind ``if __name__ == "__main__":``.

    Attributes:
        max_workers: How many processes there are at most.
        max_waiting: How many calls wait for one at most.
    """

    def __init__(self, max_workers: int | None = None, *, max_waiting: int | None = None) -> None:
        """Prepare; no process is started.

        Args:
            max_workers: How many processes there are at most; None for as many as this one may
                use processors.
            max_waiting: How many calls wait for a process at most; None for 16 a process.

        Raises:
            ConfigError: There would be no process, or less than nobody would wait.
        """
        if max_workers is None:
            max_workers = _usable_processors()
        if max_workers < 1:
            raise ConfigError(f"max_workers is at least 1, not {max_workers}")
        if max_waiting is None:
            max_waiting = _WAITING_PER_WORKER * max_workers
        if max_waiting < 0:
            raise ConfigError(f"max_waiting is at least 0, not {max_waiting}")
        self.max_workers = max_workers
        self.max_waiting = max_waiting
        # Where it was opened; None while it is closed.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(max_workers)
        self._waiting = 0
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._reaping: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Open the pool.

        Raises:
            RuntimeError: It is open.
        """
        if self._loop is not None:
            raise RuntimeError("the pool is open already")
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(self.max_workers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill all processes; a call that is under way raises `ProcessCrashed`."""
        self._loop = None
        for worker in list(self._workers):
            # The socket of one that is at work is closed by whoever waits for it.
            self._end(worker, closes=worker in self._idle)
        if self._reaping:
            await asyncio.wait(self._reaping)

    @property
    def pids(self) -> tuple[int, ...]:
        """The numbers of the processes that are there now."""
        return tuple(worker.process.pid for worker in self._workers)

    async def run(
        self, function: Callable[..., _T], *args: object, time_limit: float | None = None
    ) -> _T:
        """Run a function in a process and return what it returns, or raise what it raises.

        If the caller is cancelled, as a handler is at its own time limit, the function is ended.

        Args:
            function: A function of a module; it is named to the process, not sent there.
            *args: Its arguments; copied (pickled), as is the result.
            time_limit: How many seconds it may take; None for as long as the caller waits. The
                time in which it waits for a process, and in which the process imports its module,
                does not count.

        Raises:
            TimeoutError: It has taken longer, and was ended.
            ProcessCrashed: Its process has ended without an answer.
            ProcessPoolFull: Too many calls are waiting; nothing was done.
            RuntimeError: The pool is not open, or belongs to another event loop.
            OSError: No process can be started.
            pickle.PicklingError, TypeError, AttributeError: Something cannot be pickled.
        """
        if self._loop is None:
            raise RuntimeError("the pool is not open: use it in 'async with', or as a lifespan")
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "the pool belongs to the event loop that has opened it; from elsewhere, call "
                "asyncio.run_coroutine_threadsafe"
            )
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"a time limit is more than 0 seconds, not {time_limit!r}")
        call = pickle.dumps((function, args), pickle.HIGHEST_PROTOCOL)
        # It may be closed, and opened again, before this call is over.
        slots = self._slots
        if slots.locked() and self._waiting >= self.max_waiting:
            raise ProcessPoolFull(
                f"{self._waiting} calls are waiting for {self.max_workers} processes"
            )
        self._waiting += 1
        try:
            await slots.acquire()
        finally:
            self._waiting -= 1
        try:
            answer = await self._call(call, _name_of(function), time_limit)
        finally:
            slots.release()
        found = _Unpickler(io.BytesIO(answer[1:])).load()
        if answer[:1] == b"e":
            raise found
        return cast("_T", found)

    async def _call(self, call: bytes, name: str, time_limit: float | None) -> bytes:
        """Have a process answer a call."""
        worker = self._take_worker()
        is_fine = False
        try:
            async with _limit(_START_LIMIT_S, f"no process has begun {name} within"):
                await worker.send(call)
                answer = await worker.receive()
            if answer == b"b":
                async with _limit(time_limit, f"{name} was ended: it took longer than"):
                    answer = await worker.receive()
            is_fine = True
        except (OSError, EOFError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise ProcessCrashed(await self._explain(worker, name)) from None
        finally:
            if is_fine and worker in self._workers:
                self._idle.append(worker)
            else:
                self._end(worker)
        return answer

    def _take_worker(self) -> _Worker:
        """Return a process that has nothing to do; a new one if there is none.

        Raises:
            RuntimeError: The pool was closed meanwhile.
            OSError: None can be started.
        """
        if self._loop is None:
            raise RuntimeError("the pool is closed")
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            # Somebody has killed it: the system, for want of memory, say.
            self._end(worker)
        worker = _Worker()
        self._workers.add(worker)
        return worker

    async def _explain(self, worker: _Worker, name: str) -> str:
        """Return why a process has gone."""
        if worker not in self._workers:
            return f"{name} was ended: the pool is closed"
        # How it has ended is certain by now. What it has started goes on, and is in the group that
        # has its number until it is reaped.
        worker.kill()
        await _reap(worker.process, 1.0)
        return f"the process that ran {name} {_ending_of(worker.process.poll())}"

    def _end(self, worker: _Worker, *, closes: bool = True) -> None:
        """Kill a process, and have it reaped."""
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        worker.kill()
        if closes:
            worker.close()
        if worker.process.poll() is None:
            task = asyncio.get_running_loop().create_task(_reap(worker.process, _REAP_LIMIT_S))
            self._reaping.add(task)
            task.add_done_callback(self._reaping.discard)


class _Worker:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: It cannot be started.
        """
        self._loop = asyncio.get_running_loop()
        self._socket, calls = socket.socketpair()
        self._socket.setblocking(False)
        # Where the program has set a default timeout, it would not wait for calls.
        calls.setblocking(True)
        # One for each: who is told of its end is a property of the pipe, not of a descriptor.
        lifeline, self._lifeline = os.pipe()
        try:
            self.process = _start(calls.fileno(), lifeline)
        except BaseException:
            self.close()
            raise
        finally:
            calls.close()
            os.close(lifeline)
        self._greeting: bytes | None = pickle.dumps((list(sys.path), *_main_module()))

    async def send(self, call: bytes) -> None:
        """Send a call."""
        greeting, self._greeting = self._greeting, None
        parts = [call] if greeting is None else [greeting, call]
        for part in parts:
            await self._loop.sock_sendall(self._socket, len(part).to_bytes(_HEAD_BYTES))
            await self._loop.sock_sendall(self._socket, part)

    async def receive(self) -> bytes:
        """Return the next answer.

        Raises:
            EOFError: The process has gone.
        """
        size = int.from_bytes(await self._read(_HEAD_BYTES))
        return await self._read(size)

    async def _read(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = await self._loop.sock_recv_into(self._socket, view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(data)

    def kill(self) -> None:
        """End it at once, with all that it has started itself, unless it was reaped before."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close what leads to it."""
        self._socket.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _start(calls: int, lifeline: int) -> subprocess.Popen[bytes]:
    """Start a process. That takes a millisecond or two of the event loop, and no thread."""
    # By its path: as a module it would import all of this library first.
    command = [sys.executable, "-P", process_worker.__file__, str(calls), str(lifeline)]
    return subprocess.Popen(  # noqa: S603  (nothing in it comes from outside)
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=(calls, lifeline),
        # Its own, so that Control-C does not reach it, and that it can be ended with its children.
        process_group=0,
    )


def _name_of(function: object) -> str:
    name: object = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else show_value(function)


def _main_module() -> tuple[str | None, str | None]:
    """Return name and path of the program's main module, as far as it has them."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name: str | None = None if spec is None else spec.name
    # Since Python 3.9 the path is a whole one.
    path: str | None = getattr(main, "__file__", None)
    return name, path


class _Unpickler(pickle.Unpickler):
    """Knows what a process has in place of this program's main module."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == process_worker.MAIN_COPY:
            module_name = "__main__"
        return super().find_class(module_name, global_name)


@contextlib.asynccontextmanager
async def _limit(seconds: float | None, what: str) -> AsyncGenerator[None]:
    """Raise a `TimeoutError` that says what has taken too long."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimeoutError(f"{what} {seconds:g} s") from None


async def _reap(process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Wait for the end of a process that is about to end."""
    waited_s, pause_s = 0.0, _REAP_PAUSE_S
    while process.poll() is None and waited_s < limit_s:
        await asyncio.sleep(pause_s)
        waited_s += pause_s
        pause_s = min(2 * pause_s, 0.1)


def _ending_of(status: int | None) -> str:
    if status is None:
        return "does not answer any more"
    if status >= 0:
        return f"has ended by itself, with the exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}"


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
