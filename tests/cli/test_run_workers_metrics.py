"""`aiomilter run --workers --metrics`: one sum over processes that come and go, each for real."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("gunicorn")
pytest.importorskip("prometheus_client")

from tests.cli.running import Running
from tests.cli.test_run_workers import MILTER, Workers, is_gone, until, until_replaced, workers
from tests.mta import CONNECT, EOM, MAIL, QUIT, RCPT, Mta

PATIENCE_S = 15.0


@pytest.fixture(autouse=True)
def folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


async def ask(port: int, path: str) -> tuple[int, str]:
    """Return status and body of an answer."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def metrics(port: int) -> dict[str, float]:
    status, body = await ask(port, "/metrics")
    assert status == 200, body
    rows = [line.rpartition(" ") for line in body.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


async def messages(port: int) -> float:
    found = await metrics(port)
    return found.get('aiomilter_messages_total{stage="eom",verdict="accept"}', 0.0)


async def open_connections(port: int) -> float:
    return sum(
        value
        for name, value in (await metrics(port)).items()
        if name.startswith("aiomilter_open_connections{")
    )


async def until_open(port: int, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await open_connections(port) != count:  # noqa: ASYNC110  (nobody tells of it)
            await asyncio.sleep(0.01)


async def until_health_is(port: int, status: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await ask(port, "/healthz"))[0] != status:  # noqa: ASYNC110  (the same)
            await asyncio.sleep(0.01)


class Exporting(Workers):
    """A running command with workers and a process for the metrics."""

    port: int
    exporter: int

    def workers(self) -> set[int]:
        return super().workers() - {self.exporter}


@asynccontextmanager
async def exporting(folder: Path, count: int, *arguments: str) -> AsyncIterator[Exporting]:
    async with workers(folder, count, "--metrics", "127.0.0.1:0", *arguments) as running:
        running.__class__ = Exporting
        assert isinstance(running, Exporting)
        (line,) = [line for line in running.said if "metrics on http://" in line]
        running.port = int(line.rpartition(":")[2].partition("/")[0])
        running.exporter = int(line.split()[2])
        yield running


async def send(running: Workers, count: int) -> None:
    """Send messages, each on a connection of its own and all at once, so that all workers get
    some."""

    async def one() -> None:
        async with Mta.connected_to_path(str(running.path)) as mta:
            await mta.begin()
            for command in (CONNECT, MAIL, RCPT):
                answer = await mta.ask(command)
                if answer.startswith(b"y421"):
                    # Of a worker that is being replaced: a client comes back.
                    return await one()
                assert answer == b"c"
            mta.send(EOM)
            assert [reply[:1] for reply in await mta.replies(3)] == [b"h", b"h", b"a"]
            mta.send(QUIT)
            return None

    await asyncio.gather(*(one() for _ in range(count)))


async def test_counts_are_sums_that_survive_kills_and_reloads(tmp_path: Path) -> None:
    async with exporting(tmp_path, 4) as running:
        await send(running, 40)
        assert await messages(running.port) == 40
        assert (await metrics(running.port))["aiomilter_workers"] == 4
        # A connection in each of them, whose worker dies of a signal.
        idle = [await running_mta(running) for _ in range(8)]
        await until_open(running.port, 8)
        before = running.workers()
        for victim in sorted(before)[:2]:
            os.kill(victim, signal.SIGKILL)
        await until_replaced(running, before, set(sorted(before)[:2]))
        for _ in range(2):
            await running.until("listening on")
        lost = sum([await is_cut(mta) for mta in idle])
        await until_open(running.port, 8 - lost)
        assert await messages(running.port) == 40
        await send(running, 20)
        for _ in range(3):
            running.process.send_signal(signal.SIGHUP)
            await running.until("reloaded: 4 workers serve")
            await send(running, 10)
        for mta in idle:
            mta.writer.close()
        await until_open(running.port, 0)
        assert await messages(running.port) == 90
        found = await metrics(running.port)
        assert found["aiomilter_message_seconds_count"] == 90
        assert found["aiomilter_worker_deaths_total"] == 2
        # Those of who has ended are one of each kind.
        (folder,) = tmp_path.glob("aiomilter-metrics-*")
        await until(lambda: len(running.workers()) == 4)
        await metrics(running.port)
        assert len(list(folder.glob("counter_*.db"))) <= 5
        await running.end()
        assert not folder.exists()


async def running_mta(running: Workers) -> Mta:
    """Return a connection that is open, and stays so."""
    reader, writer = await asyncio.open_unix_connection(str(running.path))
    mta = Mta(reader, writer)
    await mta.begin()
    return mta


async def is_cut(mta: Mta) -> bool:
    """Whether the worker at the other end has died."""
    try:
        return await mta.converse(CONNECT) != b"c"
    except (OSError, asyncio.IncompleteReadError):
        return True


async def test_the_health_check_follows_the_service(tmp_path: Path) -> None:
    async with exporting(tmp_path, 1, "--stop-grace", "30") as running:
        await until_health_is(running.port, 200)
        (worker,) = running.workers()
        os.kill(worker, signal.SIGSTOP)
        # A worker without a sign of life serves nobody.
        await until_health_is(running.port, 503)
        os.kill(worker, signal.SIGCONT)
        await until_health_is(running.port, 200)
        async with Mta.connected_to_path(str(running.path)) as mta:
            await mta.begin()
            assert await mta.converse(CONNECT, MAIL) == b"cc"
            running.process.terminate()
            await running.until("letting messages in progress finish")
            await until_health_is(running.port, 503)
            # The metrics of the last messages are there as long as these are.
            assert await open_connections(running.port) == 1
            assert await mta.converse(RCPT) == b"c"
            mta.send(EOM)
            await mta.replies(3)
        await running.ended(0)
        assert is_gone(running.exporter)


async def test_its_process_is_replaced_and_outlives_nobody(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The later of two options wins.
    async with exporting(tmp_path, 2, "--metrics", f"127.0.0.1:{port}") as running:
        await send(running, 5)
        os.kill(running.exporter, signal.SIGTERM)
        assert await messages(port) == 5
        os.kill(running.exporter, signal.SIGKILL)
        await running.until("the process that serves the metrics has ended; another one follows")
        line = await running.until("metrics on http://")
        running.exporter = int(line.split()[2])
        assert await messages(port) == 5
        found = running.workers() | {running.exporter}
        (folder,) = tmp_path.glob("aiomilter-metrics-*")
        running.process.kill()
        assert await until(lambda: all(map(is_gone, found)), 5) < 2
        assert not folder.exists()


async def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cli_milter.py").write_text(MILTER, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ("cli_milter:Tested", "--listen", f"unix:{tmp_path}/m.sock", "--workers", "2")
        async with Running.started(tmp_path, *arguments, "--metrics", address) as running:
            await running.until(f"aiomilter: the metrics cannot be served on {address}: ")
            await running.ended(2)
        assert len(running.said) == 1
    assert not (tmp_path / "m.sock").exists()
    assert not list(tmp_path.glob("aiomilter-metrics-*"))


async def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cli_milter.py").write_text(MILTER, encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "from aiomilter.cli import main\n"
        f"sys.argv[1:] = ['run', 'cli_milter:Tested', '--listen', 'unix:{tmp_path}/m.sock',\n"
        "                '--workers', '2', '--metrics', '127.0.0.1:0']\n"
        "main()\n",
        encoding="utf-8",
    )
    async with Running.started(tmp_path, program=str(program)) as running:
        await running.until(
            "aiomilter: metrics need prometheus_client: pip install 'aiomilter[prometheus]'"
        )
        await running.ended(2)
    assert len(running.said) == 1


OBSERVING = """\
import os
from aiomilter import Observer
from cli_milter import Tested

class Seeing(Observer):
    def message_finished(self, record):
        with open("seen", "a") as file:
            file.write(f"{os.getpid()} {record.verdict}\\n")

def observers():
    return [Seeing()]
"""
PROGRAM = """\
import logging
from aiomilter.contrib.gunicorn import run_workers

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run_workers(
        "cli_milter:Tested", "unix:m.sock", workers=2, observers="cli_observing:observers",
        metrics="127.0.0.1:0",
    )
"""


async def test_a_program_of_its_own_has_observers_in_each_worker(tmp_path: Path) -> None:
    (tmp_path / "cli_milter.py").write_text(MILTER, encoding="utf-8")
    (tmp_path / "cli_observing.py").write_text(OBSERVING, encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    async with Workers.started(tmp_path, program=str(program)) as running:
        assert isinstance(running, Workers)
        running.path = tmp_path / "m.sock"
        line = await running.until("metrics on http://")
        for _ in range(3):
            await running.until("listening on")
        sent, rows = 0, list[str]()
        async with asyncio.timeout(PATIENCE_S):
            # One of them may be quick enough to take all that come at once.
            while len(set(rows)) < 2:
                await send(running, 20)
                sent += 20
                rows = (tmp_path / "seen").read_text(encoding="utf-8").split("\n")[:-1]
        assert len(rows) == sent
        port = int(line.rpartition(":")[2].partition("/")[0])
        assert await messages(port) == sent
        await running.end()


async def test_the_address_goes_over_to_the_program_that_follows(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with exporting(tmp_path, 1, "--metrics", f"127.0.0.1:{port}") as running:
        await send(running, 3)
        before = running.workers()
        running.process.send_signal(signal.SIGUSR2)
        await running.until("trying again until it works")
        await running.until("listening on")
        (successor,) = running.workers() - before
        try:
            assert await messages(port) == 3
            running.process.terminate()
            await until(lambda: is_gone(running.process.pid))
            await running.until("metrics on http://")
            assert await messages(port) == 0
            await until_health_is(port, 200)
        finally:
            os.kill(successor, signal.SIGTERM)
            await until(lambda: not running.path.exists())
            await until(lambda: not list(tmp_path.glob("aiomilter-metrics-*")))
