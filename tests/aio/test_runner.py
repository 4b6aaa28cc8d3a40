"""A milter as a program: signals, how long the end takes, and the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter import Milter, run
from aiomilter.aio import runner
from tests.mta import EOM, HELO, MAIL, PATIENCE_S, QUIT, RCPT, Mta

# Both loops are in the program, not around the test.
one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])

PROGRAM = """
import asyncio, contextlib, logging, sys, threading, time
from aiomilter import Config, Milter, Status, run

def say(word):
    print(word, flush=True)

class Program(Milter):
    async def on_helo(self, hostname):
        pass

    async def on_mail(self, sender, params):
        say("mail")

    def on_rcpt(self, recipient, params):
        if recipient == "<hang>":
            say("hanging")
            time.sleep(60)

    async def on_eom(self, actions):
        say("eom")
        while True:
            try:
                await asyncio.sleep(0.3 if "slow" in sys.argv else 60)
                break
            except asyncio.CancelledError:
                if "stubborn" not in sys.argv:
                    raise
        return Status.ACCEPT

    async def on_close(self):
        say("close")
        if "left" in sys.argv:
            asyncio.ensure_future(left_behind())

async def left_behind():
    try:
        await asyncio.sleep(60)
    finally:
        say("cut")

@contextlib.asynccontextmanager
async def lifespan():
    if "slow-start" in sys.argv:
        say("entering")
        await asyncio.sleep(60)
    yield
    if "slow-end" in sys.argv:
        say("leaving")
        await asyncio.sleep(60)
    say("left")

class Saying(logging.Handler):
    def emit(self, record):
        if "listening" in record.getMessage():
            say("listening")
        elif "again" in record.getMessage():
            say("again")
        elif "finish" in record.getMessage():
            say("stopping")

