"""Listening sockets: whose they are, who may connect, and what is left behind."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Config, ConfigError, Milter, Server
from aiomilter.aio.listeners import open_listeners
from tests.aio.serving import serving
from tests.mta import MAIL, Mta

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


class Idle(Milter):
    """Has one handler."""

    async def on_mail(self, sender: str, params: list[str]) -> None: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "milter.sock"


async def is_served(path: Path) -> bool:
    async with Mta.connected_to_path(str(path)) as mta:
        await mta.begin()
        return await mta.ask(MAIL) == b"c"


async def test_the_path_is_made_and_removed(path: Path) -> None:
    async with serving(Idle, f"unix:{path}"):
        assert await is_served(path)
    assert not path.exists()


def test_the_path_is_for_owner_and_group_from_the_beginning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    old = os.umask(0)
    try:
        (listener,) = open_listeners((str(path),), Config())
    finally:
        os.umask(old)
    listener.close()
    assert modes == [0o660]


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777])
@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_the_mode_is_configured_whatever_the_umask(path: Path, mode: int, umask: int) -> None:
    old = os.umask(umask)
    try:
        async with serving(Idle, str(path), unix_mode=mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.umask(umask) == umask
    finally:
        os.umask(old)


@needs_root
@pytest.mark.parametrize("by_name", [True, False])
async def test_group_and_owner_are_configured(path: Path, by_name: bool) -> None:
    group, owner = grp.getgrall()[-1], pwd.getpwall()[-1]
    async with serving(
        Idle,
        str(path),
        unix_group=group.gr_name if by_name else group.gr_gid,
        unix_owner=owner.pw_name if by_name else str(owner.pw_uid),
    ):
        found = path.stat()
        assert (found.st_gid, found.st_uid) == (group.gr_gid, owner.pw_uid)


@pytest.mark.parametrize("setting", ["unix_group", "unix_owner"])
async def test_an_unknown_group_or_owner_is_an_error(path: Path, setting: str) -> None:
    config = Config(**{setting: "no-such-name"})  # type: ignore[arg-type]  # text is right
    with pytest.raises(ConfigError, match=f"{setting}: there is no 'no-such-name'"):
        async with Server(Idle, str(path), config=config):
            pass
    assert not path.exists()


async def test_a_group_that_cannot_be_given_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ConfigError, match="cannot set owner, group and mode"):
        async with Server(Idle, str(path), config=Config(unix_group=0)):
            pass
    assert not path.exists()


async def test_a_path_that_is_served_is_left_alone(path: Path) -> None:
    async with serving(Idle, str(path)):
        with pytest.raises(ConfigError, match="another process is listening there"):
            async with Server(Idle, str(path)):
                pass
        assert await is_served(path)


async def test_a_stale_socket_is_taken_over(path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with serving(Idle, str(path)):
        assert await is_served(path)


async def test_a_socket_that_is_bound_but_not_listening_is_taken_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        async with serving(Idle, str(path)):
            assert await is_served(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
async def test_what_is_no_socket_is_never_touched(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("elsewhere")
    else:
        os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(ConfigError, match="no socket; it is left alone"):
        async with Server(Idle, str(path)):
            pass
    assert path.lstat() == before


async def test_a_socket_of_another_type_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ConfigError, match="whether it is in use cannot be told"):
            async with Server(Idle, str(path)):
                pass
        assert path.is_socket()


async def test_a_missing_directory_is_an_error_that_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing/milter\.sock: No such file or directory"):
        async with Server(Idle, f"unix:{tmp_path}/missing/milter.sock"):
            pass


async def test_a_path_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot look at"):
        async with Server(Idle, f"unix:{tmp_path}/file/milter.sock"):
            pass


async def test_at_the_end_only_our_own_path_is_removed(path: Path) -> None:
    async with serving(Idle, str(path)):
        # Somebody has taken our place meanwhile.
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


async def test_at_the_end_the_socket_of_a_successor_is_left_alone(path: Path) -> None:
    async with serving(Idle, str(path)) as first:
        path.unlink()
        async with serving(Idle, str(path)):
            await first.stop()
            assert await is_served(path)


async def test_a_path_that_is_gone_already_is_no_error(path: Path) -> None:
    async with serving(Idle, str(path)):
        path.unlink()


# Internet addresses


async def test_without_a_host_the_loopback_address_alone_is_served() -> None:
    async with serving(Idle, "inet:0", "inet6:0") as server:
        hosts = [sock.getsockname()[0] for sock in server.sockets]
    assert hosts == ["127.0.0.1", "::1"]


async def test_all_interfaces_have_to_be_asked_for() -> None:
    async with serving(Idle, "inet:0@0.0.0.0") as server:
        assert server.sockets[0].getsockname()[0] == "0.0.0.0"


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


async def test_the_path_of_a_socket_that_was_handed_in_is_not_ours(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    async with serving(Idle, sock):
        assert await is_served(path)
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
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},  # those of another process
        {"LISTEN_FDS": "0", "LISTEN_PID": "own"},
        {"LISTEN_FDS": "x", "LISTEN_PID": "own"},
        {"LISTEN_FDS": "²", "LISTEN_PID": "own"},
        {"LISTEN_PID": "own"},
    ],
)
async def test_without_sockets_from_systemd_there_is_an_error(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "own" else value)
    with pytest.raises(ConfigError, match="systemd has passed no sockets to this process"):
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
