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
from aiomilter.app.arguments import arguments_of
from aiomilter.app.compose.relay import PARTIAL, Relay
from aiomilter.app.facts import Facts
from aiomilter.app.gatherer import keeps_message
from aiomilter.app.gathering import Gathering
from aiomilter.app.handlers import Handler, HandlerKind, handler_table
from aiomilter.app.host import Cut, FaultPolicy, Host
from aiomilter.app.milter import Milter
from aiomilter.app.results import FAILED, read_result
from aiomilter.app.running import FaultError, GoneError
from aiomilter.app.stepping import Stepper, Waiting
from aiomilter.app.text import describe_error, show_value
from aiomilter.app.watch import Observation, Watch
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
from aiomilter.session.negotiation import NegotiationOffer
from aiomilter.session.status import Status
from aiomilter.spec import State
from aiomilter.wire.commands import EndOfMessage, Header, Mail, Rcpt, Unknown

__all__ = ["Dispatcher"]

_logger = logging.getLogger("aiomilter")

_CONTINUE, _NOREPLY, _SKIP = Status.CONTINUE, Status.NOREPLY, Status.SKIP
_EVENT, _GATHER, _EOM = HandlerKind.EVENT, HandlerKind.GATHER, HandlerKind.EOM
_HANDLED_BY_ALL_STAGES = (1 << len(State)) - 1
_EOM_BIT = 1 << State.EOM


