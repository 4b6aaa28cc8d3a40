"""`aiomilter run --log-format json`: stderr is one object a line, from first to last."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aiomilter import logs
from aiomilter.cli.commands import aiomilter
from aiomilter.cli.console import speak_json
from tests.cli.running import MILTER, Running
from tests.mta import HELO, OFFER, QUIT, Mta

JSON = ("--log-format", "json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a milter in it; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "milter.py").write_text(MILTER, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("milter", None)
    # In a process of its own there is one command.
    speak_json(False)


def objects(text: str) -> list[dict[str, Any]]:
    """What the lines are; each has to be an object with what every line has."""
    found: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert list(one)[:4] == ["time", "level", "logger", "message"]
    return found


def failed(*arguments: str) -> list[dict[str, Any]]:
    """What a command has written that fails, in this process."""
    result = CliRunner().invoke(aiomilter, ["run", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    return objects(result.stderr)


def run_in(folder: Path, *arguments: str) -> str:
    """What a process has written that fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("milter --listen inet:0 --backlog x", "invalid value for '--backlog': 'x' is not a valid"),
        ("milter --listen inet:0 --backlog 0", "--backlog: backlog is at least 1"),
        ("milter --nosuch", "no such option"),
        ("nosuch --listen inet:0", "there is no module 'nosuch'"),
        ("milter", "no address to listen on"),
        ("milter --listen unix:no/m.sock", "make its folder first"),
        ("milter --listen inet:0 --metrics 192.0.2.1:1", "the metrics cannot be served on 192.0"),
        ("broken --listen inet:0", "SyntaxError"),
    ],
)
def test_what_is_wrong_with_the_start_is_an_object(
    folder: Path, arguments: str, message: str
) -> None:
    (folder / "broken.py").write_text("def\n", encoding="utf-8")
    *_others, last = failed(*arguments.split(), *JSON)
    assert message in last["message"]
    assert not last["message"].startswith("aiomilter: ")
    assert (last["level"], last["logger"]) == ("ERROR", "aiomilter")


@pytest.mark.parametrize("name", ["log_format", "log-format"])
def test_the_format_may_be_in_the_file_that_is_wrong_otherwise(folder: Path, name: str) -> None:
    (folder / "m.toml").write_text(f'{name} = "JSON"\nbacklog = 0\n', encoding="utf-8")
    (one,) = failed("milter", "--config", "m.toml")
    assert one["message"] == "m.toml: backlog is at least 1"


def test_another_command_line_wins_over_the_file(folder: Path) -> None:
    (folder / "m.toml").write_text('log-format = "text"\nbacklog = 0\n', encoding="utf-8")
    (one,) = failed("milter", "--config", "m.toml", "--log-format=json")
    assert "backlog" in one["message"]


LIFESPANS = """
import contextlib, sys
from aiomilter import Milter

@contextlib.asynccontextmanager
async def failing():
    raise ConnectionRefusedError("no database")
    yield

@contextlib.asynccontextmanager
async def leaving():
    sys.exit("no database, no mail")
    yield
"""


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("failing", "CRITICAL", "the start has failed: ConnectionRefusedError: no database"),
        ("leaving", "ERROR", "no database, no mail"),
    ],
)
def test_a_lifespan_that_fails_is_an_object(
    folder: Path, name: str, level: str, message: str
) -> None:
    (folder / "life.py").write_text(LIFESPANS, encoding="utf-8")
    command = ("-m", "aiomilter.cli", "run", "milter", "--lifespan", f"life:{name}")
    (one,) = objects(run_in(folder, *command, "--listen", "inet:0", *JSON))
    assert (one["level"], one["message"]) == (level, message)
    if name == "failing":
        assert one["traceback"][-1].endswith(" failing")
    text = run_in(folder, *command, "--listen", "inet:0")
    assert text.count("\n") == 1
    assert message in text


REPORTING = """
import asyncio, gc, logging, threading, warnings
from aiomilter import Milter, Reply

warnings.warn("while it is loaded", UserWarning)

class Unraisable:
    def __del__(self):
        raise ValueError("in the end")

class Reporting(Milter):
    async def on_helo(self, hostname):
        warnings.warn("look out", UserWarning)
        thread = threading.Thread(target=lambda: {}["no key"], name="mine")
        thread.start()
        thread.join()
        Unraisable()
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        self.task = asyncio.ensure_future(self.fail())
        await asyncio.sleep(0.01)
        del self.task
        gc.collect()
        logging.warning("two\\nlines")
        return Reply(550, "5.7.1", "first")

    async def fail(self):
        raise KeyError("nobody asks")
"""


