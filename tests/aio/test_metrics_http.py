"""The HTTP server for metrics, as part of a service: descriptors, threads, health, its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

import pytest

from aiomilter import Milter, Server
from aiomilter.aio import metrics_http
from aiomilter.aio.acceptor import Acceptor
from aiomilter.aio.metrics_http import MetricsServer
from aiomilter.errors import ConfigError
from tests.aio.serving import no_descriptors, until_true, warnings
from tests.mta import PATIENCE_S

HEALTH = b"GET /healthz HTTP/1.1\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\n\r\n"


def rendered(accept: str) -> tuple[bytes, str]:
    return b"", "text/plain"


async def status_of(server: MetricsServer, request: bytes, host: str = "127.0.0.1") -> int:
    """The status of an answer; 0 if there was none."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    return int(answer.split()[1]) if answer else 0


async def test_without_descriptors_there_is_one_record_and_then_all_are_served(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    pause = Acceptor._pause

    def counted(self: Acceptor, error: OSError) -> None:
        attempts.append(1)
        pause(self, error)

    monkeypatch.setattr(Acceptor, "_pause", counted)
    waiting = [socket.socket() for _ in range(10)]
    loop = asyncio.get_running_loop()
    try:
        async with MetricsServer(rendered) as server:
            for sock in waiting:
                sock.setblocking(False)
            with no_descriptors():
                # They are in the backlog: connected, and not accepted.
                for sock in waiting:
                    await loop.sock_connect(sock, ("127.0.0.1", server.port))
                    await loop.sock_sendall(sock, HEALTH)
                await until_true(lambda: len(attempts) >= 3)
            async with asyncio.timeout(PATIENCE_S):
                for sock in waiting:
                    assert (await loop.sock_recv(sock, 100)).startswith(b"HTTP/1.1 200 ")
            label = f"http://127.0.0.1:{server.port}/metrics"
    finally:
        for sock in waiting:
            sock.close()
    (line,) = warnings(caplog)
    assert line.startswith(f"cannot take new connections on {label} for now: Too many open files")


async def test_health_follows_the_server() -> None:
    metrics = MetricsServer(rendered)
    server = Server(Milter, "inet:0")
    metrics.require(lambda: server.is_serving)
    async with metrics:
        assert await status_of(metrics, HEALTH) == 503
        await server.start()
        assert await status_of(metrics, HEALTH) == 200
        await server.stop()
        assert await status_of(metrics, HEALTH) == 503
        # What is counted is of interest all the same.
        assert await status_of(metrics, METRICS) == 200


async def test_all_conditions_count() -> None:
    metrics = MetricsServer(rendered, is_healthy=lambda: True)
    metrics.require(lambda: False)
    async with metrics:
        assert await status_of(metrics, HEALTH) == 503


async def test_metrics_that_hang_keep_neither_the_health_check_nor_the_end() -> None:
    release, begun = threading.Event(), threading.Event()

    def hang(accept: str) -> tuple[bytes, str]:
        begun.set()
        assert threading.current_thread().daemon
        release.wait()
        return rendered(accept)

    async with asyncio.timeout(PATIENCE_S):
        async with MetricsServer(hang) as server:
            asking = asyncio.ensure_future(status_of(server, METRICS))
            await until_true(begun.is_set)
            assert await status_of(server, HEALTH) == 200
        # It is cut off.
        assert await asking == 0
    release.set()


async def test_it_may_be_started_again() -> None:
    server = MetricsServer(rendered)
    for _ in range(2):
        async with server:
            assert await status_of(server, METRICS) == 200
        assert server.port == 0


async def test_an_address_in_use_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    bound = metrics_http._bound

    def kept(family: int, address: tuple[object, ...]) -> socket.socket:
        made.append(bound(family, address))
        return made[-1]

    monkeypatch.setattr(metrics_http, "_bound", kept)
    async with MetricsServer(rendered) as first:
        with pytest.raises(ConfigError, match="Address already in use"):
            await MetricsServer(rendered, port=first.port).start()
    assert all(sock.fileno() < 0 for sock in made)


async def test_an_ipv6_address_is_shown_in_brackets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("there is no IPv6 here")
    async with MetricsServer(rendered, "::1") as server:
        assert caplog.messages[-1] == f"metrics on http://[::1]:{server.port}/metrics"
        assert await status_of(server, HEALTH, "::1") == 200


async def test_who_was_accepted_in_the_last_moment_is_cut_off() -> None:
    server = MetricsServer(rendered)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    # The loop has not turned since the backlog has them.
    for acceptor in server._acceptors:
        acceptor._accept_some()
    await server.stop()
    writer.write(HEALTH)
    async with asyncio.timeout(PATIENCE_S):
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
    writer.close()


async def test_connections_that_are_held_open_do_not_fail_the_health_check() -> None:
    async with MetricsServer(rendered, timeout_s=PATIENCE_S) as server, asyncio.timeout(PATIENCE_S):
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(16)]
        await until_true(lambda: len(server._tasks) == 16)
        assert await status_of(server, HEALTH) == 200
        # The oldest has given way, and no other.
        assert await held[0][0].read() == b""
        assert len(server._tasks) == 15
        for _, writer in held:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_more_at_once_than_there_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "_MAX_CONNECTIONS", 1)
    async with MetricsServer(rendered) as server:
        nobody: Any = None
        first, second = (server._make_protocol(nobody, "") for _ in range(2))
        assert first is not None
        assert second is None
        server._protocols.clear()
