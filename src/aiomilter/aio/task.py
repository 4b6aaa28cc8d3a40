"""The task of a connection, which can tell who has cancelled it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Protocol

__all__ = ["ServingTask"]


class _Owner(Protocol):
    def note_wait(self) -> None: ...


class ServingTask(asyncio.Task[None]):
    """A task in which handlers run, one after the other.

    A handler may call ``asyncio.current_task().cancel()``. That is a fault like any other; but to
    the task it looks as if the event loop were ending, which does end the connection. So such a
    request is noted, and carried out only if the handler goes on to await something: before
    Python 3.13 a cancellation that no await has seen cannot be taken back.

    Attributes:
        is_asked_to_end: Whether such a request has been noted and not yet carried out.
    """

    __slots__ = ("_owner",)

    is_asked_to_end = False
    _is_carried_out = False

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        context: Context,
        owner: _Owner,
    ) -> None:
        """Begin.

        Args:
            coroutine: What serves.
            loop: The event loop.
            context: What it runs in.
            owner: Whom to tell of a handler that has asked for its cancellation, before it is
                known whether it waits for anything.
        """
        self._owner = owner
        # One name for all: a number for each costs 57 bytes a connection.
        super().__init__(coroutine, loop=loop, name="aiomilter", context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task; at its own request, when it next awaits something."""
        if asyncio.current_task(self.get_loop()) is not self:
            return super().cancel(msg)
        self.is_asked_to_end = True
        self._owner.note_wait()
        self.get_loop().call_soon(self._carry_out)
        return True

    def cancel_again(self) -> None:
        """Have the next await raise a cancellation that came while nothing could make use of it."""
        super().cancel()

    def settle(self) -> bool:
        """Return whether the handler that just ended has asked for its cancellation.

        If so, that is taken back.
        """
        if not self.is_asked_to_end and not self._is_carried_out:
            return False
        self.is_asked_to_end = self._is_carried_out = False
        while self.cancelling():
            self.uncancel()
        return True

    def _carry_out(self) -> None:
        if self.is_asked_to_end:
            self.is_asked_to_end = False
            self._is_carried_out = True
            super().cancel()
