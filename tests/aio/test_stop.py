"""The orderly end: nothing is lost, and nothing holds it up."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter import Config, ConfigError, EomActions, Milter, Server, Status, serve
from aiomilter.aio import server as server_module
from tests.aio.serving import Journal, Recorder, errors, recorder, serving
from tests.mta import (
    ABORT,
    CONNECT,
    EOM,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT,
    RCPT,
    Mta,
    split_packets,
)

SHUTTING_DOWN = b"y421 4.3.2 the mail filter is shutting down\0"


@pytest.fixture
def short_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait seconds for what a test has made never to come."""
    monkeypatch.setattr(server_module, "_IDLE_GRACE_S", 0.1)
    monkeypatch.setattr(server_module, "_LAST_MOMENT_S", 0.1)


class Waiting(Recorder):
    """Waits at the end of a message until the test lets it go on."""

    async def act(self, where: str) -> None:
        if where == "eom":
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.journal.note("cut")
                raise

    release: asyncio.Event


def waiting() -> type[Waiting]:
    milter = recorder(Waiting, release=asyncio.Event())
    assert issubclass(milter, Waiting)
    return milter


@asynccontextmanager
async def stopping(server: Server, grace: float | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """Have a server stop in the background, and wait for its end when the block is left."""
    task = asyncio.create_task(server.stop(grace))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        await task


async def test_between_messages_the_mta_is_sent_away_with_421() -> None:
    milter = recorder()
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        assert await mta.converse(HELO, MAIL) == b"cc"
        mta.send(ABORT)
        assert await mta.ask(HELO) == b"c"
        async with stopping(server, 5):
            assert await mta.ask(MAIL) == SHUTTING_DOWN
            # Whatever comes then is answered the same, for as long as the MTA stays.
            assert await mta.ask(HELO) == SHUTTING_DOWN
            mta.send(QUIT)
            assert await mta.rest() == b""
    assert milter.journal.entries == ["helo", "mail", "abort", "helo", "close"]


async def test_a_message_in_progress_finishes_and_the_next_is_refused() -> None:
    milter = waiting()
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        assert await mta.converse(MAIL, RCPT) == b"cc"
        async with stopping(server, 5):
            assert await mta.converse(*MESSAGE[2:-1]) == b"cccc"
            mta.send(EOM)
            await milter.journal.until("eom")
            milter.release.set()
            assert await mta.replies(2) == [b"hX-Message\x001\0", b"a"]
            assert await mta.ask(MAIL) == SHUTTING_DOWN
            mta.send(QUIT)
            assert await mta.rest() == b""
    assert "cut" not in milter.journal.entries
    assert "abort" not in milter.journal.entries
    assert milter.journal.entries.count("close") == 1


async def test_no_new_connection_is_accepted() -> None:
    milter = waiting()
    async with serving(milter) as server:
        listener = server.sockets[0]
        name = listener.getsockname()
        async with Mta.connected(listener) as mta:
            await mta.begin()
            mta.send(MAIL, RCPT, EOM)
            await milter.journal.until("eom")
            async with stopping(server, 5):
                assert server.sockets == ()
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(*name)
                milter.release.set()
                assert (await mta.replies(4))[-1] == b"a"
                mta.send(QUIT)


@pytest.mark.usefixtures("short_moments")
async def test_an_idle_connection_is_closed_after_a_moment() -> None:
    milter = recorder()
    async with (
        serving(milter) as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[0]) as silent,
    ):
        await mta.begin()
        assert await mta.ask(HELO) == b"c"
        async with stopping(server, 5):
            assert await mta.rest() == b""
            assert await silent.rest() == b""
    assert milter.journal.entries == ["helo", "close"]


async def test_without_grace_handlers_are_cut_short_with_a_tempfail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = waiting()
    # Whatever the verdict for faults is: this is none of the handler's.
    async with (
        serving(milter, on_error="reject") as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[0]) as between,
        Mta.connected(server.sockets[0]) as silent,
    ):
        await mta.begin()
        await between.begin()
        assert await between.converse(MAIL, RCPT) == b"cc"
        mta.send(MAIL, RCPT, EOM)
        await milter.journal.until("eom")
        await server.stop(0)
        assert split_packets(await mta.rest()) == [b"c", b"c", b"t"]
        assert await between.rest() == b""
        assert await silent.rest() == b""
    assert server.connections == 0
    assert milter.journal.entries.count("cut") == 1
    assert milter.journal.entries.count("close") == 2
    assert milter.journal.entries.count("abort") == 1
    (line,) = errors(caplog)
    assert "the server is stopping; the answer is TEMPFAIL" in line


async def test_the_end_of_the_grace_cuts_handlers_short() -> None:
    milter = waiting()
    async with serving(milter, grace=0.1) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        mta.send(MAIL, RCPT, EOM)
        await milter.journal.until("eom")
        await server.stop()
        assert split_packets(await mta.rest()) == [b"c", b"c", b"t"]


async def test_hurry_ends_the_grace() -> None:
    milter = waiting()
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        mta.send(MAIL, RCPT, EOM)
        await milter.journal.until("eom")
        async with (
            asyncio.timeout(1),
            stopping(server, 60),
        ):
            server.hurry()
        assert split_packets(await mta.rest()) == [b"c", b"c", b"t"]


