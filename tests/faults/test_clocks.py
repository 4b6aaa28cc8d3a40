"""Clocks that step, and a loop that stands still."""

from __future__ import annotations

import ast
import asyncio
import itertools
import os
import time
from pathlib import Path

import pytest

import aiomilter
from tests.aio.serving import Recorder, errors, recorder, serving, session, warnings
from tests.faults.sessions import diarist
from tests.faults.test_every_byte import SESSION, WHOLE_DIARY
from tests.mta import ABORT, CONNECT, HELO, MAIL, MESSAGE, RCPT, Mta

PACKAGE = Path(aiomilter.__file__).parent
DAY_S = 86_400.0
WALL_CLOCKS = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime"}


@pytest.fixture(params=[DAY_S, -DAY_S], ids=["forward", "backward"])
def stepping_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step the wall clock by a day each time that somebody looks at it."""
    steps = itertools.count(1)
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: began + next(steps) * request.param)


@pytest.mark.usefixtures("stepping_clock")
async def test_steps_of_the_wall_clock_end_nothing_early(caplog: pytest.LogCaptureFixture) -> None:
    milter = diarist()
    before = time.time()
    async with session(milter, idle_timeout=5, packet_timeout=5, handler_timeout=5) as mta:
        for command in list(SESSION.values())[1:-2]:
            assert await mta.ask(command[:3], command[3:]) == b"c"
            assert abs(time.time() - before) >= DAY_S
        mta.send(*list(SESSION.values())[-2:])
        assert (await mta.rest()).endswith(b"a")
    assert milter.diaries == [WHOLE_DIARY]
    assert errors(caplog) == []


@pytest.mark.usefixtures("stepping_clock")
async def test_steps_of_the_wall_clock_put_no_limit_off() -> None:
    class Endless(Recorder):
        async def act(self, stage: str) -> None:
            if stage == "mail" and self.messages == 1:
                await asyncio.Event().wait()

    milter = recorder(Endless)
    async with session(milter, handler_timeout=0.05, idle_timeout=0.2) as mta:
        assert await mta.converse(CONNECT, HELO, MAIL) == b"cct"
        assert await mta.rest() == b""
    await milter.journal.until("close")


def test_no_limit_is_measured_with_the_wall_clock() -> None:
    # All limits are there; elsewhere the wall clock is read to be shown.
    read = {
        (path.name, ast.unparse(node.func))
        for path in PACKAGE.joinpath("aio").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in WALL_CLOCKS
        and ast.unparse(node.func.value) in ("time", "datetime", "datetime.datetime", "date")
    }
    assert read == set()


async def test_a_handler_that_blocks_the_loop_costs_one_tempfail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blocking(Recorder):
        async def act(self, stage: str) -> None:
            if stage == "rcpt" and self.messages == 1:
                time.sleep(0.3)  # noqa: ASYNC251  (it is what the test is about)

    milter = recorder(Blocking)
    async with session(milter, handler_timeout=0.1) as mta:
        assert await mta.converse(CONNECT, HELO, MAIL, RCPT) == b"ccct"
        mta.send(ABORT, *MESSAGE)
        assert (await mta.replies(8))[-1] == b"a"
    assert len(errors(caplog)) == 1


async def test_a_loop_that_stood_still_drops_nobody_whose_bytes_have_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # When the loop turns again, the time for the other one's packet has run out; but the rest of
    # the packet has been there for long.
    others: list[Mta] = []

    class Blocking(Recorder):
        async def act(self, stage: str) -> None:
            if stage == "helo":
                os.write(others[0].writer.get_extra_info("socket").fileno(), MAIL[3:])
                time.sleep(0.3)  # noqa: ASYNC251  (it is what the test is about)

    milter = recorder(Blocking)
    async with (
        serving(milter, packet_timeout=0.1, handler_timeout=0.2) as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[0]) as other,
    ):
        others.append(other)
        for one in (mta, other):
            await one.begin()
            assert await one.ask(CONNECT) == b"c"
        other.send(MAIL[:3])
        # Another answer first: what the other one has sent has been read by then.
        assert await mta.converse(MAIL, RCPT) == b"cc"
        mta.send(HELO)
        assert await other.reply() == b"c"
        assert await mta.reply() == b"t"
    assert warnings(caplog) == []
