"""How late the event loop is, and the signs of life that it gives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from aiomilter.aio.monitor import LoopMonitor
from tests.aio.serving import until_true, warnings


class Clock:
    """Jumps at each look; a look is soon in the loop's own time."""

    def __init__(self, *steps: float) -> None:
        self.now = 0.0
        self.steps = list(steps)

    def __call__(self) -> float:
        if self.steps:
            self.now += self.steps.pop(0)
        return self.now


class Looks:
    """Takes what is measured, and stops when the clock has no more steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lags: list[float] = []
        self.done = asyncio.Event()

    def __call__(self, lag: float) -> None:
        self.lags.append(round(lag, 3))
        if not self.clock.steps:
            self.done.set()


async def looked(
    *steps: float, period: float | None = None, beat: Callable[[], None] | None = None
) -> list[float]:
    """Run a monitor on a clock; return the lags of all its looks."""
    clock = Clock(0, *steps)
    looks = Looks(clock)
    monitor = LoopMonitor(beat=beat, beat_period=period, on_lag=looks, interval=0.001, clock=clock)
    monitor.start()
    async with asyncio.timeout(5):
        await looks.done.wait()
    monitor.stop()
    return looks.lags[: len(steps)]


async def test_each_look_tells_by_how_much_it_was_late() -> None:
    assert await looked(0.001, 0.0, 0.501) == [0.0, 0.0, 0.5]


async def test_a_loop_that_stood_still_is_warned_of_at_most_every_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await looked(0.1, 0.2, 0.301, 0.5, 0.7, 0.4, 9.0)
    first, second = warnings(caplog)
    assert first.startswith("the event loop stood still 1 time(s), for up to 0.30 s")
    assert second.startswith("the event loop stood still 4 time(s), for up to 9.00 s")


async def test_p29_the_first_sign_of_life_is_given_at_once_and_then_in_its_period() -> None:
    beats: list[None] = []
    await looked(*(9 * [0.125]), period=0.37, beat=lambda: beats.append(None))
    assert len(beats) == 4


async def test_p29_a_loop_that_is_blocked_gives_no_sign_of_life() -> None:
    beats: list[float] = []
    loop = asyncio.get_running_loop()
    monitor = LoopMonitor(beat=lambda: beats.append(loop.time()), beat_period=0.002)
    monitor.start()
    await until_true(lambda: len(beats) > 2)
    before = len(beats)
    time.sleep(0.05)  # noqa: ASYNC251  (this is the fault)
    assert len(beats) == before
    await until_true(lambda: len(beats) > before)
    monitor.stop()


async def test_a_stopped_one_gives_no_more_signs() -> None:
    beats: list[None] = []
    monitor = LoopMonitor(beat=lambda: beats.append(None), beat_period=0.001)
    monitor.stop()
    monitor.start()
    await until_true(lambda: len(beats) > 1)
    monitor.stop()
    before = len(beats)
    await asyncio.sleep(0.02)
    assert len(beats) == before


async def test_what_an_observer_raises_does_not_end_the_looks() -> None:
    loop = asyncio.get_running_loop()
    raised: list[object] = []
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))

    def fail(lag: float) -> None:
        raise ValueError("observer")

    monitor = LoopMonitor(on_lag=fail, interval=0.001)
    monitor.start()
    await until_true(lambda: len(raised) > 2)
    monitor.stop()