@pytest.mark.usefixtures("short_moments")
async def test_a_handler_that_cannot_be_cut_short_does_not_hold_up_the_end() -> None:
    release = asyncio.Event()

    class Stubborn(Recorder):
        async def act(self, where: str) -> None:
            while where == "mail" and not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    self.journal.note("cut")

    milter = recorder(Stubborn)
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        mta.send(MAIL)
        await milter.journal.until("mail")
        async with asyncio.timeout(1.5):
            await server.stop(0)
        assert await mta.rest() in (b"", b"\0\0\0\x01t")
        release.set()
        await asyncio.sleep(0.01)


async def test_a_blocking_handler_does_not_hold_up_the_end() -> None:
    release = threading.Event()
    journal = Journal()

    class Blocking(Milter):
        def on_mail(self, sender: str, params: list[str]) -> None:
            journal.note("mail")
            release.wait()
            journal.note("late")

    async with serving(Blocking) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        mta.send(MAIL)
        await journal.until("mail")
        async with asyncio.timeout(1):
            await server.stop(0)
        assert await mta.rest() == b"\0\0\0\x01t"
    release.set()
    await journal.until("late")


async def test_close_hooks_run_before_the_server_has_stopped() -> None:
    order: list[str] = []

    class Closing(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        async def on_close(self) -> None:
            await asyncio.sleep(0.02)
            order.append("closed")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        order.append("entered")
        yield
        order.append("left")

    async with (
        Server(Closing, "inet:0", lifespan=lifespan) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()
        assert await mta.ask(MAIL) == b"c"
        await server.stop(0)
    assert order == ["entered", "closed", "left"]


async def test_a_stopped_server_may_be_stopped_again_but_not_started() -> None:
    async with serving(Milter) as server:
        with pytest.raises(ConfigError, match="a server starts once"):
            await server.start()
        await server.stop()
        await server.stop()
        with pytest.raises(ConfigError, match="a server starts once"):
            await server.start()


async def test_a_server_that_never_started_may_be_stopped() -> None:
    await Server(Milter, "inet:0").stop()


# The coroutine `serve`


async def test_serve_ends_with_its_shutdown() -> None:
    journal = Journal()
    shutdown = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        journal.note("entered")
        yield
        journal.note("left")

    task = asyncio.create_task(
        serve(Milter, "inet:0", shutdown=shutdown.wait(), lifespan=lifespan())
    )
    await journal.until("entered")
    assert not task.done()
    shutdown.set()
    await task
    assert journal.entries == ["entered", "left"]


async def test_serve_stops_in_order_when_it_is_cancelled() -> None:
    journal = Journal()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        journal.note("entered")
        yield
        journal.note("left")

    task = asyncio.create_task(serve(Milter, "inet:0", config=Config(), lifespan=lifespan))
    await journal.until("entered")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal.entries == ["entered", "left"]


async def test_serve_reports_an_address_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="is no address"):
        await serve(Milter, "nonsense")


async def test_a_verdict_is_still_given_while_the_server_stops() -> None:
    class Rejecting(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            return Status.REJECT

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.DISCARD

    async with serving(Rejecting) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        assert await mta.converse(MAIL) == b"c"
        async with stopping(server, 5):
            assert await mta.converse(RCPT, EOM) == b"rd"
            mta.send(QUIT)


async def test_who_waits_in_the_backlog_is_answered_and_not_cut_off(tmp_path: Path) -> None:
    path = f"{tmp_path}/a.sock"
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    async with serving(Recorder, path) as server:
        for sock in waiting:
            sock.connect(path)
            sock.sendall(OFFER + CONNECT)
        # The loop has not turned: nobody was accepted.
        stopping = asyncio.ensure_future(server.stop(5))
        for sock in waiting:
            answer = await asyncio.to_thread(received, sock)
            assert b"421 4.3.2" in answer
            sock.close()
        await stopping


def received(sock: socket.socket) -> bytes:
    sock.settimeout(5)
    data = b""
    while b"421" not in data and (more := sock.recv(1000)):
        data += more
    return data


async def test_a_connection_that_becomes_idle_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiomilter.aio.server._IDLE_GRACE_S", 0.2)
    monkeypatch.setattr("aiomilter.aio.server._LOOK_EVERY_S", 0.02)
    milter = recorder()
    loop = asyncio.get_running_loop()
    async with (
        serving(milter, grace=20) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()
        assert await mta.converse(*MESSAGE[:-2]) == b"c" * (len(MESSAGE) - 2)
        began = loop.time()
        stopping = asyncio.ensure_future(server.stop(20))
        await asyncio.sleep(0.3)
        mta.send(*MESSAGE[-2:])
        await stopping
        assert loop.time() - began < 5
    assert milter.journal.entries[-1] == "close"


async def test_a_stop_that_is_cancelled_leaves_nothing_open() -> None:
    milter = recorder()
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        await mta.converse(MAIL)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await server.stop(30)
        assert server.connections == 0
    assert milter.journal.entries[-2:] == ["abort", "close"]
