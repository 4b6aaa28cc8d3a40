"""`aiomilter run --workers`: processes that die, are replaced, drain and end, each for real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.running import Running
from tests.mta import CONNECT, EOM, MAIL, OFFER, QUIT, RCPT, Mta, packet

pytest.importorskip("gunicorn")

PATIENCE_S = 15.0

MILTER = """\
import asyncio, ctypes, os, time
from aiomilter import Milter, Reply, Status

class Tested(Milter):
    async def on_helo(self, hostname):
        return Reply(550, "5.7.1", f"VERSION {os.getpid()}")

    async def on_mail(self, sender, params):
        if sender == "<kill@a.example>":
            ctypes.string_at(0)
        if sender == "<block@a.example>":
            time.sleep(60)

    async def on_rcpt(self, recipient, params):
        pass

    async def on_eom(self, actions):
        await asyncio.sleep(0.3)
        actions.add_header("X-One", "1")
        actions.add_header("X-Two", "2")
        return Status.ACCEPT
"""

KILLING_MAIL = packet(b"M", b"<kill@a.example>\0")
BLOCKING_MAIL = packet(b"M", b"<block@a.example>\0")
CONTINUE, TEMPFAIL, REJECT = b"c", b"t", b"r"


@pytest.fixture(autouse=True)
def folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process that is killed leaves behind goes away with the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


class Workers(Running):
    """A running command with workers, on a unix socket."""

    path: Path

    def workers(self) -> set[int]:
        """The processes below it."""
        main = self.process.pid
        listed = Path(f"/proc/{main}/task/{main}/children").read_text(encoding="ascii")
        return set(map(int, listed.split()))

    async def helo(self) -> tuple[str, int]:
        """Return version and process id of whichever worker answers."""
        async with Mta.connected_to_path(str(self.path)) as mta:
            await mta.begin()
            answer = await mta.ask(packet(b"H", b"mx.example\0"))
            mta.send(QUIT)
        _code, _status, version, number = answer.rstrip(b"\0").decode().split()
        return version, int(number)


@asynccontextmanager
async def workers(folder: Path, count: int, *arguments: str) -> AsyncIterator[Workers]:
    """Run so many workers; yield when all of them serve."""
    path = folder / "m.sock"
    (folder / "cli_milter.py").write_text(MILTER.replace("VERSION", "v1"), encoding="utf-8")
    listen = ("--listen", f"unix:{path}", "--workers", str(count), "--stop-grace", "3")
    async with Workers.started(folder, "cli_milter:Tested", *listen, *arguments) as running:
        assert isinstance(running, Workers)
        running.path = path
        found: set[int] = set()
        try:
            for _ in range(count + 1):  # the first line is that of the process above
                await running.until("listening on")
            yield running
        finally:
            if running.process.returncode is None:
                # One that was killed may be gone before that is known here.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found = running.workers()
            for number in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
    """Wait for something that nobody tells of; return for how long, in seconds."""
    began = time.monotonic()
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110  (there is no event to wait for)
            await asyncio.sleep(0.005)
    return time.monotonic() - began


def is_gone(number: int) -> bool:
    """Whether a process is over; one that nobody has waited for yet is."""
    try:
        status = Path(f"/proc/{number}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in ("Z", "X")


async def until_replaced(running: Workers, before: set[int], gone: set[int]) -> float:
    return await until(
        lambda: not running.workers() & gone and len(running.workers()) == len(before)
    )


# Crashes


@pytest.mark.parametrize("uvloop", ["--uvloop", "--no-uvloop"])
async def test_a59_a_worker_that_is_killed_is_replaced_while_the_others_serve(
    tmp_path: Path, uvloop: str
) -> None:
    async with workers(tmp_path, 4, uvloop) as running:
        before = running.workers()
        assert len(before) == 4
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        for _ in range(5):
            # A connection that the dead one had accepted is not among these.
            _version, number = await running.helo()
            assert number != victim
        await running.until("listening on")
        assert time.monotonic() - began < 1
        assert before - running.workers() == {victim}
        assert len(running.workers()) == 4


async def send_mail(running: Workers, mail: bytes) -> bytes:
    """Return the letter of the answer to MAIL; empty if the worker has died of it."""
    async with Mta.connected_to_path(str(running.path)) as mta:
        await mta.begin()
        assert await mta.converse(CONNECT) == CONTINUE
        mta.send(mail)
        try:
            return (await mta.reply())[:1]
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


@pytest.mark.parametrize(("verdict", "letter"), [("tempfail", TEMPFAIL), ("reject", REJECT)])
async def test_p42_a_message_that_kills_workers_gets_its_verdict(
    tmp_path: Path, verdict: str, letter: bytes
) -> None:
    options = ("--crash-verdict", verdict, "--crash-limit", "2")
    async with workers(tmp_path, 2, *options) as running:
        for _ in range(2):
            before = running.workers()
            assert await send_mail(running, KILLING_MAIL) == b""
            await running.until("has ended by itself")
            await until_replaced(running, before, before - running.workers())
            await running.until("listening on")
        before = running.workers()
        for _ in range(6):
            # Whichever worker it is, an old one or a new one.
            assert await send_mail(running, KILLING_MAIL) == letter
            assert await send_mail(running, MAIL) == CONTINUE
        assert running.workers() == before
        assert any(
            f"<kill@a.example> has ended 2 workers; from now on it gets {verdict.upper()}" in line
            for line in running.said
        )


async def test_a_worker_whose_loop_is_blocked_is_killed_and_shows_where(tmp_path: Path) -> None:
    async with workers(tmp_path, 2, "--worker-timeout", "1") as running:
        before = running.workers()
        assert await send_mail_and_wait(running, BLOCKING_MAIL) == b""
        await running.until("has blocked its event loop for 1 s; ending it")
        await running.until("in on_mail")
        await until_replaced(running, before, before - running.workers())


async def send_mail_and_wait(running: Workers, mail: bytes) -> bytes:
    async with Mta.connected_to_path(str(running.path)) as mta:
        await mta.begin()
        assert await mta.converse(CONNECT) == CONTINUE
        mta.send(mail)
        async with asyncio.timeout(PATIENCE_S):
            return await mta.reader.read()


async def test_p27_workers_that_cannot_start_end_the_service(tmp_path: Path) -> None:
    (tmp_path / "cli_milter.py").write_text(MILTER, encoding="utf-8")
    (tmp_path / "cli_broken.py").write_text(
        "def life():\n    raise OSError('no database')\n", encoding="utf-8"
    )
    path = tmp_path / "m.sock"
    arguments = ("cli_milter:Tested", "--listen", f"unix:{path}", "--workers", "2")
    began = time.monotonic()
    async with Running.started(tmp_path, *arguments, "--lifespan", "cli_broken:life") as running:
        await running.until("OSError: no database")
        await running.until("5 workers in a row could not start")
        await running.ended(1)
    # Not at once: there is a pause after each pair.
    assert time.monotonic() - began > 0.25
    assert not path.exists()


# The end


async def test_p28_workers_end_with_the_process_above(tmp_path: Path) -> None:
    async with workers(tmp_path, 3) as running, Mta.connected_to_path(str(running.path)) as idle:
        await idle.begin()
        found = running.workers()
        running.process.kill()
        assert await until(lambda: all(map(is_gone, found)), 5) < 2
    assert len(found) == 3


async def test_p28_they_leave_no_folder_behind(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    async with workers(tmp_path, 2) as running:
        assert list(tmp_path.glob("aiomilter-metrics-*"))
        running.process.kill()
        await until(lambda: not list(tmp_path.glob("aiomilter-metrics-*")))


async def test_p28_so_does_one_whose_loop_is_blocked(tmp_path: Path) -> None:
    async with workers(tmp_path, 1) as running:
        found = running.workers()
        async with Mta.connected_to_path(str(running.path)) as mta:
            await mta.begin()
            await mta.converse(CONNECT)
            mta.send(BLOCKING_MAIL)
            # It is known to be blocked when it does not answer somebody else.
            async with Mta.connected_to_path(str(running.path)) as other:
                other.send(OFFER)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await other.reader.read(1)
            running.process.kill()
            assert await until(lambda: all(map(is_gone, found)), 5) < 2


async def read_replies(mta: Mta) -> bytes:
    """Return the letters of all replies until the connection ends; the last one is whole."""
    letters = b""
    async with asyncio.timeout(PATIENCE_S):
        data = await mta.reader.read()
    while data:
        (length,) = struct.unpack(">I", data[:4])
        assert len(data) >= 4 + length
        letters += data[4:5]
        data = data[4 + length :]
    return letters


async def test_sigterm_lets_messages_finish_with_all_their_edits(tmp_path: Path) -> None:
    async with workers(tmp_path, 3) as running, contextlib.AsyncExitStack() as stack:
        found = running.workers()
        mtas: list[Mta] = []
        for _ in range(30):
            mta = await stack.enter_async_context(Mta.connected_to_path(str(running.path)))
            await mta.begin()
            assert await mta.converse(CONNECT, MAIL, RCPT) == b"ccc"
            mtas.append(mta)
        for mta in mtas:
            mta.send(EOM)
        running.process.terminate()
        for mta in mtas:
            assert await read_replies(mta) == b"hha"
        await running.ended(0)
        assert all(map(is_gone, found))
        assert not running.path.exists()


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with (
        workers(tmp_path, 2, "--stop-grace", "30") as running,
        Mta.connected_to_path(str(running.path)) as mta,
    ):
        await mta.begin()
        assert await mta.converse(CONNECT, MAIL, RCPT) == b"ccc"
        running.process.terminate()
        await running.until("letting messages in progress finish")
        began = time.monotonic()
        running.process.terminate()
        await running.until("a further signal")
        await running.ended(0)
        assert time.monotonic() - began < 4


# Reloads


async def test_a_reload_loads_the_code_anew(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        before = running.workers()
        assert (await running.helo())[0] == "v1"
        (tmp_path / "cli_milter.py").write_text(MILTER.replace("VERSION", "v22"), encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        await running.until("reloaded: 2 workers serve")
        await until(lambda: not running.workers() & before)
        assert {(await running.helo())[0] for _ in range(5)} == {"v22"}
        await running.end()


async def test_a_reload_of_broken_code_changes_nothing(tmp_path: Path) -> None:
    async with workers(tmp_path, 2) as running:
        before = running.workers()
        (tmp_path / "cli_milter.py").write_text("import nothing_like_it\n", encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        await running.until("the reload has failed; the workers that were there go on")
        await until(lambda: running.workers() == before)
        assert (await running.helo())[0] == "v1"
        await running.end()


class Client:
    """An MTA that sends one message after another, each on a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.messages = self.told_to_come_back = 0
        self.is_done = False

    async def run(self) -> None:
        while not self.is_done:
            async with Mta.connected_to_path(self.path) as mta:
                await mta.begin()
                for command in (CONNECT, MAIL, RCPT):
                    answer = await mta.ask(command)
                    if answer.startswith(b"y421"):
                        self.told_to_come_back += 1
                        break
                    assert answer == CONTINUE
                else:
                    mta.send(EOM)
                    assert [one[:1] for one in await mta.replies(3)] == [b"h", b"h", b"a"]
                    self.messages += 1
                mta.send(QUIT)


