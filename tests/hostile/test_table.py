"""Each row of hostile input has a test, and each promise names what shows it.

``docs/reliability.md`` is the table of promises; it says which are not kept yet.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
PROMISES = dict(re.findall(r"^\* - P(\d+)\n(.*?)(?=^\* - |^```)", PAGE, re.MULTILINE | re.DOTALL))
HOSTILE_ROWS = range(1, 65)
NOT_YET = "Not kept yet"


@cache
def names_by_file() -> dict[str, set[str]]:
    """Return the names of all test functions, by file."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {
        path.relative_to(ROOT).as_posix(): {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, functions) and node.name.startswith("test_")
        }
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
    }


@pytest.mark.parametrize("number", HOSTILE_ROWS)
def test_each_row_of_hostile_input_has_a_test_of_its_name(number: int) -> None:
    name = re.compile(rf"test_(?:\w+_)?a{number:02}_\w+")
    has_one = any(name.fullmatch(test) for tests in names_by_file().values() for test in tests)
    assert has_one


def test_the_promises_are_numbered_on() -> None:
    assert list(PROMISES) == [str(number) for number in range(1, 45)]


@pytest.mark.parametrize("number", PROMISES)
def test_each_promise_names_tests_that_exist_or_says_that_there_are_none(number: str) -> None:
    row = PROMISES[number]
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", row))
    names = set(re.findall(r"`(test_\w+)`", row))
    assert files <= set(names_by_file())
    for name in names:
        assert any(name in names_by_file()[file] for file in files), name
    scripts = re.findall(r"`(tests/integration/cases/|fuzz/)`", row)
    scripts += [f"bench/{name}.py" for name in re.findall(r"`python -m bench\.(\w+)[ \w-]*`", row)]
    assert all((ROOT / script).exists() for script in scripts)
    assert names or scripts or NOT_YET in row


@pytest.mark.parametrize("number", PROMISES)
def test_a_test_that_is_named_after_a_promise_is_of_its_row_or_beside_one(number: str) -> None:
    name = re.compile(rf"test_(?:\w+_)?p{int(number):02}_\w+")
    there = {test for tests in names_by_file().values() for test in tests if name.fullmatch(test)}
    named = set(re.findall(r"`(test_\w+)`", PROMISES[number]))
    assert not there or there & named, f"the row of P{number} names none of {sorted(there)}"
