"""`aiomilter run --reload`: another milter after a change, and one end for both processes."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiomilter.cli.console import CommandError
from aiomilter.cli.reload import reload_on_change
from tests.cli.running import MILTER, Running
from tests.mta import EOM, MAIL, RCPT, Mta

FIRST = b"y550 5.7.1 first\0"
SECOND = b"y550 5.7.1 other\0"
OTHER = MILTER.replace("first", "other")

SLOW = """\
import asyncio, logging
from aiomilter import Milter, Status

class Slow(Milter):
    async def on_eom(self, actions):
        logging.warning("at work")
        await asyncio.sleep(0.3 if "BRIEF" else 60)
        return Status.ACCEPT
"""


@asynccontextmanager
async def reloading(folder: Path, *arguments: str) -> AsyncIterator[Running]:
    """Run the milter of the folder so that it listens; the socket is m.sock."""
    async with Running.started(folder, *arguments, "--reload", "--no-uvloop") as running:
        await running.until("aiomilter: watching ")
        await running.until("listening on unix:")
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "milter.py").write_text(MILTER, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_change_starts_the_milter_anew(folder: Path, number: signal.Signals) -> None:
    path = folder / "m.sock"
    async with reloading(folder, "milter:Greeting", "--listen", "unix:m.sock") as running:
        assert await Running.answer(path) == FIRST
        # Of the same size, and within the same second.
        (folder / "milter.py").write_text(OTHER, encoding="utf-8")
        await running.until("aiomilter: changed: milter.py")
        await running.until("stopped")
        await running.until("listening on unix:")
        assert await Running.answer(path) == SECOND
        await running.end(number)
        # The milter, too, has ended, and in order.
        assert not path.exists()


async def test_an_error_in_the_code_waits_for_the_next_change(folder: Path) -> None:
    async with reloading(folder, "milter.py", "--listen", "unix:m.sock") as running:
        (folder / "milter.py").write_text("def (\n", encoding="utf-8")
        line = await running.until("cannot be imported")
        assert "SyntaxError" in line
        assert "milter.py:1: def (" in line
        await running.until("ended with exit code 2; the next change of a file starts it again")
        (folder / "milter.py").write_text(OTHER, encoding="utf-8")
        await running.until("listening on unix:")
        assert await Running.answer(folder / "m.sock") == SECOND
        await running.end()


async def test_a_signal_ends_a_reloader_without_a_milter(folder: Path) -> None:
    (folder / "milter.py").write_text("1 / 0\n", encoding="utf-8")
    arguments = ("milter", "--listen", "unix:m.sock", "--reload")
    async with Running.started(folder, *arguments) as running:
        await running.until("ended with exit code 2")
        await running.end()


@pytest.mark.parametrize("place", ["code", "etc"])
async def test_a_change_of_the_file_of_settings_counts(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "code"
    config = tmp_path / place / "milter.toml"
    folder.mkdir()
    config.parent.mkdir(exist_ok=True)
    (folder / "milter.py").write_text(MILTER, encoding="utf-8")
    config.write_text('milter = "milter"\nlisten = "unix:m.sock"\n', encoding="utf-8")
    async with reloading(folder, "--config", str(config)) as running:
        # As editors do: another file in its place.
        new = config.with_suffix(".new")
        new.write_text('milter = "milter"\nlisten = "unix:n.sock"\n', encoding="utf-8")
        new.rename(config)
        await running.until("listening on unix:n.sock")
        assert await Running.answer(folder / "n.sock") == FIRST
        await running.end()


async def test_a_message_in_progress_is_finished_first(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW, encoding="utf-8")
    async with reloading(folder, "slow", "--listen", "unix:m.sock") as running:
        async with Mta.connected_to_path(str(folder / "m.sock")) as mta:
            await mta.begin()
            mta.send(MAIL, RCPT, EOM)
            await running.until("at work")
            (folder / "slow.py").write_text(SLOW + "\n", encoding="utf-8")
            await running.until("letting messages in progress finish")
            assert (await mta.replies(3))[-1] == b"a"
        await running.until("listening on unix:")
        await running.end()


async def test_a_second_signal_hurries_the_milter(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW.replace("BRIEF", ""), encoding="utf-8")
    async with reloading(folder, "slow", "--listen", "unix:m.sock") as running:
        async with Mta.connected_to_path(str(folder / "m.sock")) as mta:
            await mta.begin()
            mta.send(MAIL, RCPT, EOM)
            await running.until("at work")
            running.process.send_signal(signal.SIGINT)
            await running.until("letting messages in progress finish")
            running.process.send_signal(signal.SIGINT)
            await running.until("again: stopping at once")
            assert (await mta.replies(3))[-1] == b"t"
        await running.ended(0)


async def test_a_milter_that_does_not_end_is_killed(folder: Path) -> None:
    (folder / "deaf.py").write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', file=sys.stderr, flush=True)\ntime.sleep(15)\n",
        encoding="utf-8",
    )
    (folder / "run.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom aiomilter.cli import reload\n"
        "reload._LAST_MOMENT_S = 0.2\n"
        "reload.reload_on_change([sys.executable, 'deaf.py'], Path.cwd(), None, 0)\n",
        encoding="utf-8",
    )
    async with Running.started(folder, program="run.py") as running:
        await running.until("deaf")
        running.process.terminate()
        await running.until("does not end; killing it")
        await running.ended(0)


@pytest.mark.parametrize("error", [OSError("no room"), RuntimeError("no room")])
def test_a_folder_that_cannot_be_watched_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("watchfiles.main.RustNotify", refuse)
    with pytest.raises(CommandError, match=r"^cannot watch .* for --reload: no room$"):
        reload_on_change([sys.executable, "-c", ""], tmp_path, None, 0)
