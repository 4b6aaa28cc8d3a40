"""A random walk of an MTA: hooks pair up, and no answer is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiomilter import EomActions, Milter, Reply, Status
from aiomilter.mta import HeaderAdded
from aiomilter.testing import MilterTester, Result, StageResult

_T = TypeVar("_T")

VERDICTS = st.sampled_from(
    [None, None, None, Status.ACCEPT, Status.DISCARD, Reply(550, None, "no"), Reply(451)]
)


class Walker(Milter):
    """Answers what it is told to, and counts."""

    next_answer: Status | Reply | None = None
    answered = 0

    def __init__(self) -> None:
        self.begun = self.aborted = self.decided = self.closed = 0
        self.is_open = False

    def answer(self, *, ends: bool = True) -> Status | Reply | None:
        type(self).answered += 1
        answer, type(self).next_answer = self.next_answer, None
        if ends and self.is_open and answer is not None:
            self.is_open = False
            self.decided += 1
        return answer

    def begin_message(self) -> None:
        assert not self.is_open
        assert not self.closed
        self.is_open = True
        self.begun += 1

    async def on_mail(self, sender: str, params: list[str]) -> Status | Reply | None:
        return self.answer()

    async def on_rcpt(self, recipient: str, params: list[str]) -> Status | Reply | None:
        answer = self.answer(ends=False)
        if answer in (Status.ACCEPT, Status.DISCARD):
            # Verdicts on the message; anything else is one on this recipient.
            self.is_open = False
            self.decided += 1
        return answer

    async def on_header(self, name: str, value: str) -> Status | Reply | None:
        return self.answer()

    async def on_eoh(self) -> Status | Reply | None:
        return self.answer()

    async def on_body(self, chunk: bytes) -> Status | Reply | None:
        return self.answer()

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Messages", str(self.begun))
        self.is_open = False
        self.decided += 1
        return Status.ACCEPT

    async def on_abort(self) -> None:
        assert self.is_open
        self.is_open = False
        self.aborted += 1

    async def on_close(self) -> None:
        assert not self.is_open
        self.closed += 1


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()

        class MyWalker(Walker):
            """Its answers are those of this walk alone."""

        self.milter = MyWalker
        self.tester = MilterTester(self.milter, chunk_bytes=7)

    def ask(self, verdict: Status | Reply | None, call: Callable[[], _T]) -> _T:
        """Make one call, at most one handler of which has this verdict."""
        self.milter.next_answer = verdict
        result = call()
        if isinstance(result, StageResult) and verdict is not None:
            used = self.milter.next_answer is None
            is_final = result.status is not Status.CONTINUE
            # Whatever a handler answers arrives, there or where it holds on.
            assert is_final or not used or isinstance(result, Result)
        self.milter.next_answer = None
        return result

    @property
    def can_go_on(self) -> bool:
        return bool(self.tester.milters) and not self.last.closed

    @property
    def last(self) -> Walker:
        milter = self.tester.milters[-1]
        assert isinstance(milter, Walker)
        return milter

    @rule(verdict=VERDICTS)
    def mail(self, verdict: Status | Reply | None) -> None:
        self.ask(verdict, self.tester.mail)

    @rule(verdict=VERDICTS)
    def whole_message(self, verdict: Status | Reply | None) -> None:
        result = self.ask(verdict, self.tester.send)
        if verdict is None and result.stage == "eom":
            assert result.edits == (HeaderAdded("X-Messages", str(self.last.begun)),)

    @rule(verdict=VERDICTS)
    def end_of_message(self, verdict: Status | Reply | None) -> None:
        result = self.ask(verdict, self.tester.end_of_message)
        assert result.status is not Status.CONTINUE
        assert len(result.edits) == (1 if result.stage == "eom" else 0)

    @rule(verdict=VERDICTS)
    def recipient_of_another_message(self, verdict: Status | Reply | None) -> None:
        self.tester.mail()
        before = self.milter.answered
        first = self.ask(verdict, self.tester.rcpt)
        second = self.tester.rcpt("other@example.org")
        if first.stage == second.stage == "rcpt" and not isinstance(verdict, Status):
            # Each was asked about and answered, once.
            assert self.milter.answered == before + 2
            second.assert_continued()

    @rule()
    def begin_body(self) -> None:
        self.tester.mail()
        self.tester.body(b"a piece")

    @rule()
    def abort(self) -> None:
        self.tester.abort()

    @rule()
    def unknown(self) -> None:
        self.tester.unknown("XYZZY")

    @precondition(lambda self: self.can_go_on)
    @rule()
    def new_session(self) -> None:
        self.tester.new_session()

    @rule()
    def disconnect(self) -> None:
        self.tester.disconnect()

    @rule()
    def quit(self) -> None:
        self.tester.quit()

    @invariant()
    def hooks_pair_up(self) -> None:
        for milter in self.tester.milters:
            assert isinstance(milter, Walker)
            assert milter.begun == milter.aborted + milter.decided + milter.is_open
            assert milter.closed <= 1
            assert milter.closed or milter is self.last

    def teardown(self) -> None:
        self.tester.close()
        assert all(isinstance(one, Walker) and one.closed == 1 for one in self.tester.milters)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
