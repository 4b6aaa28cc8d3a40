"""Options that stand beside a handler, as decorators.

Rules of this file:

- A decorator only leaves a note, on a copy of the function that is alike in all else; so the
  order of several does not matter, and neither does whether the handler is ``async``.
- A decorator on a handler that it makes no sense for raises `ConfigError` when the class is
  first used: here the name of the handler is not yet certain.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any, TypeVar, cast

from aiomilter.errors import ConfigError

__all__ = [
    "HandlerOptions",
    "leading_space",
    "macros",
    "no_reply",
    "options_of",
    "rejected_recipients",
    "time_limit",
]

# A handler's parameters differ from one to the next; none of them is looked at here.
_Handler = TypeVar("_Handler", bound=Callable[..., Any])

_MACRO_NAME = re.compile(r"[!-~]|\{[!-z|~]+\}")
_ATTRIBUTE = "__aiomilter_options__"


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """What the decorators of one handler say.

    Attributes:
        no_reply: Whether it only observes.
        macros: The macros it asks for, or None for the MTA's default.
        rejected_recipients: Whether it also wants what the MTA has refused.
        leading_space: Whether it wants header values with the blank in front.
        time_limit_s: Its budget, or None for the configured one.
    """

    no_reply: bool = False
    macros: tuple[str, ...] | None = None
    rejected_recipients: bool = False
    leading_space: bool = False
    time_limit_s: float | None = None


_DEFAULT = HandlerOptions()


def options_of(handler: Callable[..., Any]) -> HandlerOptions:
    """Return what the decorators of a handler have noted."""
    options = getattr(handler, _ATTRIBUTE, _DEFAULT)
    assert isinstance(options, HandlerOptions)
    return options


def _note(handler: _Handler, **changes: Any) -> _Handler:
    noted = _copy_of(handler)
    setattr(noted, _ATTRIBUTE, replace(options_of(handler), **changes))
    return noted


def _copy_of(handler: _Handler) -> _Handler:
    """Return a function like this one: the class that it came from keeps its own options."""
    if not isinstance(handler, FunctionType):
        return handler
    copy = FunctionType(
        handler.__code__,
        handler.__globals__,
        handler.__name__,
        handler.__defaults__,
        handler.__closure__,
    )
    copy.__kwdefaults__ = handler.__kwdefaults__
    copy.__dict__.update(handler.__dict__)
    for name in functools.WRAPPER_ASSIGNMENTS:
        setattr(copy, name, getattr(handler, name))
    return cast("_Handler", copy)


def no_reply(handler: _Handler) -> _Handler:
    """Declare that a handler only observes: the MTA does not wait for it.

    The event is negotiated as no-reply. Where the MTA does not offer that, the library answers
    CONTINUE by itself. A verdict from such a handler is dropped with a line in the log; after a
    fault in it, the configured verdict is given at the next event that takes one.

    For all handlers but `on_negotiate`, `on_eom`, `on_abort`, `on_close`.
    """
    return _note(handler, no_reply=True)


def macros(*names: str) -> Callable[[_Handler], _Handler]:
    """Ask the MTA for these macros at the stage of the handler, instead of its default ones.

    For `on_connect`, `on_helo`, `on_mail`, `on_rcpt`, `on_data`, `on_eoh` and `on_eom`. What is
    asked for at one stage can be read at all later ones.

    Args:
        *names: As ``"i"`` or ``"{auth_authen}"``. None at all asks for no macro.

    Raises:
        ConfigError: One of them is no name of a macro.
    """
    for name in names:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError('macros takes names: write @macros("i", "{auth_authen}")')
        if not _MACRO_NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no name of a macro: one character, or a longer name in braces, as "
                f'in @macros("i", "{{auth_authen}}")'
            )
    return lambda handler: _note(handler, macros=names)


def rejected_recipients(handler: _Handler) -> _Handler:
    """Have `on_rcpt` also called for recipients that the MTA itself refuses.

    Then ``macros["{rcpt_mailer}"]`` is ``error``, and the verdict has no effect. Where the MTA
    does not offer it, they are not sent.
    """
    return _note(handler, rejected_recipients=True)


def leading_space(handler: _Handler) -> _Handler:
    """Have `on_header` see values with the blank behind the colon.

    It works both ways: edits of headers then have to bring their blank themselves. Where the MTA
    does not offer it, values come without.
    """
    return _note(handler, leading_space=True)


def time_limit(seconds: float) -> Callable[[_Handler], _Handler]:
    """Give a handler a budget of its own instead of the configured one.

    Mind that Sendmail waits for 10 seconds and Postfix for 30, except at `on_eom`, where the
    library keeps both waiting.

    Args:
        seconds: More than 0. A handler that takes longer is cancelled, and the configured
            verdict for faults is given.

    Raises:
        ConfigError: The budget is not positive.
    """
    if not isinstance(seconds, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError("time_limit takes seconds: write @time_limit(5)")
    if not seconds > 0:
        raise ConfigError(f"a time limit is more than 0 seconds, not {seconds!r}")
    return lambda handler: _note(handler, time_limit_s=float(seconds))
