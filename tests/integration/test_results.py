"""The published table is the one of the cases that there are, and of a run in which all passed."""

from __future__ import annotations

import re
from pathlib import Path

from aiomilter.testing.servers import Mta, load_cases
from tests.integration.results import PAGE, page

CASES = load_cases(Path(__file__).parent / "cases")


def test_the_published_table_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(r"Postfix ([\d.]+) and Sendmail ([\d.]+)\.", text)
    assert found is not None
    versions = dict(zip(Mta, found.groups(), strict=True))
    outcomes = {(case.name, kind): "passed" for case in CASES for kind in case.servers}
    # `make mta` writes it anew.
    assert text == page(CASES, outcomes, versions)


def test_there_are_cases_enough_and_no_two_say_the_same() -> None:
    assert len(CASES) >= 120
    titles = [case.title for case in CASES]
    assert sorted(set(titles)) == sorted(titles)
