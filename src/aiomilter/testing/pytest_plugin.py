"""The fixtures ``milter_tester`` and ``async_milter_tester``, found by pytest on its own.

Rules of this file:

- It is loaded in every project that has aiomilter installed: nothing but the two fixtures, and
  nothing imported but pytest until one of them is asked for.
- pytest 7 and newer. The fixture for coroutines needs pytest-asyncio, or anyio's plugin.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from aiomilter.aio.server import MilterFactory
    from aiomilter.testing.async_tester import AsyncMilterTester
    from aiomilter.testing.tester import MilterTester

__all__ = ["MakeAsyncMilterTester", "MakeMilterTester", "async_milter_tester", "milter_tester"]


class MakeMilterTester(Protocol):
    """What the fixture ``milter_tester`` is: makes testers, as many as a test needs."""

    def __call__(self, milter_factory: MilterFactory, **options: Any) -> MilterTester:
        """Return a tester; the options are those of `aiomilter.testing.MilterTester`."""
        ...


class MakeAsyncMilterTester(Protocol):
    """What the fixture ``async_milter_tester`` is."""

    def __call__(self, milter_factory: MilterFactory, **options: Any) -> AsyncMilterTester:
        """Return a tester; the options are those of `aiomilter.testing.MilterTester`."""
        ...


@pytest.fixture
def milter_tester() -> Iterator[MakeMilterTester]:
    """Make testers of milters: ``milter_tester(MyMilter, **options) -> MilterTester``.

    At the end of the test all are closed, so that hooks run; a handler's fault that nobody has
    looked at fails the test.
    """
    from aiomilter.testing.tester import MilterTester

    made: list[MilterTester] = []

    def make(milter_factory: MilterFactory, **options: Any) -> MilterTester:
        made.append(MilterTester(milter_factory, **options))
        return made[-1]

    yield make
    with contextlib.ExitStack() as stack:
        for tester in made:
            stack.callback(tester.check_faults)
            stack.callback(tester.close)


async def _async_milter_tester() -> AsyncIterator[MakeAsyncMilterTester]:
    """Make testers for coroutines: ``async_milter_tester(MyMilter, **options)``.

    At the end of the test all are closed, as by ``milter_tester``.
    """
    from aiomilter.testing.async_tester import AsyncMilterTester

    made: list[AsyncMilterTester] = []

    def make(milter_factory: MilterFactory, **options: Any) -> AsyncMilterTester:
        made.append(AsyncMilterTester(milter_factory, **options))
        return made[-1]

    yield make
    async with contextlib.AsyncExitStack() as stack:
        for tester in made:
            stack.callback(tester.check_faults)
            stack.push_async_callback(tester.close)


def _no_async_milter_tester() -> None:
    """Say what is missing."""
    pytest.fail(
        "async_milter_tester needs pytest-asyncio: pip install pytest-asyncio", pytrace=False
    )


if importlib.util.find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    async_milter_tester = pytest_asyncio.fixture(_async_milter_tester, name="async_milter_tester")
elif importlib.util.find_spec("anyio") is not None:
    async_milter_tester = pytest.fixture(_async_milter_tester, name="async_milter_tester")
else:
    async_milter_tester = pytest.fixture(_no_async_milter_tester, name="async_milter_tester")
