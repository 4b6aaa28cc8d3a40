"""Handlers that fail, hang, block or are left alone, A46 to A50."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiomilter import EomActions, Milter, Status, no_reply
from aiomilter.aio import connection, handler_host
from tests.aio.serving import Recorder, errors, recorder, serving, session, until_true
from tests.hostile.support import Clock, RecordProperty, one_warning, serves_a_message, warnings
from tests.mta import ABORT, CONNECT, EOM, HELO, MAIL, MESSAGE, RCPT, Mta

SECOND_MESSAGE = [b"c"] * 6 + [b"hX-Message\x002\0", b"a"]
STAGES = ["connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom"]
LEAD_UP = dict(zip(STAGES, (CONNECT, HELO, *MESSAGE), strict=True))


class OwnError(BaseException):
    """What an author makes of it who knows no better."""


def recurse() -> None:
    """Never come to an end."""
    recurse()


def raises(error: BaseException) -> Callable[[], object]:
    """Return what raises an error."""

    def act() -> object:
        raise error

    return act


async def coroutine() -> Status:
    """Be what somebody forgot to await."""
    return Status.ACCEPT


FAULTS: dict[str, Callable[[], object]] = {
    "Exception": raises(Exception("x")),
    "SystemExit": raises(SystemExit(0)),
    "KeyboardInterrupt": raises(KeyboardInterrupt()),
    "GeneratorExit": raises(GeneratorExit()),
    "own BaseException": raises(OwnError()),
    "CancelledError": raises(asyncio.CancelledError()),
    "RecursionError": recurse,
    "MemoryError": raises(MemoryError()),
    "7": lambda: 7,
    "a coroutine": coroutine,
}


async def begin(mta: Mta, stage: str) -> None:
    """Come to a stage, with an answer to all before it; send its command."""
    for name in STAGES[: STAGES.index(stage)]:
        assert await mta.ask(LEAD_UP[name]) == b"c", name
    mta.send(LEAD_UP[stage])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a46_a_fault_costs_one_verdict_and_one_record(
    fault: Callable[[], object], stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Recorder):
        async def act(self, where: str) -> Any:
            # CONNECT and HELO come ahead of the first message.
            return fault() if where == stage and self.messages <= 1 else None

    async with (
        serving(recorder(Faulty)) as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[0]) as other,
    ):
        await mta.begin()
        await begin(mta, stage)
        assert await mta.reply() == b"t"
        number = 1 if stage in ("connect", "helo") else 2
        if number == 2:
            mta.send(ABORT)
        await serves_a_message(mta, number)
        assert server.connections == 2
        await other.begin()
    (line,) = errors(caplog)
    assert f"in on_{stage} of Faulty" in line


async def test_a46_none_is_no_fault() -> None:
    async with session(recorder()) as mta:
        await serves_a_message(mta)


async def test_p01_one_message_in_ten_fails_and_none_passes_unfiltered(
    caplog: pytest.LogCaptureFixture, record_property: RecordProperty
) -> None:
    class Faulty(Recorder):
        async def act(self, where: str) -> None:
            if where == STAGES[2 + self.messages % 7] and self.messages % 10 == 0:
                raise SystemExit(1)

    caplog.set_level("CRITICAL")
    milter = recorder(Faulty)
    filtered = deferred = 0
    reply = b""
    async with session(milter) as mta:
        for number in range(1, 501):
            for command in MESSAGE:
                reply = await mta.ask(command)
                if reply == b"t":
                    deferred += 1
                    mta.send(ABORT)
                    break
            else:
                assert reply == b"hX-Message\0%d\0" % number
                assert await mta.reply() == b"a"
                filtered += 1
    assert (filtered, deferred) == (450, 50)
    assert milter.journal.entries.count("close") == 1
    record_property("summary", "P1, 500 messages, 10 % faults: 450 filtered, 50 deferred")


@pytest.mark.parametrize("stage", STAGES)
async def test_a47_a_handler_that_never_ends_costs_a_tempfail_at_its_budget(
    stage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Endless(Recorder):
        async def act(self, where: str) -> None:
            if where == stage and self.messages <= 1:
                self.journal.note("waits")
                await asyncio.Event().wait()

    milter = recorder(Endless)
    async with session(milter) as mta:
        clock = Clock(monkeypatch)
        await begin(mta, stage)
        await milter.journal.until("waits")
        if stage == "eom":
            # PROGRESS each 5 s, which does not make the budget longer.
            for _ in range(47):
                await clock.advance(5.001)
                assert await mta.reply() == b"p"
            await clock.advance(6)
        else:
            await clock.advance(7.9)
            assert milter.journal.entries[-1] == "waits"
            await clock.advance(0.2)
        assert await mta.reply() == b"t"
        number = 1 if stage in ("connect", "helo") else 2
        if number == 2:
            mta.send(ABORT)
        await serves_a_message(mta, number)
    assert "longer than its time limit" in errors(caplog)[0]
    assert len(errors(caplog)) == 1


async def test_a48_a_handler_that_blocks_the_loop_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blocking(Recorder):
        async def act(self, where: str) -> None:
            if where == "rcpt" and "rcpt" not in self.journal.entries[:-1]:
                time.sleep(0.35)  # noqa: ASYNC251  (this is the fault)

    async with (
        serving(recorder(Blocking), handler_timeout=0.1) as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[0]) as other,
    ):
        await mta.begin()
        await other.begin()
        assert await mta.converse(MAIL, RCPT) == b"ct"
        # All connections of the process stood still, and go on.
        await serves_a_message(other)
        mta.send(ABORT)
        await serves_a_message(mta, 2)
    lines = errors(caplog)
    assert "in on_rcpt of Blocking: it blocked the event loop" in lines[0]


async def test_a48_a_plain_handler_that_blocks_holds_up_nobody() -> None:
    released = threading.Event()

    class Blocking(Milter):
        def on_header(self, name: str, value: str) -> None:
            released.wait(5)

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.ACCEPT

    async with (
        serving(Blocking) as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[0]) as other,
    ):
        await mta.begin()
        await other.begin()
        try:
            mta.send(*MESSAGE[3:4])
            for _ in range(20):
                assert await other.ask(EOM) == b"a"
        finally:
            released.set()
        assert await mta.reply() == b"c"


@pytest.mark.parametrize("verdict", [Status.REJECT, Status.TEMPFAIL, Status.DISCARD])
async def test_a49_a_verdict_of_an_observer_is_dropped_with_one_record(
    verdict: Status, caplog: pytest.LogCaptureFixture
) -> None:
    class Observing(Recorder):
        @no_reply
        async def on_header(self, name: str, value: str) -> Status:
            return verdict

    async with session(recorder(Observing)) as mta:
        for number in (1, 2):
            mta.send(*MESSAGE)
            replies = await mta.replies(7)
            assert replies == [b"c"] * 5 + [b"hX-Message\0%d\0" % number, b"a"]
    assert "which is dropped: the stage was negotiated without replies" in one_warning(caplog)


@pytest.fixture
def short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait a second for what a test has made never to come."""
    monkeypatch.setattr(handler_host, "_CANCEL_GRACE_S", 0.05)
    monkeypatch.setattr(connection, "_EOF_GRACE_S", 0.1)


