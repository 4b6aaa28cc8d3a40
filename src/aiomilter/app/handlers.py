"""What a milter class can do, worked out once: its handlers and what they ask for.

Rules of this file:

- A handler counts if the class overrides it; nothing else makes the MTA send an event.
- The table is made once a class. A class that cannot work raises `ConfigError` here, before any
  mail is at stake.
"""

from __future__ import annotations

import difflib
import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from aiomilter.app.gathering import MessageNeeds
from aiomilter.app.milter import Milter
from aiomilter.app.negotiation import encode_macro_requests
from aiomilter.app.options import HandlerOptions, options_of
from aiomilter.errors import ConfigError
from aiomilter.session.events import Event
from aiomilter.session.negotiation import options_without
from aiomilter.spec import COMMANDS, Actions, CommandSpec, MacroStage, Options
from aiomilter.wire.commands import (
    Body,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Mail,
    Rcpt,
    Unknown,
)

__all__ = [
    "EVENTS",
    "EVENT_TYPES",
    "Handler",
    "HandlerKind",
    "HandlerTable",
    "add_gathering",
    "handler_table",
]


class HandlerKind(enum.Enum):
    """What the MTA does while a handler runs."""

    EVENT = "waits, and not for long"
    GATHER = "does not wait: the library takes it in for on_message"
    EOM = "waits for as long as it hears of progress"
    RELAY = "waits, and not for long, for several milters that are served as one"
    HOOK = "does not wait, and may be gone"


@dataclass(slots=True)
class Handler:
    """One handler of a milter class.

    Attributes:
        name: Of the method, for example ``on_rcpt``.
        function: The method, not bound.
        is_async: Whether it runs in the event loop, not in a thread.
        no_reply: Whether it only observes.
        wants_rejected: Whether it also gets what the MTA has refused.
        time_limit_s: Its own budget, or None.
        kind: What the MTA does meanwhile.
        is_plain: Whether it answers an event by itself, and calling it makes a coroutine and does
            nothing else. A function that is only marked as one may do anything.
        is_of_envelope: Whether it is asked about the sender or a recipient.
    """

    name: str
    # Handlers differ in their parameters; `dispatch` knows those of each.
    function: Callable[..., Any]
    is_async: bool
    no_reply: bool = False
    wants_rejected: bool = False
    time_limit_s: float | None = None
    kind: HandlerKind = HandlerKind.EVENT
    # Hot path: asked for each command.
    is_plain: bool = field(init=False)
    is_of_envelope: bool = field(init=False)

    def __post_init__(self) -> None:
        function = self.function
        makes_coroutine = (
            isinstance(function, FunctionType) and function.__code__.co_flags & inspect.CO_COROUTINE
        )
        self.is_plain = self.kind is HandlerKind.EVENT and self.is_async and bool(makes_coroutine)
        self.is_of_envelope = self.name in ("on_mail", "on_rcpt")


@dataclass(slots=True)
class HandlerTable:
    """All handlers of a milter class.

    Attributes:
        class_name: The class, for the log.
        by_name: The handlers that the class overrides.
        by_event: Those of them that answer an event, by its type.
        handled: A mask with the bit ``1 << state`` of each event with a handler.
        options: The option bits that the handlers ask for.
        optional: Those of them that are dropped where the MTA does not offer them.
        macros: The macros that the handlers ask for.
        actions: What the class requires, or None.
        begins_messages: Whether the class overrides ``begin_message``.
        gathers: Whether the class overrides ``on_message``.
        also_required: Actions without which it does not work, where ``actions`` is None.
    """

    class_name: str
    by_name: dict[str, Handler]
    by_event: dict[type[Event], Handler]
    handled: int
    options: int
    optional: int
    macros: dict[MacroStage, list[str]]
    actions: Actions | None
    begins_messages: bool
    gathers: bool
    also_required: int = 0


_KINDS = {
    "on_eom": HandlerKind.EOM,
    "on_message": HandlerKind.EOM,
    "on_abort": HandlerKind.HOOK,
    "on_close": HandlerKind.HOOK,
}
_PARAMETERS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(function).parameters)[1:]
    for name, function in vars(Milter).items()
    if name.startswith("on_")
}
"""All handlers, and what each is called with beside the milter."""
_WITHOUT_COMMAND = ("on_abort", "on_close", "on_negotiate")
EVENT_TYPES: dict[str, type[Event]] = {
    "on_connect": Connect,
    "on_helo": Helo,
    "on_mail": Mail,
    "on_rcpt": Rcpt,
    "on_data": Data,
    "on_header": Header,
    "on_eoh": EndOfHeaders,
    "on_body": Body,
    "on_eom": EndOfMessage,
    "on_message": EndOfMessage,
    "on_unknown": Unknown,
}
EVENTS = {f"on_{row.name}": row for row in COMMANDS if b"c" in row.replies}
EVENTS["on_message"] = EVENTS["on_eom"]
_INSTEAD_OF_MESSAGE = ("on_header", "on_eoh", "on_body", "on_eom")
"""Handlers that see a part of what `on_message` has as a whole."""
_GATHERED = ("on_connect", "on_helo", "on_mail", "on_rcpt", "on_header")
"""What is taken in for `on_message`; and the body, unless the class does without."""


_TABLES: WeakKeyDictionary[type[Milter], HandlerTable] = WeakKeyDictionary()


