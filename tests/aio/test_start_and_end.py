"""A start that is cut short, a lifespan that fails or hangs; and nothing is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop as uvloop_module

from aiomilter import Config, ConfigError, Milter, Server, run
from aiomilter.aio import runner
from aiomilter.aio.metrics_http import MetricsServer
from tests.aio.program import Program
from tests.aio.serving import errors, warnings
from tests.mta import CONNECT, HELO, OFFER, Mta

both_loops = pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
PATIENCE_S = 10.0


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """What systemd was told, as far as it was told by now: the first line of each message."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)

        def told() -> list[str]:
            found: list[str] = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(sock.recv(4096).decode().partition("\n")[0])
            return found

        yield told


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait seconds for what a test has made never to come."""
    monkeypatch.setattr(runner, "_SPARE_S", runner._BEYOND_GRACE_S - 0.05)


def ask_to_stop(count: int = 1) -> None:
    for _ in range(count):
        os.kill(os.getpid(), signal.SIGTERM)


class Journal:
    """A lifespan, by its parts, and what has happened in it."""

    def __init__(
        self,
        *,
        start: Callable[[], Any] | None = None,
        end: Callable[[], Any] | None = None,
    ) -> None:
        self.noted: list[str] = []
        self._start = start
        self._end = end

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        try:
            self.noted.append("start")
            if self._start is not None:
                await self._start()
            yield
        finally:
            self.noted.append("end")
            if self._end is not None:
                await self._end()
            self.noted.append("ended")


async def wait_for_a_signal() -> None:
    asyncio.get_running_loop().call_soon(ask_to_stop)
    await asyncio.sleep(60)


async def a_moment() -> None:
    await asyncio.sleep(0.05)


async def for_ever() -> None:
    await asyncio.sleep(60)


async def stop_soon() -> None:
    asyncio.get_running_loop().call_later(0.02, ask_to_stop)


async def fail() -> None:
    raise ConnectionRefusedError("no database")


# A signal during the start


@both_loops
def test_the_lifespan_ends_in_order_if_its_start_is_given_up(
    uvloop: bool,
    tmp_path: Path,
    manager: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    journal = Journal(start=wait_for_a_signal, end=a_moment)
    run(Milter, f"unix:{tmp_path}/m.sock", lifespan=journal, uvloop=uvloop)
    assert journal.noted == ["start", "end", "ended"]
    assert manager() == ["STOPPING=1"]
    assert caplog.messages[1:] == ["SIGTERM: the start is given up", "stopped"]
    assert not (tmp_path / "m.sock").exists()


@pytest.mark.usefixtures("short_patience")
@both_loops
def test_a_start_that_does_not_end_is_waited_for_no_longer_than_was_told(
    uvloop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(start=wait_for_a_signal, end=for_ever)
    began = time.monotonic()
    run(Milter, "inet:0", lifespan=journal, uvloop=uvloop, config=Config(stop_grace=0))
    assert time.monotonic() - began < PATIENCE_S
    assert journal.noted == ["start", "end"]
    assert "it has not ended within 0.05 s: it is not waited for any longer" in warnings(caplog)


@both_loops
def test_a_second_signal_hurries_a_start_that_is_given_up(uvloop: bool) -> None:
    async def be_asked_again() -> None:
        ask_to_stop()
        await asyncio.sleep(60)

    journal = Journal(start=wait_for_a_signal, end=be_asked_again)
    began = time.monotonic()
    run(Milter, "inet:0", lifespan=journal, uvloop=uvloop)
    assert time.monotonic() - began < PATIENCE_S
    assert journal.noted == ["start", "end"]


@both_loops
def test_a_lifespan_that_fails_in_its_end_is_logged_and_is_a_failure(
    uvloop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(start=wait_for_a_signal, end=fail)
    with pytest.raises(SystemExit) as ended:
        run(Milter, "inet:0", lifespan=journal, uvloop=uvloop)
    assert ended.value.code == 1
    assert errors(caplog) == ["the start has failed: ConnectionRefusedError: no database"]


def test_a_start_that_goes_on_all_the_same_is_stopped_in_order(
    tmp_path: Path, manager: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def not_now() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await wait_for_a_signal()

    caplog.set_level(logging.INFO)
    journal = Journal(start=not_now)
    run(Milter, f"unix:{tmp_path}/m.sock", lifespan=journal)
    assert journal.noted == ["start", "end", "ended"]
    assert manager() == ["STOPPING=1"]
    assert caplog.messages[-1] == "stopped"
    assert not (tmp_path / "m.sock").exists()


async def test_a_start_finds_that_the_server_was_stopped_meanwhile(tmp_path: Path) -> None:
    goes_on = asyncio.Event()

    async def wait() -> None:
        await goes_on.wait()

    journal = Journal(start=wait)
    server = Server(Milter, f"unix:{tmp_path}/m.sock", lifespan=journal)
    starting = asyncio.ensure_future(server.start())
    await asyncio.sleep(0)
    await server.stop()
    goes_on.set()
    with pytest.raises(ConfigError, match="stopped before its start was complete"):
        await starting
    assert journal.noted == ["start", "end", "ended"]
    assert server.sockets == ()
    assert not (tmp_path / "m.sock").exists()


# A lifespan that fails


@both_loops
@pytest.mark.parametrize("when", ["start", "end"])
def test_a_lifespan_that_fails_is_one_record_and_the_exit_code_1(
    uvloop: bool, when: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(start=fail) if when == "start" else Journal(start=stop_soon, end=fail)
    with pytest.raises(SystemExit) as ended:
        run(Milter, f"unix:{tmp_path}/m.sock", lifespan=journal, uvloop=uvloop)
    assert ended.value.code == 1
    assert errors(caplog) == [f"the {when} has failed: ConnectionRefusedError: no database"]
    assert os.listdir(tmp_path) == []


def test_a_lifespan_that_is_cancelled_by_itself_is_no_start(
    manager: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def be_cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(SystemExit) as ended:
        run(Milter, "inet:0", lifespan=Journal(start=be_cancelled))
    assert ended.value.code == 1
    assert errors(caplog) == ["the start has failed: CancelledError"]
    assert manager() == []


@both_loops
def test_a_lifespan_may_end_the_program_in_its_own_words(
    uvloop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise SystemExit("no database, no mail")

    with pytest.raises(SystemExit, match="no database, no mail"):
        run(Milter, "inet:0", lifespan=Journal(start=leave), uvloop=uvloop)
    assert errors(caplog) == []


@pytest.mark.usefixtures("short_patience")
@both_loops
def test_a_lifespan_that_hangs_in_its_end_is_left_in_time(
    uvloop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(start=stop_soon, end=for_ever)
    began = time.monotonic()
    run(Milter, "inet:0", lifespan=journal, uvloop=uvloop, config=Config(stop_grace=0))
    assert time.monotonic() - began < PATIENCE_S
    assert journal.noted == ["start", "end"]
    assert "stopped without waiting for what does not end" in warnings(caplog)


# Nothing is left


def settled_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads that are new, after those that are about to end have ended."""
    deadline = time.monotonic() + PATIENCE_S
    while (new := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.001)
    return new


