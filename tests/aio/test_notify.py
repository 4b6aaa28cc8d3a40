"""What systemd is told, and that it may be absent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter.aio.notify import Notifier, watchdog_period
from tests.aio.serving import warnings
from tests.mta import PATIENCE_S


class Manager:
    """systemd's end."""

    def __init__(self, name: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind(name)

    @classmethod
    @asynccontextmanager
    async def listening(cls, name: str) -> AsyncIterator[Manager]:
        manager = cls(name)
        with manager.sock:
            yield manager

    async def message(self) -> str:
        """Return the next message."""
        async with asyncio.timeout(PATIENCE_S):
            return (await asyncio.get_running_loop().sock_recv(self.sock, 4096)).decode()


@pytest.fixture
async def where(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.mark.parametrize("is_abstract", [False, True])
async def test_a62_systemd_is_told_by_a_path_or_an_abstract_name(
    where: str, is_abstract: bool
) -> None:
    async with Manager.listening(f"\0{where}" if is_abstract else where) as manager:
        notifier = Notifier({"NOTIFY_SOCKET": f"@{where}" if is_abstract else where})
        notifier.ready("serving on\nunix:/a")
        assert await manager.message() == "READY=1\nSTATUS=serving on unix:/a"
        before = time.monotonic_ns() // 1000
        notifier.reloading(65)
        found = re.fullmatch(
            r"RELOADING=1\nMONOTONIC_USEC=(\d+)\nEXTEND_TIMEOUT_USEC=65000000\n"
            r"STATUS=reloading",
            await manager.message(),
        )
        assert found is not None
        assert before <= int(found[1]) <= time.monotonic_ns() // 1000
        notifier.stopping(32.5, "stopping")
        message = "STOPPING=1\nEXTEND_TIMEOUT_USEC=32500000\nSTATUS=stopping"
        assert await manager.message() == message
        notifier.alive()
        assert await manager.message() == "WATCHDOG=1"


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative/path", None])
async def test_a62_without_systemd_nothing_is_sent(
    name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({} if name is None else {"NOTIFY_SOCKET": name})
    notifier.ready("serving")
    notifier.alive()
    notifier.close()
    assert not warnings(caplog)


@pytest.mark.parametrize("name", ["/no/such/socket", "@nobody is there", "/" + "x" * 200])
async def test_a62_a_systemd_that_does_not_listen_is_told_of_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name})
    for _ in range(3):
        notifier.alive()
    (line,) = warnings(caplog)
    assert line.startswith("cannot tell systemd by NOTIFY_SOCKET: ")


async def test_what_does_not_fit_into_the_queue_is_sent_later(where: str) -> None:
    async with Manager.listening(where) as manager:
        fill(where)
        notifier = Notifier({"NOTIFY_SOCKET": where})
        notifier.ready("a")
        notifier.alive()
        while (message := await manager.message()) == "full":
            pass
        assert message == "READY=1\nSTATUS=a"
        assert await manager.message() == "WATCHDOG=1"


async def test_a_closed_one_sends_nothing_more(where: str) -> None:
    async with Manager.listening(where) as manager:
        fill(where)
        notifier = Notifier({"NOTIFY_SOCKET": where})
        notifier.ready("a")
        notifier.close()
        Notifier({"NOTIFY_SOCKET": where}).alive()
        while (message := await manager.message()) == "full":
            pass
        assert message == "WATCHDOG=1"


def fill(where: str) -> None:
    """Send until there is no room."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"full", where)


@pytest.mark.parametrize(
    ("limit", "owner", "period"),
    [
        ("30000000", None, 15.0),
        ("1000000", "own", 0.5),
        ("1000000", "1", None),
        ("0", None, None),
        ("-5", None, None),
        ("²", None, None),
        ("9" * 5000, None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_of_its_time(
    limit: str | None, owner: str | None, period: float | None
) -> None:
    environ: dict[str, str] = {}
    if limit is not None:
        environ["WATCHDOG_USEC"] = limit
    if owner is not None:
        environ["WATCHDOG_PID"] = str(os.getpid()) if owner == "own" else owner
    assert watchdog_period(environ) == period


async def test_without_an_event_loop_it_is_sent_with_the_next_message(where: str) -> None:
    async with Manager.listening(where) as manager:
        fill(where)
        notifier = Notifier({"NOTIFY_SOCKET": where}, has_event_loop=False)
        # In the way of whoever would wait for room.
        notifier.tell("READY=1\nSTATUS=a")
        with contextlib.suppress(BlockingIOError):
            while manager.sock.recv(4096):
                pass
        notifier.alive()
        assert await manager.message() == "READY=1\nSTATUS=a"
        assert await manager.message() == "WATCHDOG=1"


async def test_signs_of_life_that_wait_push_out_no_other_news(where: str) -> None:
    async with Manager.listening(where) as manager:
        fill(where)
        notifier = Notifier({"NOTIFY_SOCKET": where})
        notifier.ready("a")
        for _ in range(100):
            notifier.alive()
        while (message := await manager.message()) == "full":
            pass
        assert message == "READY=1\nSTATUS=a"
        assert await manager.message() == "WATCHDOG=1"
        notifier.close()
