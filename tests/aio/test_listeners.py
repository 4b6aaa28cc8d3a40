"""Listening sockets of the internet kind, and those that somebody else has made."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiomilter import ConfigError, Milter, Server
from tests.aio.serving import serving
from tests.mta import MAIL, Mta


class Idle(Milter):
    """Has one handler."""

    async def on_mail(self, sender: str, params: list[str]) -> None: ...


# Internet addresses


async def test_a61_without_a_host_the_loopback_address_alone_is_served() -> None:
    async with serving(Idle, "inet:0", "inet6:0") as server:
        hosts = [sock.getsockname()[0] for sock in server.sockets]
    assert hosts == ["127.0.0.1", "::1"]


EVERYBODY = ("0.0.0.0/0", "::/0")


async def test_a61_all_interfaces_have_to_be_asked_for() -> None:
    async with serving(Idle, "inet:0@0.0.0.0", allowed_networks=EVERYBODY) as server:
        assert server.sockets[0].getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("inet:0@0.0.0.0", "0.0.0.0"),
        ("inet6:0@::", "::"),
        ("inet:0@192.0.2.1", "192.0.2.1"),
        ("inet6:0@fe80::1%lo", "fe80::1"),
        ("inet6:0@::ffff:192.0.2.1", "192.0.2.1"),
        ("0.0.0.0:0", "0.0.0.0"),
    ],
)
async def test_a61_others_are_not_let_in_unless_it_is_said_who(address: str, host: str) -> None:
    advice = rf"^{address}: .*{host}.* is not the loopback address.*allowed_networks"
    with pytest.raises(ConfigError, match=advice):
        async with Server(Idle, "inet:0", address):
            pass


@pytest.mark.parametrize("address", ["inet:0@127.8.9.10", "inet6:0@::1", "[::1]:0"])
async def test_a61_any_loopback_address_will_do_without(address: str) -> None:
    async with serving(Idle, address) as server:
        assert len(server.sockets) == 1


async def test_a61_each_address_of_a_host_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*arguments: object, **options: object) -> Any:
        inet = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*inet, ("127.0.0.1", 0)), (*inet, ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ConfigError, match=r"mx\.example:0: 192\.0\.2\.1 is not the loopback"):
        async with Server(Idle, "mx.example:0"):
            pass


async def test_a61_a_socket_that_was_handed_in_is_somebody_elses_decision() -> None:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        async with serving(Idle, f"fd:{sock.fileno()}") as server:
            assert len(server.sockets) == 1


async def test_a_host_and_port_of_either_family() -> None:
    async with serving(Idle, "127.0.0.1:0", "[::1]:0", "localhost:0") as server:
        assert len(server.sockets) >= 3
        for sock in server.sockets:
            assert sock.getsockname()[0] in ("127.0.0.1", "::1")


async def test_a_port_that_is_served_is_an_error() -> None:
    async with serving(Idle) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on inet:{port}: Address already"):
            async with Server(Idle, "inet:0", f"inet:{port}"):
                pass


async def test_a_port_may_be_served_again_at_once() -> None:
    async with serving(Idle) as server:
        port = server.sockets[0].getsockname()[1]
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()
            await server.stop(0)
            assert await mta.rest() == b""
    async with serving(Idle, f"inet:{port}"):
        pass


@pytest.mark.parametrize(
    "address", ["inet:0@no.such.host.invalid", "inet6:0@127.0.0.1", "inet:0@a..b", "inet:0@h\0"]
)
async def test_a_host_that_cannot_be_is_an_error(address: str) -> None:
    with pytest.raises(ConfigError):
        async with Server(Idle, address):
            pass


# Sockets that somebody else has made


async def test_a_bound_socket_is_served_and_closed() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    async with serving(Idle, sock) as server:
        assert server.sockets == (sock,)
        async with Mta.connected(sock) as mta:
            await mta.begin()
        assert not os.get_inheritable(sock.fileno())
    assert sock.fileno() == -1


async def test_the_path_of_a_socket_that_was_handed_in_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    async with serving(Idle, sock), Mta.connected_to_path(str(path)) as mta:
        await mta.begin()
        assert await mta.ask(MAIL) == b"c"
    assert path.is_socket()


async def test_a_datagram_socket_is_refused() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(ConfigError, match="is no stream socket"),
    ):
        async with Server(Idle, sock):
            pass


async def test_a_connected_socket_is_refused() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(ConfigError, match="cannot listen on"):
        async with Server(Idle, one):
            pass


async def test_a_descriptor_is_served() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        async with (
            serving(Idle, f"fd:{sock.fileno()}") as server,
            Mta.connected(server.sockets[0]) as mta,
        ):
            await mta.begin()
        # It stays with whoever has opened it.
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("number", ["999999", "99999999999999999999", "/dev/null"])
async def test_a_descriptor_that_is_no_socket_is_an_error(number: str) -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        address = f"fd:{descriptor}" if number == "/dev/null" else f"fd:{number}"
        with pytest.raises(ConfigError):
            async with Server(Idle, address):
                pass
    finally:
        os.close(descriptor)


async def test_a_descriptor_of_another_kind_of_socket_is_an_error() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(ConfigError, match="is no stream socket"),
    ):
        async with Server(Idle, f"fd:{sock.fileno()}"):
            pass


@pytest.mark.parametrize(
    ("environ", "advice"),
    [
        ({}, "start it by its socket unit"),
        ({"LISTEN_FDS": "1"}, "start it by its socket unit"),
        ({"LISTEN_PID": "own"}, "start it by its socket unit"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, r"process '1', and this is \d+; a script"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "x\n"}, r"for process 'x\\n'"),
        ({"LISTEN_FDS": "0", "LISTEN_PID": "own"}, "LISTEN_FDS is '0'; see ListenStream="),
        ({"LISTEN_FDS": "x", "LISTEN_PID": "own"}, "LISTEN_FDS is 'x'"),
        ({"LISTEN_FDS": "²", "LISTEN_PID": "own"}, "LISTEN_FDS is '²'"),
        ({"LISTEN_FDS": "99999", "LISTEN_PID": "own"}, "LISTEN_FDS is '99999'"),
    ],
)
async def test_a62_without_sockets_from_systemd_there_is_an_error(
    environ: dict[str, str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "own" else value)
    with pytest.raises(ConfigError, match=f"systemd has passed no sockets .*{advice}"):
        async with Server(Idle, "systemd:"):
            pass


ACTIVATED = """
import asyncio, os, sys
from aiomilter import ConfigError, Milter, Server

