"""What a fault of one of several milters costs, and what it does not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from aiomilter import (
    Config,
    Message,
    Milter,
    Status,
    chain,
    no_reply,
    time_limit,
)
from aiomilter.mta import HeaderAdded, Quarantined
from aiomilter.testing import AsyncMilterTester, HandlerFault, MilterTester
from tests.app.compose.scripted import Adds, C, R, Silent, scripted


class Fails(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.add("X-Half", "1")
        message.body.replace(b"half")
        message.recipients.clear()
        raise RuntimeError("half-way")


def test_a_fault_ends_the_message_and_takes_all_edits_back() -> None:
    calls: list[str] = []
    with MilterTester(
        chain(Adds, Fails, scripted("c", calls, message=C)), raise_faults=False
    ) as tester:
        result = tester.send()
        result.assert_tempfailed()
        assert result.edits == ()
        assert calls == ["c.begin", "c.abort"]
        (fault,) = tester.faults
    assert "on_message of Fails: RuntimeError: half-way" in str(fault)


@pytest.mark.parametrize("on_error", ["continue", "accept"])
def test_a_fault_that_lets_pass_does_so_for_this_milter_alone(on_error: Any) -> None:
    config = Config(on_error=on_error)
    with MilterTester(chain(Fails, Adds), config=config, raise_faults=False) as tester:
        result = tester.send("Subject: s\n\n")
        assert result.edits == (HeaderAdded("X-Whole", " 1"), Quarantined("X-Whole"))
        _ = tester.faults
    calls: list[str] = []
    with MilterTester(
        chain(Fails, scripted("b", calls, message=R)), config=config, raise_faults=False
    ) as tester:
        tester.send().assert_rejected()
        _ = tester.faults


class FailsEarly(Milter):
    def begin_message(self) -> None:
        raise RuntimeError("at once")

    async def on_mail(self, sender: str, params: list[str]) -> None:
        raise AssertionError("it was told that its message has failed")


@pytest.mark.parametrize("on_error", ["tempfail", "reject"])
def test_a_fault_at_the_beginning_ends_the_message(on_error: Any) -> None:
    calls: list[str] = []
    milters = [scripted("a", calls, mail=C), FailsEarly, scripted("c", calls, mail=C)]
    with MilterTester(
        chain(*milters), config=Config(on_error=on_error), raise_faults=False
    ) as tester:
        assert tester.mail().status is Status[on_error.upper()]
        assert calls == ["a.begin", "a.abort"]
        _ = tester.faults


def test_a_fault_at_the_beginning_that_lets_pass_does_so_for_this_milter_alone() -> None:
    calls: list[str] = []
    with MilterTester(
        chain(FailsEarly, scripted("b", calls, mail=R)),
        config=Config(on_error="continue"),
        raise_faults=False,
    ) as tester:
        tester.mail().assert_rejected()
        _ = tester.faults


class Wrong(Milter):
    async def on_mail(self, sender: str, params: list[str]) -> Any:
        return Status.NOREPLY

    async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
        return "yes"


def test_wrong_results_are_faults() -> None:
    with MilterTester(chain(Silent, Wrong), raise_faults=False) as tester:
        tester.mail().assert_tempfailed()
        texts = [str(fault) for fault in tester.faults]
    assert "on_mail of Wrong: it returned NOREPLY" in texts[0]


class WrongEdits(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.add("X-A", "x" * 70_000)


def test_edits_that_cannot_be_sent_are_a_fault() -> None:
    with MilterTester(chain(WrongEdits), raise_faults=False) as tester:
        tester.send().assert_tempfailed()
        assert len(tester.faults) == 1


class Slow(Milter):
    @time_limit(0.05)
    async def on_mail(self, sender: str, params: list[str]) -> None:
        await asyncio.Event().wait()


async def test_a_time_limit_is_that_of_its_milter() -> None:
    calls: list[str] = []
    milters = [Slow, scripted("b", calls, mail=R)]
    async with AsyncMilterTester(chain(*milters), raise_faults=False) as tester:
        (await tester.mail()).assert_rejected()
        (fault,) = tester.faults
    assert "on_mail of Slow: it took longer than its time limit of 0.05 s" in str(fault)


class Hangs(Milter):
    """Hangs in its thread."""

    go_on = threading.Event()

    @time_limit(0.05)
    def on_mail(self, sender: str, params: list[str]) -> None:
        self.go_on.wait(10)

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        raise AssertionError("it is still at work")


async def test_a_thread_that_hangs_keeps_only_its_own_milter_from_being_called() -> None:
    calls: list[str] = []
    milters = [Hangs, scripted("b", calls, mail=C, rcpt=C, message=R)]
    config = Config(on_error="continue")
    Hangs.go_on.clear()
    try:
        async with AsyncMilterTester(chain(*milters), config=config, raise_faults=False) as tester:
            (await tester.send("A: b\n\nbody\n")).assert_rejected()
            first, second = [str(fault) for fault in tester.faults]
    finally:
        Hangs.go_on.set()
    assert "on_mail of Hangs: it took longer" in first
    assert "on_rcpt of Hangs: not called: an earlier handler" in second
    assert calls[:4] == ["b.begin", "b.mail", "b.rcpt", "b.message"]


class Stubborn(Milter):
    """Does not end when it is cancelled."""

    released: asyncio.Event

    @time_limit(0.05)
    async def on_message(self, message: Message) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                pass


async def test_one_that_cannot_be_cancelled_lets_nothing_pass_by_the_others() -> None:
    calls: list[str] = []
    Stubborn.released = asyncio.Event()
    milters = [Stubborn, scripted("b", calls, message=R)]
    async with AsyncMilterTester(
        chain(*milters), config=Config(on_error="accept"), raise_faults=False
    ) as tester:
        (await tester.send()).assert_tempfailed()
        (fault,) = tester.faults
        assert "on_message of Stubborn: it was cancelled, but did not end" in str(fault)
        await tester.abort()
        Stubborn.released.set()
        await asyncio.sleep(0)
        (await tester.send()).assert_rejected()
    assert calls.count("b.abort") >= 1


class Silently(Milter):
    @no_reply
    async def on_mail(self, sender: str, params: list[str]) -> Status:
        return R

    @no_reply
    async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
        return Status.NOREPLY


def test_verdicts_of_those_that_only_observe_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    with MilterTester(chain(Silently, scripted("b", calls, mail=C))) as tester:
        tester.send().assert_accepted()
    assert "on_mail of Silently returned" in caplog.text
    assert "which is dropped: it is declared no_reply" in caplog.text


class SilentFault(Milter):
    @no_reply
    async def on_mail(self, sender: str, params: list[str]) -> None:
        raise RuntimeError("unseen")


def test_a_fault_that_cannot_be_told_at_once_is_told_later() -> None:
    calls: list[str] = []
    milters = [SilentFault, scripted("b", calls, rcpt=C)]
    with MilterTester(chain(*milters), raise_faults=False) as tester:
        tester.mail().assert_continued()
        assert calls == ["b.begin", "b.abort"]
        tester.rcpt().assert_tempfailed()
        _ = tester.faults


def test_a_fault_in_a_hook_keeps_no_other_from_being_called() -> None:
    class Bad(Milter):
        async def on_close(self) -> None:
            raise RuntimeError("at the end")

    calls: list[str] = []
    with (
        pytest.raises(HandlerFault, match="on_close of"),
        MilterTester(chain(Bad, scripted("b", calls, mail=C))) as tester,
    ):
        tester.mail()
    assert calls[-1] == "b.close"
