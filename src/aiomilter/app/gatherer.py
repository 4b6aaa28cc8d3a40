"""What a `Dispatcher` does for whole messages: gathers them, and makes the edits they need.

Rules of this file:

- The MTA waits for nothing of this but the end of the message.
- A piece of a body that goes to a file is written in a thread, within the budget of a handler.
- A message that has more than it may, or that cannot be kept, is given up at once; what else comes
  of it is not kept.
- A message in hand is counted in the memory budget. While that is tight, bodies go to files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from aiomilter.app.actions import EomActions
from aiomilter.app.arguments import arguments_of
from aiomilter.app.compose.member_runner import MemberRunner
from aiomilter.app.facts import Facts
from aiomilter.app.gathering import Gathering
from aiomilter.app.handlers import Handler, HandlerKind
from aiomilter.app.host import FaultPolicy, Host
from aiomilter.app.message.message import Message
from aiomilter.app.results import read_result
from aiomilter.app.running import FaultError
from aiomilter.app.text import decode_text, describe_error
from aiomilter.errors import MessageLimitExceeded
from aiomilter.session.events import Event
from aiomilter.session.filter import FilterSession
from aiomilter.session.status import Status
from aiomilter.spec import Options
from aiomilter.wire.commands import Body, Header, Rcpt

__all__ = ["MessageGatherer", "keeps_message"]

_CONTINUE, _SKIP = Status.CONTINUE, Status.SKIP
_REFUSALS = (Status.REJECT, Status.TEMPFAIL)
_KEEPS_MESSAGE = (Status.CONTINUE, Status.ACCEPT, Status.SKIP)
_LEADING_SPACE = int(Options.LEADING_SPACE)
_EDITS_LIMIT_S = 30.0
"""For reading and comparing what is in files; on top of the budget of `on_message`."""
_MANY_HEADERS = 200
"""Old and new: to compare so many of them, all changed, takes some tens of milliseconds."""
_UNCOUNTED_BYTES = 16_384
"""What one message may take without being counted: some thousand of them are no harm."""
_MANY_HEADER_BYTES = 65_536
"""More than mail has but for a few; what does not get in while memory is tight."""


def _write_body(milter: object, write: Callable[[bytes], None], chunk: bytes) -> None:
    del milter
    write(chunk)


def _make_edits(milter: object, gathering: Gathering, *arguments: object) -> None:
    del milter
    gathering.make_edits(*arguments)  # type: ignore[arg-type]  # handlers differ in theirs


# Steps that may block run like plain handlers: in a thread, with a budget, at the same price.
_WRITE_BODY = Handler("on_message", _write_body, is_async=False)
_MAKE_EDITS = Handler(
    "on_message", _make_edits, is_async=False, time_limit_s=_EDITS_LIMIT_S, kind=HandlerKind.EOM
)


def keeps_message(result: object) -> bool:
    """Return whether the MTA goes on with the message after this result, so that edits matter."""
    known = read_result(result)
    return known is not None and known[0] in _KEEPS_MESSAGE


class MessageGatherer(MemberRunner):
    """What a `Dispatcher` knows and does for `on_message`."""

    __slots__ = ("_count_headers_at", "_gathering", "_message_answer", "_session")

    def __init__(
        self, host: Host, policy: FaultPolicy, facts: Facts, session: FilterSession
    ) -> None:
        super().__init__(host, policy, facts)
        self._session = session
        self._gathering: Gathering | None = None
        # What all that is still to come of a message gets that is lost.
        self._message_answer: Status | None = None
        # Headers are counted when they take more than this.
        self._count_headers_at = _UNCOUNTED_BYTES

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
            self._count_headers_at = _UNCOUNTED_BYTES
            self._host.keep(0)

    def _note_envelope(self, handler: Handler, event: Event, given: Status) -> None:
        """Keep the envelope: as facts, and for `on_message`; but no recipient that was refused."""
        if isinstance(event, Rcpt):
            if given in _REFUSALS:
                return
            if handler.wants_rejected and self._facts.macros.get("{rcpt_mailer}") == "error":
                return
            self._facts.add_recipient(decode_text(event.arguments[0]))
        if self._gathering is not None:
            self._gathering.take(event)

    def _take_header(self, event: Header) -> None:
        """Take in a header for `on_message`, and go on.

        Hot path: most events of a message are these, and none of them needs a coroutine.
        """
        gathering = self._gathering
        if gathering is not None and (collector := gathering.collector) is not None:
            try:
                size = collector.header(event.name, event.value)
            except MessageLimitExceeded as error:
                self._exceed(error)
                return
            if size > self._count_headers_at and self._is_too_much(gathering, size):
                return
        self._session.go_on()

    def _is_too_much(self, gathering: Gathering, header_bytes: int) -> bool:
        """Count what headers take; give the message up if that is much while memory is tight."""
        self._count_headers_at = header_bytes + _UNCOUNTED_BYTES
        is_tight = self._host.keep(gathering.bytes_in_memory)
        if not is_tight or header_bytes < _MANY_HEADER_BYTES:
            return False
        # A body could go to a file.
        reason = "memory is tight (Config.memory_budget), and the message has very many headers"
        fault = self._fault("on_message", reason, None, Status.TEMPFAIL, kind="memory")
        self._give_up_message(fault.answer)
        return True

    async def _gather(self, handler: Handler, event: Event) -> None:
        """Take in an event for `on_message`, and go on.

        Raises:
            GoneError: It is of no use any more.
        """
        if type(event) is Header:
            self._take_header(event)
            return
        gathering = self._gathering
        try:
            if type(event) is Body:
                if gathering is not None:
                    await self._keep(gathering, event.chunk)
            else:
                # What a milter finds in `self.sender` and its like.
                arguments_of(self._facts, event)
                self._note_envelope(handler, event, _CONTINUE)
        except MessageLimitExceeded as error:
            self._exceed(error)
        except FaultError as fault:
            self._give_up_message(fault.answer)
        else:
            self._session.go_on()

    async def _keep(self, gathering: Gathering, chunk: bytes) -> None:
        """Keep a piece of the body.

        Raises:
            MessageLimitExceeded: It has become more than may be gathered.
            FaultError: It cannot be kept.
            GoneError: It is of no use any more.
        """
        size = len(chunk)
        gathering.check_room(size)
        in_memory = gathering.bytes_in_memory
        # Hot path: small messages are not worth counting, all connections may have one.
        if in_memory + size > _UNCOUNTED_BYTES and self._host.keep(in_memory + size):
            gathering.save_memory()
        if not gathering.goes_to_file(size):
            gathering.write_body(chunk)
            return
        # Of this message: a thread that comes too late must not meet another one.
        await self._run(_WRITE_BODY, (gathering.body_writer(), chunk))
        self._host.keep(gathering.bytes_in_memory)

    def _exceed(self, error: MessageLimitExceeded) -> None:
        """Give up a message with the verdict that is configured for too large ones."""
        answer = self._policy.on_limit
        passes = ", so it passes unfiltered" if answer in _KEEPS_MESSAGE else ""
        self.log.warning("on_message: %s; the answer is %s%s", error, answer.name, passes)
        self._give_up_message(answer)

    def _give_up_message(self, answer: Status) -> None:
        """Gather no more of a message; it gets this verdict, now or as soon as there may be one."""
        self._message_answer = answer
        self._end_gathering()
        self._answer_given_up(answer)

    def _answer_given_up(self, answer: Status) -> None:
        """Answer the open event of a message whose verdict does not depend on it any more."""
        # SKIP goes on like CONTINUE, but the MTA need not send the rest if it has agreed to that.
        self._give_fault_answer(_SKIP if answer is _CONTINUE else answer)

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
        if not keeps_message(result):
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
        if self._takes_long(message):
            await self._run(_MAKE_EDITS, (gathering, message, actions, self.log))
            return
        try:
            gathering.make_edits(message, actions, self.log)
        except Exception as error:  # noqa: BLE001  (what the author has put there may be anything)
            raise self._fault(handler.name, describe_error(error), error) from None

    @staticmethod
    def _takes_long(message: Message) -> bool:
        """Whether it may take long to find out what has changed in a message."""
        # An author may have put anything there; then it is found out in `make_edits`.
        with contextlib.suppress(Exception):
            if message.body.touches_disk:
                return True
            headers = message.headers
            return len(headers.original) + len(headers) > _MANY_HEADERS and headers.is_changed
        return False

    def _give_fault_answer(self, answer: Status, edits: bytes = b"") -> None:
        """Answer the open event with a verdict that no handler has returned, now or later."""
        session = self._session
        if self.watch is not None:
            noted = _CONTINUE if answer is _SKIP else answer
            self.watch.note_answer(session.state.name.lower(), noted, None, edits)
        if session.may_answer() or answer is _SKIP:
            session.respond(answer, None, edits)
            return
        session.respond(_CONTINUE)
        if answer is not _CONTINUE:
            session.owe(answer)
