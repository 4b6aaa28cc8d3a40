"""The code on the page docs/testing.md, run as a user would: by pytest, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiomilter.testing
from aiomilter.testing import Result, StageResult

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
# What pytest says under `python -O`, where its own assertions still hold.
OPTIMIZED = "ignore:assertions not in test modules"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_block_runs(tmp_path: Path) -> None:
    for number, block in enumerate(BLOCKS):
        name = f"test_block_{number}.py"
        tail = "" if "def test_" in block else "\n\ndef test_that_it_was_imported(): pass\n"
        (tmp_path / name).write_text(block + tail, encoding="utf-8")
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
    assert len(BLOCKS) == 8


def test_the_first_test_is_short() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 10


@pytest.mark.parametrize("owner", [StageResult, Result])
def test_the_table_has_all_assertions(owner: type) -> None:
    named = set(re.findall(r"`(assert_\w+)\(", PAGE))
    assert {name for name in dir(owner) if name.startswith("assert_")} <= named
    assert {name for name in named if not hasattr(Result, name)} == set()


def test_names_of_the_page_exist() -> None:
    named = re.findall(r"^from aiomilter\.testing import (.*)$", PAGE, flags=re.MULTILINE)
    for name in (name for line in named for name in line.split(", ")):
        assert name in aiomilter.testing.__all__
