"""Sockets from systemd's own tool for activation, and the unit files by its own judgement."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter import Status
from aiomilter.mta import Envelope, connect
from aiomilter.testing.servers.ports import ReservedPort

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
TIMEOUT_S = 20
PROGRAM = """
import sys
from aiomilter import Milter, Status, run

class Tagger(Milter):
    async def on_eom(self, actions):
        actions.add_header("X-Activated", "yes")
        return Status.ACCEPT

run(Tagger, *sys.argv[1:])
"""
ON = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | {
    name: value for name, value in os.environ.items() if name.startswith("COV")
}
"""What the program needs of the environment; the tool passes nothing else on."""


@asynccontextmanager
async def activated(
    port: int, path: Path, *command: str, names: str = "tcp:unix", **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Let systemd's tool listen, and start the command when somebody connects."""
    settings = [f"--setenv={name}={value}" for name, value in (ON | environ).items()]
    process = await asyncio.create_subprocess_exec(
        *("systemd-socket-activate", f"--fdname={names}", *settings),
        *(f"--listen=127.0.0.1:{port}", f"--listen={path}", *command),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        for _ in range(2):
            line = await asyncio.wait_for(process.stderr.readline(), TIMEOUT_S)
            assert line.startswith(b"Listening on "), line
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def is_filtered(address: str) -> bool:
    """Send a message to a milter."""
    async with asyncio.timeout(TIMEOUT_S), connect(address) as milter:
        outcome = await milter.send(Envelope("a@a.example", ["b@b.example"]), b"A: b\r\n\r\nc\r\n")
    delivery = outcome.apply()
    assert delivery is not None
    return outcome.status is Status.ACCEPT and b"X-Activated: yes" in delivery.content.as_bytes()


async def end_of(process: asyncio.subprocess.Process) -> str:
    """Wait for the end; return what it has said."""
    _, said = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return said.decode()


@pytest.mark.parametrize(
    "listen", [("systemd:",), ("systemd:tcp", "systemd:unix"), ("systemd:unix", "systemd:tcp")]
)
async def test_a62_sockets_of_systemd_are_served(tmp_path: Path, listen: tuple[str, ...]) -> None:
    path = tmp_path / "milter.sock"
    with ReservedPort() as port:
        command = (sys.executable, "-c", PROGRAM, *listen)
        async with activated(port.number, path, *command) as process:
            assert await is_filtered(f"unix:{path}")
            assert await is_filtered(f"inet:{port.number}@127.0.0.1")
            process.terminate()
            said = await end_of(process)
    assert process.returncode == 0
    assert said.count(" listening on systemd:") == 2
    # It is the socket unit's.
    assert path.is_socket()


async def test_a62_only_the_sockets_of_a_name_are_served(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    with ReservedPort() as port:
        command = (sys.executable, "-c", PROGRAM, "systemd:mta")
        async with activated(port.number, path, *command, names="other:mta") as process:
            assert await is_filtered(f"unix:{path}")
            process.terminate()
            said = await end_of(process)
    assert process.returncode == 0
    assert said.count(" listening on systemd:mta (descriptor 4)") == 1


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (
            (sys.executable, "-c", PROGRAM, "systemd:mta"),
            "systemd:mta: systemd has passed sockets named tcp, unix",
        ),
        (
            # As a script does that starts the milter without exec.
            ("sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", PROGRAM, "systemd:"),
            r"no sockets to this process: those of LISTEN_FDS are for process '\d+', and this is ",
        ),
    ],
)
async def test_a62_sockets_for_somebody_else_are_a_clear_error(
    tmp_path: Path, command: tuple[str, ...], problem: str
) -> None:
    path = tmp_path / "milter.sock"
    with ReservedPort() as port:
        async with activated(port.number, path, *command) as process:
            with contextlib.suppress(ConnectionError), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
            said = await end_of(process)
    assert process.returncode == 1
    assert re.search(problem, said), said


async def test_p29_readiness_is_told_to_an_abstract_name(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    name = f"aiomilter-test-{os.getpid()}"
    with ReservedPort() as port, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(TIMEOUT_S)
        command = (sys.executable, "-c", PROGRAM, "systemd:unix")
        notify = {"NOTIFY_SOCKET": f"@{name}"}
        async with activated(port.number, path, *command, **notify) as process:
            assert await is_filtered(f"unix:{path}")
            process.terminate()
            await end_of(process)
        messages = [manager.recv(4096).decode().splitlines()[0] for _ in range(2)]
    assert messages == ["READY=1", "STOPPING=1"]


# The unit files


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy of the unit files, with a program that exists."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    service = folder / "mymilter.service"
    text = service.read_text()
    assert text.count("/opt/mymilter/bin/aiomilter") == 1
    service.write_text(text.replace("/opt/mymilter/bin/aiomilter", "/bin/true"))
    return folder


def analyze(*arguments: str | Path) -> str:
    """Return what systemd-analyze says, which has to be content."""
    run = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_the_units_are_right(units: Path) -> None:
    said = analyze("verify", "--man=no", *sorted(units.iterdir()))
    assert "mymilter" not in said, said


def test_the_service_is_exposed_as_little_as_the_documentation_says(units: Path) -> None:
    said = analyze("security", "--offline=true", "--no-pager", units / "mymilter.service")
    found = re.search(r"Overall exposure level for mymilter\.service: ([\d.]+)", said)
    assert found is not None, said
    page = (UNITS.parents[1] / "docs" / "systemd.md").read_text()
    assert f"an exposure of {found[1]}" in page


def test_the_units_speak_of_one_socket_and_of_settings_that_the_program_knows() -> None:
    socket_unit = (UNITS / "mymilter.socket").read_text()
    service = (UNITS / "mymilter.service").read_text()
    assert "FileDescriptorName=mta\n" in socket_unit
    assert "--listen systemd:mta\n" in service
    assert "Type=notify\n" in service
    assert "WatchdogSec=" in service
