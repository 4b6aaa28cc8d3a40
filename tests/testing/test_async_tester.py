from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Milter
from aiomilter.testing import AsyncMilterTester, Call, HandlerFault, MilterTester
from aiomilter.testing.calls import PLAYABLE
from examples.recipient_counter import RecipientCounter


async def test_all_of_it_awaited(no_unhandled_errors: list[dict[str, Any]], tmp_path: Path) -> None:
    async with AsyncMilterTester(RecipientCounter) as tester:
        (await tester.send()).assert_header_added("X-Recipient-Count", "1")
        calls = [Call("connect"), Call("helo"), Call("mail"), Call("rcpt"), Call("data")]
        calls += [Call("header", ("A", "b")), Call("end_of_headers"), Call("body", (b"x",))]
        calls += [Call("unknown", ("X",)), Call("end_of_message"), Call("mail"), Call("abort")]
        calls += [Call("new_session"), Call("send"), Call("disconnect"), Call("send"), Call("quit")]
        assert {call.method for call in calls} == PLAYABLE
        results = await tester.play(calls)
        assert [result is None for result in results].count(True) == 4
        assert tester.faults == ()
        tester.check_faults()
    with pytest.raises(RuntimeError, match="closed"):
        await tester.send()
    await tester.close()


async def test_the_fixture(async_milter_tester: Any) -> None:
    tester = async_milter_tester(RecipientCounter)
    (await tester.send()).assert_accepted()
    assert len(tester.milters) == 1


async def test_faults_and_failed_tests() -> None:
    class Broken(Milter):
        async def on_close(self) -> None:
            raise KeyError

    tester = AsyncMilterTester(Broken)
    await tester.send()
    with pytest.raises(HandlerFault):
        await tester.close()
    with pytest.raises(ZeroDivisionError):
        await _fail_after_a_message(Broken)


async def _fail_after_a_message(milter: type[Milter]) -> None:
    async with AsyncMilterTester(milter) as tester:
        await tester.send()
        raise ZeroDivisionError


def test_a_tester_has_one_loop() -> None:
    tester = AsyncMilterTester(RecipientCounter)
    asyncio.run(_send_and_quit(tester))
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(_send_and_quit(tester))


async def _send_and_quit(tester: AsyncMilterTester) -> None:
    await tester.send()
    await tester.quit()


def test_both_testers_have_the_same_methods() -> None:
    def public(owner: type) -> set[str]:
        return {name for name in dir(owner) if not name.startswith("_")}

    assert public(MilterTester) == public(AsyncMilterTester)
    assert public(MilterTester) > PLAYABLE
