"""Milters by name: what is found, and what is said about what is not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomilter.cli.console import CommandError
from aiomilter.cli.loading import load_lifespan, load_milter, parse_target, source_folder

Write = Callable[[str, str], Path]

ONE = "from aiomilter import Milter\nclass Greylist(Milter): pass\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules into the current folder; what is imported from there is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return path

    yield write_file
    for name in set(sys.modules) - before:
        del sys.modules[name]


def name_of(found: object) -> str:
    return str(getattr(found, "__qualname__", found))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cli_one:Greylist", "Greylist"),
        ("cli_one", "Greylist"),
        ("cli_one.py", "Greylist"),
        ("./cli_one.py:Greylist", "Greylist"),
        ("cli_pack.inner:Inner", "Inner"),
        ("cli_pack/inner.py", "Inner"),
        ("cli_pack/__init__.py:inner.Inner", "Inner"),
        ("cli_pack:Outer.Nested", "Outer.Nested"),
        ("cli_odd-name.py", "Greylist"),
        ("cli_more:make", "make"),
        ("cli_more", "Greylist"),
    ],
)
def test_what_is_named_is_found(write: Write, text: str, name: str) -> None:
    write("cli_one.py", ONE)
    write("cli_odd-name.py", ONE)
    # An alias, a base and an import do not count as milters of the module's own.
    write(
        "cli_more.py",
        ONE + "from cli_one import Greylist as Other\nclass _Base(Milter): pass\nAlias = Greylist\n"
        "def make():\n    return Greylist()\n",
    )
    write(
        "cli_pack/__init__.py",
        "from aiomilter import Milter\nclass Outer:\n    class Nested(Milter): pass\n"
        "from . import inner\n",
    )
    write("cli_pack/inner.py", "from aiomilter import Milter\nclass Inner(Milter): pass\n")
    assert name_of(load_milter(text)) == name


def test_a_file_finds_the_modules_beside_it(write: Write) -> None:
    write("sub/cli_beside.py", "ANSWER = 1\n")
    write("sub/cli_file.py", "import cli_beside\n" + ONE)
    assert name_of(load_milter("sub/cli_file.py:Greylist")) == "Greylist"


MODULES = {
    "cli_one.py": ONE,
    "cli_two.py": ONE + "class Second(Milter): pass\n",
    "cli_none.py": "x = 1\n",
    "cli_imports.py": "import no_such_thing_at_all\n",
    "cli_raises.py": "def fail():\n    raise RuntimeError('a\\nb')\n\nfail()\n",
    "cli_library.py": "import re\nre.compile('(')\n",
    "cli_syntax.py": "x = 1\ndef f(:\n",
    "cli_exits.py": "import sys\nsys.exit(3)\n",
    "cli_kinds.py": ONE + "number = 1\nmilter = Greylist()\nclass Plain: pass\n"
    "async def make(): return Greylist()\ndef with_argument(x): return Greylist()\n",
    "email.py": ONE,
    "cli.dotted.py": ONE,
}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' names no module; write MODULE:CLASS"),
        ("a..b:C", "'a..b:C' names no module; write MODULE:CLASS"),
        ("cli_one:", "'cli_one:': there is no class after the colon; write MODULE:CLASS"),
        ("cli_one:1x", "there is no class after the colon"),
        ("cli_onee:Greylist", ("there is no module 'cli_onee' in {folder}, nor is it installed; "
         "did you mean 'cli_one'?")),
        ("zzz:Greylist", "there is no module 'zzz' in {folder}, nor is it installed; write MODULE"),
        ("cli_one.sub:X", "there is no module 'cli_one.sub' in {folder}"),
        ("no/such.py:X", "there is no file {folder}/no/such.py; write MODULE:CLASS"),
        ("./cli_one:X", "'cli_one' is no Python file; write MODULE:CLASS"),
        ("cli.dotted.py", "cli.dotted.py cannot be imported: rename it, without a dot"),
        ("email.py", "email.py bears the name of another module, "),
        ("cli_imports:X", ("module 'cli_imports' imports 'no_such_thing_at_all', which is not "
         "there ({folder}/cli_imports.py:1: import no_such_thing_at_all): install it for ")),
        ("cli_raises:X", ("module 'cli_raises' cannot be imported: RuntimeError: a\\nb "
         "({folder}/cli_raises.py:2: raise RuntimeError('a\\nb'))")),
        ("cli_library:X", "({folder}/cli_library.py:2: re.compile('('))"),
        ("cli_syntax:X", ("module 'cli_syntax' cannot be imported: SyntaxError: invalid syntax "
         "({folder}/cli_syntax.py:2: def f(:)")),
        ("cli_exits:X", "module 'cli_exits' cannot be imported: SystemExit: 3 "),
        ("cli_one:Grelist", "module 'cli_one' has no 'Grelist'; did you mean 'Greylist'?"),
        ("cli_two:X", "module 'cli_two' has no 'X'; milter classes there: Greylist, Second"),
        ("cli_none:X", "module 'cli_none' has no 'X'"),
        ("cli_two", ("'cli_two' does not say which class to run: module 'cli_two' has several "
         "milter classes; milter classes there: Greylist, Second")),
        ("cli_none", "has no milter class of its own; name what makes milters, as in MODULE:NAME"),
        ("cli_kinds:number", ("'cli_kinds:number' is no milter; name a class derived from "
         "aiomilter.Milter, or a function without arguments that returns one; milter classes "
         "there: Greylist")),
        ("cli_kinds:Plain", "'cli_kinds:Plain' is no milter"),
        ("cli_kinds:milter", ("'cli_kinds:milter' is an object of the class Greylist; name the "
         "class itself")),
        ("cli_kinds:make", "'cli_kinds:make' is an async function; make it a plain one"),
        ("cli_kinds:with_argument", "cannot be called without arguments (missing a required "),
    ],
)  # fmt: skip
def test_what_is_not_is_said_in_one_sentence(
    write: Write, tmp_path: Path, text: str, sentence: str
) -> None:
    for name, source in MODULES.items():
        write(name, source)
    # It is loaded in any case; a file of this name in the current folder must not take its place.
    importlib.import_module("email")
    with pytest.raises(CommandError) as caught:
        load_milter(text)
    assert sentence.replace("{folder}", str(tmp_path)) in caught.value.message
    assert "\n" not in caught.value.message


LIFESPANS = """
import contextlib
@contextlib.asynccontextmanager
async def good():
    yield
