"""The recorded sessions are those of the catalogue, and what this libmilter does in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.catalogue.themes import THEMES
from tests.conformance.vectors import FOLDER
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.record import text_of_theme

MAX_BYTES = 1_500_000


@pytest.fixture(scope="module")
def host() -> Iterator[LibmilterHost]:
    with LibmilterHost() as running:
        yield running


@pytest.mark.unmeasured
@pytest.mark.parametrize("theme", THEMES)
def test_recording_again_changes_nothing(host: LibmilterHost, theme: str) -> None:
    recorded = (FOLDER / f"{theme}.json").read_text(encoding="ascii")
    current = text_of_theme(host, theme)
    # Not the whole texts: a difference in one of a hundred thousand lines takes long to show.
    changed = [
        lines
        for lines in zip(recorded.splitlines(), current.splitlines(), strict=False)
        if lines[0] != lines[1]
    ]
    assert changed[:3] == []
    assert recorded == current, "run `make record`"


def test_every_file_has_a_theme_and_all_are_small_enough_to_keep() -> None:
    files = list(FOLDER.iterdir())
    assert sorted(path.name for path in files) == sorted(f"{theme}.json" for theme in THEMES)
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
