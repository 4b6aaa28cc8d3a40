"""Milters for tests of chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiomilter import (
    Message,
    Milter,
    Status,
    Verdict,
)

__all__ = ["A", "Adds", "C", "D", "R", "Silent", "T", "scripted"]

C, A, D, T, R = (
    Status.CONTINUE,
    Status.ACCEPT,
    Status.DISCARD,
    Status.TEMPFAIL,
    Status.REJECT,
)


def scripted(name: str, calls: list[str], **verdicts: Verdict) -> Callable[[], Milter]:
    """Return a milter that says what it is told to, and notes what it is asked."""

    class Scripted(Milter):
        def begin_message(self) -> None:
            calls.append(f"{name}.begin")

        async def on_abort(self) -> None:
            calls.append(f"{name}.abort")

        async def on_close(self) -> None:
            calls.append(f"{name}.close")

    def handler(stage: str) -> Any:
        async def answer(self: Milter, *arguments: object) -> Verdict:
            del self, arguments
            calls.append(f"{name}.{stage}")
            return verdicts[stage]

        return answer

    for stage in verdicts:
        setattr(Scripted, f"on_{stage}", handler(stage))
    return Scripted


class Silent(Milter):
    """Has no handler at all."""


class Adds(Milter):
    def __init__(self, name: str = "X-Whole") -> None:
        self.name = name

    async def on_message(self, message: Message) -> None:
        message.headers.add(self.name, str(len(message.headers)))
        message.quarantine(self.name)
