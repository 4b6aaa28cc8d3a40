"""What a `Dispatcher` does for whole messages: gathers them, and makes the edits they need.

Rules of this file:

- The MTA waits for nothing of this but the end of the message.
- A piece of a body that goes to a file is written in a thread, within the budget of a handler.
- A message that has more than it may is given up at once; what else comes of it is not kept.
"""

from __future__ import annotations

from aiomilter.app.actions import EomActions
from aiomilter.app.arguments import ARGUMENTS
from aiomilter.app.compose.member_runner import MemberRunner
from aiomilter.app.facts import Facts
from aiomilter.app.gathering import Gathering
from aiomilter.app.handlers import Handler, HandlerKind
from aiomilter.app.host import FaultPolicy, Host
from aiomilter.app.message.message import Message
from aiomilter.app.results import read_result
from aiomilter.app.text import decode_text, describe_error
from aiomilter.errors import MessageLimitExceeded
from aiomilter.session.events import Event
from aiomilter.session.filter import FilterSession
from aiomilter.session.status import Status
from aiomilter.spec import Options
from aiomilter.wire.commands import Body, Header, Rcpt

__all__ = ["MessageGatherer"]

_CONTINUE = Status.CONTINUE
_REFUSALS = (Status.REJECT, Status.TEMPFAIL)
_KEEPS_MESSAGE = (Status.CONTINUE, Status.ACCEPT, Status.SKIP)
_LEADING_SPACE = int(Options.LEADING_SPACE)
_EDITS_LIMIT_S = 30.0
"""For reading and comparing what is in files; on top of the budget of `on_message`."""


def _write_body(milter: object, gathering: Gathering, chunk: bytes) -> None:
    del milter
    gathering.write_body(chunk)


def _make_edits(milter: object, gathering: Gathering, *arguments: object) -> None:
    del milter
    gathering.make_edits(*arguments)  # type: ignore[arg-type]  # handlers differ in theirs


# Steps that may block run like plain handlers: in a thread, with a budget, at the same price.
_WRITE_BODY = Handler("on_message", _write_body, is_async=False)
_MAKE_EDITS = Handler(
    "on_message", _make_edits, is_async=False, time_limit_s=_EDITS_LIMIT_S, kind=HandlerKind.EOM
)


class MessageGatherer(MemberRunner):
    """What a `Dispatcher` knows and does for `on_message`."""

    __slots__ = ("_gathering", "_message_answer", "_session")

    def __init__(
        self, host: Host, policy: FaultPolicy, facts: Facts, session: FilterSession
    ) -> None:
        super().__init__(host, policy, facts)
        self._session = session
        self._gathering: Gathering | None = None
        # What all that is still to come of a message gets that is lost.
        self._message_answer: Status | None = None

    def _begin_gathering(self) -> None:
        """Begin a message, if the milter wants it whole."""
        if self._table is None or not self._table.gathers:
            return
        if self._gathering is None:
            has_leading_space = self._session.options & _LEADING_SPACE > 0
            self._gathering = Gathering(self._policy.limits, leading_space=has_leading_space)
        self._gathering.begin()

    def _end_gathering(self) -> None:
        """Forget the message in hand, if there is one."""
        if self._gathering is not None:
            self._gathering.end()
            self._host.keep(0)

    def _note_envelope(self, handler: Handler, event: Event, given: Status) -> None:
        """Keep the envelope: as facts, and for `on_message`; but no recipient that was refused."""
        if isinstance(event, Rcpt):
            if given in _REFUSALS:
                return
            if handler.wants_rejected and self._facts.macros.get("{rcpt_mailer}") == "error":
                return
            self._facts.recipients.append(decode_text(event.arguments[0]))
        if self._gathering is not None:
            self._gathering.take(event)

    async def _gather(self, handler: Handler, event: Event) -> None:
        """Take in an event for `on_message`, and go on.

        Raises:
            FaultError: A piece of the body cannot be kept.
            GoneError: It is of no use any more.
        """
        kind, gathering = type(event), self._gathering
        try:
            if kind is Body and gathering is not None:
                assert isinstance(event, Body)
                await self._keep(gathering, event.chunk)
            elif kind is Header and gathering is not None:
                gathering.take(event)
            else:
                # What a milter finds in `self.sender` and its like.
                ARGUMENTS[kind](self._facts, event)
                self._note_envelope(handler, event, _CONTINUE)
        except MessageLimitExceeded as error:
            self._exceed(error)
        else:
            self._session.respond(_CONTINUE)

    async def _keep(self, gathering: Gathering, chunk: bytes) -> None:
        """Keep a piece of the body."""
        gathering.check_room(len(chunk))
        if gathering.goes_to_file(len(chunk)):
            await self._run(_WRITE_BODY, (gathering, chunk))
        else:
            gathering.write_body(chunk)
        if self._host.keep(gathering.bytes_in_memory):
            gathering.save_memory()

    def _exceed(self, error: MessageLimitExceeded) -> None:
        """Give up a message with the verdict that is configured for too large ones."""
        answer = self._message_answer = self._policy.on_limit
        passes = ", so it passes unfiltered" if answer in _KEEPS_MESSAGE else ""
        self.log.warning("on_message: %s; the answer is %s%s", error, answer.name, passes)
        self._end_gathering()
        self._give_fault_answer(answer)

    async def _run_with_message(
        self, handler: Handler, gathering: Gathering, actions: EomActions
    ) -> object:
        """Run `on_message`, then make the edits that the changes come down to.

        Raises:
            FaultError: It failed, or an edit cannot be made.
            GoneError: It was cut short because nobody waits for its answer.
        """
        message = gathering.message(self._facts)
        result = await self._run(handler, (message,))
        known = read_result(result)
        if known is None or known[0] not in _KEEPS_MESSAGE:
            return result
        await self._make_edits(handler, gathering, message, actions)
        return result

    async def _make_edits(
        self, handler: Handler, gathering: Gathering, message: Message, actions: EomActions
    ) -> None:
        """Make the edits that the changes of a message come down to.

        Raises:
            FaultError: One cannot be made.
            GoneError: Nobody waits for them.
        """
        if message.body.touches_disk:
            await self._run(_MAKE_EDITS, (gathering, message, actions, self.log))
            return
        try:
            gathering.make_edits(message, actions, self.log)
        except Exception as error:  # noqa: BLE001  (what the author has put there may be anything)
            raise self._fault(handler.name, describe_error(error), error) from None

    def _give_fault_answer(self, answer: Status, edits: bytes = b"") -> None:
        """Answer the open event with a verdict that no handler has returned, now or later."""
        session = self._session
        if self.watch is not None:
            self.watch.note_answer(session.state.name.lower(), answer, None, edits)
        if session.may_answer():
            session.respond(answer, None, edits)
            return
        session.respond(_CONTINUE)
        if answer is not _CONTINUE:
            session.owe(answer)
