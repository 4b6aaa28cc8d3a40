"""From an event to a handler and from its result to an answer; and what a fault costs.

Rules of this file:

- One verdict is what a fault costs: whatever comes out of a handler (any exception at all, a
  wrong result, a budget that ran out) becomes the configured verdict and one record in the log.
  Closing the connection instead would make Postfix do without the milter for the rest of the
  SMTP session.
- The text of an exception never reaches the MTA.
- Nothing here knows of asyncio: time, threads and cancellation are the `Host`'s.

How a handler is run, within its budget, is in `HandlerRunner`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable

from aiomilter.app.actions import EomActions
from aiomilter.app.arguments import ARGUMENTS
from aiomilter.app.facts import Facts
from aiomilter.app.gatherer import MessageGatherer, keeps_message
from aiomilter.app.handlers import Handler, HandlerKind, handler_table
from aiomilter.app.host import Cut, FaultPolicy, Host
from aiomilter.app.milter import Milter
from aiomilter.app.negotiation import Negotiation
from aiomilter.app.results import FAILED, describe_wrong_result, read_result
from aiomilter.app.running import FaultError, GoneError
from aiomilter.app.text import describe_error, show_value
from aiomilter.app.watch import Observation
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
from aiomilter.wire.commands import EndOfMessage, Header, Mail, Rcpt

__all__ = ["Dispatcher"]

_logger = logging.getLogger("aiomilter")

_CONTINUE, _NOREPLY, _SKIP = Status.CONTINUE, Status.NOREPLY, Status.SKIP
_GATHER, _EOM = HandlerKind.GATHER, HandlerKind.EOM
_HANDLED_BY_ALL_STAGES = (1 << len(State)) - 1
_EOM_BIT = 1 << State.EOM


class Dispatcher(MessageGatherer):
    """Serves the events of one connection with a milter's handlers."""

    __slots__ = (
        "_actions",
        "_default_request",
        "_event",
        "_factory",
        "_handlers",
        "_has_dropped",
        "_has_warned",
        "_is_discarded",
        "_listener",
        "_observation",
        "_session_ids",
    )

    def __init__(
        self,
        factory: Callable[[], Milter],
        session: FilterSession,
        host: Host,
        policy: FaultPolicy,
        session_ids: Callable[[], str],
        listener: str = "",
        observation: Observation | None = None,
    ) -> None:
        """Begin with a connection that has just been accepted.

        Args:
            factory: Makes the milter of a session.
            session: Where events come from and answers go.
            host: What runs this.
            policy: What handlers may take and what a fault costs.
            session_ids: Makes the id of a session.
            listener: The address that the MTA has connected to.
            observation: Who listens to what happens; None for nobody.
        """
        super().__init__(host, policy, Facts("-", session.macros, listener), session)
        self._factory = factory
        self._session_ids = session_ids
        self._listener = listener
        self._observation = observation
        self._handlers: dict[type[Event], Handler] = {}
        self._default_request: Request | None = None
        self._event: Event | None = None
        self._has_dropped = False
        self._actions: EomActions | None = None
        self._has_warned = False

    async def handle(self, event: Event) -> None:
        """Serve one event; its answer, if it expects one, is given to the session.

        If the MTA is gone or refused, the session is closed instead.

        Raises:
            RemoteProtocolError: The negotiation failed.
        """
        kind = type(event)
        handler = self._handlers.get(kind)
        if handler is None:
            await self._handle_other(event)
            return
        # Hot path: all that records and metrics cost where nobody wants any.
        watch = self.watch
        if watch is not None:
            watch.see(event)
        if self._message_answer is not None and self._session.message_is_open:
            self._answer_given_up(self._message_answer)
            self.settle()
            return
        if type(event) is Header and handler.kind is _GATHER:
            self._take_header(event)
            if watch is not None:
                self.settle()
            return
        result: object = FAILED
        is_gone = False
        try:
            if handler.kind is _GATHER:
                await self._gather(handler, event)
                return
            if handler.kind is _EOM:
                result = await self._end_message(handler)
                return
            arguments = ARGUMENTS[kind](self._facts, event)
            self._event = event
            # Hot path: what `_run` does, with one coroutine less for each command (0.4 µs).
            ticket = self._begin(handler)
            try:
                if handler.is_async:
                    result = await handler.function(self._milter, *arguments)
                else:
                    result = await self._run_in_thread(handler, arguments)
            except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
                raise self._failed(handler, ticket, error) from None
            self._end(handler, ticket)
            if result is None or result is _CONTINUE:
                self._session.respond(_CONTINUE)
                given = _CONTINUE
            else:
                given = self._answer(handler, result)
                # MTAs send an abort for a message that was discarded ahead of its end.
                self._is_discarded |= given is Status.DISCARD
            if kind is Rcpt or kind is Mail:
                self._note_envelope(handler, event, given)
        except FaultError as fault:
            self._give_fault_answer(fault.answer)
            if kind is Rcpt or kind is Mail:
                self._note_envelope(handler, event, fault.answer)
        except GoneError:
            is_gone = True
        finally:
            if watch is not None:
                if handler.kind is not _GATHER:
                    watch.note_handler(handler.name, result)
                self.settle()
            if self._gathering is not None and not self._session.message_is_open:
                self._end_gathering()
        if is_gone:
            # Nobody is left to take an answer.
            self._session.close()

    def settle(self) -> None:
        """Make the record of a message that is over; also of one that the session has answered."""
        is_open = self._session.message_is_open
        if self.watch is not None:
            self.watch.settle(is_open=is_open)
        if not is_open:
            self._facts.end_message()

    def abandon(self) -> None:
        """Answer in place of a handler that does not come back, and go on without it."""
        handler, self._running = self._running, None
        if handler is None:
            return
        self._has_stray = True
        if self._actions is not None:
            self._actions.close()
        self._log_fault(handler.name, Cut.ABANDONED.value, None, kind="abandoned")
        # For the task that takes over: it inherits the context that this is called in.
        self._facts.context.enter()
        if self._default_request is not None:
            self._agree_after_fault(self._default_request, self._policy.on_error)
        elif handler.kind is not HandlerKind.HOOK:
            self._give_fault_answer(self._policy.on_error)
            if self._event is not None and handler.name in ("on_mail", "on_rcpt"):
                self._note_envelope(handler, self._event, self._policy.on_error)
            self.settle()
            if not self._session.message_is_open:
                self._end_gathering()

    def answer_internal_error(self) -> None:
        """Let the MTA have a temporary failure for the event in hand, and end the session."""
        session = self._session
        if session.is_unanswered and session.may_answer():
            with contextlib.suppress(LocalProtocolError):
                session.respond(Status.TEMPFAIL)
        session.close()

    def release(self) -> None:
        """Let go of the message in hand: the connection is over, in whatever way."""
        self._end_gathering()

    # Answers

    def _answer(self, handler: Handler, result: object, edits: bytes = b"") -> Status:
        """Give a handler's result to the session; return what the MTA makes of it.

        Raises:
            FaultError: It is none that this handler may have.
        """
        known = read_result(result)
        if known is None:
            raise self._wrong_result(handler, result)
        session = self._session
        status, text = known
        if status is _NOREPLY:
            if session.may_answer() and not handler.no_reply:
                raise self._wrong_result(handler, result)
            status = _CONTINUE
        given = status
        if status not in (_CONTINUE, _SKIP) and not session.may_answer():
            self._note_dropped(handler, result, "the stage was negotiated without replies")
            given = _CONTINUE
        elif handler.name == "on_unknown" and not session.takes_verdict_at_unknown(status):
            self._note_dropped(handler, result, "there is no message that it could be meant for")
            given = _CONTINUE
        elif self.watch is not None:
            # At the end of a message there is nothing left to skip.
            is_end = handler.kind is _EOM
            noted = _CONTINUE if is_end and status is _SKIP else status
            stage = "eom" if is_end else handler.name[3:]
            self.watch.note_answer(stage, noted, result, edits)
        session.respond(status, text, edits)
        return given

    def _note_dropped(self, handler: Handler, result: object, reason: str) -> None:
        """Log a verdict without effect: once a connection, as there may be very many headers."""
        level = logging.DEBUG if self._has_dropped else logging.WARNING
        self._has_dropped = True
        if self.watch is not None:
            self.watch.note_dropped(handler.name)
        what = show_value(result)
        self.log.log(level, "%s returned %s, which is dropped: %s", handler.name, what, reason)

    def _wrong_result(self, handler: Handler, result: object) -> FaultError:
        reason = f"it returned {describe_wrong_result(result)}"
        return self._fault(handler.name, reason, None, kind="wrong_result")

    async def _end_message(self, handler: Handler) -> object:
        actions = EomActions(self._session.actions, self._host.send_progress)
        self._actions = actions
        gathering = self._gathering
        try:
            if gathering is None:
                result = await self._run(handler, (actions,))
            else:
                result = await self._run_with_message(handler, gathering, actions)
        finally:
            edits = actions.close()
        if actions.fault is not None:
            known = read_result(result)
            stands = known is not None and not keeps_message(result)
            # A refusal stands: `on_error` may be to let mail pass.
            answer = known[0] if known is not None and stands else None
            fault = self._fault(handler.name, actions.fault, None, answer, kind="wrong_edit")
            if not stands:
                raise fault
            edits = b""
        self._answer(handler, result, edits)
        return result

    # Other events

    async def _handle_other(self, event: Event) -> None:
        match event:
            case MessageStart():
                self._begin_message()
            case MessageAborted():
                macros = self._facts.macros_of_aborted()
                if self.watch is not None:
                    is_aborted = not self._is_discarded
                    self.watch.settle(is_open=False, is_aborted=is_aborted, macros=macros)
                self._end_gathering()
                if not self._is_discarded:
                    await self._run_hook("on_abort")
                self._facts.end_message()
            case SessionStart():
                self._begin_session()
            case SessionEnd():
                if self.watch is not None:
                    self.watch.end_session()
                self._facts.end_message()
                await self._run_hook("on_close")
                self._end_session()
            case NegotiationOffer():
                await self._negotiate(event)
            case Ignored():
                self._note_ignored(event)
            case ConnectionEnd():
                pass
            case EndOfMessage() if self._table is not None:
                # Only for the record: without one the session answers it.
                self._answer_unhandled_end()
            case _:
                # Only without a milter: all stages count as handled then.
                self._give_fault_answer(self._policy.on_error)
                self.settle()

    def _answer_unhandled_end(self) -> None:
        if self.watch is not None:
            self.watch.see(EndOfMessage())
            self.watch.note_answer("eom", _CONTINUE)
        self._session.respond(_CONTINUE)
        self.settle()

    def _begin_session(self) -> None:
        session = self._session
        self._end_session()
        facts = self._facts = Facts(self._session_ids(), session.macros, self._listener)
        facts.context.enter()
        self.watch = self._observation.watch(facts) if self._observation is not None else None
        try:
            milter = self._factory()
            if not isinstance(milter, Milter):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"the factory made {show_value(milter)}, which is no Milter")
            if getattr(milter, "_facts", None) is not None:
                raise TypeError("the factory made the same object twice: one is one session")
            table = handler_table(type(milter))
            # Also on a class that lets nobody else set attributes, such as a frozen dataclass.
            object.__setattr__(milter, "_facts", facts)
        except BaseException as error:  # noqa: BLE001  (a factory may raise anything)
            self._log_fault("the factory", describe_error(error), error)
            session.start(_HANDLED_BY_ALL_STAGES)
            return
        self._milter, self._table, self._handlers = milter, table, table.by_event
        session.start(table.handled if self.watch is None else table.handled | _EOM_BIT)

    def _end_session(self) -> None:
        self._milter = self._table = self.watch = None
        self._handlers = {}
        self._end_gathering()
        self._gathering = self._message_answer = None
        self._is_discarded = False

    def _begin_message(self) -> None:
        self._message_answer = None
        self._is_discarded = False
        if self.watch is not None:
            self.watch.begin_message()
        self._facts.begin_message()
        self._begin_gathering()
        milter, table = self._milter, self._table
        if milter is None or table is None or not table.begins_messages:
            return
        try:
            milter.begin_message()
        except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
            fault = self._fault("begin_message", describe_error(error), error)
            # The first event of the message may be on its way already; it gets the verdict, and
            # so do the others, with a handler or without.
            self._message_answer = self._policy.on_error
            if fault.answer is not _CONTINUE:
                self._session.owe(fault.answer)
                if self.watch is not None:
                    self.watch.note_answer("mail", fault.answer)

    async def _run_hook(self, name: str) -> None:
        handler = self._table.by_name.get(name) if self._table else None
        if handler is None:
            return
        # The task may know only of a message that is over.
        self._facts.context.enter()
        try:
            result = await self._run_aside(handler, ())
        except (FaultError, GoneError):
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
        except FaultError as fault:
            self._agree_after_fault(request, fault.answer)
        except GoneError:
            session.close()
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
        result = await self._run_aside(handler, (negotiation,))
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
