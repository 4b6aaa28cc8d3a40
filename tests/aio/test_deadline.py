"""The timer whose deadline moves."""

from __future__ import annotations

import asyncio

from aiomilter.aio.deadline import DeadlineTimer


class Clock:
    """A timer, and how often it has called back."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.expired = asyncio.Event()
        self.count = 0
        self.timer = DeadlineTimer(self.loop, self._on_expired)

    def _on_expired(self) -> None:
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
    await asyncio.sleep(0.03)
    assert clock.count == 0
