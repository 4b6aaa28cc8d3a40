"""Running one handler within its budget; what comes out of it if it fails."""

from __future__ import annotations

import logging
import os
from functools import partial

from aiomilter.app.facts import Facts, SessionLog
from aiomilter.app.handlers import Handler, HandlerKind, HandlerTable
from aiomilter.app.host import Abandoned, Cut, FaultPolicy, Host
from aiomilter.app.milter import Milter
from aiomilter.app.results import FAILED
from aiomilter.app.text import describe_error
from aiomilter.app.watch import Watch
from aiomilter.session.status import Status

__all__ = ["FaultError", "GoneError", "HandlerRunner"]

_logger = logging.getLogger("aiomilter")


class FaultError(Exception):
    """A handler failed, and the log knows of it; only the answer remains to be given."""

    def __init__(self, answer: Status) -> None:
        super().__init__(answer)
        self.answer = answer


class GoneError(Exception):
    """A handler was cut short because nobody waits for its answer."""


class HandlerRunner:
    """What a `Dispatcher` knows and does to run handlers."""

    __slots__ = (
        "_arguments",
        "_facts",
        "_has_stray",
        "_host",
        "_milter",
        "_policy",
        "_running",
        "_table",
        "_watch",
    )

    def __init__(self, host: Host, policy: FaultPolicy, facts: Facts) -> None:
        self._host = host
        self._policy = policy
        self._facts = facts
        self._milter: Milter | None = None
        self._table: HandlerTable | None = None
        self._watch: Watch | None = None
        self._running: Handler | None = None
        self._arguments: tuple[object, ...] = ()
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
        limit_s = handler.time_limit_s
        if limit_s is None:
            policy = self._policy
            is_eom = handler.kind is HandlerKind.EOM
            limit_s = policy.eom_timeout_s if is_eom else policy.handler_timeout_s
        host = self._host
        if self._has_stray:
            # A thread cannot be stopped, and a coroutine need not heed its cancellation. What is
            # left at work on this milter must not meet another message there.
            self._has_stray = host.is_stray_at_work()
            if self._has_stray and handler.kind is not HandlerKind.HOOK:
                reason = "not called: an earlier handler, cut short, is still at work"
                raise self._fault(handler.name, reason, None, kind="not_called")
        self._running, self._arguments = handler, arguments
        ticket = host.start_clock(limit_s, handler.kind)
        try:
            if handler.is_async:
                result = await handler.function(self._milter, *arguments)
            else:
                call = partial(handler.function, self._milter, *arguments)
                result = await host.run_in_thread(call)
        except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
            self._check_cut(handler, host.stop_clock(ticket), limit_s)
            self._running = None
            raise self._fault(handler.name, describe_error(error), error) from None
        self._check_cut(handler, host.stop_clock(ticket), limit_s)
        self._running = None
        return result

    async def _run_aside(self, handler: Handler, arguments: tuple[object, ...]) -> object:
        """Run a handler that is called for no event; otherwise as `_run`."""
        watch = self._watch
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

    def _check_cut(self, handler: Handler, cut: Cut | None, limit_s: float) -> None:
        """Raise what a handler that was cut short deserves; return if it was not."""
        if cut is None:
            return
        if cut is Cut.ABANDONED:
            raise Abandoned
        self._running = None
        self._has_stray = True
        if cut is Cut.CONNECTION_LOST:
            raise GoneError
        if cut in (Cut.TIME_LIMIT, Cut.BLOCKED_LOOP, Cut.NO_THREAD):
            reason = f"{cut.value} of {limit_s:g} s"
            raise self._fault(handler.name, reason, None, kind=cut.name.lower())
        raise self._fault(handler.name, cut.value, None, Status.TEMPFAIL, kind=cut.name.lower())

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
        if self._watch is not None:
            self._watch.note_fault(where.removeprefix("the "), kind)
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
            self._table.class_name if self._table else "the milter",
            reason,
            consequence,
            exc_info=error,
        )
