"""A milter as a service: what systemd is told, and what SIGHUP does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
from pathlib import Path

import pytest

from aiomilter.aio import reloads as reloads_module
from aiomilter.aio.notify import Notifier
from aiomilter.aio.reloads import Reloads
from tests.aio.program import Program
from tests.aio.serving import errors, until_true, warnings
from tests.mta import HELO, MAIL, QUIT, RCPT, Mta

# Both loops are in the program, not around the test.
one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])
LIMIT_S = 60.0


@one_loop
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_p29_systemd_is_told_the_truth(tmp_path: Path, loop: str) -> None:
    path, name = tmp_path / "milter.sock", str(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(0.5)

        async def message() -> str:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(TimeoutError):
                        return (await asyncio.to_thread(manager.recv, 4096)).decode()

        async with (
            Program.started(path, loop, "block", "reload", environ=environ) as program,
        ):
            assert await message() == f"READY=1\nSTATUS=serving on unix:{path}"
            # It is: the first attempt to connect succeeds.
            async with Mta.connected_to_path(str(path)) as mta:
                await mta.begin()
                for _ in range(3):
                    assert await message() == "WATCHDOG=1"
                program.process.send_signal(signal.SIGHUP)
                while (said := await message()) == "WATCHDOG=1":
                    pass
                assert said.startswith("RELOADING=1\nMONOTONIC_USEC=")
                assert "\nEXTEND_TIMEOUT_USEC=65000000\n" in said
                program.tell("go")
                while (said := await message()) == "WATCHDOG=1":
                    pass
                assert said == f"READY=1\nSTATUS=serving on unix:{path}"
                # A handler that blocks: no sign of life for ten times the period.
                mta.send(HELO)
                await program.until("blocking")
                manager.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        assert manager.recv(4096) == b"WATCHDOG=1"
                manager.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    await asyncio.to_thread(manager.recv, 4096)
                program.tell("go on")
                assert await mta.replies(1) == [b"c"]
                assert await message() == "WATCHDOG=1"
                program.process.terminate()
                while (said := await message()) == "WATCHDOG=1":
                    pass
                assert said == (
                    "STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000\nSTATUS=stopping, with 1 connections"
                )
                mta.send(QUIT)
            await program.until("end")
            await program.ended()


@one_loop
async def test_p29_a_program_that_fails_to_start_is_not_ready(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.setblocking(False)
        where = tmp_path / "missing" / "milter.sock"
        async with Program.started(where, "either", environ={"NOTIFY_SOCKET": name}) as program:
            async with asyncio.timeout(20):
                assert await program.process.wait() == 1
            with pytest.raises(BlockingIOError):
                manager.recv(4096)


# Reloads


@one_loop
async def test_a58_a_hangup_signal_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, "either") as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            program.process.send_signal(signal.SIGHUP)
            assert await mta.converse(MAIL, RCPT) == b"cc"
        program.process.terminate()
        await program.until("end")


@one_loop
async def test_a58_a_hangup_signal_reloads_and_cuts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, "either", "reload") as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            assert await mta.ask(MAIL) == b"c"
            for line, last_word in (("fail", "reloading"), ("go", "reloaded")):
                program.process.send_signal(signal.SIGHUP)
                await program.until("reloading")
                program.tell(line)
                if last_word == "reloaded":
                    await program.until(last_word)
                assert await mta.ask(RCPT) == b"c"
        program.process.terminate()
        await program.until("end")
        assert await program.ended() < 1


class Hook:
    """What reloads: it begins, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = 0
        self.let = asyncio.Semaphore(0)

    async def __call__(self) -> None:
        self.begun += 1
        await self.let.acquire()