async def bare():
    yield
async def coroutine():
    pass
class Manager:
    async def __aenter__(self): pass
    async def __aexit__(self, *error): pass
manager = Manager()
number = 1
"""


@pytest.mark.parametrize("name", ["good", "Manager", "manager"])
def test_a_lifespan_is_found(write: Write, name: str) -> None:
    write("cli_life.py", LIFESPANS)
    found: Any = load_lifespan(f"cli_life:{name}")
    assert found is getattr(sys.modules["cli_life"], name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cli_life", "'cli_life' names no lifespan; write MODULE:NAME"),
        ("cli_life:bare", "decorate it with @contextlib.asynccontextmanager"),
        ("cli_life:coroutine", "is an async function; make it a plain one"),
        ("cli_life:number", "is no lifespan; name an asynchronous context manager"),
    ],
)
def test_what_is_no_lifespan_is_said(write: Write, text: str, sentence: str) -> None:
    write("cli_life.py", LIFESPANS)
    with pytest.raises(CommandError) as caught:
        load_lifespan(text)
    assert sentence in caught.value.message


def test_the_folder_of_a_module_is_told_without_importing_it(write: Write, tmp_path: Path) -> None:
    write("cli_pack/__init__.py", "1 / 0\n")
    write("cli_pack/inner.py", "1 / 0\n")
    write("src/cli_other.py", "1 / 0\n")
    for text in ("cli_pack.inner:X", "cli_pack/inner.py:X", "not_there:X"):
        assert source_folder(parse_target(text)) == tmp_path
    assert source_folder(parse_target("src/cli_other.py")) == tmp_path / "src"
    sys.path.append(str(tmp_path / "src"))
    assert source_folder(parse_target("cli_other")) == tmp_path / "src"
