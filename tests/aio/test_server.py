"""Servers: addresses, factories, lifespans and the number of connections."""

from __future__ import annotations

import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Config, ConfigError, EomActions, Milter, Server, Status
from tests.aio.serving import Recorder, recorder, serving, session, until_true, warnings
from tests.mta import MAIL, MESSAGE, QUIT, RCPT, Mta, packet


class Idle(Milter):
    """Has one handler."""

    async def on_mail(self, sender: str, params: list[str]) -> None: ...


async def test_it_listens_on_several_addresses_in_their_order(tmp_path: Path) -> None:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    listen = ["inet:0", f"{tmp_path}/a.sock", "inet6:0", bound, f"unix:{tmp_path}/b.sock"]
    async with serving(Idle, *listen) as server:
        families = [sock.family for sock in server.sockets]
        inet, inet6, unix = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
        assert families == [inet, unix, inet6, inet, unix]
        for sock in server.sockets:
            async with Mta.connected(sock) as mta:
                await mta.begin()
                assert await mta.ask(MAIL) == b"c"
    assert server.sockets == ()


async def test_without_an_address_there_is_no_server() -> None:
    with pytest.raises(ConfigError, match="no address to listen on"):
        async with Server(Idle):
            pass


@pytest.mark.parametrize("factory", [object, int, dict])
def test_a_class_that_is_no_milter_is_refused(factory: Any) -> None:
    with pytest.raises(ConfigError, match="is no subclass of Milter"):
        Server(factory, "inet:0")


@pytest.mark.parametrize("factory", [None, 7, Milter()])
def test_what_cannot_be_called_is_no_factory(factory: Any) -> None:
    with pytest.raises(ConfigError, match="it is not callable"):
        Server(factory, "inet:0")


class Configured(Milter):
    """Needs an argument."""

    def __init__(self, name: str, *, size: int = 0) -> None:
        self.name = f"{name}{size}"

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X", self.name)
        return Status.ACCEPT


@pytest.mark.parametrize(
    "factory",
    [functools.partial(Configured, "a", size=1), lambda: Configured("a", size=1)],
    ids=["partial", "lambda"],
)
async def test_a_factory_is_any_callable(factory: Callable[[], Milter]) -> None:
    async with session(factory) as mta:
        assert await mta.converse(MAIL, RCPT) == b"cc"
        assert await mta.ask(b"\0\0\0\x01E") == b"hX\0a1\0"


async def test_each_connection_has_an_object_of_its_own() -> None:
    made: list[Milter] = []

    class Made(Idle):
        def __init__(self) -> None:
            made.append(self)

    async with serving(Made) as server:
        for _ in range(3):
            async with Mta.connected(server.sockets[0]) as mta:
                await mta.begin()
                await mta.converse(MAIL)
                mta.send(QUIT)
                await mta.rest()
    assert len({id(milter) for milter in made}) == 3
    assert len({milter.session_id for milter in made}) == 3


# Lifespan


@asynccontextmanager
async def noting(journal: list[str]) -> AsyncIterator[None]:
    journal.append("entered")
    try:
        yield
    finally:
        journal.append("left")


class Noting:
    """A context manager that cannot be called."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    async def __aenter__(self) -> None:
        self.journal.append("entered")

    async def __aexit__(self, *error: object) -> None:
        self.journal.append("left")


LIFESPANS: dict[str, Callable[[list[str]], Any]] = {
    "context manager": noting,
    "callable": lambda journal: functools.partial(noting, journal),
    "object": Noting,
    "class": lambda journal: functools.partial(Noting, journal),
}


@pytest.mark.parametrize("lifespan", LIFESPANS.values(), ids=LIFESPANS)
async def test_a_lifespan_is_entered_first_and_left_last(
    lifespan: Callable[[list[str]], Any],
) -> None:
    journal: list[str] = []
    async with Server(Idle, "inet:0", lifespan=lifespan(journal)):
        assert journal == ["entered"]
    assert journal == ["entered", "left"]


async def test_a_lifespan_is_left_if_an_address_is_no_good() -> None:
    journal: list[str] = []
    with pytest.raises(ConfigError):
        async with Server(Idle, "nonsense", lifespan=lambda: noting(journal)):
            pass
    assert journal == ["entered", "left"]


async def test_nothing_is_opened_if_the_lifespan_fails(tmp_path: Path) -> None:
    class Failing:
        async def __aenter__(self) -> None:
            raise LookupError("no database")

        async def __aexit__(self, *error: object) -> None:
            raise AssertionError("must not be called")

    path = tmp_path / "milter.sock"
    with pytest.raises(LookupError, match="no database"):
        async with Server(Idle, str(path), lifespan=Failing):
            pass
    assert not path.exists()


async def test_all_addresses_are_closed_again_if_one_is_no_good(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    with pytest.raises(ConfigError):
        async with Server(Idle, str(path), f"{tmp_path}/missing/milter.sock"):
            pass
    assert not path.exists()


def test_a_lifespan_has_a_type_that_contextlib_knows() -> None:
    lifespan: AbstractAsyncContextManager[object] = noting([])
    assert Server(Idle, "inet:0", lifespan=lifespan).sockets == ()


# The number of connections


async def until_open(server: Server, count: int) -> None:
    await until_true(lambda: server.connections == count)


async def test_connections_are_counted() -> None:
    async with serving(Idle) as server:
        assert server.connections == 0
        async with Mta.connected(server.sockets[0]) as mta:
            await until_open(server, 1)
            mta.send(QUIT)
            await until_open(server, 0)


async def test_the_limit_of_a_packet_is_configured(caplog: pytest.LogCaptureFixture) -> None:
    milter = recorder()
    async with session(milter, max_packet_bytes=100_000) as mta:
        assert await mta.converse(*MESSAGE[:-2], packet(b"B", b"x" * 100_000)) == b"c" * 6
        # The length and the letter of 100,001 bytes: that is enough.
        mta.send(packet(b"B", b"x" * 100_001)[:5])
        assert await mta.rest() == b""
    (line,) = warnings(caplog)
    assert "above the limit of 100000" in line


async def test_a_server_has_its_settings() -> None:
    config = Config(backlog=5)
    assert Server(Recorder, "inet:0", config=config).config is config
    assert Server(Recorder, "inet:0").config == Config()
