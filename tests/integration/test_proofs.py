"""Promises behind both mail servers, in short; `bench/mail_servers.py` has the long runs."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from aiomilter.testing.servers import Mta
from tests.integration.load.endless import STAGES, wait_everywhere
from tests.integration.load.failing import EVERY, send_all
from tests.integration.load.odd import send_odd
from tests.integration.load.servers import UNIX

both_servers = pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.xdist_group(f"cases-{kind.value}")) for kind in Mta],
)


@both_servers
async def test_p01_behind_a_mail_server_one_message_in_ten_fails_and_none_passes(
    kind: Mta, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "aiomilter")
    outcome = await send_all(kind, 20 * EVERY)
    assert outcome.is_kept, outcome
    assert (outcome.counts["deferred"], outcome.counts["delivered"]) == (20, 180)


@both_servers
async def test_p14_no_mail_server_waits_in_vain_at_any_stage(
    kind: Mta, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "aiomilter")
    waited = await wait_everywhere(
        kind, replace(UNIX, handler_timeout=0.2, eom_timeout=0.5), {}, 10
    )
    assert waited.complaints == []
    assert {stage: waited.refusals[stage][:1] for stage in STAGES} == dict.fromkeys(STAGES, "4")
    # The connection to the milter is still there for the next message of the session.
    served = {stage for stage, code in waited.after.items() if code == 250}
    assert served == set(STAGES) - {"connect", "helo"}


@both_servers
async def test_p43_nothing_that_a_client_sends_is_a_protocol_error(kind: Mta) -> None:
    outcome = await send_odd(kind, 150, seed=43)
    assert outcome.is_kept, outcome
    assert outcome.counts["delivered"] > 50