def open_descriptors() -> set[tuple[str, str]]:
    """All descriptors, and what each of them is."""
    found: set[tuple[str, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        # The one that lists them is gone.
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Fail if there is another thread, descriptor, file or lock afterwards."""
    # The pipe that libuv makes once in a process.
    uvloop_module.new_event_loop().close()
    threads, files = set(threading.enumerate()), set(os.listdir(folder))
    descriptors = open_descriptors()
    yield
    assert settled_threads(threads) == set()
    assert open_descriptors() == descriptors
    assert set(os.listdir(folder)) == files
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


class InThreads(Milter):
    """Works in a thread of the library, and in one of asyncio's."""

    def on_connect(self, hostname: str, client: object) -> None:
        pass

    async def on_helo(self, hostname: str) -> None:
        await asyncio.to_thread(int)


@both_loops
def test_a_run_leaves_nothing(uvloop: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    metrics = MetricsServer(lambda _: (b"", "x"))

    async def use() -> None:
        while not await asyncio.to_thread(path.exists):
            pass
        reader, writer = await asyncio.open_connection("127.0.0.1", metrics.port)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        async with Mta.connected_to_path(str(path)) as mta:
            assert await mta.ask(OFFER)
            assert await mta.converse(CONNECT, HELO) == b"cc"
        used.append(True)

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(use()))
        # Whatever becomes of it.
        tasks[0].add_done_callback(lambda _task: ask_to_stop())

    used: list[bool] = []
    tasks: list[asyncio.Task[None]] = []
    with nothing_left(tmp_path):
        run(
            InThreads,
            f"unix:{path}",
            "inet:0",
            lifespan=Journal(start=begin),
            uvloop=uvloop,
            config=Config(stop_grace=0),
            metrics=metrics,
        )
        tasks.pop().result()
    assert used == [True]


@both_loops
def test_an_address_that_cannot_be_leaves_nothing_of_the_others(
    uvloop: bool, tmp_path: Path
) -> None:
    journal = Journal()
    with socket.create_server(("127.0.0.1", 0)) as taken, nothing_left(tmp_path):
        address = f"inet:{taken.getsockname()[1]}"
        with pytest.raises(SystemExit, match="Address already in use"):
            run(
                Milter,
                f"unix:{tmp_path}/a.sock",
                "inet:0",
                f"unix:{tmp_path}/b.sock",
                address,
                lifespan=journal,
                uvloop=uvloop,
                metrics=MetricsServer(lambda _: (b"", "x")),
            )
    assert journal.noted == ["start", "end", "ended"]


@both_loops
def test_a_metrics_address_in_use_ends_the_start_ahead_of_the_lifespan(
    uvloop: bool, tmp_path: Path
) -> None:
    journal = Journal()
    with socket.create_server(("127.0.0.1", 0)) as taken, nothing_left(tmp_path):
        metrics = MetricsServer(lambda _: (b"", "x"), port=taken.getsockname()[1])
        with pytest.raises(SystemExit, match=r"^aiomilter: the metrics cannot be served on "):
            run(Milter, f"unix:{tmp_path}/a.sock", lifespan=journal, uvloop=uvloop, metrics=metrics)
    assert journal.noted == []


@both_loops
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_moment_ends_nothing_otherwise(
    uvloop: bool, number: signal.Signals, tmp_path: Path
) -> None:
    async def left_behind() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            # When all else has ended.
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.02)

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(left_behind()))
        await stop_soon()

    tasks: list[asyncio.Task[None]] = []
    with nothing_left(tmp_path):
        run(Milter, "inet:0", lifespan=Journal(start=begin), uvloop=uvloop)
    assert tasks[0].cancelled()


@both_loops
def test_what_a_task_raises_when_it_is_cut_off_ends_nothing(
    uvloop: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def left_behind() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise SystemExit("mine")

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(left_behind()))
        await stop_soon()

    tasks: list[asyncio.Task[None]] = []
    with nothing_left(tmp_path):
        run(Milter, "inet:0", lifespan=Journal(start=begin), uvloop=uvloop)
    (line,) = errors(caplog)
    assert line.startswith("a task of a handler raised SystemExit: mine")


@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_call_that_hangs_in_asyncios_threads_does_not_hold_up_the_exit(
    tmp_path: Path, loop: str
) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, loop, "to-thread") as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            mta.send(HELO)
            await program.until("in a thread")
            program.process.terminate()
            await program.until("stopping")
            program.process.terminate()
            await program.until("end")
            assert await program.ended() < 1


def test_the_limit_of_reloads_is_a_time() -> None:
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SystemExit, match="reload_timeout is a number of seconds above 0"):
            run(Milter, "inet:0", reload_timeout=wrong)
