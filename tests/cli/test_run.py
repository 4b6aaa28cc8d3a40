"""`aiomilter run`: it serves, ends in order, and says in one line what is wrong."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aiomilter.cli.commands import aiomilter
from tests.cli.running import MILTER, Running

FIRST = b"y550 5.7.1 first\0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a milter in it; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "cli_milter.py").write_text(MILTER, encoding="utf-8")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("cli_"):
            del sys.modules[name]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(aiomilter, ["run", *arguments])


def sentence_of(result: Result) -> str:
    """The one line that an error is."""
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    return result.stderr


# Serving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_a_signal(folder: Path, number: signal.Signals) -> None:
    path = folder / "m.sock"
    async with Running.started(folder, "cli_milter:Greeting", "--listen", f"unix:{path}") as one:
        await one.until(f"INFO listening on unix:{path} (")
        assert await Running.answer(path) == FIRST
        await one.end(number)
    assert not path.exists()


async def test_settings_come_from_a_file_and_options(folder: Path) -> None:
    (folder / "milter.toml").write_text(
        '[aiomilter]\nmilter = "cli_milter"\nlisten = "unix:m.sock"\nunix-mode = "0600"\n'
        'lifespan = "cli_life:life"\n',
        encoding="utf-8",
    )
    (folder / "cli_life.py").write_text(
        "import contextlib, logging\n\n@contextlib.asynccontextmanager\nasync def life():\n"
        "    logging.warning('entered')\n    yield\n    logging.warning('left')\n",
        encoding="utf-8",
    )
    arguments = ("--config", "milter.toml", "--no-uvloop", "--listen", "inet:0")
    async with Running.started(folder, *arguments, "--listen", "unix:n.sock") as one:
        await one.until("WARNING entered")
        port = (await one.until("listening on inet:")).partition("inet:")[2].partition("@")[0]
        await one.until("mode 0600")
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
        assert await Running.answer(folder / "n.sock") == FIRST
        assert not (folder / "m.sock").exists()
        one.process.terminate()
        await one.until("WARNING left")
        await one.ended(0)


async def test_a_log_level_that_is_given_counts(folder: Path) -> None:
    path = folder / "m.sock"
    arguments = ("cli_loud", "--listen", f"unix:{path}")
    (folder / "cli_loud.py").write_text(
        "import logging\nlogging.basicConfig(level='ERROR', format='own %(message)s')\n" + MILTER,
        encoding="utf-8",
    )
    async with Running.started(folder, *arguments, "--log-level", "info") as one:
        assert (await one.until("listening on unix:")).startswith("own listening")
        await one.end()


def test_an_address_in_use_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"inet:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "aiomilter.cli", "run", "cli_milter", "--listen", address],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"aiomilter: cannot listen on {address}: Address already in use; stop what listens "
        f"there, or take another address\n"
    )


# Errors, and --check


@pytest.fixture
def _quiet_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `run` leave the logging of this process alone."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_options: None)


@pytest.mark.usefixtures("folder", "_quiet_root")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "no milter to run: write aiomilter run MODULE:CLASS"),
        ("cli_milter", "no address to listen on: add one"),
        ("cli_milter --reload", "no address to listen on: add one"),
        ("cli_milter:Greting", "has no 'Greting'; did you mean 'Greeting'?"),
        ("cli_milter:Greting --check", "has no 'Greting'; did you mean 'Greeting'?"),
        ("cli_milter:Greting --listen inet:0", "has no 'Greting'; did you mean 'Greeting'?"),
        ("nosuch:X --listen inet:0", "there is no module 'nosuch'"),
        ("cli_milter --listen nonsense", "--listen: 'nonsense' is no address"),
        ("cli_milter --listen no/m.sock", "--listen: 'no/m.sock' is no address"),
        ("cli_milter --listen unix:no/m.sock", "No such file or directory; make its folder first"),
        ("cli_milter --listen unix:cli_milter.py", "there is a file that is no socket"),
        ("cli_milter --listen inet:9@192.0.2.1", "is not the loopback address"),
        (
            "cli_milter --listen inet:9@192.0.2.1 --allowed-networks 192.0.2.0/24",
            "; take an address of this host",
        ),
        ("cli_milter --listen inet:0 --backlog x", "invalid value for '--backlog': 'x' is not"),
        ("cli_milter --listen inet:0 --backlog 0", "--backlog: backlog is at least 1"),
        ("cli_milter --listen inet:0 --config none.toml", "cannot read none.toml"),
        ("cli_milter --listen inet:0 more", "unexpected extra argument (more)"),
        ("cli_wrong --listen inet:0", "Wrong.actions is 1"),
        ("cli_wrong --listen inet:0 --check", "Wrong.actions is 1"),
        ("cli_milter:Reply --listen inet:0 --check", "'cli_milter:Reply' is no milter"),
        ("cli_wrong:three --listen inet:0", "three returns 3, which is no Milter"),
        ("cli_wrong:three --check", "three returns 3, which is no Milter"),
        ("cli_wrong:kind --check", "which is a class, not an object of it"),
        (
            "cli_wrong:broken --check",
            "broken cannot make a milter: KeyError: 'key' ({path}:9: return {}['key'])",
        ),
        ("cli_wrong:broken --listen inet:0", "broken cannot make a milter: KeyError: 'key' ("),
    ],
)
def test_what_is_wrong_is_one_line(arguments: str, sentence: str) -> None:
    Path("cli_wrong.py").write_text(
        "from aiomilter import Milter\nclass Wrong(Milter):\n    actions = 1\n"
        "def three():\n    return 3\ndef kind():\n    return Milter\n"
        "def broken():\n    return {}['key']\n",
        encoding="utf-8",
    )
    expected = sentence.replace("{path}", str(Path("cli_wrong.py").resolve()))
    assert expected in sentence_of(invoke(*arguments.split()))


@pytest.mark.usefixtures("folder", "_quiet_root")
def test_a_missing_permission_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may do anything, so that no real folder refuses it.
    def refuse(*_address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert sentence_of(invoke("cli_milter", "--listen", "unix:m.sock")) == (
        "aiomilter: cannot make the socket unix:m.sock: Permission denied; run it as a user who "
        "may do that, or take another address\n"
    )


@pytest.mark.usefixtures("folder", "_quiet_root")
@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_missing_uvloop_is_one_line(more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    result = invoke("cli_milter", "--listen", "inet:0", "--uvloop", *more)
    assert "uvloop is not installed: pip install" in sentence_of(result)


def test_check_shows_the_settings_and_what_is_handled(folder: Path) -> None:
    result = invoke("cli_milter", "--listen", "unix:m.sock", "--idle-timeout", "5", "--check")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert 'milter = "cli_milter" # command line' in lines
    assert "idle_timeout = 5.0 # command line" in lines
    assert "backlog = 1024 # default" in lines
    assert result.stderr == "aiomilter: all right: Greeting handles on_helo\n"
    assert not (folder / "m.sock").exists()


@pytest.mark.usefixtures("folder")
def test_check_of_a_function() -> None:
    Path("cli_make.py").write_text(MILTER + "def make():\n    return Greeting()\n")
    result = invoke("cli_make:make", "--listen", "inet:0", "--check")
    assert result.stderr == "aiomilter: all right: a function makes the milter of each session\n"


@pytest.mark.usefixtures("folder")
def test_check_needs_no_address() -> None:
    result = invoke("cli_milter", "--check")
    assert result.exit_code == 0
    assert "# listen is not set" in result.stdout
    assert result.stderr.splitlines() == [
        "aiomilter: all right: Greeting handles on_helo",
        (
            "aiomilter: there is no address to listen on yet; serving needs one, as in --listen "
            "inet:8890"
        ),
    ]


FACTORY_THAT_NEEDS_A_LIFESPAN = """
import contextlib
there = []

@contextlib.asynccontextmanager
async def life():
    there.append(1)
    yield

def make():
    there[0]
    return Greeting()
"""


async def test_a_factory_may_need_the_lifespan(folder: Path) -> None:
    text = MILTER + FACTORY_THAT_NEEDS_A_LIFESPAN
    (folder / "cli_needs.py").write_text(text, encoding="utf-8")
    arguments = ("cli_needs:make", "--lifespan", "cli_needs:life", "--listen", "unix:m.sock")
    result = invoke(*arguments, "--check")
    assert result.exit_code == 0
    assert "the lifespan was not entered, and so no milter made" in result.stderr
    async with Running.started(folder, *arguments) as one:
        await one.until("listening on unix:")
        assert await Running.answer(folder / "m.sock") == FIRST
        await one.end()


@pytest.mark.usefixtures("folder")
def test_a_missing_watchfiles_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.delitem(sys.modules, "aiomilter.cli.reload", raising=False)
    assert sentence_of(invoke("cli_milter", "--listen", "inet:0", "--reload")) == (
        "aiomilter: --reload needs watchfiles: pip install 'aiomilter[cli]'\n"
    )
