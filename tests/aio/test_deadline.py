"""The timer whose deadline moves."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import cast

import hypothesis.strategies as st
from hypothesis import given

from aiomilter.aio.deadline import DeadlineTimer, FarTimers


class Clock:
    """A timer, and how often it has called back."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.expired = asyncio.Event()
        self.count = 0
        self.timer = DeadlineTimer(FarTimers(self.loop), self)

    def on_deadline(self) -> None:
        self.count += 1
        self.expired.set()

    def set(self, seconds: float) -> None:
        self.timer.set(self.loop.time() + seconds)


async def test_it_calls_back_once_when_the_deadline_has_passed() -> None:
    clock = Clock()
    began = clock.loop.time()
    clock.set(0.03)
    await clock.expired.wait()
    assert clock.loop.time() - began >= 0.029
    await asyncio.sleep(0.02)
    assert clock.count == 1


async def test_a_later_deadline_takes_the_place_of_an_earlier_one() -> None:
    clock = Clock()
    began = clock.loop.time()
    clock.set(0.02)
    clock.set(0.08)
    await clock.expired.wait()
    assert clock.loop.time() - began >= 0.079
    assert clock.count == 1


async def test_an_earlier_deadline_takes_the_place_of_a_later_one() -> None:
    clock = Clock()
    clock.set(60)
    clock.set(0.02)
    async with asyncio.timeout(5):
        await clock.expired.wait()


async def test_a_cleared_deadline_does_not_call_back() -> None:
    clock = Clock()
    clock.set(0.02)
    clock.timer.clear()
    await asyncio.sleep(0.05)
    assert clock.count == 0
    clock.set(0.01)
    async with asyncio.timeout(5):
        await clock.expired.wait()


async def test_a_closed_timer_does_not_call_back() -> None:
    clock = Clock()
    clock.set(0.01)
    clock.timer.close()
    clock.timer.close()
    clock.set(0.01)
    await asyncio.sleep(0.03)
    assert clock.count == 0


class Handle:
    """One callback of a `StillLoop`."""

    def __init__(self, when: float, run: Callable[[], object]) -> None:
        self.when, self.run = when, run
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class StillLoop:
    """As much of an event loop as timers need; its time moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.5
        self.handles: list[tuple[float, int, Handle]] = []
        self.numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *arguments: object,
        context: Context | None = None,
    ) -> Handle:
        own = context or copy_context()
        handle = Handle(when, lambda: own.run(callback, *arguments))
        heapq.heappush(self.handles, (when, next(self.numbers), handle))
        return handle

    @property
    def armed(self) -> list[float]:
        return sorted(when for when, _, handle in self.handles if not handle.is_cancelled)

    def advance(self, to: float) -> None:
        """Let time pass, and whatever is due go off when it is."""
        while self.handles and self.handles[0][0] <= to:
            when, _, handle = heapq.heappop(self.handles)
            self.now = max(self.now, when)
            if not handle.is_cancelled:
                handle.run()
        self.now = to


class Calls:
    """Calls a function when a deadline has passed."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def on_deadline(self) -> None:
        self.function()


def far_timers() -> tuple[StillLoop, FarTimers]:
    loop = StillLoop()
    return loop, FarTimers(cast("asyncio.AbstractEventLoop", loop))


def test_timers_that_are_far_share_one_of_the_loop_and_are_on_time() -> None:
    loop, far = far_timers()
    fired: list[tuple[int, float]] = []
    timers = [
        DeadlineTimer(far, Calls(lambda number=number: fired.append((number, loop.now))))  # type: ignore[misc]
        for number in range(50)
    ]
    for number, timer in enumerate(timers):
        timer.set(7_310.5 + number / 100)
    assert loop.armed == [7_310.0]
    loop.advance(7_310.4)
    assert len(loop.armed) == 50
    assert fired == []
    loop.advance(8_000)
    assert fired == [(number, 7_310.5 + number / 100) for number in range(50)]
    assert loop.armed == []


def test_the_last_of_those_that_wait_together_leaves_nothing_behind() -> None:
    loop, far = far_timers()
    one, other = (DeadlineTimer(far, Calls(lambda: None)) for _ in range(2))
    one.set(7_310.5)
    other.set(7_311.5)
    one.close()
    assert loop.armed == [7_310.0]
    other.close()
    other.close()
    assert loop.armed == []


def test_a_timer_is_not_run_in_the_context_of_another_connection() -> None:
    connection = ContextVar("connection", default="none")
    loop, far = far_timers()
    seen: list[str] = []

    def arm(name: str) -> DeadlineTimer:
        connection.set(name)
        timer = DeadlineTimer(far, Calls(lambda: seen.append(connection.get())))
        timer.set(7_310.5)
        return timer

    timers = [copy_context().run(arm, name) for name in ("first", "second")]
    loop.advance(8_000)
    assert seen == ["none"] * len(timers)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["set", "clear", "close", "pass"]),
            st.floats(0, 20, allow_nan=False),
        ),
        max_size=30,
    )
)
def test_each_of_many_timers_expires_at_its_last_deadline(
    moves: list[tuple[int, str, float]],
) -> None:
    loop, far = far_timers()
    fired: list[tuple[int, float]] = []
    expected: list[tuple[int, float]] = []
    deadlines: dict[int, float] = {}

    def make(number: int) -> DeadlineTimer:
        return DeadlineTimer(far, Calls(lambda: fired.append((number, loop.now))))

    timers = [make(number) for number in range(4)]

    def let_pass(to: float) -> None:
        loop.advance(to)
        due = [(when, number) for number, when in deadlines.items() if when <= to]
        expected.extend((number, when) for when, number in sorted(due))
        for _, number in due:
            del deadlines[number]

    for number, move, seconds in moves:
        match move:
            case "set":
                deadlines[number] = loop.now + seconds
                timers[number].set(loop.now + seconds)
            case "clear":
                deadlines.pop(number, None)
                timers[number].clear()
            case "close":
                deadlines.pop(number, None)
                timers[number].close()
                timers[number] = make(number)
            case _:
                let_pass(loop.now + seconds)
    let_pass(loop.now + 100)
    assert sorted(fired) == sorted(expected)
    assert loop.armed == []
