"""Every asynchronous test here runs on both event loops, and leaves no task and no descriptor."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests on both loops; ``mark.asyncio(loop_factories=…)`` chooses."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _watched_loop(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_unhandled_errors")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Do not measure the coverage: these tests go the same ways very often."""
    item.add_marker("unmeasured")
