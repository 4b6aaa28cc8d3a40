"""Unix sockets: whose they are, who may connect, and what is left behind."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Config, ConfigError, Milter, Server
from aiomilter.aio import listeners
from aiomilter.aio.listeners import open_listeners
from tests.aio.serving import serving, warnings
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


def test_p31_the_path_is_for_owner_and_group_from_the_beginning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            modes.append(stat.S_IMODE(os.stat(address).st_mode))

        def listen(self, *backlog: int) -> None:
            # Nobody can have connected before.
            modes.append(stat.S_IMODE(path.stat().st_mode))
            owners.append((path.stat().st_uid, path.stat().st_gid))
            super().listen(*backlog)

    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(socket, "socket", Watched)
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        uid, gid = pwd.getpwall()[-1].pw_uid, grp.getgrall()[-1].gr_gid
    old = os.umask(0)
    try:
        (listener,) = open_listeners((str(path),), Config(unix_owner=uid, unix_group=gid))
    finally:
        os.umask(old)
    listener.close()
    assert modes == [0o660, 0o660]
    assert owners == [(uid, gid)]


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
    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ConfigError, match="cannot set owner, group and mode"):
        async with Server(Idle, str(path), config=Config(unix_group=0)):
            pass
    assert not path.exists()


async def test_a60_a_path_that_is_served_is_left_alone(path: Path) -> None:
    async with serving(Idle, str(path)):
        with pytest.raises(ConfigError, match="another process is listening there"):
            async with Server(Idle, str(path)):
                pass
        assert await is_served(path)


async def test_a60_a_stale_socket_is_taken_over(path: Path) -> None:
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
async def test_a60_what_is_no_socket_is_never_touched(path: Path, kind: str) -> None:
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


async def test_a_missing_directory_is_an_error_that_says_which(tmp_path: Path) -> None:
    missing = rf"milter\.sock: there is no directory '{tmp_path}/missing' \(make it, .*Runtime"
    with pytest.raises(ConfigError, match=missing):
        async with Server(Idle, f"unix:{tmp_path}/missing/milter.sock"):
            pass


async def test_a_path_that_is_too_long_is_an_error_that_says_by_how_much(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/{'x' * 200}"
    with pytest.raises(ConfigError, match=rf"at most 107 bytes, this one has {len(where) - 5}"):
        async with Server(Idle, where):
            pass


async def test_a_path_of_107_bytes_is_served(path: Path) -> None:
    # By another name: the folders of tests have names of any length.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        short = f"/proc/self/fd/{directory}/"
        where = short + "x" * (107 - len(short))
        async with serving(Idle, where):
            assert await is_served(Path(where))
        assert os.listdir(path.parent) == []
    finally:
        os.close(directory)


async def test_a_directory_that_may_not_be_written_to_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(socket.socket):
        def bind(self, address: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(ConfigError, match=f"cannot make the socket {path}: Permission denied"):
        async with Server(Idle, str(path)):
            pass


@pytest.mark.parametrize(
    ("mode", "count"), [(0o755, 0), (0o775, 0), (0o1777, 0), (0o777, 1), (0o702, 1)]
)
async def test_a60_a_directory_that_everybody_may_write_to_is_warned_of(
    path: Path, mode: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.chmod(mode)
    async with serving(Idle, str(path)):
        assert await is_served(path)
    assert len(warnings(caplog)) == count
    assert all("everybody on this host may write to the directory" in w for w in warnings(caplog))


async def test_a60_a_path_with_a_full_backlog_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(path))
        other.listen(0)
        client.connect(str(path))
        with pytest.raises(ConfigError, match="another process is listening there"):
            async with Server(Idle, str(path)):
                pass
        assert path.is_socket()


def test_p30_the_path_is_removed_while_its_inode_cannot_be_another_ones(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (listener,) = open_listeners((str(path),), Config())
    descriptor = listener.sock.fileno()
    unlink, was_open = os.unlink, []

    def watched(name: str) -> None:
        was_open.append(stat.S_ISSOCK(os.fstat(descriptor).st_mode))
        unlink(name)

    monkeypatch.setattr(os, "unlink", watched)
    listener.close()
    assert was_open == [True]
    # What comes after that is not ours, whatever its number.
    path.touch()
    listener.close()
    assert path.exists()


# Several starts at one moment

CROWD = """
import os, socket, sys
from aiomilter import Config, ConfigError
from aiomilter.aio.listeners import open_listeners

