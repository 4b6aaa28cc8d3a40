"""What a handler's result means."""

from __future__ import annotations

import inspect
from typing import Final

from aiomilter.app.reply import Reply
from aiomilter.app.text import show_value
from aiomilter.session.status import Status

__all__ = ["FAILED", "describe_wrong_result", "name_of_result", "read_result"]


FAILED: Final = object()
"""In place of the result of a handler that did not return one."""


def read_result(result: object) -> tuple[Status, bytes | None] | None:
    """Return the status of a result and the text of its reply; None if it is none."""
    if isinstance(result, Reply):
        return (Status.REJECT if result.is_permanent else Status.TEMPFAIL), result.encode()
    if result is None:
        return Status.CONTINUE, None
    if type(result) is Status and result is not Status.ALL_OPTS:
        return result, None
    return None


def name_of_result(result: object) -> str:
    """Return a result as one of few words; ``fault`` for one that no handler may have."""
    if result is Status.ALL_OPTS:
        return "all_opts"
    known = read_result(result)
    return "fault" if known is None else known[0].name.lower()


def describe_wrong_result(result: object) -> str:
    """Return what is wrong with a result, and what may help; for the log."""
    if inspect.iscoroutine(result):
        result.close()
        return "a coroutine; declare the handler with 'async def' or await it"
    if result is Status.NOREPLY:
        return "NOREPLY without being declared no_reply: the MTA would wait for an answer"
    return f"{show_value(result)}; a handler returns a Status, a Reply or None"
