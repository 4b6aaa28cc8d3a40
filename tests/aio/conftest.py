"""Every asynchronous test here runs on both event loops, and may not block either."""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop
from blockbuster import BlockBuster, BlockingError

LISTENERS = "aiomilter/aio/listeners.py"
PROCESS_POOL = "aiomilter/aio/process_pool.py"


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests on both loops; ``mark.asyncio(loop_factories=…)`` chooses."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _watched_loop(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_unhandled_errors")


@pytest.fixture(autouse=True, scope="module")
def _no_blocking_calls() -> Iterator[None]:
    """Raise `BlockingError` in whatever blocks the event loop from within the library."""
    buster = BlockBuster("aiomilter")
    # Opening and closing listeners: a few calls on local files, at start and stop only.
    for name, function in buster.functions.items():
        if name.startswith(("os.", "socket.")):
            function.can_block_in(LISTENERS, {"_open_unix", "_make_room", "remove_path"})
            # A process is there in a millisecond or two; asyncio itself starts them in the loop.
            function.can_block_in(PROCESS_POOL, {"_start"})
    # A thread is started in microseconds.
    for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
        if name in buster.functions:
            buster.functions[name].can_block_in("threading.py", {"start"})
    buster.activate()
    yield
    buster.deactivate()


@pytest.fixture
def blocking_error() -> type[BaseException]:
    """What a blocking call raises."""
    return BlockingError


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Where the root logger writes to; the test puts handlers on it."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    yield stream
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
    root.setLevel(level)