def handler_table(milter: type[Milter]) -> HandlerTable:
    """Return the table of a milter class.

    Raises:
        ConfigError: A method is called like a handler and is none, a handler has the wrong
            parameters or a decorator that makes no sense for it, the decorators ask for more
            macros than a packet takes, ``actions`` is not of the type `Actions`, or
            ``begin_message`` is a coroutine function.
    """
    known = _TABLES.get(milter)
    if known is not None:
        return known
    _check_class(milter)
    table = HandlerTable(
        class_name=milter.__qualname__,
        by_name={},
        by_event={},
        handled=0,
        options=0,
        optional=int(Options.REJECTED_RECIPIENTS | Options.LEADING_SPACE | Options.SKIP),
        macros={},
        actions=milter.actions,
        begins_messages=milter.begin_message is not Milter.begin_message,
        gathers=milter.on_message is not Milter.on_message,
    )
    for name in (*_WITHOUT_COMMAND, *EVENTS):
        function = getattr(milter, name)
        if function is not getattr(Milter, name):
            _add_handler(table, name, function)
    if table.gathers:
        add_gathering(table, milter.message_needs)
    try:
        encode_macro_requests(table.macros)
    except ValueError as error:
        raise ConfigError(f"{table.class_name}: {error}") from None
    table.options |= options_without(table.handled)
    _TABLES[milter] = table
    return table


def add_gathering(table: HandlerTable, needs: MessageNeeds) -> None:
    """Have all that `on_message` needs sent, and the MTA not wait for it."""
    names = [*_GATHERED, "on_body"] if needs is MessageNeeds.BODY else _GATHERED
    for name in names:
        row = EVENTS[name]
        if name in table.by_name:
            continue
        assert row.target is not None
        table.by_event[EVENT_TYPES[name]] = Handler(
            name, _gathered, is_async=False, no_reply=True, kind=HandlerKind.GATHER
        )
        table.handled |= 1 << row.target
        if row.no_reply_option is not None:
            table.options |= row.no_reply_option
            # An MTA that waits all the same can have a verdict at once.
            table.optional |= row.no_reply_option
    # Without the one nobody could say what stood behind a colon; the other is for a body that is
    # too large.
    table.options |= Options.LEADING_SPACE | Options.SKIP


def _gathered(*_arguments: object) -> None:
    """Stand in for a handler: what is gathered is not given to one."""


def _check_class(milter: type[Milter]) -> None:
    if milter.actions is not None and not isinstance(milter.actions, Actions):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(
            f"{milter.__qualname__}.actions is {milter.actions!r}; it must be a combination of "
            f"aiomilter.Actions, such as Actions.ADD_HEADER | Actions.QUARANTINE, or None"
        )
    for name in dir(milter):
        if name.startswith("on_") and name not in _PARAMETERS and callable(getattr(milter, name)):
            close = difflib.get_close_matches(name, _PARAMETERS, n=1, cutoff=0.5)
            hint = f"; is {close[0]} meant?" if close else ""
            raise ConfigError(
                f"{milter.__qualname__}.{name} is no handler, and names that begin with on_ are "
                f"for handlers{hint}"
            )
    if milter.on_message is not Milter.on_message:
        _check_gathering(milter)
    if inspect.iscoroutinefunction(milter.begin_message):
        raise ConfigError(
            f"{milter.__qualname__}.begin_message must be a plain method: it only sets up what "
            f"is kept for a message; await in on_mail"
        )


def _check_gathering(milter: type[Milter]) -> None:
    for name in _INSTEAD_OF_MESSAGE:
        if getattr(milter, name) is not getattr(Milter, name):
            raise ConfigError(
                f"{milter.__qualname__} has both on_message and {name}: on_message is given the "
                f"whole message, and decides at its end; keep one of the two"
            )
    if not isinstance(milter.message_needs, MessageNeeds):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(
            f"{milter.__qualname__}.message_needs is {milter.message_needs!r}; it must be "
            f"MessageNeeds.BODY or MessageNeeds.HEADERS"
        )


def _add_handler(table: HandlerTable, name: str, function: Callable[..., Any]) -> None:
    parameters = _PARAMETERS[name]
    if not callable(function):
        raise ConfigError(f"{table.class_name}.{name} is {function!r}, which cannot be called")
    try:
        inspect.signature(function).bind(*("self", *parameters))
    except TypeError:
        raise ConfigError(
            f"{table.class_name}.{name} does not take what it is called with: "
            f"write {name}({', '.join(('self', *parameters))})"
        ) from None
    options = options_of(function)
    row = EVENTS.get(name)
    _check_options(f"{table.class_name}.{name}", name, row, options)
    table.by_name[name] = Handler(
        name=name,
        function=function,
        is_async=inspect.iscoroutinefunction(function),
        no_reply=options.no_reply,
        wants_rejected=options.rejected_recipients,
        time_limit_s=options.time_limit_s,
        kind=_KINDS.get(name, HandlerKind.EVENT),
    )
    if row is None:
        return
    assert row.target is not None
    table.by_event[EVENT_TYPES[name]] = table.by_name[name]
    table.handled |= 1 << row.target
    if options.no_reply and row.no_reply_option is not None:
        table.options |= row.no_reply_option
    if options.rejected_recipients:
        table.options |= Options.REJECTED_RECIPIENTS
    if options.leading_space:
        table.options |= Options.LEADING_SPACE
    if options.macros is not None and row.macro_stage is not None:
        table.macros[row.macro_stage] = list(options.macros)


def _check_options(where: str, name: str, row: CommandSpec | None, options: HandlerOptions) -> None:
    if options.no_reply and (row is None or row.no_reply_option is None):
        raise ConfigError(f"{where} cannot be no_reply: the protocol has no such option")
    if options.macros is not None and (row is None or row.macro_stage is None):
        raise ConfigError(
            f"{where} has no macros of its own: put the decorator on an earlier handler, what "
            f"is asked for there is also seen here"
        )
    if options.rejected_recipients and name != "on_rcpt":
        raise ConfigError(f"{where}: rejected_recipients is for on_rcpt")
    if options.leading_space and name != "on_header":
        raise ConfigError(f"{where}: leading_space is for on_header")