logging.basicConfig(level=logging.INFO, handlers=[Saying()])
run(
    Program,
    sys.argv[1],
    config=Config(stop_grace=10),
    lifespan=lifespan,
    uvloop={"uvloop": True, "asyncio": False, "either": None}[sys.argv[2]],
)
say("end")
"""


class Program:
    """A running program, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, path: str) -> None:
        self.process = process
        self.path = path

    @classmethod
    @asynccontextmanager
    async def started(cls, path: Path, *arguments: str) -> AsyncIterator[Program]:
        """Start it; what does not end by itself is killed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            f"unix:{path}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        program = cls(process, str(path))
        try:
            yield program
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def until(self, word: str) -> None:
        """Wait until it has said a word."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while (line := await self.process.stdout.readline()) != f"{word}\n".encode():
                assert line, (await self._errors()).decode()

    async def ended(self) -> float:
        """Wait for a good end; return how long that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(20):
            code = await self.process.wait()
        assert code == 0, (await self._errors()).decode()
        assert await self._errors() == b""
        return loop.time() - began

    async def _errors(self) -> bytes:
        assert self.process.stderr is not None
        return await self.process.stderr.read()


@one_loop
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "either"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(tmp_path: Path, loop: str, number: signal.Signals) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, loop) as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            assert await mta.ask(HELO) == b"c"
            mta.send(QUIT)
            await program.until("close")
        program.process.send_signal(number)
        await program.until("left")
        await program.until("end")
        assert await program.ended() < 1
    assert not path.exists()


@one_loop
async def test_a_message_in_progress_is_finished_after_the_signal(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, "either", "slow") as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            mta.send(MAIL, RCPT, EOM)
            await program.until("eom")
            program.process.terminate()
            assert await mta.replies(3) == [b"c", b"c", b"a"]
            assert (await mta.ask(MAIL))[:4] == b"y421"
            mta.send(QUIT)
        await program.until("end")
        assert await program.ended() < 1


@one_loop
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_second_signal_ends_it_at_once_with_a_tempfail(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, loop) as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            mta.send(MAIL, RCPT, EOM)
            await program.until("eom")
            program.process.terminate()
            await program.until("stopping")
            program.process.terminate()
            assert await mta.replies(3) == [b"c", b"c", b"t"]
            assert await mta.rest() == b""
            assert await program.ended() < 1


@one_loop
@pytest.mark.parametrize("hindrance", ["a thread", "a task"])
async def test_nothing_holds_up_the_second_signal(tmp_path: Path, hindrance: str) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, "either", "stubborn") as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            if hindrance == "a thread":
                mta.send(MAIL, b"\0\0\0\x08R<hang>\0")
                await program.until("hanging")
            else:
                mta.send(MAIL, RCPT, EOM)
                await program.until("eom")
            program.process.terminate()
            await program.until("stopping")
            program.process.terminate()
            await program.until("again")
            assert await program.ended() < (1 if hindrance == "a thread" else 4)


@one_loop
@pytest.mark.parametrize("hindrance", ["slow-start", "slow-end"])
async def test_a_lifespan_does_not_hold_up_the_second_signal(
    tmp_path: Path, hindrance: str
) -> None:
    async with Program.started(tmp_path / "milter.sock", "either", hindrance) as program:
        if hindrance == "slow-start":
            await program.until("entering")
            program.process.terminate()
        else:
            await program.until("listening")
            program.process.terminate()
            await program.until("leaving")
        program.process.terminate()
        async with asyncio.timeout(4):
            await program.process.wait()


@one_loop
async def test_tasks_that_handlers_have_left_behind_are_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, "either", "left") as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            mta.send(QUIT)
            await program.until("close")
        program.process.terminate()
        await program.until("cut")
        await program.until("end")
        assert await program.ended() < 1


@one_loop
async def test_a_hangup_signal_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, "either") as program:
        await program.until("listening")
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.begin()
            program.process.send_signal(signal.SIGHUP)
            assert await mta.converse(MAIL, RCPT) == b"cc"
        program.process.terminate()
        await program.until("end")


# In this process


def stop_soon() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Stopping:
    """A lifespan that ends its program as soon as it is there."""

    async def __aenter__(self) -> None:
        asyncio.get_running_loop().call_later(0.02, stop_soon)

    async def __aexit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("uvloop", [True, False, None])
def test_it_runs_on_the_loop_that_is_wanted(uvloop: bool | None) -> None:
    seen: list[str] = []

    class Looking(Stopping):
        async def __aenter__(self) -> None:
            seen.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])
            await super().__aenter__()

    run(Milter, "inet:0", lifespan=Looking(), uvloop=uvloop)
    assert seen == ["asyncio" if uvloop is False else "uvloop"]
    # Nothing stays behind: neither a handler of signals nor a loop.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_without_uvloop_the_stock_loop_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    run(Milter, "inet:0", lifespan=Stopping())
    with pytest.raises(SystemExit, match="uvloop is not installed"):
        run(Milter, "inet:0", uvloop=True)


def test_a_bad_address_is_an_error_of_the_program() -> None:
    with pytest.raises(SystemExit, match=r"^aiomilter: 'nonsense' is no address"):
        run(Milter, "nonsense", uvloop=False)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_bad_class_is_an_error_of_the_program() -> None:
    class Wrong(Milter):
        actions = 1  # type: ignore[assignment]  # the fault

    with pytest.raises(SystemExit, match=r"^aiomilter: .*Wrong\.actions is 1"):
        run(Wrong, "inet:0", log_level=None)


@one_loop
async def test_what_does_not_let_itself_be_cancelled_is_left_after_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "_LAST_MOMENT_S", 0.05)

    def end_a_loop() -> float:
        loop = asyncio.new_event_loop()
        release = asyncio.Event()

        async def stubborn() -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        task = loop.create_task(stubborn())
        loop.run_until_complete(asyncio.sleep(0))
        began = loop.time()
        runner._cancel_what_is_left(loop)
        took = loop.time() - began
        release.set()
        loop.run_until_complete(task)
        loop.close()
        return took

    assert 0.04 < await asyncio.to_thread(end_a_loop) < PATIENCE_S
