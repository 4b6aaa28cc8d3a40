"""What a fault of one of several milters costs, and what it does not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from aiomilter import (
    Actions,
    Config,
    EomActions,
    Message,
    Milter,
    Status,
    chain,
    no_reply,
    time_limit,
)
from aiomilter.mta import HeaderAdded, Offer, Quarantined
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


class Broken(Milter):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no database")

    async def on_message(self, message: Message) -> None:
        raise AssertionError("there is none")


def test_a_milter_that_cannot_be_made_costs_the_verdict_of_a_fault() -> None:
    calls: list[str] = []
    with MilterTester(
        chain(scripted("a", calls, mail=C), Broken),
        config=Config(on_error="reject"),
        raise_faults=False,
    ) as tester:
        tester.mail().assert_rejected()
        (fault,) = tester.faults
    assert "the factory of Broken: RuntimeError: no database" in str(fault)
    assert calls == []


@pytest.mark.parametrize("on_error", ["continue", "accept"])
def test_a_milter_that_cannot_be_made_takes_no_other_away(on_error: Any) -> None:
    calls: list[str] = []
    config = Config(on_error=on_error)
    with MilterTester(
        chain(Broken, scripted("b", calls, message=R), Broken), config=config, raise_faults=False
    ) as tester:
        tester.send().assert_rejected()
        assert len(tester.faults) == 2
    assert calls == ["b.begin", "b.message", "b.close"]
    with MilterTester(chain(Broken), config=config, raise_faults=False) as tester:
        tester.send().assert_accepted()
        _ = tester.faults


class Endless(Milter):
    """Does not end for one recipient, even when it is cancelled; and refuses every message."""

    released: asyncio.Event

    @time_limit(0.2)
    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        while recipient == "<endless@x.example>" and not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                pass

    async def on_message(self, message: Message) -> Status:
        return R


async def test_one_that_was_given_up_at_a_recipient_is_not_passed_by() -> None:
    calls: list[str] = []
    Endless.released = asyncio.Event()
    recipients = ["endless@x.example", "a@x.example"]
    async with AsyncMilterTester(
        chain(Endless, scripted("b", calls, rcpt=C)), raise_faults=False
    ) as tester:
        try:
            (await tester.send(recipients=recipients)).assert_tempfailed()
            assert ["not called" in str(fault) for fault in tester.faults] == [False, True]
        finally:
            Endless.released.set()
        await asyncio.sleep(0)
        (await tester.send(recipients=["a@x.example"])).assert_rejected()


class EndlessSender(Milter):
    """Does not end at its first message."""

    released: asyncio.Event

    @time_limit(0.2)
    async def on_mail(self, sender: str, params: list[str]) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                pass


async def test_one_that_goes_on_keeps_no_large_message_from_the_others() -> None:
    calls: list[str] = []
    EndlessSender.released = asyncio.Event()
    config = Config(on_error="continue", spool_threshold=1)
    milters = [EndlessSender, scripted("b", calls, message=R)]
    async with AsyncMilterTester(chain(*milters), config=config, raise_faults=False) as tester:
        try:
            (await tester.mail()).assert_tempfailed()
            await tester.abort()
            (await tester.send("A: b\n\nlarge\n")).assert_rejected()
            assert ["not called" in str(fault) for fault in tester.faults] == [False, True]
        finally:
            EndlessSender.released.set()


class EndsInCr(Milter):
    async def on_eom(self, actions: EomActions) -> Status:
        actions.replace_body(b"body\r")
        return Status.ACCEPT


def test_a_body_that_ends_in_cr_is_a_fault() -> None:
    with MilterTester(chain(EndsInCr, Adds), raise_faults=False) as tester:
        tester.send().assert_tempfailed()
        (fault,) = tester.faults
    assert "on_eom of EndsInCr: " in str(fault)
    assert "CR without LF" in str(fault)


class Quarantines(Milter):
    async def on_message(self, message: Message) -> None:
        message.quarantine("why")


class TooLong(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.add("X-Long", message.headers.get_text("Subject") * 2)


@pytest.mark.parametrize(
    ("milter", "words"),
    [(Quarantines, "quarantine needs the action"), (TooLong, "do not fit into a packet")],
)
def test_edits_that_cannot_be_made_cost_those_of_no_other(milter: type[Milter], words: str) -> None:
    offer = Offer(actions=Actions.ADD_HEADER)
    config = Config(on_error="continue")
    with MilterTester(
        chain(AddsOne, milter, AddsOne), offer=offer, config=config, raise_faults=False
    ) as tester:
        result = tester.send(f"Subject: {'x' * 40_000}\n\n")
        assert result.message.get_all("X-One") == ["1", "1"]
        assert result.quarantine is None
        (fault,) = tester.faults
    assert f"on_message of {milter.__name__}: " in str(fault)
    assert words in str(fault)


class AddsOne(Milter):
    async def on_message(self, message: Message) -> None:
        message.headers.add("X-One", "1")


class ReplacesAny(Milter):
    async def on_message(self, message: Message) -> None:
        message.body.replace(b"new\n")


def test_a_new_body_that_was_not_agreed_is_a_fault_of_its_milter() -> None:
    with MilterTester(
        chain(ReplacesAny, AddsOne),
        offer=Offer(actions=Actions.ADD_HEADER),
        config=Config(on_error="continue"),
        raise_faults=False,
    ) as tester:
        assert len(tester.send().edits) == 1
        (fault,) = tester.faults
    assert "on_message of ReplacesAny: ActionNotNegotiated: replace_body" in str(fault)


class QuickAtTheEnd(Milter):
    @time_limit(0.2)
    async def on_eom(self, actions: EomActions) -> None:
        pass


class SlowAtTheBody(Milter):
    async def on_body(self, chunk: bytes) -> None:
        await asyncio.sleep(0.4)


async def test_a_short_limit_of_one_at_the_end_is_none_for_the_body_of_another() -> None:
    async with AsyncMilterTester(chain(QuickAtTheEnd, SlowAtTheBody)) as tester:
        (await tester.send()).assert_accepted()


class Noisy(Milter):
    @no_reply
    async def on_header(self, name: str, value: str) -> Status:
        return R


def test_dropped_verdicts_of_one_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with MilterTester(chain(Noisy)) as tester:
        tester.send("A: 1\nB: 2\nC: 3\n\n").assert_accepted()
    assert sum("which is dropped" in one.getMessage() for one in caplog.records) == 1


class PutsBytes(Milter):
    async def on_message(self, message: Message) -> None:
        message.body = b"bytes"  # type: ignore[assignment]  # a mistake that authors make


@pytest.mark.parametrize("behind", [[], [AddsOne]])
def test_what_is_no_body_is_a_fault_of_its_milter(behind: list[type[Milter]]) -> None:
    config = Config(on_error="continue")
    with MilterTester(
        chain(AddsOne, PutsBytes, *behind), config=config, raise_faults=False
    ) as tester:
        assert len(tester.send().edits) == 1 + len(behind)
        (fault,) = tester.faults
    assert "on_message of PutsBytes: " in str(fault)


class EndlessEnd(Milter):
    released: asyncio.Event

    async def on_mail(self, sender: str, params: list[str]) -> None:
        pass

    @time_limit(0.2)
    async def on_close(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                pass


async def test_one_whose_end_has_none_keeps_no_other_from_being_closed() -> None:
    calls: list[str] = []
    EndlessEnd.released = asyncio.Event()
    milters = [scripted("a", calls, mail=C), EndlessEnd, scripted("c", calls, mail=C)]
    async with AsyncMilterTester(chain(*milters), raise_faults=False) as tester:
        try:
            for _ in range(2):
                (await tester.mail()).assert_continued()
                await tester.new_session()
            (await tester.mail()).assert_continued()
            await tester.quit()
        finally:
            EndlessEnd.released.set()
        assert ["on_close of EndlessEnd" in str(fault) for fault in tester.faults] == [True] * 3
    assert [call for call in calls if "close" in call] == ["a.close", "c.close"] * 3
