"""What holds for the project as a whole: its modules, its files and its promises."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import aiomilter

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "aiomilter"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 500
CHANGE_KINDS = ("security", "breaking", "added", "changed", "fixed")


def public_modules() -> list[str]:
    found = [aiomilter.__name__]
    found += (m.name for m in pkgutil.walk_packages(aiomilter.__path__, "aiomilter."))
    return [name for name in found if not any(part.startswith("_") for part in name.split("."))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that run at import, also inside `if` and `try`."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If):
            found += top_level(node.body) + top_level(node.orelse)
        elif isinstance(node, ast.Try):
            found += top_level(node.body) + top_level(node.orelse) + top_level(node.finalbody)
            found += (inner for handler in node.handlers for inner in top_level(handler.body))
        else:
            found.append(node)
    return found


def defined_and_imported(source: str) -> tuple[set[str], set[str]]:
    """Public names that a module makes itself, and those it takes from elsewhere in the package."""
    defined: set[str] = set()
    imported: set[str] = set()
    for node in top_level(ast.parse(source).body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (name for target in targets for name in ast.walk(target))
            defined |= {name.id for name in names if isinstance(name, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").partition(".")[0] == "aiomilter"
        ):
            imported |= {alias.asname or alias.name for alias in node.names}
    return (
        {name for name in defined if not name.startswith("_")},
        {name for name in imported if not name.startswith("_")},
    )


@pytest.mark.parametrize("name", public_modules())
def test_all_lists_what_a_module_defines(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    path = Path(module.__file__)
    listed: list[str] = list(module.__all__)
    assert len(listed) == len(set(listed))

    defined, imported = defined_and_imported(path.read_text(encoding="utf-8"))
    assert defined - set(listed) == set(), "missing in __all__ (or to be named with a _)"
    # Re-exports are the business of packages, private submodules apart, and of the one module that
    # shows a part of several packages.
    dunder = {entry for entry in listed if entry.startswith("__")}
    is_front = path.name == "__init__.py" or name == "aiomilter.mta"
    allowed = defined | dunder | (imported if is_front else set())
    assert set(listed) - allowed == set(), "in __all__, but not defined here"


@pytest.mark.parametrize("name", public_modules())
def test_every_name_in_all_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert [entry for entry in module.__all__ if not hasattr(module, entry)] == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_module_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_import_loads_the_standard_library_only() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # a coverage hook may have been loaded already
        "import aiomilter\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert loaded - set(sys.stdlib_module_names) == {"aiomilter"}


def test_no_runtime_dependencies() -> None:
    required = importlib.metadata.requires("aiomilter") or []
    assert [entry for entry in required if "extra ==" not in entry] == []


def test_version_is_that_of_the_installed_package() -> None:
    assert aiomilter.__version__ == importlib.metadata.version("aiomilter")


def test_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def make_targets_named_in(text: str) -> set[str]:
    """Targets of `make …` in code: inline, in fenced blocks, and in indented ones."""
    fenced = "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    inline = re.findall(r"`make ([a-z][a-z-]*)", text)
    block = re.findall(r"^[ $]*make ([a-z][a-z-]*)", fenced, flags=re.MULTILINE)
    indented = re.findall(r"^ {4}make ([a-z][a-z-]*)", text, flags=re.MULTILINE)
    return {*inline, *block, *indented}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documented_commands_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    named = make_targets_named_in((ROOT / name).read_text(encoding="utf-8"))
    assert named - targets == set()


def test_change_fragments_are_well_named() -> None:
    kinds = "|".join(CHANGE_KINDS)
    names = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    wrong = [name for name in names if not re.fullmatch(rf"\+?[a-z0-9-]+\.({kinds})\.md", name)]
    assert wrong == []


def test_change_kinds_are_those_of_the_configuration() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    kinds = config["tool"]["towncrier"]["type"]
    assert tuple(kind["directory"] for kind in kinds) == CHANGE_KINDS


def test_lock_is_bound_to_no_host() -> None:
    locks = sorted((ROOT / "requirements").glob("*.txt"))
    assert locks
    assert [path.name for path in locks if "://" in path.read_text(encoding="utf-8")] == []


def test_decisions_are_numbered_and_complete() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [path.name.partition("-")[0] for path in records]
    assert numbers == [f"{number:04}" for number in range(1, len(records) + 1)]
    parts = ["## Question", "## Options", "## Outcome", "## Consequences"]
    for path in records:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("## ")] == parts, path.name
