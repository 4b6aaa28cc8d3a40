"""The tests on the page docs/testing.md, run as by a user: by pytest, in a process of its own."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aiomilter.testing import Mta, Result, StageResult
from examples.recipient_counter import RecipientCounter

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
# What pytest says under `python -O`, where its own assertions still hold.
OPTIMIZED = "ignore:assertions not in test modules"
INCLUDED = [
    (ROOT / "docs" / path).resolve()
    for path in re.findall(r"^```\{literalinclude\} (.*)$", PAGE, flags=re.MULTILINE)
]
TESTS = [path for path in INCLUDED if path.name.startswith("test_")]


def test_every_test_of_the_page_passes(tmp_path: Path) -> None:
    for path in TESTS:
        shutil.copy(path, tmp_path)
    settings = f"[pytest]\npythonpath = {ROOT}\nasyncio_default_fixture_loop_scope = function\n"
    (tmp_path / "pytest.ini").write_text(settings, encoding="utf-8")
    options = ["-q", "-W", "error", "-W", OPTIMIZED, "-p", "no:cacheprovider", "-p", "no:randomly"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(TESTS) - 1 + len(Mta) * 3} passed" in run.stdout


def test_the_program_without_pytest_asserts(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = set(INCLUDED) - set(TESTS)
    runpy.run_path(str(program))
    monkeypatch.setattr(
        RecipientCounter, "begin_message", lambda it: setattr(it, "recipient_count", 7)
    )
    with pytest.raises(AssertionError):
        runpy.run_path(str(program))


def test_all_that_lies_there_is_on_the_page() -> None:
    assert sorted(INCLUDED) == sorted((ROOT / "examples" / "testing").glob("*.py"))


def test_the_first_test_is_short() -> None:
    text = INCLUDED[0].read_text(encoding="utf-8").partition("# <test>\n")[2]
    assert len([line for line in text.splitlines() if line]) <= 10


@pytest.mark.parametrize("owner", [StageResult, Result])
def test_the_table_has_all_assertions(owner: type) -> None:
    named = set(re.findall(r"`(assert_\w+)\(", PAGE))
    assert {name for name in dir(owner) if name.startswith("assert_")} <= named
    assert {name for name in named if not hasattr(Result, name)} == set()