async def test_what_python_reports_while_it_serves_is_objects(folder: Path) -> None:
    (folder / "reporting.py").write_text(REPORTING, encoding="utf-8")
    arguments = ("reporting:Reporting", "--listen", f"unix:{folder}/m.sock", *JSON)
    async with Running.started(folder, *arguments) as running:
        await running.until("listening on unix:")
        assert (await Running.answer(folder / "m.sock"))[:4] == b"y550"
        running.process.send_signal(signal.SIGTERM)
        await running.until('"stopped"')
        await running.ended(0)
    found = {one["message"]: one for one in objects("".join(running.said))}
    texts = list(found)
    assert texts[0].endswith("reporting.py:5: UserWarning: while it is loaded")
    (warning,) = (text for text in texts if text.endswith(": UserWarning: look out"))
    assert found[warning]["logger"] == "py.warnings"
    assert found["the thread mine was ended by KeyError: 'no key'"]["traceback"]
    (ignored,) = (text for text in texts if "Unraisable.__del__" in text)
    assert ignored.endswith(": ValueError: in the end")
    assert found[ignored]["level"] == "ERROR"
    loops = [one for one in found.values() if one["logger"] == "asyncio"]
    assert {one["error"] for one in loops} == {
        "ZeroDivisionError: division by zero",
        "KeyError: 'nobody asks'",
    }
    assert "two\\nlines" in texts


async def test_a_reloader_speaks_json_too(folder: Path) -> None:
    arguments = ("milter", "--listen", "unix:m.sock", "--reload", *JSON)
    async with Running.started(folder, *arguments) as running:
        await running.until("listening on unix:")
        running.process.send_signal(signal.SIGTERM)
        await running.until('"stopped"')
        await running.ended(0)
    assert any(one["message"].startswith("watching ") for one in objects("".join(running.said)))


def test_a_fault_of_the_command_is_an_object(folder: Path) -> None:
    program = (
        "import sys, aiomilter.cli.run as run\n"
        "from aiomilter.cli import main\n"
        "def broken(*_): raise RuntimeError('not foreseen')\n"
        "run._serve = broken\n"
        "sys.argv = ['aiomilter', 'run', 'milter', '--log-format', 'json']\n"
        "main()\n"
    )
    (one,) = objects(run_in(folder, "-c", program))
    assert one["message"] == "this is a fault of aiomilter itself; please report it"
    assert (one["level"], one["error"]) == ("CRITICAL", "RuntimeError: not foreseen")


# What is captured, in this process


@pytest.fixture
def _captured() -> Iterator[None]:
    """Have reports of Python logged, and no longer afterwards."""
    before = sys.excepthook, threading.excepthook, sys.unraisablehook
    logs.capture_reports()
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = before
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("_captured")
def test_an_uncaught_exception_is_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.excepthook(ValueError, ValueError("x"), None)
    assert caplog.messages == ["ended by ValueError: x"]
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert len(caplog.messages) == 1
    assert "KeyboardInterrupt" in capsys.readouterr().err


@pytest.mark.usefixtures("_captured")
def test_a_thread_may_end_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join(10)
    assert caplog.messages == []


@pytest.mark.usefixtures("_captured")
def test_a_warning_is_one_line_without_its_source() -> None:
    record = logging.LogRecord(
        "py.warnings", logging.WARNING, "", 0, "%s", ("a.py:1: UserWarning: x\n  source()\n",), None
    )
    assert json.loads(logs.JsonFormatter().format(record))["message"] == "a.py:1: UserWarning: x"


@pytest.mark.usefixtures("_captured")
def test_an_exception_without_a_value_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Report:
        exc_type = ValueError
        exc_value = None
        exc_traceback = None
        err_msg = None
        object = None

    sys.unraisablehook(Report())  # type: ignore[arg-type]  # only Python makes real ones
    assert caplog.messages == ["an exception was ignored in NoneType: ValueError"]


# Health


SLOW_START = """
import asyncio, contextlib, os

@contextlib.asynccontextmanager
async def life():
    while not await asyncio.to_thread(os.path.exists, "go"):
        await asyncio.sleep(0.01)
    yield
"""


async def status_of(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


async def test_health_is_for_while_it_serves_and_metrics_are_for_always(folder: Path) -> None:
    (folder / "life.py").write_text(SLOW_START, encoding="utf-8")
    async with Running.started(
        folder, "milter", "--lifespan", "life:life", "--listen", "unix:m.sock",
        "--metrics", "127.0.0.1:0", *JSON,
    ) as running:  # fmt: skip
        said = json.loads(await running.until("metrics on http:"))["message"]
        port = int(said.rpartition(":")[2].partition("/")[0])
        assert (await status_of(port, "/healthz"), await status_of(port, "/metrics")) == (503, 200)
        (folder / "go").touch()
        await running.until("serving: aiomilter ")
        assert (await status_of(port, "/healthz"), await status_of(port, "/metrics")) == (200, 200)
        async with Mta.connected_to_path(str(folder / "m.sock")) as mta:
            await mta.ask(OFFER)
            assert (await mta.ask(HELO))[:1] == b"y"
            running.process.send_signal(signal.SIGTERM)
            await running.until("letting messages in progress finish, for up to 30 s; 1 conn")
            # For as long as somebody is served.
            codes = await status_of(port, "/healthz"), await status_of(port, "/metrics")
            assert codes == (503, 200)
            mta.send(QUIT)
        await running.until('"stopped"')
        await running.ended(0)