class Dispatcher(Stepper):
    """Serves the events of one connection with a milter's handlers."""

    __slots__ = (
        "_actions",
        "_factory",
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
        self._actions: EomActions | None = None

    async def handle(self, event: Event | Waiting) -> None:
        """Serve one event; its answer, if it expects one, is given to the session.

        If the MTA is gone or refused, the session is closed instead.

        Args:
            event: The event, or what `handle_now` has left of it.

        Raises:
            RemoteProtocolError: The negotiation failed.
        """
        if type(event) is Waiting:
            await self._serve(event.handler, event.event, event)
            return
        assert not isinstance(event, Waiting)  # for type checkers; nobody derives from it
        handler = self._handlers.get(type(event))
        if handler is None:
            await self._handle_other(event)
            return
        if self.watch is not None:
            self.watch.see(event)
        if self._message_answer is not None and self._session.message_is_open:
            self._answer_given_up(self._message_answer)
            if self._relay is not None:
                await self._settle_relay(self._relay)
            self.settle()
        elif self._relay is not None:
            await self._serve_relay(self._relay, handler, event)
        elif type(event) is Header and handler.kind is _GATHER:
            # Hot path: of whole messages most events are these.
            self._take_header(event)
            if self.watch is not None or not self._session.message_is_open:
                self._end_event(handler, FAILED, self.watch)
        else:
            await self._serve(handler, event)

    async def _serve(self, handler: Handler, event: Event, waiting: Waiting | None = None) -> None:
        """Serve an event with a handler, which may have begun."""
        result: object = FAILED
        is_gone = False
        # A handler that is given up may end in the next session.
        watch = self.watch
        try:
            if waiting is not None:
                result = await self._finish(waiting)
            elif handler.kind is _EVENT:
                self._event = event
                result = await self._run(handler, arguments_of(self._facts, event))
            elif handler.kind is _EOM:
                result = await self._end_message(handler)
                return
            else:
                await self._gather(handler, event)
                return
            self._take_result(handler, event, result)
        except FaultError as fault:
            self._take_fault(handler, event, fault)
        except GoneError:
            is_gone = True
        finally:
            self._end_event(handler, result, watch)
        if is_gone:
            # Nobody is left to take an answer.
            self._session.close()

    async def _finish(self, waiting: Waiting) -> object:
        """Return the result of a handler that has begun.

        Raises:
            FaultError: It failed.
            GoneError: It was cut short because nobody waits for its answer.
        """
        handler, ticket = waiting.handler, waiting.ticket
        try:
            result = await waiting
        except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
            self._end_late(handler, ticket)
            raise self._fault(handler.name, describe_error(error), error) from None
        self._end_late(handler, ticket)
        return result

    def _end_event(self, handler: Handler, result: object, watch: Watch | None) -> None:
        is_open = self._session.message_is_open
        if watch is not None:
            if watch.hears_handlers and handler.kind is not _GATHER:
                watch.note_handler(handler.name, result)
            if not is_open:
                self.settle()
        if self._gathering is not None and not is_open:
            self._end_gathering()

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
        # Of several milters, only the one that does not come back is not called any more.
        self._has_stray = self._relay is None
        if self._actions is not None:
            self._actions.close()
        answer = self._policy.on_error
        if self._relay is not None:
            answer = self._abandon_member(handler)
        self._log_fault(handler.name, Cut.ABANDONED.value, None, answer, kind="abandoned")
        self._name = None
        # For the task that takes over: it inherits the context that this is called in.
        self._facts.context.enter()
        if self._default_request is not None:
            self._agree_after_fault(self._default_request, answer)
        elif handler.kind is not HandlerKind.HOOK:
            self._give_fault_answer(answer)
            if self._event is not None and handler.name in ("on_mail", "on_rcpt"):
                self._note_envelope(handler, self._event, answer)
            self.settle()
            if not self._session.message_is_open:
                self._end_gathering()
        elif self._relay is not None and handler.name == "on_close":
            # The others are still to be told.
            self._session.end_session_again()

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

    async def _end_message(self, handler: Handler) -> object:
        actions = EomActions(self._session.actions, self._host.send_progress)
        self._actions = actions
        gathering = self._gathering
        try:
            if self._relay is not None and gathering is not None:
                return await self._relay_message(handler, self._relay, gathering, actions)
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

    # Several milters as one

    async def _serve_relay(self, relay: Relay, handler: Handler, event: Event) -> None:
        """Serve an event with several milters."""
        try:
            if handler.kind is _GATHER:
                await self._gather(handler, event)
            elif handler.kind is _EOM:
                await self._end_message(handler)
            else:
                await self._relay_event(relay, handler, event)
        except FaultError as fault:
            self._give_fault_answer(fault.answer)
        except GoneError:
            self._session.close()
            return
        if self._gathering is not None and not self._session.message_is_open:
            self._end_gathering()
        # Who hears that the message is over still knows which one it was.
        await self._settle_relay(relay)
        self.settle()

    async def _relay_event(self, relay: Relay, handler: Handler, event: Event) -> None:
        """Have several milters decide an event that is not the end of a message."""
        session, kind = self._session, type(event)
        in_message = session.message_is_open
        self._event = event
        ruling = await relay.relay(
            self,
            handler,
            lambda: arguments_of(self._facts, event),
            may_answer=session.may_answer(),
            in_message=in_message,
            decides_message=in_message
            and (kind is not Unknown or session.takes_verdict_at_unknown(Status.DISCARD)),
        )
        if ruling.is_fault:
            given = ruling.status
            self._give_fault_answer(given)
        else:
            given = self._answer(handler, ruling.result)
        self._is_discarded |= given is Status.DISCARD or ruling.owes_discard
        if ruling.owes_discard:
            session.owe(Status.DISCARD)
            if self.watch is not None:
                self.watch.note_answer(handler.name[3:], Status.DISCARD)
        if kind is Rcpt or kind is Mail:
            self._note_envelope(handler, event, given)
        if given is Status.ACCEPT:
            relay.pass_message()
        elif ruling.ends_message:
            await relay.give_up(self)

    async def _relay_message(
        self, handler: Handler, relay: Relay, gathering: Gathering, actions: EomActions
    ) -> object:
        """Have several milters decide a message at its end."""
        message = gathering.message(self._facts)
        ruling, message = await relay.end_message(self, gathering, message, self._session.actions)
        if ruling.status in (_CONTINUE, Status.ACCEPT):
            await self._make_edits(handler, gathering, message, actions)
            relay.pass_message()
        edits = actions.close()
        if ruling.is_fault:
            self._give_fault_answer(ruling.status, edits)
        else:
            self._answer(handler, ruling.result, edits)
        return ruling.result

    def _abandon_member(self, handler: Handler) -> Status:
        """Return what becomes of an event about which some have not been asked."""
        if self._member is not None and handler.name not in PARTIAL:
            self._member.in_message = False
        # Whatever faults cost otherwise: one must not have a message pass by the others.
        on_error = self._policy.on_error
        return on_error if on_error is Status.REJECT else Status.TEMPFAIL

    async def _settle_relay(self, relay: Relay) -> None:
        """Tell those who have not decided a message that is over without them."""
        if self._message_answer is not None or not self._session.message_is_open:
            await relay.give_up(self)

    # Other events

    def _handle_other_now(self, event: Event) -> Event | None:
        if type(event) is SessionStart:
            self._begin_session()
        elif type(event) is MessageStart and self._relay is None:
            self._begin_message()
        else:
            return event
        return None

    async def _handle_other(self, event: Event) -> None:
        match event:
            case MessageStart() if self._relay is not None:
                await self._begin_message_of_all(self._relay)
            case MessageAborted():
                macros = self._facts.macros_of_aborted()
                if self.watch is not None:
                    is_aborted = not self._is_discarded
                    self.watch.settle(is_open=False, is_aborted=is_aborted, macros=macros)
                self._end_gathering()
                if self._relay is not None:
                    await self._relay.give_up(self)
                elif not self._is_discarded:
                    await self._run_hook("on_abort")
                self._facts.end_message()
            case MessageStart() | SessionStart():
                self._handle_other_now(event)
            case SessionEnd():
                if self.watch is not None:
                    self.watch.end_session()
                self._facts.end_message()
                if self._relay is not None:
                    await self._relay.close(self)
                else:
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
        if self._relay is not None:
            self._relay.pass_message()
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
            relay = milter if isinstance(milter, Relay) else None
            table = handler_table(type(milter)) if relay is None else relay.table
            # Also on a class that lets nobody else set attributes, such as a frozen dataclass.
            object.__setattr__(milter, "_facts", facts)
            if relay is not None:
                relay.begin_session(self)
        except BaseException as error:  # noqa: BLE001  (a factory may raise anything)
            # Of one of several the log knows already.
            if not isinstance(error, FaultError):
                self._log_fault("the factory", describe_error(error), error)
            session.start(_HANDLED_BY_ALL_STAGES)
            return
        self._milter, self._table, self._handlers = milter, table, table.by_event
        self._relay = relay
        tells_end = self.watch is not None or relay is not None
        session.start(table.handled | _EOM_BIT if tells_end else table.handled)

    def _end_session(self) -> None:
        self._milter = self._table = self._relay = self.watch = None
        self._handlers = {}
        self._end_gathering()
        self._gathering = self._message_answer = None
        self._is_discarded = False

    def _begin_message(self) -> None:
        self._enter_message()
        milter, table = self._milter, self._table
        if milter is not None and table is not None and table.begins_messages:
            try:
                milter.begin_message()
            except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
                self._decide_early(
                    self._fault("begin_message", describe_error(error), error).answer
                )

    async def _begin_message_of_all(self, relay: Relay) -> None:
        await relay.give_up(self)
        self._enter_message()
        answer = await relay.begin_members(self)
        if answer is not None:
            self._decide_early(answer)

    def _enter_message(self) -> None:
        self._message_answer = None
        self._is_discarded = False
        if self.watch is not None:
            self.watch.begin_message()
        self._facts.begin_message()
        self._begin_gathering()

    def _decide_early(self, answer: Status) -> None:
        """Give a verdict on a message that nobody has been shown anything of."""
        # The first event of the message may be on its way already; it gets the verdict, and so do
        # the others, with a handler or without.
        self._message_answer = answer
        if answer is not _CONTINUE:
            self._session.owe(answer)
            if self.watch is not None:
                self.watch.note_answer("mail", answer)

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