@pytest.mark.usefixtures("short_graces")
@pytest.mark.parametrize("stage", STAGES[2:])
async def test_a50_a_handler_is_cancelled_when_the_mta_has_gone(
    stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Waiting(Recorder):
        async def act(self, where: str) -> None:
            if where == stage:
                task = asyncio.create_task(asyncio.Event().wait())
                self.journal.note("waits")
                try:
                    await task
                finally:
                    self.journal.note("cut")

    milter = recorder(Waiting)
    async with serving(milter) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()
            await begin(mta, stage)
            await milter.journal.until("waits")
            mta.reset()
        await milter.journal.until("close")
        await until_true(lambda: server.connections == 0)
    entries = milter.journal.entries
    assert entries[entries.index("waits") :] == ["waits", "cut", "abort", "close"]
    assert errors(caplog) == warnings(caplog) == []


CHILD = """
import os
for number in os.listdir("/proc/self/fd"):
    if os.path.lexists(name := f"/proc/self/fd/{number}"):
        print(os.readlink(name))
"""


def own_sockets() -> set[str]:
    """Return the sockets that this process has."""
    names = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    found = {os.readlink(name) for name in names if os.path.lexists(name)}
    return {name for name in found if name.startswith("socket:")}


async def test_a50_a_child_inherits_no_socket_of_the_server(tmp_path: Path) -> None:
    async def start() -> str:
        # Even a child that does not close what it was not given.
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", CHILD),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            close_fds=False,
        )
        output, _ = await child.communicate()
        return output.decode()

    class Starting(Recorder):
        async def act(self, where: str) -> None:
            if where == "mail":
                outputs.append(await start())

    before = own_sockets()
    outputs: list[str] = []
    async with (
        serving(recorder(Starting), "inet:0", f"unix:{tmp_path}/a.sock") as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[1]) as other,
    ):
        await mta.begin()
        await other.begin()
        assert await mta.ask(MAIL) == b"c"
        ours = own_sockets() - before
    # Two that listen, and both ends of two connections.
    assert len(ours) == 6
    assert "/dev/null" in outputs[0]
    assert not ours & set(outputs[0].split())
