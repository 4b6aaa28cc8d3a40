"""The table of results: every case with every mail server, as a page of the documentation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from aiomilter.testing.servers import Case, Mta

__all__ = ["PAGE", "Outcomes", "outcomes_of", "page", "table", "versions_of"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mail-servers-results.md"

Outcomes = Mapping[tuple[str, Mta], str]
"""By case and mail server: ``passed`` or ``FAILED``."""

NAMES = {Mta.POSTFIX: "Postfix", Mta.SENDMAIL: "Sendmail"}
HEAD = """\
# Results with real mail servers

Written by `make mta`, which runs every case of `tests/integration/cases/` with both mail servers,
from Debian's packages: Postfix {versions[postfix]} and Sendmail {versions[sendmail]}. The form of
the cases, and how to run your own, is told in [](mail-servers.md).

{total}
"""


def page(cases: Sequence[Case], outcomes: Outcomes, versions: Mapping[Mta, str]) -> str:
    """Return the page as Markdown.

    Args:
        cases: All cases, by name.
        outcomes: What came of them; what is missing was not run.
        versions: Of the mail servers.
    """
    said = {kind.value: version for kind, version in versions.items()}
    parts = [HEAD.format(versions=said, total=_total(cases, outcomes))]
    for theme, group in itertools.groupby(cases, lambda case: case.path.parent.name):
        parts.append(f"## {theme.capitalize()}\n")
        headings = ["case", "what holds", *(f"{NAMES[kind]} {versions[kind]}" for kind in Mta)]
        rows = [[f"`{case.path.stem}`", case.title, *_cells(case, outcomes)] for case in group]
        parts.append("\n".join(_markdown(headings, rows)) + "\n")
    return "\n".join(parts)


def table(cases: Sequence[Case], outcomes: Outcomes, versions: Mapping[Mta, str]) -> list[str]:
    """Return the same for a terminal, a line for each case."""
    width = max(len(case.name) for case in cases)
    column = max(len(f"{NAMES[kind]} {versions[kind]}") for kind in Mta)
    lines = [
        f"{'case':{width}}  "
        + "  ".join(f"{NAMES[kind] + ' ' + versions[kind]:{column}}" for kind in Mta)
        + "  what holds"
    ]
    for case in cases:
        cells = [_outcome(case, kind, outcomes) for kind in Mta]
        told = "  ".join(f"{cell:{column}}" for cell in cells)
        lines.append(f"{case.name:{width}}  {told}  {case.title}")
    return [*lines, "", _total(cases, outcomes)]


def outcomes_of(reports: Sequence[pytest.TestReport]) -> dict[tuple[str, Mta], str]:
    """Return what came of cases, by the reports of their tests."""
    outcomes: dict[tuple[str, Mta], str] = {}
    for report in reports:
        properties = dict(report.user_properties)
        if "case" in properties:
            kind = Mta(properties["mail server"])
            outcomes[str(properties["case"]), kind] = "passed" if report.passed else "FAILED"
    return outcomes


def versions_of(reports: Sequence[pytest.TestReport]) -> dict[Mta, str]:
    """Return the versions of the mail servers that cases were run with."""
    versions = dict.fromkeys(Mta, "?")
    for report in reports:
        properties = dict(report.user_properties)
        if "version" in properties:
            versions[Mta(properties["mail server"])] = str(properties["version"])
    return versions


def _total(cases: Sequence[Case], outcomes: Outcomes) -> str:
    passed = sum(outcome == "passed" for outcome in outcomes.values())
    runs = sum(len(case.servers) for case in cases)
    failed = f"{runs - passed} did not" if passed < runs else "none failed"
    return f"{len(cases)} cases, {runs} runs with a mail server: {passed} passed, {failed}."


def _cells(case: Case, outcomes: Outcomes) -> list[str]:
    because = case.settings.because
    return [
        _outcome(case, kind, outcomes) if kind in case.servers else f"– ({because})" for kind in Mta
    ]


def _outcome(case: Case, kind: Mta, outcomes: Outcomes) -> str:
    if kind not in case.servers:
        return "–"
    return outcomes.get((case.name, kind), "not run")


def _markdown(headings: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)]
