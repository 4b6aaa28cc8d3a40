"""The command line as a whole: help, version, and errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from aiomilter import __version__
from aiomilter.cli import main
from aiomilter.cli.commands import aiomilter


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_help_names_all_commands(arguments: list[str]) -> None:
    result = CliRunner().invoke(aiomilter, arguments)
    assert result.exit_code == (0 if arguments else 2)
    for name in ("run", "check", "trace", "replay", "decode", "bench"):
        assert f"\n  {name} " in result.output


def test_the_help_loads_no_command() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from aiomilter.cli.commands import aiomilter\n"
        "CliRunner().invoke(aiomilter, ['--help'])\n"
        "print('aiomilter.cli.run' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(option: str) -> None:
    result = CliRunner().invoke(aiomilter, [option])
    assert (result.exit_code, result.stdout) == (0, f"aiomilter {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runn"], "there is no command 'runn'. Did you mean 'run'? See aiomilter --help."),
        (
            ["xyz"],
            (
                "there is no command 'xyz'. There are run, check, trace, replay, decode, bench. "
                "See aiomilter --help."
            ),
        ),
    ],
)
def test_an_unknown_command_is_one_line(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(aiomilter, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"aiomilter: {sentence}\n"


@pytest.mark.parametrize("arguments", [["--nonsense"], ["run", "--nonsense"]])
def test_an_unknown_option_is_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(aiomilter, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("aiomilter: no such option")
    assert result.stderr.endswith(f"See {' '.join(['aiomilter', *arguments[:-1]])} --help.\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("pip install 'aiomilter[cli]'\n")


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aiomilter.cli", "-V"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"aiomilter {__version__}\n"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], "plain,trace"),
        (["check", "--mt"], "plain,--mta"),
        (["run", "--on-error", "temp"], "plain,tempfail"),
    ],
)
def test_shells_can_complete_commands_options_and_values(words: list[str], offered: str) -> None:
    line = " ".join(["aiomilter", *words])
    environment = {
        **os.environ,
        "_AIOMILTER_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    program = Path(sys.executable).with_name("aiomilter")
    run = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert offered in run.stdout.splitlines()


@pytest.mark.parametrize("name", ["run", "check", "trace", "replay", "decode", "bench"])
def test_the_help_of_a_command_fits_a_terminal_and_names_no_type(name: str) -> None:
    result = CliRunner().invoke(aiomilter, [name, "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "INTEGER" not in result.output
    assert "FLOAT" not in result.output
