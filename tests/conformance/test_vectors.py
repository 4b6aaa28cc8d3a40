"""aiomilter does what libmilter did in every recorded session, or deviates where it says so."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.conformance.vectors import FOLDER, Vector, load, same
from tests.libmilter.aiomilter_side import run_aiomilter

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deviations.md"
DEVIATIONS = re.findall(r"^\* - (D\d+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
VECTORS = [(path.stem, vector) for path in sorted(FOLDER.glob("*.json")) for vector in load(path)]


@pytest.mark.parametrize(
    "vector", [pytest.param(vector, id=f"{theme}: {vector.title}") for theme, vector in VECTORS]
)
def test_session_goes_as_recorded(vector: Vector) -> None:
    outcomes = run_aiomilter(vector.plan, vector.sends)
    expected = vector.own_outcomes or vector.outcomes
    for number, (send, outcome, wanted) in enumerate(
        zip(vector.sends, outcomes, expected, strict=True)
    ):
        assert same(outcome, wanted), (
            f"step {number} of {vector.title!r} ({vector.deviation or 'no deviation'}):\n"
            f"  sent      {send.data!r}\n  expected  {wanted}\n  aiomilter {outcome}"
        )


@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(vector, id=f"{theme}: {vector.title}")
        for theme, vector in VECTORS
        if vector.deviation is not None
    ],
)
def test_deviation_is_documented_and_shows(vector: Vector) -> None:
    assert vector.deviation in DEVIATIONS
    assert vector.own_outcomes is not None
    pairs = zip(vector.outcomes, vector.own_outcomes, strict=True)
    assert not all(itertools.starmap(same, pairs))


def test_titles_are_unique() -> None:
    titles = [(theme, vector.title) for theme, vector in VECTORS]
    assert len(titles) == len(set(titles))


def test_there_are_vectors() -> None:
    # Without the files the tests above would be none, and pass.
    assert len(VECTORS) > 400
