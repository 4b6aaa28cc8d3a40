"""Connecting to a milter: each way in which it fails is one sentence that says what to do."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomilter.aio import dial as dialling
from aiomilter.aio.address import parse_address
from aiomilter.aio.dial import Stream, dial
from aiomilter.errors import ConfigError, MilterUnavailable
from tests.mta import PATIENCE_S

NO_PERMISSION = (
    "no permission to connect; become a member of the socket's group, or start the milter with a "
    "socket that others may write to"
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on the loopback, and takes connections without a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def exchange(stream: Stream, peer: socket.socket) -> None:
    """Send something both ways, and close."""
    loop = asyncio.get_running_loop()
    with peer:
        peer.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            await stream.write(b"ping")
            assert await loop.sock_recv(peer, 10) == b"ping"
            await loop.sock_sendall(peer, b"pong")
            assert await stream.read() == b"pong"
            await stream.close()
            assert await loop.sock_recv(peer, 10) == b""


@pytest.mark.parametrize(
    "address", ["inet:{}@127.0.0.1", "inet:{}", "127.0.0.1:{}", "inet:{}@localhost"]
)
async def test_a_port(address: str, listener: socket.socket) -> None:
    stream = await dial(address.format(listener.getsockname()[1]))
    sock: socket.socket = stream.writer.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    peer, _ = listener.accept()
    await exchange(stream, peer)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        stream = await dial(parse_address(f"unix:{path}"))
        peer, _ = listener.accept()
        await exchange(stream, peer)


async def test_to_abort_is_to_close_at_once(listener: socket.socket) -> None:
    stream = await dial(f"inet:{listener.getsockname()[1]}")
    peer, _ = listener.accept()
    stream.abort()
    with peer:
        peer.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
    await stream.close()


# What cannot be reached


async def unavailable(address: str) -> str:
    """Connect, and return the sentence that tells why not, without the address in front."""
    with pytest.raises(MilterUnavailable) as caught:
        await dial(address, timeout_s=PATIENCE_S)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{address}: ")
    return text.removeprefix(f"{address}: ")


async def test_nobody_listens_on_a_port(free_port: int) -> None:
    assert await unavailable(f"inet:{free_port}@127.0.0.1") == (
        "nobody listens there; is the milter running, and on this port?"
    )


async def test_nobody_listens_on_any_address_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several attempts fail together as one error without a number."""

    async def refuse(*_: Any, **__: Any) -> None:
        refused = f"[Errno {errno.ECONNREFUSED}] Connect call failed"
        raise OSError(f"Multiple exceptions: {refused} ('::1', 25), {refused} ('127.0.0.1', 25)")

    monkeypatch.setattr(asyncio, "open_connection", refuse)
    assert await unavailable("localhost:25") == (
        "nobody listens there; is the milter running, and on this port?"
    )


async def test_nobody_listens_on_a_unix_socket_any_more(tmp_path: Path) -> None:
    path = tmp_path / "old.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    assert await unavailable(f"unix:{path}") == (
        "nobody listens on this socket any more; start the milter again"
    )


async def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    assert await unavailable(f"unix:{tmp_path}/none.sock") == (
        "there is no such socket; is the milter running, with this path?"
    )


async def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await unavailable(f"unix:{tmp_path}/file/x.sock") == "no connection: Not a directory"


@pytest.mark.parametrize("is_directory", [False, True])
async def test_a_path_that_is_no_socket(is_directory: bool, tmp_path: Path) -> None:
    """Linux itself says of both that nobody listens there."""
    path = tmp_path / "thing"
    path.mkdir() if is_directory else path.touch()
    assert await unavailable(f"unix:{path}") == "this is no socket, but a file or a directory"


async def test_a_socket_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "datagrams.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        assert await unavailable(f"unix:{path}") == (
            "this is no stream socket, as milters have them"
        )


async def test_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio, "open_connection", resolve)
    for address in ("inet:25@nosuch.example", "nosuch.example:25"):
        assert await unavailable(address) == (
            "no host is called 'nosuch.example'; check its spelling, or the DNS"
        )


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..example"])
async def test_a_host_that_can_have_no_name_like_that(host: str) -> None:
    assert await unavailable(f"{host}:25") == (
        f"no host is called {host!r}; check its spelling, or the DNS"
    )


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (
            errno.EACCES,
            NO_PERMISSION,
        ),
        (
            errno.EPERM,
            NO_PERMISSION,
        ),
        (errno.ENOTSOCK, "this is no socket, but a file or a directory"),
        (errno.EHOSTUNREACH, "the host cannot be reached from here"),
        (errno.ENETUNREACH, "the host cannot be reached from here"),
        (errno.EMFILE, "no connection: Too many open files"),
    ],
)
async def test_what_the_system_says(
    number: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom nothing is forbidden; so the system's answer is made up."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(asyncio, "open_unix_connection", refuse)
    assert await unavailable("unix:/run/nowhere.sock") == sentence


async def test_a_socket_that_goes_while_its_kind_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(asyncio, "open_unix_connection", refuse)
    assert (await unavailable(f"unix:{tmp_path}/gone")).startswith("there is no such socket;")


async def test_an_error_without_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Multiple exceptions: [Errno 101] x, [Errno 113] y")

    monkeypatch.setattr(asyncio, "open_connection", refuse)
    assert await unavailable("h:25") == (
        "no connection: Multiple exceptions: [Errno 101] x, [Errno 113] y"
    )


async def test_a_connection_that_is_not_taken_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(dialling, "_open", wait)
    with pytest.raises(MilterUnavailable) as caught:
        await dial("inet:25@192.0.2.1", timeout_s=0.01)
    assert str(caught.value) == (
        "inet:25@192.0.2.1 does not take the connection within 0.01 s; is the address right, and "
        "is no firewall in between?"
    )


# What is no address to connect to


@pytest.mark.parametrize("address", ["fd:3", "systemd:", "systemd:name"])
async def test_a_place_to_listen_on(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await dial(address)
    assert str(caught.value) == f"'{address}' is a place to listen on, not one to connect to"


@pytest.mark.parametrize("address", ["inet:0", "inet:0@127.0.0.1", "localhost:0", "inet6:0"])
async def test_port_0(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await dial(address)
    assert str(caught.value) == f"'{address}': port 0 is for listening; name the milter's port"


@pytest.mark.parametrize("address", ["", "nonsense", "unix:", "inet:99999"])
async def test_no_address(address: str) -> None:
    with pytest.raises(ConfigError):
        await dial(address)