SIZE = 16

def start_one(path, start, say, leave):
    os.read(start, 1)  # all at once: at its end
    try:
        (listener,) = open_listeners((path,), Config())
    except ConfigError as error:
        os.write(say, f"{error}\\n".encode())
        return
    os.write(say, b"serves\\n")
    # Whoever connects to the path has to reach this process, until the end.
    os.read(leave, 1)
    listener.sock.settimeout(5)
    while True:
        connection = listener.sock.accept()[0]
        if connection.recv(1) == b"?":
            connection.sendall(b"!")
            return

def crowd(path):
    (start, go), (said, say), (leave, left) = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(SIZE):
        if (child := os.fork()) == 0:
            os.close(go)
            os.close(left)
            start_one(path, start, say, leave)
            os._exit(0)
        children.append(child)
    os.close(go)
    answers = b""
    while answers.count(b"\\n") < SIZE:
        answers += os.read(said, 4096)
    os.close(left)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        client.sendall(b"?")
        answer = client.recv(1).decode()
    for child in children:
        os.waitpid(child, 0)
    for descriptor in (start, said, say, leave):
        os.close(descriptor)
    lines = sorted(answers.decode().splitlines())
    refused = f"{path}: another process is listening there"
    assert lines == [refused] * (SIZE - 1) + ["serves"], lines
    assert answer == "!"

for _ in range(int(sys.argv[2])):
    # The winner has left its socket behind: the next round begins with a stale one.
    crowd(sys.argv[1])
"""


@pytest.mark.parametrize("stale", [False, True])
def test_a60_of_many_starts_at_once_one_serves_and_is_reached(path: Path, stale: bool) -> None:
    rounds = 25 if stale else 1
    subprocess.run([sys.executable, "-c", CROWD, str(path), str(rounds)], timeout=40, check=True)


@pytest.fixture
def lock(path: Path) -> Any:
    """Another start that takes its time."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_a60_a_start_in_a_directory_that_stays_locked_fails(
    path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "_LOCK_TIMEOUT_S", 0.05)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"holds a lock on the directory '{path.parent}'"):
        open_listeners((str(path),), Config())
    assert 0.05 <= time.monotonic() - began < 2
    assert not path.exists()


def test_a60_a_start_waits_for_one_that_is_under_way(path: Path, lock: int) -> None:
    timer = threading.Timer(0.03, fcntl.flock, (lock, fcntl.LOCK_UN))
    timer.start()
    (listener,) = open_listeners((str(path),), Config())
    timer.join()
    listener.close()


@pytest.mark.parametrize("hindrance", ["no locks", "not readable"])
def test_a_directory_that_cannot_be_locked_is_good_enough(
    path: Path, hindrance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(*((fcntl, "flock") if hindrance == "no locks" else (os, "open")), refuse)
    (listener,) = open_listeners((str(path),), Config())
    assert path.is_socket()
    listener.close()


async def test_a_path_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot look at"):
        async with Server(Idle, f"unix:{tmp_path}/file/milter.sock"):
            pass


async def test_p30_at_the_end_only_our_own_path_is_removed(path: Path) -> None:
    async with serving(Idle, str(path)):
        # Somebody has taken our place meanwhile.
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


async def test_p30_at_the_end_the_socket_of_a_successor_is_left_alone(path: Path) -> None:
    async with serving(Idle, str(path)) as first:
        path.unlink()
        async with serving(Idle, str(path)):
            await first.stop()
            assert await is_served(path)


async def test_a_path_that_is_gone_already_is_no_error(path: Path) -> None:
    async with serving(Idle, str(path)):
        path.unlink()
