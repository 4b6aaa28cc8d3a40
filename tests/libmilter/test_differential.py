"""libmilter and aiomilter, the same sessions: no difference but the deviations.

One run draws `SESSIONS` sessions of each theme; ``make fidelity`` draws many more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.libmilter.aiomilter_side import run_with_trace
from tests.libmilter.compare import compare, compare_in_all
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import Send
from tests.libmilter.sessions import THEMES, cut, draw_session

SESSIONS = 400
"""Of each theme; all themes together are more than 3,000."""
CUT_ANYWHERE = 0.2
"""The share of sessions that libmilter also gets at once, or in pieces that are no packets."""


@pytest.fixture(scope="module")
def host() -> Iterator[LibmilterHost]:
    with LibmilterHost() as host:
        yield host


@pytest.mark.timeout(300)
@pytest.mark.parametrize("theme", THEMES)
def test_generated_sessions_differ_in_nothing_but_deviations(
    host: LibmilterHost, theme: str, record_property: Callable[[str, object], None]
) -> None:
    found: Counter[str] = Counter()

    @settings(
        max_examples=SESSIONS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(random=st.randoms(use_true_random=False))
    def sessions(random: Random) -> None:
        plan, packets = draw_session(random, THEMES[theme])
        # The C side works while this one does.
        pending = host.submit(plan, packets, paced=True)
        sends = [*map(Send, packets), Send(b"", end=True)]
        run = run_with_trace(plan, sends)
        comparison = compare(plan, sends, run, pending.outcome().steps)
        found.update(comparison.deviations)
        found["sessions"] += 1
        size = random.choice((1, 2, 3, 7))
        in_pieces = run_with_trace(plan, sends, cut=size).outcomes
        assert in_pieces == run.outcomes, f"delivered {size} bytes at a time it differs"
        if comparison.is_plain and random.random() < CUT_ANYWHERE:
            pieces = cut(random, packets)
            pending = host.submit(plan, pieces, paced=random.random() < 0.5)
            run = run_with_trace(plan, [*map(Send, pieces), Send(b"", end=True)])
            compare_in_all(run.outcomes, pending.outcome().steps)
            found["cut anywhere"] += 1

    sessions()
    assert found["sessions"] >= SESSIONS
    record_property("sessions compared with libmilter", found.pop("sessions"))
    assert found["cut anywhere"]
    record_property("of them also in other pieces", found.pop("cut anywhere"))
    record_property("of them with a deviation", sum(found.values()))
    record_property("differences that are none", 0)
