"""The plugin as pytest finds it: by its entry point, in a project of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MILTERS = """
from aiomilter import Milter

class Broken(Milter):
    async def on_mail(self, sender, params):
        raise KeyError("on purpose")

class BrokenAtTheEnd(Milter):
    async def on_close(self):
        raise KeyError("on purpose")
"""

TESTS = """
from milters import Broken, BrokenAtTheEnd

def test_a_fault_with_its_traceback(milter_tester):
    milter_tester(Broken).send()

def test_a_fault_at_the_end(milter_tester):
    milter_tester(BrokenAtTheEnd).send().assert_accepted()

def test_a_fault_that_nobody_looks_at(milter_tester):
    milter_tester(Broken, raise_faults=False).send().assert_tempfailed()

def test_a_fault_that_was_expected(milter_tester):
    tester = milter_tester(Broken, raise_faults=False)
    tester.send().assert_tempfailed()
    assert len(tester.faults) == 1

def test_closed_by_hand(milter_tester):
    milter_tester(BrokenAtTheEnd, raise_faults=False)
    milter_tester(Broken).close()
"""

ASYNC_TESTS = """
import pytest
from milters import Broken, BrokenAtTheEnd

@pytest.mark.asyncio
async def test_async_fault(async_milter_tester):
    await async_milter_tester(Broken).send()

@pytest.mark.asyncio
async def test_async_fault_at_the_end(async_milter_tester):
    (await async_milter_tester(BrokenAtTheEnd).send()).assert_accepted()

@pytest.mark.asyncio
async def test_the_wrong_fixture(milter_tester):
    with pytest.raises(RuntimeError, match="AsyncMilterTester"):
        milter_tester(Broken).send()
"""


def run_pytest(folder: Path, *options: str, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    settings = "[pytest]\npythonpath = .\nasyncio_default_fixture_loop_scope = function\n"
    (folder / "pytest.ini").write_text(settings, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *options, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    return run.stdout + run.stderr


def test_faults_fail_tests(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path, "-p", "no:asyncio", "-p", "no:anyio", milters=MILTERS, test_it=TESTS
    )
    assert "FAILED test_it.py::test_a_fault_with_its_traceback" in output
    assert 'raise KeyError("on purpose")' in output
    assert "HandlerFault: on_mail of Broken: KeyError" in output
    assert "ERROR test_it.py::test_a_fault_at_the_end" in output
    assert "ERROR test_it.py::test_a_fault_that_nobody_looks_at" in output
    assert "PASSED test_it.py::test_a_fault_that_was_expected" in output
    assert "1 failed, 4 passed" in output
    assert "2 errors" in output


def test_faults_fail_tests_that_are_coroutines(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, milters=MILTERS, test_it=ASYNC_TESTS)
    assert "FAILED test_it.py::test_async_fault" in output
    assert "ERROR test_it.py::test_async_fault_at_the_end" in output
    assert "PASSED test_it.py::test_the_wrong_fixture" in output


def test_a_project_that_does_not_use_it_is_left_alone(tmp_path: Path) -> None:
    test = """
import logging, sys

def test_nothing_is_loaded():
    assert [name for name in sys.modules if name.startswith("aiomilter.testing.")] == [
        "aiomilter.testing.pytest_plugin"
    ]
    assert not logging.getLogger("aiomilter").handlers
"""
    output = run_pytest(
        tmp_path, "-W", "error", "-W", "ignore:assertions not in test modules", test_it=test
    )
    assert "1 passed" in output


def test_strategies_without_hypothesis_say_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['hypothesis'] = None\n"
        "import aiomilter.testing\n"
        "aiomilter.testing.MilterTester\n"
        "try: import aiomilter.testing.strategies\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs Hypothesis: pip install hypothesis" in run.stdout


def test_import_of_the_library_leaves_the_kit_alone() -> None:
    code = "import aiomilter, sys\nprint([n for n in sys.modules if 'testing' in n])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
