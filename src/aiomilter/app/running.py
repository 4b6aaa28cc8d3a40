"""Running one handler within its budget; what comes out of it if it fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable
from functools import partial
from typing import NoReturn

from aiomilter.app.facts import Facts, SessionLog
from aiomilter.app.handlers import Handler, HandlerKind, HandlerTable
from aiomilter.app.host import Abandoned, Cut, FaultPolicy, Host
from aiomilter.app.milter import Milter
from aiomilter.app.results import FAILED, describe_wrong_result
from aiomilter.app.text import describe_error
from aiomilter.app.watch import Watch
from aiomilter.session.status import Status

__all__ = ["LONG_S", "FaultError", "GoneError", "HandlerRunner"]

_logger = logging.getLogger("aiomilter")

LONG_S = 0.05
"""A handler that took this long without waiting for anything may have exceeded its budget."""

# Hot path: a member of an enum as a global.
_EOM = HandlerKind.EOM


class FaultError(Exception):
    """A handler failed, and the log knows of it; only the answer remains to be given."""

    def __init__(self, answer: Status) -> None:
        super().__init__(answer)
        self.answer = answer


class GoneError(Exception):
    """A handler was cut short because nobody waits for its answer."""


class HandlerRunner:
    """What a `Dispatcher` knows and does to run handlers.

    Attributes:
        watch: What notes the events of the session, or None if nobody wants to know.
    """

    __slots__ = (
        "_began",
        "_facts",
        "_has_stray",
        "_host",
        "_milter",
        "_name",
        "_policy",
        "_running",
        "_table",
        "watch",
    )

    def __init__(self, host: Host, policy: FaultPolicy, facts: Facts) -> None:
        self._host = host
        self._policy = policy
        self._facts = facts
        self._milter: Milter | None = None
        self._table: HandlerTable | None = None
        # Of the milter whose handler runs, if it is one of several that are served as one.
        self._name: str | None = None
        self.watch: Watch | None = None
        self._running: Handler | None = None
        # When the last handler was called that was called without a clock.
        self._began = 0.0
        self._has_stray = False

    @property
    def log(self) -> SessionLog:
        """The library's own log, with the ids of session and message."""
        return SessionLog(_logger, self._facts)

    async def _run(self, handler: Handler, arguments: tuple[object, ...]) -> object:
        """Run a handler and return its result.

        Raises:
            FaultError: It failed.
            GoneError: It was cut short because nobody waits for its answer.
        """
        ticket = self._begin(handler)
        try:
            if handler.is_async:
                result = await handler.function(self._milter, *arguments)
            else:
                result = await self._run_in_thread(handler, arguments)
        except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
            raise self._failed(handler, ticket, error) from None
        self._end(handler, ticket)
        return result

    def _begin(self, handler: Handler) -> int:
        """Start a handler's budget; return the ticket for `_end` or `_failed`.

        Raises:
            FaultError: It must not be called now.
        """
        if self._has_stray:
            # A thread cannot be stopped, and a coroutine need not heed its cancellation. What is
            # left at work on this milter must not meet another message there.
            self._has_stray = self._host.is_stray_at_work()
            if self._has_stray and handler.kind is not HandlerKind.HOOK:
                reason = "not called: an earlier handler, cut short, is still at work"
                raise self._fault(handler.name, reason, None, kind="not_called")
        self._running = handler
        return self._host.start_clock(self._limit_s(handler), handler.kind)

    def start_late_clock(self) -> None:
        """Begin the budget of a handler that was called without, and waits or may be cut short."""
        handler = self._running
        if handler is not None:
            self._host.start_clock(self._limit_s(handler), handler.kind, self._began)
        else:
            # Perhaps `begin_message` has cancelled its task: the next clock finds out.
            self._has_stray = True

    def _limit_s(self, handler: Handler) -> float:
        if handler.time_limit_s is not None:
            return handler.time_limit_s
        policy = self._policy
        return policy.eom_timeout_s if handler.kind is _EOM else policy.handler_timeout_s

    def _run_in_thread(self, handler: Handler, arguments: tuple[object, ...]) -> Awaitable[object]:
        return self._host.run_in_thread(partial(handler.function, self._milter, *arguments))

    def _end(self, handler: Handler, ticket: int) -> None:
        """End the budget of a handler that has ended.

        Raises:
            FaultError: It was cut short.
            GoneError: The same, because nobody waits for its answer.
            Abandoned: It was given up before.
        """
        cut = self._host.stop_clock(ticket)
        if cut is not None:
            self._raise_cut(handler, cut)
        self._running = None

    def _end_late(self, handler: Handler, ticket: int) -> None:
        """End the budget of a handler that was called without; otherwise as `_end`.

        Args:
            handler: The handler.
            ticket: That of the host when the handler was called.
        """
        host = self._host
        if host.ticket == ticket and host.time() - self._began > LONG_S:
            host.start_clock(self._limit_s(handler), handler.kind, self._began)
        if host.ticket == ticket:
            self._running = None
        else:
            self._end(handler, ticket)

    def _failed(self, handler: Handler, ticket: int, error: BaseException) -> FaultError:
        """End the budget of a handler that raised; return what is to be raised for it.

        Raises:
            FaultError, GoneError, Abandoned: As `_end`: that is what it raised for.
        """
        self._end(handler, ticket)
        return self._fault(handler.name, describe_error(error), error)

    async def _run_aside(self, handler: Handler, arguments: tuple[object, ...]) -> object:
        """Run a handler that is called for no event; otherwise as `_run`."""
        watch = self.watch
        if watch is None:
            return await self._run(handler, arguments)
        watch.start_clock()
        result: object = FAILED
        try:
            result = await self._run(handler, arguments)
        finally:
            # What a hook returns is of no account.
            is_hook = handler.kind is HandlerKind.HOOK and result is not FAILED
            watch.note_handler(handler.name, None if is_hook else result)
        return result

    def _raise_cut(self, handler: Handler, cut: Cut, limit_s: float | None = None) -> NoReturn:
        """Raise what a handler that was cut short deserves."""
        if cut is Cut.ABANDONED:
            raise Abandoned
        self._running = None
        self._has_stray = self._name is None
        if cut is Cut.CONNECTION_LOST:
            raise GoneError
        if cut in (Cut.TIME_LIMIT, Cut.BLOCKED_LOOP, Cut.NO_THREAD):
            limit_s = self._limit_s(handler) if limit_s is None else limit_s
            reason = f"{cut.value} of {limit_s:.4g} s"
            raise self._fault(handler.name, reason, None, kind=cut.name.lower())
        raise self._fault(handler.name, cut.value, None, Status.TEMPFAIL, kind=cut.name.lower())

    def _wrong_result(self, handler: Handler, result: object) -> FaultError:
        reason = f"it returned {describe_wrong_result(result)}"
        return self._fault(handler.name, reason, None, kind="wrong_result")

    def _fault(
        self,
        where: str,
        reason: str,
        error: BaseException | None,
        answer: Status | None = None,
        *,
        kind: str = "exception",
    ) -> FaultError:
        """Log a fault; return what is to be raised for it."""
        if answer is None:
            answer = self._policy.on_error
        self._log_fault(where, reason, error, answer, kind=kind)
        return FaultError(answer)

    def _log_fault(
        self,
        where: str,
        reason: str,
        error: BaseException | None,
        answer: Status | None = None,
        *,
        kind: str = "exception",
    ) -> None:
        if self.watch is not None:
            self.watch.note_fault(where.removeprefix("the "), kind)
        answer = answer or self._policy.on_error
        lets_pass = answer in (Status.ACCEPT, Status.CONTINUE)
        consequence = f"; the answer is {answer.name}"
        if where in ("on_abort", "on_close"):
            consequence = ""
        elif lets_pass:
            consequence += ", so mail passes unfiltered"
        self.log.error(
            "fault %s in %s of %s: %s%s",
            os.urandom(4).hex(),
            where,
            self._name or (self._table.class_name if self._table else "the milter"),
            reason,
            consequence,
            exc_info=error,
        )
