"""The examples of filters that work together, and of work in processes."""

from __future__ import annotations

import logging

import pytest

from aiomilter.testing import AsyncMilterTester, MilterTester
from examples.chained_filters import filters
from examples.processor_work import Shouting, pool


def test_each_filter_sees_what_those_before_have_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiomilter.dry_run")
    with MilterTester(filters) as tester:
        result = tester.send(
            "Subject: hello\n\nsee report.docm\n",
            sender="a@example.com",
            recipients=["former-boss@example.org", "b@example.org"],
        )
    assert result.refused_recipients == ("<former-boss@example.org>",)
    assert result.message.get("Subject") == "[external] hello"
    assert result.message.get("X-Recipients") == "1"
    (line,) = (one for one in caplog.messages if "dry run" in one)
    assert "dry run of NoMacros: reject at eom (550 5.7.1 documents with macros" in line


async def test_a_text_that_keeps_a_processor_busy_is_given_up() -> None:
    async with pool, AsyncMilterTester(Shouting) as tester:
        loud = await tester.send("Subject: HELP! WHY?\n\n")
        assert loud.message.get("X-Shouting") == "yes"
        pids = pool.pids
        endless = await tester.send(f"Subject: {'A' * 60}\n\n")
        endless.assert_accepted()
        assert endless.edits == ()
        assert not set(pids) & set(pool.pids)
