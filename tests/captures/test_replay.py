"""What real mail servers once sent, sent again: the milters answer and note the same."""

from __future__ import annotations

import asyncio
import itertools
from operator import attrgetter
from pathlib import Path

import pytest

from aiomilter.cli.playback import replay_connection
from aiomilter.cli.record import Entry
from aiomilter.testing.servers import Case, Mta, load_cases
from aiomilter.testing.servers.comparison import compare_notes
from aiomilter.testing.servers.notes import Notes
from aiomilter.testing.servers.script import Script
from aiomilter.testing.servers.serving import served
from aiomilter.testing.servers.template import Pattern
from tests.captures.store import HERE, captures, path_of, read_capture

CASES = load_cases(HERE.parent / "integration" / "cases")
RUNS = [(case, kind) for case in CASES for kind in case.servers]
TIMEOUT_S = 10
APART_S = 0.05
FILES = captures()


def takes_time(case: Case) -> bool:
    """Whether its milter or its mail server lets time pass."""
    return case.path.parent.name == "time" or case.path.stem.startswith(("hangs-", "slow-"))


def test_every_case_has_its_captures_and_there_are_no_others() -> None:
    # `make captures` records what is missing here.
    assert set(FILES) == {path_of(case, kind) for case, kind in RUNS}


@pytest.mark.parametrize("kind", Mta)
@pytest.mark.parametrize(("stage", "skips"), [("body", 2), ("header", 0), ("mail", 0), ("rcpt", 0)])
def test_skip_is_sent_at_the_body_alone(kind: Mta, stage: str, skips: int) -> None:
    entries = read_capture(FILES[HERE / kind.value / "protocol" / f"skip-{stage}.jsonl"])
    said = [entry.data for entry in entries if entry.sender == "milter"]
    assert said.count(b"\0\0\0\1s") == skips


@pytest.mark.unmeasured  # of what all of these do, a few do it all
@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(case, kind, id=f"{case.name}-{kind.value}")
        for case, kind in RUNS
        if not takes_time(case)
    ],
)
async def test_replay(case: Case, kind: Mta, tmp_path: Path) -> None:
    await replay(case, kind, tmp_path)


async def test_replays_that_take_time(tmp_path: Path) -> None:
    # They do little but wait, and so all wait at once.
    runs = [(case, kind) for case, kind in RUNS if takes_time(case)]
    results = await asyncio.gather(
        *(replay_later(number, *run, tmp_path) for number, run in enumerate(runs)),
        return_exceptions=True,
    )
    assert len(results) >= 30
    failures = {
        f"{case.name}-{kind.value}": result
        for (case, kind), result in zip(runs, results, strict=True)
        if result is not None
    }
    assert failures == {}


async def replay_later(number: int, case: Case, kind: Mta, tmp_path: Path) -> None:
    """Replay a run after a while, so that no start comes in between what others measure."""
    await asyncio.sleep(number * APART_S)
    folder = tmp_path / str(number)
    folder.mkdir()
    await replay(case, kind, folder)


async def replay(case: Case, kind: Mta, tmp_path: Path) -> None:
    """Send what was sent, and compare answers and notes."""
    entries = read_capture(FILES[path_of(case, kind)])
    address = f"unix:{tmp_path}/milter.sock"
    notes = Notes(tmp_path / "notes")
    script = Script(case, notes.add)
    connections = by_connection(case, entries)
    async with served(case, script, address, notes):
        for connection in connections:
            outcome = await replay_connection(
                connection,
                address,
                timeout_s=TIMEOUT_S,
                # Only there does anything depend on the pauses of the client.
                keeps_time=case.path.parent.name == "time",
            )
            assert outcome.differences == []
    expected = case.notes_of(kind)
    if expected is None:
        return
    patterns, lines = [note.fill(script.names) for note in expected], notes.lines()
    if any(one[-1].t > other[0].t for one, other in itertools.pairwise(connections)):
        # They were open at the same time, and are replayed one after the other.
        patterns.sort(key=Pattern.show)
        lines.sort()
    assert compare_notes(patterns, lines) == []


def by_connection(case: Case, entries: list[Entry]) -> list[list[Entry]]:
    """Sort out what passed on each connection that reached the milter."""
    entries = sorted(entries, key=attrgetter("connection"))
    groups = itertools.groupby(entries, attrgetter("connection"))
    connections = [list(group) for _, group in groups]
    # The mail server also tries when a process is dying or dead, and then hears nothing at all.
    sender = "milter" if case.settings.own_process else "mta"
    return [
        connection
        for connection in connections
        if any(entry.sender == sender and entry.data for entry in connection)
    ]