os.environ["LISTEN_PID"] = str(os.getpid())

async def main():
    async with Server(Milter, sys.argv[1]) as server:
        print(*[sock.getsockname()[1] for sock in server.sockets])

try:
    asyncio.run(main())
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("address", "names", "served"),
    [
        ("systemd:", "", [0, 1, 2]),
        ("systemd:", "a:b:a", [0, 1, 2]),
        ("systemd:a", "a:b:a", [0, 2]),
        ("systemd:b", "a:b:a", [1]),
        ("systemd:c", "a:b:a", "systemd:c: systemd has passed sockets named a, b, a\n"),
    ],
)
def test_sockets_of_systemd_are_served(address: str, names: str, served: list[int] | str) -> None:
    sockets = [socket.socket() for _ in range(3)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        numbers = " ".join(str(sock.fileno()) for sock in sockets)
        # As systemd does: from descriptor 3 on. By way of higher ones, lest they cross.
        shell = (
            f"set -- {numbers}; exec 20<&$1 21<&$2 22<&$3; exec 3<&20 4<&21 5<&22; "
            'exec "$PYTHON" -c "$CODE" "$ADDRESS"'
        )
        environ = {"PYTHON": sys.executable, "CODE": ACTIVATED, "ADDRESS": address}
        environ |= {"LISTEN_FDS": "3", "LISTEN_FDNAMES": names}
        run = subprocess.run(
            ["bash", "-c", shell],
            env=os.environ | environ,
            pass_fds=[sock.fileno() for sock in sockets],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        if isinstance(served, str):
            assert run.stdout == served
        else:
            ports = [str(sockets[index].getsockname()[1]) for index in served]
            assert run.stdout.split() == ports
    finally:
        for sock in sockets:
            sock.close()


async def test_a_server_that_fails_to_start_leaves_no_descriptor_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ConfigError):
            async with Server(Idle, "inet:0", "inet6:0", "nonsense"):
                pass
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before
