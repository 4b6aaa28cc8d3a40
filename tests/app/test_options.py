"""The decorators: a note on a handler, in any order, and what they do not go with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest

from aiomilter import (
    ConfigError,
    EomActions,
    MacroStage,
    Milter,
    Options,
    Server,
    SocketInfo,
    leading_space,
    macros,
    no_reply,
    rejected_recipients,
    time_limit,
)
from aiomilter.app.handlers import handler_table
from aiomilter.app.options import HandlerOptions, options_of


def test_a_decorator_leaves_the_function_as_it_is() -> None:
    async def on_helo(self: Milter, hostname: str) -> None: ...

    noted = macros("i")(no_reply(on_helo))
    assert options_of(noted) == HandlerOptions(no_reply=True, macros=("i",))
    assert options_of(on_helo) == HandlerOptions(), "another class may use it without"
    assert noted.__name__ == "on_helo"


def test_a_function_without_decorators_has_the_defaults() -> None:
    assert options_of(lambda: None) == HandlerOptions()


def test_decorators_combine_in_any_order() -> None:
    class One(Milter):
        @no_reply
        @macros("i")
        @time_limit(2)
        @rejected_recipients
        async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    class Other(Milter):
        @rejected_recipients
        @time_limit(2)
        @macros("i")
        @no_reply
        async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    one, other = handler_table(One), handler_table(Other)
    assert one.options == other.options
    assert one.options & Options.NO_REPLY_RCPT
    assert one.options & Options.REJECTED_RECIPIENTS
    assert one.macros == other.macros == {MacroStage.RCPT: ["i"]}
    handler = other.by_name["on_rcpt"]
    assert (handler.no_reply, handler.wants_rejected, handler.time_limit_s) == (True, True, 2.0)


def test_leading_space_asks_for_its_option() -> None:
    class Keeping(Milter):
        @leading_space
        async def on_header(self, name: str, value: str) -> None: ...

    table = handler_table(Keeping)
    assert table.options & Options.LEADING_SPACE
    assert table.optional & Options.LEADING_SPACE


def test_each_stage_asks_for_its_own_macros() -> None:
    class Asking(Milter):
        @macros("a")
        async def on_connect(self, hostname: str, client: SocketInfo) -> None: ...

        @macros("b", "{c}")
        async def on_helo(self, hostname: str) -> None: ...

        @macros()
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        @macros("d")
        async def on_data(self) -> None: ...

        @macros("e")
        async def on_eoh(self) -> None: ...

        @macros("f")
        async def on_eom(self, actions: EomActions) -> None: ...

    assert handler_table(Asking).macros == {
        MacroStage.CONNECT: ["a"],
        MacroStage.HELO: ["b", "{c}"],
        MacroStage.MAIL: [],
        MacroStage.DATA: ["d"],
        MacroStage.EOH: ["e"],
        MacroStage.EOM: ["f"],
    }


@pytest.mark.parametrize("seconds", [0, -1, -0.5, math.nan])
def test_a_time_limit_is_positive(seconds: float) -> None:
    with pytest.raises(ConfigError, match="more than 0 seconds"):
        time_limit(seconds)


# The handlers that a decorator makes no sense for.
_Decorator = Callable[[Any], Any]
MISPLACED: list[tuple[_Decorator, str, str]] = [
    *(
        (no_reply, name, "cannot be no_reply")
        for name in ("on_negotiate", "on_eom", "on_abort", "on_close")
    ),
    *(
        (macros("i"), name, "has no macros of its own")
        for name in ("on_negotiate", "on_header", "on_body", "on_unknown", "on_abort", "on_close")
    ),
    *((rejected_recipients, name, "is for on_rcpt") for name in ("on_mail", "on_eom", "on_close")),
    *((leading_space, name, "is for on_header") for name in ("on_body", "on_eom", "on_abort")),
]


@pytest.mark.parametrize(("decorator", "name", "text"), MISPLACED)
def test_a_misplaced_decorator_is_found_before_any_mail_comes(
    decorator: _Decorator, name: str, text: str
) -> None:
    async def handler(self: Milter, *arguments: object) -> None: ...

    milter = type("Misplaced", (Milter,), {name: decorator(handler)})
    with pytest.raises(ConfigError, match=text) as caught:
        Server(milter, "inet:0")
    assert f"Misplaced.{name}" in str(caught.value)


def test_a_decorator_works_through_functools_wraps() -> None:
    def counted(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        async def wrapper(*arguments: Any) -> Any:
            return await handler(*arguments)

        return wrapper

    class Counting(Milter):
        @counted
        @no_reply
        async def on_helo(self, hostname: str) -> None: ...

    handler = handler_table(Counting).by_name["on_helo"]
    assert handler.no_reply
    assert handler.is_async
