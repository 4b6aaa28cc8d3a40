"""What several milters ask for together.

Rules of this file:

- An event is sent if one of them has a handler for it, and the MTA waits if one of them decides.
- At a stage where one asks for macros and another leaves that to the MTA, what the MTAs send by
  default is asked for as well: else the one would take them away from the other.
- What handlers of the content see is played to them at the end of the message, so its events are
  gathered, and nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aiomilter.app.compose.member import CONTENT
from aiomilter.app.gathering import MessageNeeds
from aiomilter.app.handlers import (
    EVENT_TYPES,
    EVENTS,
    Handler,
    HandlerKind,
    HandlerTable,
    add_gathering,
)
from aiomilter.app.mta.macros import default_macros
from aiomilter.app.negotiation import encode_macro_requests
from aiomilter.errors import ConfigError
from aiomilter.session.negotiation import options_without
from aiomilter.spec import Actions, MacroStage, Options

__all__ = ["merge_macros", "merge_tables"]

_OF_CONTENT = frozenset(CONTENT)
_LIVE = ("on_connect", "on_helo", "on_mail", "on_rcpt", "on_data", "on_unknown")


def merge_tables(
    name: str, tables: Sequence[HandlerTable], needs: Sequence[MessageNeeds], dry: Sequence[bool]
) -> HandlerTable:
    """Return the table of several milters that are served as one.

    Args:
        name: For the log.
        tables: Those of the milters.
        needs: How much of a message each wants.
        dry: Whether each is run dry.

    Raises:
        ConfigError: Together they ask for more macros than a packet takes.
    """
    real = [table for table, is_dry in zip(tables, dry, strict=True) if not is_dry]
    merged = HandlerTable(
        class_name=name,
        by_name={},
        by_event={},
        handled=0,
        options=0,
        optional=int(Options.REJECTED_RECIPIENTS | Options.LEADING_SPACE | Options.SKIP),
        macros=merge_macros([table.macros for table in tables]),
        actions=_merge_actions(real),
        begins_messages=any(table.begins_messages for table in tables),
        gathers=any(_OF_CONTENT & table.by_name.keys() for table in tables),
        also_required=_sum_actions(real),
    )
    for event in _LIVE:
        handlers = [
            (table.by_name[event], is_dry)
            for table, is_dry in zip(tables, dry, strict=True)
            if event in table.by_name
        ]
        if handlers:
            _add_event(merged, event, handlers)
    if merged.gathers:
        merged.by_name["on_message"] = merged.by_event[EVENT_TYPES["on_message"]] = Handler(
            "on_message", _nobody, is_async=True, kind=HandlerKind.EOM
        )
        is_short = all(map(_does_without_body, tables, needs))
        add_gathering(merged, MessageNeeds.HEADERS if is_short else MessageNeeds.BODY)
    try:
        encode_macro_requests(merged.macros)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    merged.options |= options_without(merged.handled)
    return merged


def merge_macros(
    requests: Sequence[Mapping[MacroStage, Iterable[str]]],
) -> dict[MacroStage, list[str]]:
    """Return what several milters ask for, by stage."""
    merged: dict[MacroStage, list[str]] = {}
    for stage in MacroStage:
        asked = [request[stage] for request in requests if stage in request]
        if not asked:
            continue
        if len(asked) < len(requests):
            asked.append(default_macros(stage))
        merged[stage] = list(dict.fromkeys(name for names in asked for name in names))
    return merged


def _add_event(merged: HandlerTable, name: str, handlers: Sequence[tuple[Handler, bool]]) -> None:
    row = EVENTS[name]
    assert row.target is not None
    is_silent = row.no_reply_option is not None and all(
        handler.no_reply or is_dry for handler, is_dry in handlers
    )
    wants_rejected = any(handler.wants_rejected for handler, _ in handlers)
    merged.by_name[name] = merged.by_event[EVENT_TYPES[name]] = Handler(
        name,
        _nobody,
        is_async=True,
        no_reply=is_silent,
        wants_rejected=wants_rejected,
        kind=HandlerKind.RELAY,
    )
    merged.handled |= 1 << row.target
    if is_silent and row.no_reply_option is not None:
        merged.options |= row.no_reply_option
    if wants_rejected:
        merged.options |= Options.REJECTED_RECIPIENTS


def _nobody(*_arguments: object) -> None:
    """Stand in for a handler: several milters have their own."""


def _merge_actions(tables: Sequence[HandlerTable]) -> Actions | None:
    """Return what all require together, or None to take what the MTA offers."""
    if any(table.actions is None for table in tables):
        return None
    return Actions(_sum_actions(tables))


def _sum_actions(tables: Sequence[HandlerTable]) -> int:
    required = 0
    for table in tables:
        required |= table.also_required | int(table.actions or 0)
    return required


def _does_without_body(table: HandlerTable, needs: MessageNeeds) -> bool:
    """Whether a milter neither sees nor replaces the body."""
    if "on_message" in table.by_name:
        return needs is MessageNeeds.HEADERS
    if "on_body" in table.by_name:
        return False
    can_replace = table.actions is None or bool(table.actions & Actions.REPLACE_BODY)
    return not ("on_eom" in table.by_name and can_replace)
