"""How many may come, and who: what becomes of the others, and what those who are in notice."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Config, Milter
from aiomilter.aio import acceptor, admission
from aiomilter.aio.memory import MemoryBudget
from tests.aio.serving import no_descriptors, recorder, serving, until_true, warnings
from tests.hostile.support import RecordProperty
from tests.mta import CONNECT, MAIL, QUIT, RCPT, Mta, packet

OFFER = b"\0\0\0\x0dO\0\0\0\6\0\0\1\xff\0\x1f\xff\xff"


class Idle(Milter):
    """Has one handler."""

    async def on_mail(self, sender: str, params: list[str]) -> None: ...


# Above the limits


@pytest.mark.parametrize("style", ["tempfail", "close"])
async def test_a52_above_the_cap_connections_are_shed_as_configured_and_the_others_go_on(
    style: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Idle, max_connections=2, overload=style) as server:
        listener = server.sockets[0]
        async with Mta.connected(listener) as one, Mta.connected(listener) as two:
            await one.begin()
            await two.begin()
            for _ in range(10):
                async with Mta.connected(listener) as shed:
                    if style == "close":
                        assert await shed.rest() == b""
                        continue
                    shed.send(OFFER)
                    await shed.reply()
                    assert await shed.ask(CONNECT) == b"t"
                    shed.send(QUIT)
                    assert await shed.rest() == b""
            # Those that are open go on.
            assert await one.ask(MAIL) == b"c"
            two.send(QUIT)
            await until_true(lambda: server.connections == 1)
            async with Mta.connected(listener) as three:
                await three.begin()
                assert await three.ask(MAIL) == b"c"
    (line,) = warnings(caplog)
    word = "closed at once" if style == "close" else "answered with a temporary failure"
    assert line == f"turned away 1 new connection(s), {word}: 2 are open, the limit is 2"


async def test_what_has_not_been_told_is_told_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(admission, "_LOGGED_EVERY_S", 10)
    async with serving(Idle, max_connections=1, overload="close") as server:
        server._admission._clock = lambda: now[0]
        listener = server.sockets[0]
        async with Mta.connected(listener) as one:
            await one.begin()
            for time in (0, 3, 6, 11):
                now[0] = time
                async with Mta.connected(listener) as refused:
                    assert await refused.rest() == b""
    assert [line.split()[2] for line in warnings(caplog)] == ["1", "3"]


async def test_no_more_than_a_few_are_told_to_come_back_at_a_time() -> None:
    async with serving(Idle, max_connections=1) as server, AsyncExitStack() as stack:
        listener = server.sockets[0]
        first = await stack.enter_async_context(Mta.connected(listener))
        await first.begin()
        for _ in range(32):
            shed = await stack.enter_async_context(Mta.connected(listener))
            shed.send(OFFER)
            await shed.reply()
        async with Mta.connected(listener) as closed:
            assert await closed.rest() == b""
        assert await first.ask(MAIL) == b"c"


async def test_one_host_has_a_limit_of_its_own_and_a_unix_socket_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unix = f"unix:{tmp_path}/a.sock"
    async with (
        serving(Idle, "inet:0", unix, max_connections_per_peer=1, overload="close") as server,
        AsyncExitStack() as stack,
    ):
        tcp, local = server.sockets
        one = await stack.enter_async_context(Mta.connected(tcp))
        await one.begin()
        async with Mta.connected(tcp) as two:
            assert await two.rest() == b""
        for _ in range(3):
            other = await stack.enter_async_context(Mta.connected(local))
            await other.begin()
        one.send(QUIT)
        await until_true(lambda: server.connections == 3)
        async with Mta.connected(tcp) as again:
            await again.begin()
    (line,) = warnings(caplog)
    assert "1 of 127.0.0.1 are open, the limit for one peer is 1" in line


# Who may come


@pytest.mark.parametrize(
    ("networks", "is_let_in"),
    [
        (("127.0.0.0/8",), True),
        (("192.0.2.0/24", "127.0.0.1"), True),
        (("192.0.2.0/24", "::/0"), False),
        ((), True),
    ],
)
async def test_a61_who_is_on_no_allowed_network_is_closed_before_a_byte_is_read(
    networks: tuple[str, ...], is_let_in: bool, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with (
        serving(milter, allowed_networks=networks) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        if is_let_in:
            await mta.begin()
            return
        assert await mta.rest() == b""
    assert milter.journal.entries == []
    (line,) = warnings(caplog)
    assert line == ("turned away 1 new connection(s), 127.0.0.1 is on none of the allowed networks")


async def test_networks_do_not_concern_unix_sockets(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/a.sock"
    async with (
        serving(Idle, address, allowed_networks=("192.0.2.0/24",)) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()


# Without descriptors


async def test_a51_without_descriptors_there_is_one_record_and_then_all_are_served(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    record_property: RecordProperty,
) -> None:
    path = f"{tmp_path}/a.sock"
    attempts: list[int] = []
    pause = acceptor.Acceptor._pause

    def counted(self: acceptor.Acceptor, error: OSError) -> None:
        assert error.errno == errno.EMFILE
        attempts.append(1)
        pause(self, error)

    monkeypatch.setattr(acceptor.Acceptor, "_pause", counted)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    try:
        async with serving(Idle, path) as server:
            with no_descriptors():
                # They are in the backlog: connected, and not accepted.
                for sock in waiting:
                    sock.connect(path)
                    sock.sendall(OFFER)
                await until_true(lambda: len(attempts) >= 3)
                assert server.connections == 0
                # What counts is what this second costs: a busy loop takes all of it.
                cpu_s = -time.process_time()
                await asyncio.sleep(1)
                cpu_s += time.process_time()
            loop = asyncio.get_running_loop()
            before = loop.time()
            await until_true(lambda: server.connections == 100)
            assert loop.time() - before < 2
            for sock in waiting:
                sock.setblocking(False)
                assert (await loop.sock_recv(sock, 100))[4:5] == b"O"
    finally:
        for sock in waiting:
            sock.close()
    assert cpu_s < 0.05
    record_property(
        "summary", f"P20, 100 wait and there is no descriptor: {cpu_s:.2%} of a processor"
    )
    (line,) = warnings(caplog)
    assert "cannot take new connections on " in line
    assert "Too many open files; those that are open go on" in line


async def test_pauses_become_longer_and_short_again() -> None:
    async with serving(Idle) as server:
        (one,) = server._acceptors
        pauses: list[float] = []
        for _ in range(8):
            pauses.append(one._pause_s)
            one._pause(OSError(errno.EMFILE, "Too many open files"))
            assert one._resuming is not None
            one._resuming.cancel()
            one._resume()
        assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()
        assert one._pause_s == 0.05


async def test_a_server_that_stops_while_it_cannot_accept_is_stopped() -> None:
    async with serving(Idle) as server:
        (one,) = server._acceptors
        one._pause(OSError(errno.EMFILE, "Too many open files"))
        async with asyncio.timeout(5):
            await server.stop(0)


async def test_a_connection_that_is_gone_before_it_is_looked_at_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(sock: socket.socket) -> str:
        raise OSError(errno.ENOTCONN, "not connected")

    async with serving(Idle) as server:
        with monkeypatch.context() as patch:
            patch.setattr(admission, "host_of", gone)
            async with Mta.connected(server.sockets[0]) as mta:
                assert await mta.rest() == b""
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("it is closed")],
    ids=str,
)
async def test_a_connection_that_gets_no_transport_does_not_count(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    async def fail_later(*arguments: object) -> None:
        raise error

    async with serving(Idle, max_connections=1, overload="close") as server:
        monkeypatch.setattr(acceptor, "SocketTransport", fail)
        for acceptor_of_it in server._acceptors:
            monkeypatch.setattr(acceptor_of_it, "_connect", fail_later)
        async with Mta.connected(server.sockets[0]) as mta:
            assert await mta.rest() == b""
        await until_true(lambda: server.connections == 0)
        monkeypatch.undo()
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()
    (line,) = warnings(caplog)
    assert f"came to nothing: {error}" in line


async def test_who_was_told_to_come_back_makes_room_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomilter.aio.server._SHED_IDLE_S", 0.05)
    async with serving(Idle, max_connections=1) as server, AsyncExitStack() as stack:
        listener = server.sockets[0]
        first = await stack.enter_async_context(Mta.connected(listener))
        await first.begin()
        shed = await stack.enter_async_context(Mta.connected(listener))
        await shed.begin()
        assert await shed.ask(CONNECT) == b"t"
        assert await shed.rest() == b""
        assert await first.ask(MAIL) == b"c"


def test_a_flood_from_many_hosts_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    config = Config(allowed_networks=("192.0.2.0/24",))
    judge = admission.Admission(config, lambda: 0.0)
    for number in range(100):
        judge._note("network", f"10.0.0.{number} is on none of the allowed networks")
    assert len(warnings(caplog)) == 1


# Memory


def test_p22_the_budget_pauses_above_three_quarters_and_resumes_below_three_fifths() -> None:
    budget = MemoryBudget(1000)
    resumed: list[str] = []
    budget.change(750)
    tight = [budget.is_tight]
    budget.change(1)
    tight.append(budget.is_tight)
    assert tight == [False, True]
    budget.wait("a", lambda: resumed.append("a"))
    budget.wait("b", lambda: resumed.append("b"))
    budget.forget("b")
    budget.change(-151)
    assert resumed == []
    budget.change(-1)
    assert (resumed, budget.used, budget.is_tight) == (["a"], 599, False)


async def test_p22_who_has_sent_much_is_not_read_from_while_memory_is_tight() -> None:
    gate = asyncio.Event()

    async def act(self: Any, stage: str) -> None:
        if stage == "mail":
            await gate.wait()

    milter = recorder(act=act)
    headers = packet(b"L", b"X-Long\0" + b"x" * 60_000 + b"\0")
    async with serving(milter, memory_budget=400_000) as server, AsyncExitStack() as stack:
        mtas = [await stack.enter_async_context(Mta.connected(server.sockets[0])) for _ in range(8)]
        for mta in mtas:
            await mta.begin()
            mta.send(MAIL, RCPT, headers, headers, headers)
        memory = server._shared.memory
        await until_true(lambda: memory.is_tight)
        for _ in range(20):
            await asyncio.sleep(0)
        # A read that was under way comes on top of it, for the first of them.
        assert memory.used < 300_000 + 131_072 + 8 * 8_192
        gate.set()
        for mta in mtas:
            for answer in (b"c", b"c", b"c", b"c", b"c"):
                assert await mta.reply() == answer
            mta.send(QUIT)
            assert await mta.rest() == b""
        await until_true(lambda: server.connections == 0)
        assert memory.used == 0


async def test_the_label_of_its_listener_is_known_to_a_milter(tmp_path: Path) -> None:
    labels: list[str] = []

    class Labelled(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            labels.append(self.listener)

    unix = f"unix:{tmp_path}/a.sock"
    async with serving(Labelled, "inet:0", unix) as server:
        for sock in server.sockets:
            async with Mta.connected(sock) as mta:
                await mta.begin()
                assert await mta.ask(MAIL) == b"c"
        port = server.sockets[0].getsockname()[1]
    assert labels == [f"inet:{port}@127.0.0.1", unix]


async def test_p22_half_a_packet_is_read_on_while_memory_is_tight() -> None:
    """Though what came ahead of it was served within the same read."""
    milter = recorder()
    async with (
        serving(milter, memory_budget=400_000) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        memory = server._shared.memory
        await mta.begin()
        memory.change(390_000)
        long = packet(b"L", b"X-Long\0" + b"x" * 60_000 + b"\0")
        mta.send(MAIL, RCPT, long[:7_000])
        assert await mta.replies(2) == [b"c", b"c"]
        mta.send(long[7_000:])
        assert await mta.reply() == b"c"
        memory.change(-390_000)
