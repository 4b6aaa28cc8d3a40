"""Handlers that take their time: budgets, and an MTA that is kept waiting."""

import asyncio
import dataclasses
import threading

import pytest

from aiomilter import EomActions, Milter, Reply, SocketInfo, time_limit
from tests.integration.counting import Counting
from tests.integration.journal import Journal
from tests.integration.rig import BRIEF_CONTENT_TIMEOUT_S, CONFIG, Rig

pytestmark = pytest.mark.xdist_group("postfix")

CONTENT = b"Subject: x\r\n\r\nbody\r\n"


@pytest.mark.parametrize("stage", ["rcpt", "eom"])
async def test_a_handler_over_its_time_limit_costs_a_451(
    rig: Rig, journal: Journal, stage: str
) -> None:
    class Stuck(Counting):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            journal.note("connect")

        @time_limit(0.1)
        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            await self.maybe_wait("rcpt")

        @time_limit(0.1)
        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Message", str(self.messages))
            await self.maybe_wait("eom")

        async def maybe_wait(self, here: str) -> None:
            if self.messages == 1 and here == stage:
                try:
                    await asyncio.Event().wait()
                finally:
                    journal.note("cleaned up")

    async with rig.session(Stuck) as smtp:
        refusal = await smtp.until_refused(CONTENT)
        assert (refusal.code, refusal.text) == (451, "4.7.1 Service unavailable - try again later")
        await smtp.command("RSET")
        reply = await smtp.message(CONTENT)
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Message: 2"
    assert journal.names == ["connect", "cleaned up"]


async def test_a_thread_handler_over_its_time_limit_costs_a_451(rig: Rig) -> None:
    release, returning = threading.Event(), threading.Event()

    class Stuck(Counting):
        @time_limit(0.1)
        def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
            if self.messages == 1:
                release.wait(10)
                returning.set()
            return None

    try:
        async with rig.session(Stuck) as smtp:
            refusal = await smtp.until_refused(CONTENT)
            assert refusal.code == 451
            release.set()
            # As long as the thread is at work, nothing else is called on this milter.
            assert await asyncio.to_thread(returning.wait, 10)
            await asyncio.sleep(0.1)
            await smtp.command("RSET")
            await rig.delivery(await smtp.message(CONTENT))
    finally:
        release.set()


class Slow(Milter):
    """Needs longer for the end of a message than the listener ``brief`` waits."""

    async def on_eom(self, actions: EomActions) -> None:
        # Longer than the timeout is the very thing under test: there is no event to wait for.
        await asyncio.sleep(BRIEF_CONTENT_TIMEOUT_S * 1.7)
        actions.add_header("X-Slow", "yes")


async def test_progress_keeps_postfix_waiting_for_a_slow_end_of_message(rig: Rig) -> None:
    config = dataclasses.replace(CONFIG, progress_interval=0.25)
    async with rig.session(Slow, "brief", config) as smtp:
        reply = await smtp.message(CONTENT)
    assert (await rig.delivery(reply)).own_header_lines[-1] == b"X-Slow: yes"


async def test_without_progress_postfix_gives_up(rig: Rig) -> None:
    """The proof that the test before proves something."""
    config = dataclasses.replace(CONFIG, progress_interval=60)
    async with rig.session(Slow, "brief", config) as smtp:
        assert (await smtp.message(CONTENT)).code == 451
