"""What is left of a handler that has begun, and waits."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from aiomilter.app.handlers import Handler
from aiomilter.app.stepping import Waiting
from aiomilter.wire.commands import Data


@types.coroutine
def give(value: object) -> Generator[object, object, object]:
    """Wait for a value, as the innermost awaitable does."""
    return (yield value)


def begun(coroutine: Coroutine[Any, Any, object]) -> Generator[Any, Any, object]:
    """Take the first step; return what would be a task's iterator over the rest."""
    awaited = coroutine.send(None)

    async def handler() -> None: ...

    waiting = Waiting(Handler("on_data", handler, is_async=True), Data(), 0, coroutine, awaited)
    return waiting.__await__()


def result_of(rest: Generator[Any, Any, object]) -> object:
    with pytest.raises(StopIteration) as caught:
        rest.send(None)
    return caught.value.value


def test_what_was_waited_for_is_told_once_more_and_then_the_rest() -> None:
    async def handler() -> str:
        await give("first")
        await give("second")
        return "done"

    rest = begun(handler())
    assert [next(rest), next(rest)] == ["first", "second"]
    assert result_of(rest) == "done"


def test_an_exception_at_the_first_await_is_the_handlers() -> None:
    async def handler() -> str:
        for number in (1, 2):
            try:
                await give(number)
            except asyncio.CancelledError:
                await give(f"cut {number}")
        return "done"

    rest = begun(handler())
    assert next(rest) == 1
    assert rest.throw(asyncio.CancelledError()) == "cut 1"
    assert next(rest) == 2
    assert rest.throw(asyncio.CancelledError()) == "cut 2"
    assert result_of(rest) == "done"


def test_a_handler_may_end_when_an_exception_hits_its_first_await() -> None:
    async def handler() -> str:
        try:
            await give("first")
        except LookupError:
            return "caught"
        return "not caught"

    rest = begun(handler())
    next(rest)
    with pytest.raises(StopIteration) as ended:
        rest.throw(LookupError())
    assert ended.value.value == "caught"


def test_an_exception_that_the_handler_does_not_catch_comes_out() -> None:
    async def handler() -> None:
        await give("first")

    rest = begun(handler())
    next(rest)
    with pytest.raises(LookupError) as caught:
        rest.throw(LookupError("x"))
    assert caught.value.__context__ is None
    assert [entry.name for entry in caught.traceback][-2:] == ["handler", "give"]


def test_a_task_that_is_dropped_closes_the_handler() -> None:
    closed: list[str] = []

    async def handler() -> None:
        try:
            await give("first")
        finally:
            closed.append("closed")

    rest = begun(handler())
    next(rest)
    rest.close()
    assert closed == ["closed"]
