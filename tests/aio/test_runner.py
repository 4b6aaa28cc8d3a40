"""A milter as a program: signals, how long the end takes, and the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aiomilter import Milter, run
from aiomilter.aio import runner
from tests.aio.program import Program
from tests.aio.serving import until_true
from tests.mta import EOM, HELO, MAIL, PATIENCE_S, QUIT, RCPT, Mta

# Both loops are in the program, not around the test.
one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])


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
async def test_a57_p25_a_second_signal_ends_it_at_once_with_a_tempfail(
    tmp_path: Path, loop: str
) -> None:
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
async def test_a57_nothing_holds_up_the_second_signal(tmp_path: Path, hindrance: str) -> None:
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
            assert await program.ended() < 1


@one_loop
@pytest.mark.parametrize("hindrance", ["slow-start", "slow-end"])
async def test_a57_a_lifespan_does_not_hold_up_the_second_signal(
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
        async with asyncio.timeout(1):
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
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a56_p23_p24_a_signal_finds_each_session_where_it_is(
    tmp_path: Path, loop: str
) -> None:
    path = tmp_path / "milter.sock"
    async with Program.started(path, loop, "slow") as program, AsyncExitStack() as at_end:
        await program.until("listening")

        async def begun(*commands: bytes) -> Mta:
            mta = await at_end.enter_async_context(Mta.connected_to_path(str(path)))
            await mta.begin()
            assert await mta.converse(*commands) == len(commands) * b"c"
            return mta

        unnegotiated = await at_end.enter_async_context(Mta.connected_to_path(str(path)))
        greeted, in_message = await begun(HELO), await begun(MAIL)
        finished, silent = await begun(MAIL, RCPT), await begun()
        assert await finished.ask(EOM) == b"a"
        at_the_end = await begun(MAIL, RCPT)
        at_the_end.send(EOM)
        await program.until("eom")
        await program.until("eom")

        program.process.terminate()
        await program.until("stopping")
        # What is in progress is finished; what would be new is to come later.
        assert await at_the_end.replies(1) == [b"a"]
        with pytest.raises(OSError, match=r"No such file|refused"):
            await at_end.enter_async_context(Mta.connected_to_path(str(path)))
        assert await in_message.converse(RCPT) == b"c"
        assert await in_message.ask(EOM) == b"a"
        for mta in (greeted, finished, in_message):
            assert (await mta.ask(MAIL))[:4] == b"y421"
            mta.send(QUIT)
        for mta in (silent, unnegotiated):
            assert await mta.rest() == b""
        await program.until("end")
        assert await program.ended() < 1


@one_loop
async def test_p26_a_restart_loses_no_connection_if_the_socket_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    served = 0
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen(1024)
        held.set_inheritable(True)

        async def use() -> None:
            nonlocal served
            while True:
                async with Mta.connected_to_path(str(path)) as mta:
                    # It may have to wait for the next program to start.
                    async with asyncio.timeout(20):
                        await mta.begin()
                        assert (await mta.ask(MAIL))[:4] in (b"c", b"y421")
                    mta.send(QUIT)
                served += 1
                await asyncio.sleep(0.005)

        async def until_served(count: int) -> None:
            await until_true(lambda: using.done() or served >= count)

        using = asyncio.ensure_future(use())
        for round_number in range(1, 4):
            async with Program.started(f"fd:{held.fileno()}", "either", held=held) as program:
                await program.until("listening")
                await until_served(20 * round_number)
                program.process.terminate()
                await program.until("end")
        assert not using.done(), using.exception()
        using.cancel()
    assert served >= 60


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
async def test_what_does_not_let_itself_be_cancelled_is_left_after_a_moment() -> None:
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
        runner.cancel_what_is_left(loop, 0.05)
        took = loop.time() - began
        release.set()
        loop.run_until_complete(task)
        loop.close()
        return took

    assert 0.04 < await asyncio.to_thread(end_a_loop) < PATIENCE_S
