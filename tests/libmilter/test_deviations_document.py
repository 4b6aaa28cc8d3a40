"""docs/deviations.md is complete: its rows are numbered on, and each names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "deviations.md").read_text()
OWN_FILES = ("tests/libmilter/test_deviations.py", "tests/libmilter/test_further_deviations.py")
ROWS = dict(
    re.findall(r"^\* - D(\d+)\n(.*?)(?=^\* - |^```|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
)


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_the_rows_of_the_document_are_numbered_on() -> None:
    assert [int(number) for number in ROWS] == list(range(1, len(ROWS) + 1))
    assert ROWS


def test_every_test_that_the_document_names_exists() -> None:
    own = {name: set(re.findall(r"`(test_\w+)`", row)) for name, row in ROWS.items()}
    assert all(own.values())
    elsewhere = dict(re.findall(r"`(test_\w+)`\s+\(`(tests/\w+/\w+\.py)`\)", DOCUMENT))
    assert not set(elsewhere.values()) & set(OWN_FILES)
    for name in set[str]().union(*own.values()):
        files = [elsewhere[name]] if name in elsewhere else OWN_FILES
        assert any(name in functions_of(path) for path in files), name


def test_the_document_names_every_test_in_its_row() -> None:
    for path in OWN_FILES:
        for name in functions_of(path):
            if match := re.match(r"test_d(\d\d)_", name):
                assert f"`{name}`" in ROWS[str(int(match[1]))]
