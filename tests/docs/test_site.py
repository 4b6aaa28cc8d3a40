"""The documentation is whole: its links, its names, its tables, its pictures and its programs."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

import aiomilter
import aiomilter.contrib
from aiomilter import (
    Body,
    Config,
    EomActions,
    Headers,
    Message,
    Milter,
    Negotiation,
    Recipients,
    Server,
    Status,
)
from aiomilter.spec import COMMANDS, REPLIES, Actions, Options
from tests.docs.site import ROOT, tool

pytestmark = [pytest.mark.xdist_group("site"), pytest.mark.timeout(180)]

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
PUBLIC = [
    "aiomilter",
    "aiomilter.aio.address",
    "aiomilter.aio.metrics_http",
    "aiomilter.contrib.aiosmtpd",
    "aiomilter.contrib.gunicorn",
    "aiomilter.contrib.metrics",
    "aiomilter.contrib.opentelemetry",
    "aiomilter.contrib.prometheus",
    "aiomilter.errors",
    "aiomilter.logs",
    "aiomilter.mta",
    "aiomilter.session.events",
    "aiomilter.session.filter",
    "aiomilter.session.macros",
    "aiomilter.session.mta",
    "aiomilter.session.negotiation",
    "aiomilter.session.states",
    "aiomilter.spec",
    "aiomilter.testing",
    "aiomilter.testing.pytest_plugin",
    "aiomilter.testing.strategies",
    "aiomilter.wire.commands",
    "aiomilter.wire.fields",
    "aiomilter.wire.framing",
    "aiomilter.wire.replies",
]


RUN_WHOLE = {"mail_servers", "testing", "tutorial"}
"""Folders of the examples of which a test runs all that is there."""


def documented(site: Path) -> dict[str, str]:
    """The documented names, with where they are."""
    with (site / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, path: path)
    return {
        name: item.uri
        for kind, items in inventory.items()
        if kind.startswith("py:")
        for name, item in items.items()
    }


def resolve(name: str) -> object:
    """Return what a dotted name is; the name itself if it is nothing that Python knows."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, name)
        return found
    return name


def test_every_link_and_anchor_exists(site: Path) -> None:
    assert tool("check-site").broken_links(site) == []


def test_what_is_indented_in_a_docstring_is_shown_as_it_is(site: Path) -> None:
    """Without two colons ahead of it, it would be a quotation, its lines run together."""
    pages = (site / "reference").rglob("*.html")
    assert [page for page in pages if "<blockquote>" in page.read_text(encoding="utf-8")] == []


def test_code_does_not_end_in_blank_lines(site: Path) -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert [page for page, text in texts.items() if re.search(r"\n\s*\n</pre>", text)] == []


def test_every_public_name_is_on_a_page(site: Path) -> None:
    names = documented(site)
    shown = {id(resolve(name)) for name in names if name.count(".") < 5}
    missing = [
        f"{module}.{name}"
        for module in PUBLIC
        for name in importlib.import_module(module).__all__
        if f"{module}.{name}" not in names
        and id(getattr(importlib.import_module(module), name)) not in shown
    ]
    assert missing == [], missing


def test_adapters_are_public_or_parts_of_one() -> None:
    modules = {
        name
        for _, name, _ in pkgutil.iter_modules(
            aiomilter.contrib.__path__, aiomilter.contrib.__name__ + "."
        )
    }
    parts = {name for name in modules if re.search(r"\.(gunicorn_\w+|smtp_session)$", name)}
    assert modules - parts == {name for name in PUBLIC if ".contrib." in name}


def test_every_page_is_in_the_index(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in PAGES:
        link = page.relative_to(DOCS).with_suffix(".html").as_posix()
        assert f'"{link}"' in index or link == "index.html", link


def test_tables_have_all_rows(site: Path) -> None:
    protocol = (site / "reference/protocol.html").read_text(encoding="utf-8")
    names = [row.libmilter for row in COMMANDS] + [row.libmilter for row in REPLIES]
    names += [flag.name or "" for kind in (Actions, Options) for flag in kind]
    assert [name for name in names if f">{name}<" not in protocol] == []
    settings = (site / "reference/settings.html").read_text(encoding="utf-8")
    rows = [f"setting-{field.name.replace('_', '-')}" for field in dataclasses.fields(Config)]
    assert [row for row in rows if f'id="{row}"' not in settings] == []


def test_clocks_and_limits_are_explained_without_a_gap() -> None:
    page = (DOCS / "explanation/server.md").read_text(encoding="utf-8")
    named = " ".join(re.findall(r"^```\{config-table\}\n(.*?)\n```", page, re.MULTILINE)).split()
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(Config))