async def settled() -> None:
    """Let all that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a58_signals_during_a_reload_bring_one_more() -> None:
    hook = Hook()
    reloads = Reloads(hook, Notifier({}), LIMIT_S)
    reloads.open("serving")
    for _ in range(3):
        reloads.ask()
        await settled()
    assert hook.begun == 1
    hook.let.release()
    await settled()
    assert hook.begun == 2
    hook.let.release()
    await settled()
    assert hook.begun == 2


async def test_a58_a_signal_before_the_start_waits_for_it() -> None:
    hook = Hook()
    reloads = Reloads(hook, Notifier({}), LIMIT_S)
    reloads.ask()
    await settled()
    assert hook.begun == 0
    reloads.open("serving")
    await settled()
    assert hook.begun == 1
    reloads.close()


async def test_a58_the_end_of_the_program_ends_a_reload() -> None:
    hook = Hook()
    reloads = Reloads(hook, Notifier({}), LIMIT_S)
    reloads.open("serving")
    reloads.ask()
    await settled()
    reloads.close()
    reloads.ask()
    hook.let.release()
    await settled()
    assert hook.begun == 1
    assert not hook.let.locked()


class Told(Notifier):
    """Keeps what the service manager is told."""

    def __init__(self) -> None:
        super().__init__({})
        self.told: list[str] = []

    def _send(self, *lines: str) -> None:
        self.told.append(lines[0])


async def test_a_reload_that_hangs_is_cancelled_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    hook, told = Hook(), Told()
    reloads = Reloads(hook, told, 0.05)
    reloads.open("serving")
    reloads.ask()
    await settled()
    reloads.ask()
    assert len(warnings(caplog)) == 1
    assert re.fullmatch(
        r"SIGHUP: the reload before has been running for 0\.\d s, and is cancelled after 0\.05 s; "
        r"there is one more when it has ended",
        warnings(caplog)[0],
    )
    await until_true(lambda: hook.begun == 2)
    assert errors(caplog) == ["the reload has not ended within 0.05 s and was cancelled"]
    hook.let.release()
    await until_true(lambda: told.told[-1] == "READY=1" and len(told.told) == 5)
    assert told.told == ["READY=1", *2 * ["RELOADING=1", "READY=1"]]
    assert caplog.messages[-1].startswith("reloaded in 0.")
    # Nothing hinders another one.
    reloads.ask()
    await settled()
    assert hook.begun == 3
    reloads.close()
    await settled()


async def test_a_reload_that_cannot_be_cancelled_is_left_to_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloads_module, "_CANCEL_GRACE_S", 0.01)
    release = asyncio.Event()
    begun = 0

    async def stubborn() -> None:
        nonlocal begun
        begun += 1
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    told = Told()
    reloads = Reloads(stubborn, told, 0.01)
    reloads.open("serving")
    reloads.ask()
    await until_true(lambda: len(told.told) == 3)
    assert told.told == ["READY=1", "RELOADING=1", "READY=1"]
    (line,) = errors(caplog)
    assert line == (
        "the reload has not ended within 0.01 s and was cancelled; it goes on all the same, and is "
        "left to itself"
    )
    release.set()
    reloads.ask()
    await until_true(lambda: len(told.told) == 5)
    assert begun == 2
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("is_coroutine", [False, True])
async def test_a58_a_fault_in_a_reload_is_logged_and_no_more(
    error: type[BaseException], is_coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[None] = []

    def fail() -> None:
        calls.append(None)
        raise error("broken")

    async def fail_later() -> None:
        fail()

    reloads = Reloads(fail_later if is_coroutine else fail, Notifier({}), LIMIT_S)
    reloads.open("serving")
    for count in (1, 2):
        reloads.ask()
        await settled()
        assert len(calls) == len(errors(caplog)) == count
    assert "the reload has failed, all stays as it was" in errors(caplog)[0]


async def test_a58_without_a_hook_the_signal_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    reloads = Reloads(None, Notifier({}), LIMIT_S)
    reloads.open("serving")
    reloads.ask()
    assert caplog.messages == ["SIGHUP is ignored: there is nothing to reload"]