@pytest.mark.timeout(90)
async def test_p26_twenty_reloads_under_load_lose_no_connection(tmp_path: Path) -> None:
    async with workers(tmp_path, 4) as running:
        clients = [Client(running.path) for _ in range(12)]
        tasks = [asyncio.create_task(client.run()) for client in clients]
        for _ in range(20):
            running.process.send_signal(signal.SIGHUP)
            await running.until("reloaded: 4 workers serve")
        for client in clients:
            client.is_done = True
        # Raises what a client has met: a refused or reset connection, or half of an answer.
        await asyncio.gather(*tasks)
        assert sum(client.messages for client in clients) > 50
        await running.end()


# Errors


async def test_workers_do_not_go_with_reload(tmp_path: Path) -> None:
    (tmp_path / "cli_milter.py").write_text(MILTER, encoding="utf-8")
    arguments = ("cli_milter:Tested", "--listen", "inet:0", "--workers", "2")
    async with Running.started(tmp_path, *arguments, "--reload") as running:
        await running.until("--reload is for development")
        await running.ended(2)


async def test_an_address_in_use_is_one_line(tmp_path: Path) -> None:
    async with workers(tmp_path, 1) as running:
        arguments = ("cli_milter:Tested", "--listen", f"unix:{running.path}", "--workers", "2")
        async with Running.started(tmp_path, *arguments) as second:
            await second.until("another process is listening there")
            await second.ended(2)
        assert (await running.helo())[0] == "v1"