def test_the_diagram_is_that_of_the_table() -> None:
    drawer = tool("draw-protocol")
    assert drawer.IMAGE.read_text(encoding="utf-8") == drawer.drawing()


def test_programs_come_from_files_that_are_checked_and_tested() -> None:
    """No page has a program of its own: all are included from the examples."""
    tests = " ".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    )
    included: set[Path] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^ *(```|~~~|:::)\{?(python|py|pycon|code)", text, re.MULTILINE), page
        paths = re.findall(r"^```\{literalinclude\} (.*\.(?:py|case))$", text, re.MULTILINE)
        included |= {(page.parent / path).resolve() for path in paths}
    assert len(included) > 20
    for path in included:
        # mypy and basedpyright read all of this folder.
        assert path.is_relative_to(ROOT / "examples"), path
        imported = rf"from examples[\w.]* import [^#]*\b{path.stem}\b|from examples\.{path.stem} "
        used = rf"{imported}|[\"/]{path.stem}\.py\""
        assert path.parent.name in RUN_WHOLE or re.search(used, tests), path


def test_the_lines_of_the_log_are_those_of_the_code() -> None:
    page = DOCS / "howto" / "debug.md"
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)
    part = page.read_text(encoding="utf-8").partition("## The mail server does not ask")[0]
    begin = r"`(?:… )?((?:it|all|so|the event|turned|cannot|closed|ignored)\b[^`…]*)"
    found = re.findall(begin, part)
    assert len(found) > 6
    for said in found:
        words = re.sub(r"\d+", "%d", said).strip(" ;")
        assert words in sources, words


def test_commands_of_the_project_that_pages_name_exist() -> None:
    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)(?=`| [A-Z]+=|  +#)", text, re.MULTILINE))
    assert {"bench", "docs", "mta"} <= named <= targets
    programs = set(re.findall(r"python -m (bench[\w.]*|tests[\w.]*)", text))
    assert len(programs) > 10
    assert [name for name in programs if importlib.util.find_spec(name) is None] == []


def test_the_figures_of_the_readme_are_those_of_the_page() -> None:
    figures = tool("readme-figures")
    readme = figures.README.read_text(encoding="utf-8")
    page = figures.PAGE.read_text(encoding="utf-8")
    assert readme == figures.readme_with_figures(readme, page), "run: tools/readme-figures.py"


@pytest.mark.parametrize(
    ("before", "owner"),
    [
        (r"actions\.", EomActions),
        (r"message\.(?!eml)", Message),
        (r"message\.headers\.", Headers),
        (r"message\.body\.", Body),
        (r"message\.recipients\.", Recipients),
        (r"Status\.", Status),
        (r"Actions\.", Actions),
        (r"negotiation\.", Negotiation),
        (r"Server\.", Server),
    ],
)
def test_names_in_prose_and_tables_exist(before: str, owner: type) -> None:
    found = {
        (page.relative_to(DOCS).as_posix(), name)
        for page in PAGES
        for name in re.findall(rf"(?<![\w.]){before}([A-Za-z_]+)", page.read_text(encoding="utf-8"))
    }
    assert found
    assert {(page, name) for page, name in found if not hasattr(owner, name)} == set()


def test_every_handler_is_in_every_page_of_migration() -> None:
    handlers = {name for name in vars(Milter) if name.startswith("on_")} - {"on_message"}
    for page in sorted((DOCS / "migration").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if page.name == "index.md":
            continue
        if page.name == "kilter.md":  # one coroutine there
            assert "on_message" in text
            continue
        allowed = {"on_negotiate"} if page.name == "purepythonmilter.md" else set()
        assert {name for name in handlers if name not in text} <= allowed, page.name
