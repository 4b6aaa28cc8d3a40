"""SIGTERM under load through a real Postfix, a few of the runs of ``bench/term.py``."""

from __future__ import annotations

import pytest

from bench.term import all_runs

RUNS, CLIENTS = 2, 8


@pytest.mark.xdist_group("load")
@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.timeout(90)
async def test_every_message_is_delivered_whole_or_deferred() -> None:
    totals = await all_runs(RUNS, CLIENTS)
    assert totals["delivered"] > 0
    assert totals["deferred"] > 0
    assert totals["injected"] == totals["delivered"] + totals["deferred"]
    assert totals["half edited"] == totals["unfiltered"] == totals["lost"] == 0
