"""Bytes that stop on their way, for a while or for ever: the clocks of both ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aiomilter import EomActions, Status
from aiomilter.errors import MilterUnavailable
from aiomilter.mta import Timeouts, connect
from tests.aio.serving import errors, serving, until_true, warnings
from tests.faults.proxy import Gate, Pause, Proxy, Script, Step
from tests.faults.sessions import Diarist, assert_orderly, diarist, nothing_left
from tests.faults.test_every_byte import ENVELOPE, MESSAGE, SESSION, SESSION_BYTES, WHOLE_DIARY
from tests.mta import CONNECT, HELO, MAIL, OFFER, Mta

LIMIT_S = 0.1
NEVER_S = 30
"""On a busy machine each of many answers may take nearly as long as the limit allows."""
HUGE_BYTES = 24 * 2**20
"""More than the buffers of two connections hold."""
UP_TO_MAIL = len(OFFER + CONNECT + HELO + MAIL)


class Verbose(Diarist):
    """Answers with more than anybody takes who has stopped reading."""

    async def on_eom(self, actions: EomActions) -> Status:
        self.diary.append("eom")
        actions.replace_body(HUGE_BYTES * b"x")
        return Status.ACCEPT


@pytest.mark.parametrize(
    ("at", "setting", "reason"),
    [
        (0, "negotiation_timeout", None),
        (5, "negotiation_timeout", "nothing was negotiated in time"),
        (UP_TO_MAIL + 2, "packet_timeout", "a packet did not arrive whole in time"),
        (SESSION_BYTES - 1, "packet_timeout", "a packet did not arrive whole in time"),
        (UP_TO_MAIL, "idle_timeout", "it was idle"),
    ],
    ids=["nothing came", "offer", "packet in a message", "last packet", "between packets"],
)
async def test_a_stall_ends_the_session_at_the_limit_that_is_meant_for_it(
    at: int, setting: str, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    milter, gate = diarist(), Gate()
    async with (
        serving(milter, "inet:0", **{setting: LIMIT_S}) as server,
        Proxy.before(server.sockets[0], Script(to_milter=[Step(at, gate)])) as proxy,
    ):
        async with Mta.connected(proxy.listener) as mta:
            mta.send(*SESSION.values())
            await gate.reached.wait()
            await mta.rest()
            await until_true(lambda: server.connections == 0)
            gate.opened.set()
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()
    for diary in milter.diaries[:-1]:
        assert_orderly(diary)
    if reason is not None:
        assert [line for line in warnings(caplog) if reason in line], warnings(caplog)
    assert errors(caplog) == []


@pytest.mark.parametrize("at", [2, len(OFFER), UP_TO_MAIL - 3, UP_TO_MAIL, SESSION_BYTES - 7])
async def test_a_stall_within_the_limits_changes_nothing(
    at: int, caplog: pytest.LogCaptureFixture
) -> None:
    milter = diarist()
    script = Script(to_milter=[Step(at, Pause(0.05))], to_mta=[Step(at % 20, Pause(0.05))])
    async with (
        serving(milter, "inet:0") as server,
        Proxy.before(server.sockets[0], script) as proxy,
        nothing_left(server),
        Mta.connected(proxy.listener) as mta,
    ):
        mta.send(*SESSION.values())
        assert (await mta.rest()).endswith(b"\0\0\0\1a")
    assert milter.diaries == [WHOLE_DIARY]
    assert warnings(caplog) + errors(caplog) == []


async def test_answers_that_nobody_takes_end_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter, gate = diarist(Verbose), Gate()
    # The MTA has its answers up to the first bytes of the new body, then the line stalls.
    script = Script(to_mta=[Step(100, gate)])
    async with (
        serving(milter, "inet:0", write_timeout=LIMIT_S) as server,
        Proxy.before(server.sockets[0], script) as proxy,
        Mta.connected(proxy.listener) as mta,
    ):
        mta.send(*list(SESSION.values())[:-1])
        await gate.reached.wait()
        await until_true(lambda: server.connections == 0)
        gate.opened.set()
        came = await mta.rest()
        assert len(came) < HUGE_BYTES
        assert not came.endswith(b"\0\0\0\1a")
    assert milter.diaries == [WHOLE_DIARY]
    assert [line for line in warnings(caplog) if "did not read its answers in time" in line]
    assert errors(caplog) == []


async def answer_borders() -> list[int]:
    """Return after how many bytes of answers each answer to the library's own MTA ends."""
    async with serving(diarist(), "inet:0") as server, Proxy.before(server.sockets[0]) as proxy:
        async with connect(proxy.address) as milter:
            await milter.send(ENVELOPE, MESSAGE)
        data = bytes(proxy.links[0].to_mta.data)
    borders, at = [], 0
    while at < len(data):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
        borders.append(at)
    return borders


async def test_an_answer_that_stalls_costs_the_mta_its_limit_and_one_error() -> None:
    borders = await answer_borders()
    # At its beginning, in its length, and ahead of its last byte; of every answer.
    starts = [0, *borders[:-1]]
    offsets = sorted({*starts, *(at + 2 for at in starts), *(at - 1 for at in borders)})
    milter = diarist()
    limits = Timeouts(command=3 * LIMIT_S, content=3 * LIMIT_S)

    async def stalls_at(offset: int) -> None:
        script = Script(to_mta=[Step(offset, Gate())])
        async with Proxy.before(server.sockets[0], script) as proxy:
            with pytest.raises(MilterUnavailable, match="has not answered"):
                async with asyncio.timeout(NEVER_S), connect(proxy.address, timeouts=limits) as mta:
                    await mta.send(ENVELOPE, MESSAGE)

    async with serving(milter, "inet:0") as server, nothing_left(server):
        # All at once: each takes as long as the limit.
        await asyncio.gather(*map(stalls_at, offsets))
    assert len(milter.diaries) == len(offsets)
    for diary in milter.diaries:
        assert_orderly(diary)


async def test_the_proxy_leaves_nothing_if_its_end_comes_while_it_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialling = asyncio.Event()

    async def dial(host: str, port: int) -> None:
        dialling.set()
        await asyncio.Event().wait()

    await answer_borders()  # at its first listener uvloop opens a descriptor that it keeps
    async with (
        serving(diarist(), "inet:0") as server,
        nothing_left(),
        Proxy.before(server.sockets[0]) as proxy,
    ):
        monkeypatch.setattr(asyncio, "open_connection", dial)
        with socket.create_connection(proxy.listener.getsockname()):
            await dialling.wait()
        monkeypatch.undo()
