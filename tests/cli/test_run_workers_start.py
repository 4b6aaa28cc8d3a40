"""Workers that cannot start, take long to, or are told to end before they have; each for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("gunicorn")

from tests.cli.running import Running
from tests.cli.test_run_workers import MILTER, Workers, is_gone, read_replies, until, workers
from tests.mta import CONNECT, EOM, MAIL, RCPT, Mta

LIFESPAN = """\
import asyncio, contextlib, time

@contextlib.asynccontextmanager
async def life():
    print("entering", flush=True)
    LIFE
    yield
"""
NO_MILTER = "from aiomilter import Milter\n\ndef make():\n    return 3\n"


@pytest.fixture(autouse=True)
def folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@asynccontextmanager
async def starting(folder: Path, life: str, *arguments: str) -> AsyncIterator[Workers]:
    """Run one worker with this in its lifespan; yield at once."""
    (folder / "cli_milter.py").write_text(MILTER.replace("VERSION", "v1"), encoding="utf-8")
    (folder / "cli_life.py").write_text(LIFESPAN.replace("LIFE", life), encoding="utf-8")
    listen = ("--listen", f"unix:{folder / 'm.sock'}", "--workers", "1")
    command = ("cli_milter:Tested", *listen, "--lifespan", "cli_life:life", *arguments)
    async with Workers.started(folder, *command) as running:
        assert isinstance(running, Workers)
        running.path = folder / "m.sock"
        yield running


async def until_entering(running: Workers) -> None:
    assert running.process.stdout is not None
    assert await running.process.stdout.readline() == b"entering\n"


# What no further attempt can mend


@pytest.mark.parametrize(
    ("code", "name", "line"),
    [
        ("raise ValueError('broken')\n", "Any", "module 'cli_broken' cannot be imported: Value"),
        ("", "Missing", "module 'cli_broken' has no 'Missing'"),
        (NO_MILTER, "make", "what makes milters has made a int"),
    ],
)
async def test_code_that_cannot_be_served_is_one_line_at_once(
    tmp_path: Path, code: str, name: str, line: str
) -> None:
    (tmp_path / "cli_broken.py").write_text(code, encoding="utf-8")
    path = tmp_path / "m.sock"
    arguments = (f"cli_broken:{name}", "--listen", f"unix:{path}", "--workers", "3")
    async with Running.started(tmp_path, *arguments) as running:
        await running.until(f"aiomilter: {line}")
        await running.ended(2)
    # Beside it that it listens, which the MTA may have noticed.
    assert len([line for line in running.said if "listening on" not in line]) == 1
    assert not path.exists()


async def test_code_that_is_broken_later_ends_nothing(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        before = running.workers()
        (tmp_path / "cli_milter.py").write_text("import nothing_like_it\n", encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        line = await running.until("the reload has failed; the workers that were there go on: ")
        assert "imports 'nothing_like_it', which is not there" in line
        os.kill(min(before), signal.SIGKILL)
        await running.until("cannot start: module 'cli_milter' imports 'nothing_like_it'")
        assert (await running.helo())[0] == "v1"
        (tmp_path / "cli_milter.py").write_text(MILTER.replace("VERSION", "v22"), encoding="utf-8")
        await running.until("listening on")
        await until(lambda: len(running.workers()) == 2)
        await running.end()


@pytest.mark.parametrize("error", ["RuntimeError", "KeyboardInterrupt"])
async def test_a_lifespan_that_fails_is_one_line_whatever_its_text(
    tmp_path: Path, error: str
) -> None:
    life = f"raise {error}('one' + chr(10) + 'forged')"
    async with starting(tmp_path, life, "--log-format", "json") as running:
        line = await running.until("has failed: ")
        assert f"{error}: one\\\\nforged" in line
        await running.until("could not start")
        await running.ended(1)
    for line in running.said:
        assert isinstance(json.loads(line), dict)


# Starts that take long


async def test_a_lifespan_may_block_the_loop_for_longer_than_a_handler(tmp_path: Path) -> None:
    async with starting(tmp_path, "time.sleep(1.5)", "--worker-timeout", "0.5") as running:
        line = await running.until("the lifespan blocks the event loop for more than 0.5 s")
        assert "it has 300 s in all" in line
        # The first line is that of the process above.
        await running.until("listening on")
        assert (await running.helo())[0] == "v1"
        assert not any("ending it" in line for line in running.said)
        await running.end()


async def test_a_start_has_a_limit_and_shows_where_it_was(tmp_path: Path) -> None:
    async with starting(tmp_path, "time.sleep(60)", "--start-timeout", "0.5") as running:
        await running.until("does not come to serve within 0.5 s; ending it")
        await running.until("cli_life.py")


async def test_so_has_one_that_only_waits(tmp_path: Path) -> None:
    async with starting(tmp_path, "await asyncio.sleep(60)", "--start-timeout", "0.5") as running:
        await running.until("does not come to serve within 0.5 s; ending it")


async def test_a_reload_gives_up_the_one_that_is_under_way(tmp_path: Path) -> None:
    async with starting(tmp_path, "pass") as running:
        await running.until("listening on")
        await running.until("listening on")
        await until_entering(running)
        (first,) = running.workers()
        # New code that never comes to serve, and then better one.
        (tmp_path / "cli_life.py").write_text(LIFESPAN.replace("LIFE", "time.sleep(60)"))
        running.process.send_signal(signal.SIGHUP)
        await until_entering(running)
        (second,) = running.workers() - {first}
        (tmp_path / "cli_life.py").write_text(LIFESPAN.replace("LIFE", "pass"))
        running.process.send_signal(signal.SIGHUP)
        await running.until("reloaded: 1 workers serve")
        await until(lambda: is_gone(first) and is_gone(second))
        assert (await running.helo())[0] == "v1"


# Signals


@pytest.mark.parametrize("life", ["time.sleep(60)", "await asyncio.sleep(60)"])
async def test_sigterm_during_a_start_does_not_wait_for_the_grace(
    tmp_path: Path, life: str
) -> None:
    async with starting(tmp_path, life, "--stop-grace", "60") as running:
        await until_entering(running)
        began = time.monotonic()
        await running.end()
        assert time.monotonic() - began < 8
    assert not running.path.exists()


async def test_sigterm_to_all_processes_lets_messages_finish(tmp_path: Path) -> None:
    async with (
        workers(tmp_path, 2, "--stop-grace", "30") as running,
        Mta.connected_to_path(str(running.path)) as mta,
    ):
        await mta.begin()
        assert await mta.converse(CONNECT, MAIL, RCPT) == b"ccc"
        found = running.workers()
        for _ in range(2):
            for number in found:
                os.kill(number, signal.SIGTERM)
        running.process.terminate()
        await running.until("letting messages in progress finish")
        mta.send(EOM)
        assert await read_replies(mta) == b"hha"
        await running.ended(0)


# The log, and messages that were there by chance


async def test_each_line_tells_its_process(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        found = {int(line.split()[2]) for line in running.said if "listening on" in line}
        assert found == running.workers() | {running.process.pid}
        await running.end()


async def test_a_message_that_is_served_in_between_is_never_refused(tmp_path: Path) -> None:
    async with workers(tmp_path, 1, "--crash-limit", "2") as running:
        for _ in range(3):
            async with Mta.connected_to_path(str(running.path)) as mta:
                await mta.begin()
                assert await mta.converse(CONNECT, MAIL, RCPT) == b"ccc"
                mta.send(EOM)
                # It waits in on_eom while its worker dies of something else.
                await asyncio.sleep(0.1)
                (worker,) = running.workers()
                os.kill(worker, signal.SIGKILL)
                assert await mta.reader.read() == b""
            await running.until("listening on")
            async with Mta.connected_to_path(str(running.path)) as mta:
                await mta.begin()
                assert await mta.converse(CONNECT, MAIL, RCPT) == b"ccc"
                mta.send(EOM)
                assert [reply[:1] for reply in await mta.replies(3)] == [b"h", b"h", b"a"]
        assert not any("from now on it gets" in line for line in running.said)
        await running.end()
