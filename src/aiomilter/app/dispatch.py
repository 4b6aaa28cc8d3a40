"""From an event to a handler and from its result to an answer; and what a fault costs.

Rules of this file:

- One verdict is what a fault costs: whatever comes out of a handler (any exception at all, a
  wrong result, a budget that ran out) becomes the configured verdict and one record in the log.
  Closing the connection instead would make Postfix do without the milter for the rest of the
  SMTP session.
- The text of an exception never reaches the MTA.
- Nothing here knows of asyncio: time, threads and cancellation are the `Host`'s.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Callable
from functools import partial

from aiomilter.app.actions import EomActions
from aiomilter.app.arguments import ARGUMENTS
from aiomilter.app.facts import Facts, SessionLog
from aiomilter.app.handlers import Handler, HandlerKind, HandlerTable, handler_table
from aiomilter.app.host import Abandoned, Cut, FaultPolicy, Host
from aiomilter.app.milter import Milter
from aiomilter.app.negotiation import Negotiation
from aiomilter.app.reply import Reply
from aiomilter.app.text import describe_error, show_value
from aiomilter.errors import LocalProtocolError
from aiomilter.session.events import (
    ConnectionEnd,
    Event,
    Ignored,
    MessageAborted,
    MessageStart,
    SessionEnd,
    SessionStart,
)
from aiomilter.session.filter import FilterSession
from aiomilter.session.negotiation import NegotiationOffer, Request
from aiomilter.session.status import Status
from aiomilter.spec import Options, State
from aiomilter.wire.commands import Rcpt

__all__ = ["Dispatcher"]

_logger = logging.getLogger("aiomilter")

_CONTINUE, _NOREPLY, _SKIP = Status.CONTINUE, Status.NOREPLY, Status.SKIP
_HANDLED_BY_ALL_STAGES = (1 << len(State)) - 1


class _FaultError(Exception):
    """A handler failed, and the log knows of it; only the answer remains to be given."""

    def __init__(self, answer: Status) -> None:
        super().__init__(answer)
        self.answer = answer


class _GoneError(Exception):
    """A handler was cut short because nobody waits for its answer."""


class Dispatcher:
    """Serves the events of one connection with a milter's handlers."""

    __slots__ = (
        "_actions",
        "_arguments",
        "_default_request",
        "_factory",
        "_facts",
        "_handlers",
        "_has_dropped",
        "_has_stray",
        "_has_warned",
        "_host",
        "_is_discarded",
        "_message_failed",
        "_milter",
        "_policy",
        "_running",
        "_session",
        "_session_ids",
        "_table",
    )

    def __init__(
        self,
        factory: Callable[[], Milter],
        session: FilterSession,
        host: Host,
        policy: FaultPolicy,
        session_ids: Callable[[], str],
    ) -> None:
        """Begin with a connection that has just been accepted.

        Args:
            factory: Makes the milter of a session.
            session: Where events come from and answers go.
            host: What runs this.
            policy: What handlers may take and what a fault costs.
            session_ids: Makes the id of a session.
        """
        self._factory = factory
        self._session = session
        self._host = host
        self._policy = policy
        self._session_ids = session_ids
        self._facts = Facts("-", session.macros)
        self._milter: Milter | None = None
        self._table: HandlerTable | None = None
        self._handlers: dict[type[Event], Handler] = {}
        self._running: Handler | None = None
        self._arguments: tuple[object, ...] = ()
        self._default_request: Request | None = None
        self._message_failed = False
        self._has_stray = False
        self._has_dropped = False
        self._actions: EomActions | None = None
        self._has_warned = False

    @property
    def log(self) -> SessionLog:
        """The library's own log, with the ids of session and message."""
        return SessionLog(_logger, self._facts)

    async def handle(self, event: Event) -> None:
        """Serve one event; its answer, if it expects one, is given to the session.

        If the event is still without an answer afterwards, the MTA is gone or refused, and the
        connection is to be closed.

        Raises:
            RemoteProtocolError: The negotiation failed.
        """
        kind = type(event)
        handler = self._handlers.get(kind)
        if handler is None:
            await self._handle_other(event)
            return
        if self._message_failed and self._session.message_is_open:
            self._give_fault_answer(self._policy.on_error)
            return
        try:
            if handler.kind is HandlerKind.EOM:
                await self._end_message(handler)
                return
            arguments = ARGUMENTS[kind](self._facts, event)
            result = await self._run(handler, arguments)
            if result is None or result is _CONTINUE:
                self._session.respond(_CONTINUE)
                given = _CONTINUE
            else:
                given = self._answer(handler, result)
                # MTAs send an abort for a message that was discarded ahead of its end.
                self._is_discarded |= given is Status.DISCARD
            if kind is Rcpt:
                self._note_recipient(handler, arguments, given)
        except _FaultError as fault:
            self._give_fault_answer(fault.answer)
            if kind is Rcpt:
                arguments = ARGUMENTS[kind](self._facts, event)
                self._note_recipient(handler, arguments, fault.answer)
        except _GoneError:
            return

    def abandon(self) -> None:
        """Answer in place of a handler that does not come back, and go on without it."""
        handler, self._running = self._running, None
        if handler is None:
            return
        self._has_stray = True
        if self._actions is not None:
            self._actions.close()
        self._log_fault(handler.name, Cut.ABANDONED.value, None)
        if self._default_request is not None:
            self._agree_after_fault(self._default_request, self._policy.on_error)
        elif handler.kind is not HandlerKind.HOOK:
            self._give_fault_answer(self._policy.on_error)
            if handler.name == "on_rcpt":
                self._note_recipient(handler, self._arguments, self._policy.on_error)

    def answer_internal_error(self) -> None:
        """Let the MTA have a temporary failure for the event in hand, and end the session."""
        session = self._session
        if session.is_unanswered and session.may_answer():
            with contextlib.suppress(LocalProtocolError):
                session.respond(Status.TEMPFAIL)
        session.close()

    # Running a handler

    async def _run(self, handler: Handler, arguments: tuple[object, ...]) -> object:
        """Run a handler and return its result.

        Raises:
            _FaultError: It failed.
            _GoneError: It was cut short because nobody waits for its answer.
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
                raise self._fault(handler.name, reason, None)
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

    def _check_cut(self, handler: Handler, cut: Cut | None, limit_s: float) -> None:
        """Raise what a handler that was cut short deserves; return if it was not."""
        if cut is None:
            return
        if cut is Cut.ABANDONED:
            raise Abandoned
        self._running = None
        self._has_stray = True
        if cut is Cut.CONNECTION_LOST:
            raise _GoneError
        if cut in (Cut.TIME_LIMIT, Cut.BLOCKED_LOOP, Cut.NO_THREAD):
            raise self._fault(handler.name, f"{cut.value} of {limit_s:g} s", None)
        raise self._fault(handler.name, cut.value, None, Status.TEMPFAIL)

    def _fault(
        self,
        where: str,
        reason: str,
        error: BaseException | None,
        answer: Status | None = None,
    ) -> _FaultError:
        """Log a fault; return what is to be raised for it."""
        if answer is None:
            answer = self._policy.on_error
        self._log_fault(where, reason, error, answer)
        return _FaultError(answer)

    def _log_fault(
        self, where: str, reason: str, error: BaseException | None, answer: Status | None = None
    ) -> None:
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

    # Answers

    def _answer(self, handler: Handler, result: object, edits: bytes = b"") -> Status:
        """Give a handler's result to the session; return what the MTA makes of it.

        Raises:
            _FaultError: It is none that this handler may have.
        """
        session = self._session
        text: bytes | None = None
        if isinstance(result, Reply):
            status = Status.REJECT if result.is_permanent else Status.TEMPFAIL
            text = result.encode()
        elif result is None:
            status = _CONTINUE
        elif type(result) is Status and result is not Status.ALL_OPTS:
            status = result
        else:
            raise self._wrong_result(handler, result)
        if status is _NOREPLY:
            if session.may_answer() and not handler.no_reply:
                raise self._wrong_result(handler, result)
            status = _CONTINUE
        given = status
        if status in (_CONTINUE, _SKIP):
            pass
        elif not session.may_answer():
            self._note_dropped(handler, result, "the stage was negotiated without replies")
            given = _CONTINUE
        elif handler.name == "on_unknown" and not session.takes_verdict_at_unknown(status):
            self._note_dropped(handler, result, "there is no message that it could be meant for")
            given = _CONTINUE
        session.respond(status, text, edits)
        return given

    def _note_dropped(self, handler: Handler, result: object, reason: str) -> None:
        """Log a verdict without effect: once a connection, as there may be very many headers."""
        level = logging.DEBUG if self._has_dropped else logging.WARNING
        self._has_dropped = True
        what = show_value(result)
        self.log.log(level, "%s returned %s, which is dropped: %s", handler.name, what, reason)

    def _wrong_result(self, handler: Handler, result: object) -> _FaultError:
        if inspect.iscoroutine(result):
            result.close()
            hint = "a coroutine; declare the handler with 'async def' or await it"
        elif result is _NOREPLY:
            hint = "NOREPLY without being declared no_reply: the MTA would wait for an answer"
        else:
            hint = f"{show_value(result)}; a handler returns a Status, a Reply or None"
        return self._fault(handler.name, f"it returned {hint}", None)

    def _give_fault_answer(self, answer: Status) -> None:
        session = self._session
        if session.may_answer():
            session.respond(answer)
            return
        session.respond(_CONTINUE)
        if answer is not _CONTINUE:
            session.owe(answer)

    def _note_recipient(
        self, handler: Handler, arguments: tuple[object, ...], given: Status
    ) -> None:
        """Keep an envelope recipient as a fact, unless somebody refused it."""
        if given in (Status.REJECT, Status.TEMPFAIL):
            return
        if handler.wants_rejected and self._facts.macros.get("{rcpt_mailer}") == "error":
            return
        self._facts.recipients.append(str(arguments[0]))

    async def _end_message(self, handler: Handler) -> None:
        actions = EomActions(self._session.actions, self._host.send_progress)
        self._actions = actions
        try:
            result = await self._run(handler, (actions,))
        finally:
            edits = actions.close()
        self._answer(handler, result, edits)

    # Other events

    async def _handle_other(self, event: Event) -> None:
        match event:
            case MessageStart():
                self._begin_message()
            case MessageAborted():
                if not self._is_discarded:
                    await self._run_hook("on_abort")
            case SessionStart():
                self._begin_session()
            case SessionEnd():
                await self._run_hook("on_close")
                self._end_session()
            case NegotiationOffer():
                await self._negotiate(event)
            case Ignored():
                self._note_ignored(event)
            case ConnectionEnd():
                pass
            case _:
                # Only without a milter: all stages count as handled then.
                self._give_fault_answer(self._policy.on_error)

    def _begin_session(self) -> None:
        session = self._session
        self._end_session()
        self._facts = Facts(self._session_ids(), session.macros)
        try:
            milter = self._factory()
            if not isinstance(milter, Milter):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"the factory made {show_value(milter)}, which is no Milter")
            if getattr(milter, "_facts", None) is not None:
                raise TypeError("the factory made the same object twice: one is one session")
            table = handler_table(type(milter))
            # Also on a class that lets nobody else set attributes, such as a frozen dataclass.
            object.__setattr__(milter, "_facts", self._facts)
        except BaseException as error:  # noqa: BLE001  (a factory may raise anything)
            self._log_fault("the factory", describe_error(error), error)
            session.start(_HANDLED_BY_ALL_STAGES)
            return
        self._milter, self._table, self._handlers = milter, table, table.by_event
        session.start(table.handled)

    def _end_session(self) -> None:
        self._milter = self._table = None
        self._handlers = {}
        self._message_failed = self._is_discarded = False

    def _begin_message(self) -> None:
        self._message_failed = self._is_discarded = False
        self._facts.begin_message()
        milter, table = self._milter, self._table
        if milter is None or table is None or not table.begins_messages:
            return
        try:
            milter.begin_message()
        except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
            fault = self._fault("begin_message", describe_error(error), error)
            # The first event of the message may be on its way already; it gets the verdict, and
            # so do the others, with a handler or without.
            self._message_failed = True
            if fault.answer is not _CONTINUE:
                self._session.owe(fault.answer)

    async def _run_hook(self, name: str) -> None:
        handler = self._table.by_name.get(name) if self._table else None
        if handler is None:
            return
        try:
            result = await self._run(handler, ())
        except (_FaultError, _GoneError):
            return
        if inspect.iscoroutine(result):
            result.close()

    async def _negotiate(self, offer: NegotiationOffer) -> None:
        session, table = self._session, self._table
        if table is None:
            session.agree(Request(actions=0, options=0))
            return
        options = table.options & ~(table.optional & ~offer.options)
        actions = offer.actions if table.actions is None else int(table.actions)
        macros = {stage: list(names) for stage, names in table.macros.items()}
        request = Negotiation(offer, actions, options, macros).request()
        handler = table.by_name.get("on_negotiate")
        if handler is None:
            session.agree(request)
            return
        with_skip = options | (offer.options & int(Options.SKIP))
        negotiation = Negotiation(offer, actions, with_skip, macros)
        self._default_request = request
        try:
            asked = await self._ask(handler, negotiation)
        except _FaultError as fault:
            self._agree_after_fault(request, fault.answer)
        except _GoneError:
            return
        else:
            self._default_request = None
            if asked is None:
                session.close()
            else:
                session.agree(asked)

    def _agree_after_fault(self, request: Request, answer: Status) -> None:
        """There is no verdict on an offer: agree, and let the next event that takes one have it."""
        self._default_request = None
        self._session.agree(request)
        if answer is not _CONTINUE:
            self._session.owe(answer)

    async def _ask(self, handler: Handler, negotiation: Negotiation) -> Request | None:
        """Let `on_negotiate` decide; return its request, or None if it refuses the MTA."""
        default_options = negotiation.options
        result = await self._run(handler, (negotiation,))
        if result is Status.ALL_OPTS:
            negotiation.actions = negotiation.offered_actions
            negotiation.options = default_options
        elif type(result) is Status and result is not _CONTINUE:
            self.log.warning("%s refuses the MTA by returning %s", handler.name, result.name)
            return None
        elif result is not None and result is not _CONTINUE:
            raise self._wrong_result(handler, result)
        try:
            return negotiation.request()
        except Exception as error:  # noqa: BLE001  (it holds whatever the handler put there)
            raise self._fault(handler.name, describe_error(error), error) from None

    def _note_ignored(self, event: Ignored) -> None:
        """Log what was ignored: once a connection, so that nobody can fill the log with it."""
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        self.log.log(
            level,
            "ignored a %s command after %s without an answer, as libmilter does: %s",
            event.command,
            event.state.name,
            event.reason,
        )
