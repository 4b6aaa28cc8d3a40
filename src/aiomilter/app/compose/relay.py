"""Passes the events of a session on to several milters, and makes one verdict of theirs.

Rules of this file:

- A member is asked only about what it has not yet decided.
- Of several verdicts on one event the strictest counts: REJECT, TEMPFAIL, DISCARD, ACCEPT,
  CONTINUE. A refusal tells the sender; a temporary one also lets it come again; DISCARD loses the
  mail for good and in silence, so it must not outdo what would have kept it.
- ACCEPT means that its member is done. The MTA hears of it only when all are.
- DISCARD is for a message: it stays owed while a recipient is refused in the same breath.
- Ahead of a message DISCARD has no meaning, and Sendmail would then do without all of the milters.
- What is run dry is asked as the others are, and its verdict kept from the MTA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiomilter.app.compose.member import CONTENT, Member, name_in_log
from aiomilter.app.compose.member_runner import MemberRunner
from aiomilter.app.compose.playback import find_edits, play_message
from aiomilter.app.facts import Facts
from aiomilter.app.gathering import Gathering
from aiomilter.app.handlers import Handler, HandlerKind, HandlerTable
from aiomilter.app.message.message import Message
from aiomilter.app.milter import Milter, Verdict
from aiomilter.app.reply import Reply
from aiomilter.app.running import FaultError, GoneError
from aiomilter.session.status import Status
from aiomilter.spec import ALL_ACTIONS

__all__ = ["PARTIAL", "Missing", "Relay", "Ruling"]

_ACCEPT, _CONTINUE, _DISCARD = Status.ACCEPT, Status.CONTINUE, Status.DISCARD
_REJECT, _TEMPFAIL, _SKIP = Status.REJECT, Status.TEMPFAIL, Status.SKIP
_REFUSALS = (_REJECT, _TEMPFAIL)
_ENDS = (_REJECT, _TEMPFAIL, _DISCARD)
_SEVERITY = {_CONTINUE: 0, _ACCEPT: 1, _DISCARD: 2, _TEMPFAIL: 3, _REJECT: 4}
_OF_SESSION = ("on_connect", "on_helo")
PARTIAL = ("on_rcpt", "on_unknown")
"""Where a refusal means the recipient or the command, not the message."""


class Ruling(NamedTuple):
    """What several milters have come to.

    Attributes:
        status: The verdict.
        result: The handler's result that says so.
        is_fault: Whether it is the verdict of a fault.
        owes_discard: Whether the message is to be discarded as soon as the MTA takes that.
        ends_message: Whether the message is over for those who have not decided it.
    """

    status: Status = _CONTINUE
    result: Verdict = None
    is_fault: bool = False
    owes_discard: bool = False
    ends_message: bool = False

    def or_stricter(self, status: Status, result: object, *, is_fault: bool) -> Ruling:
        """Return the stricter one of two verdicts; of two that are alike, the first."""
        if _SEVERITY[status] <= _SEVERITY[self.status]:
            return self
        words = result if isinstance(result, Reply) else status
        return self._replace(status=status, result=words, is_fault=is_fault)


class Missing(NamedTuple):
    """A milter that could not be made.

    Attributes:
        name: Of its class, or what else was to make it.
        error: Why not.
        is_dry: Whether it was to be run dry.
    """

    name: str
    error: BaseException
    is_dry: bool


class Relay(Milter):
    """Several milters as one: what a `Dispatcher` serves in their place.

    Attributes:
        table: What they ask for together.
        members: They, in their order; none before the session has begun.
    """

    def __init__(
        self,
        table: HandlerTable,
        make: Callable[[Facts], list[Member]],
        missing: Sequence[Missing] = (),
    ) -> None:
        """Prepare.

        Args:
            table: What they ask for together.
            make: Makes them members of a session.
            missing: Those that could not be made.
        """
        self.table = table
        self.members: list[Member] = []
        # Those who are still to be told of the session's end.
        self._open: list[Member] = []
        self._make = make
        self._missing = missing

    def begin_session(self, runner: MemberRunner) -> None:
        """Have the members know the facts of their session.

        Raises:
            FaultError: One is missing, and that lets no mail pass.
        """
        self.members = self._make(runner.facts)
        self._open = list(self.members)
        missing, self._missing = self._missing, ()
        for name, error, is_dry in missing:
            fault = runner.fail_named(name_in_log(name, is_dry=is_dry), "the factory", error)
            if not is_dry and fault.answer in _ENDS:
                raise fault

    @property
    def milters(self) -> list[Milter]:
        """The milters themselves."""
        return [member.milter for member in self.members]

    # Events

    async def relay(
        self,
        runner: MemberRunner,
        handler: Handler,
        arguments: Callable[[], tuple[object, ...]],
        *,
        may_answer: bool,
        in_message: bool,
        decides_message: bool,
    ) -> Ruling:
        """Ask all members about an event that is not the end of a message.

        Args:
            runner: What runs their handlers.
            handler: The handler that stands for all of theirs.
            arguments: Makes what each is called with.
            may_answer: Whether the MTA takes a verdict.
            in_message: Whether a message is in progress.
            decides_message: Whether a verdict on it is possible now.

        Raises:
            GoneError: Nobody waits for an answer.
        """
        name = handler.name
        asked = self._asked(name, in_message=in_message)
        want_rejected = [pair for pair in asked if pair[0].wants_rejected]
        if want_rejected and self.macros.get("{rcpt_mailer}") == "error":
            asked = want_rejected
        deadline = runner.deadline([own for _, own in asked])
        ruling = Ruling()
        discards = False
        for member, own in asked:
            result: object = None
            is_fault = False
            # One may change what it gets, such as the list of parameters.
            given = arguments()
            try:
                takes_verdict = may_answer or member.trial is not None
                status, result = await runner.ask_member(
                    member, own, given, deadline, may_answer=takes_verdict
                )
            except FaultError as fault:
                status, is_fault = fault.answer, True
            if status is _SKIP:
                # Sendmail would take it for more, so nobody hears of it but this member.
                if in_message:
                    member.skipped.add(name)
                continue
            is_for_message = status is _DISCARD or (status is _ACCEPT and name not in _OF_SESSION)
            if is_for_message and not decides_message:
                if not is_fault:
                    reason = "there is no message that it could be meant for"
                    runner.drop_verdict(member, own, result, reason)
                continue
            self._note(member, name, status, result, given, is_fault=is_fault)
            if member.trial is not None:
                continue
            discards |= status is _DISCARD
            ruling = ruling.or_stricter(status, result, is_fault=is_fault)
            if status is _REJECT:
                break
        if ruling.status is _ACCEPT and self._goes_on(in_message=in_message):
            ruling = Ruling()
        is_partial = name in PARTIAL and ruling.status in _REFUSALS
        ends = discards or (ruling.status in _ENDS and (not is_partial or not may_answer))
        return ruling._replace(
            owes_discard=discards and is_partial, ends_message=ends and in_message
        )

    def _asked(self, name: str, *, in_message: bool) -> list[tuple[Member, Handler]]:
        """Return who is asked, and by which of their handlers."""
        found: list[tuple[Member, Handler]] = []
        for member in self.members:
            handler = member.handler(name)
            if handler is None or not member.in_session or (in_message and not member.in_message):
                continue
            found.append((member, handler))
        return found

    def _note(
        self,
        member: Member,
        name: str,
        status: Status,
        result: object,
        arguments: tuple[object, ...],
        *,
        is_fault: bool,
    ) -> None:
        """Draw the consequences that a verdict has for the member that has given it."""
        trial, stage = member.trial, name[3:]
        if name in _OF_SESSION:
            if status is _ACCEPT or (trial is not None and status in _REFUSALS):
                member.in_session = False
            if trial is not None and status is not _CONTINUE:
                trial.tell_session(member.table.class_name, member.facts, stage, status, result)
        elif name in PARTIAL and status in _REFUSALS:
            if trial is not None and name == "on_rcpt":
                trial.refuse(str(arguments[0]))
        elif status is not _CONTINUE and member.in_message:
            member.in_message = False
            if trial is not None:
                trial.tell(
                    member.table.class_name, member.facts, stage, status, result, is_fault=is_fault
                )

    def _goes_on(self, *, in_message: bool) -> bool:
        """Whether somebody is left to be asked about the message, or about the session."""
        if in_message:
            return any(one.in_message and one.handles_messages for one in self.members)
        return any(one.in_session for one in self.members)

    # The message as a whole

    async def begin_members(self, runner: MemberRunner) -> Status | None:
        """Begin a message; return the verdict of a fault that ends it at once, or None."""
        for member in self.members:
            if not member.in_session:
                continue
            member.skipped.clear()
            if member.trial is not None:
                member.trial.begin_message()
            member.follow(runner.facts)
            try:
                member.milter.begin_message()
            except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
                answer = runner.fail_member(member, "begin_message", error).answer
                if member.trial is not None:
                    member.trial.tell(
                        member.table.class_name, member.facts, "mail", answer, is_fault=True
                    )
                elif answer in _ENDS:
                    await self.give_up(runner)
                    return answer
            else:
                member.in_message = True
        return None

    async def end_message(
        self, runner: MemberRunner, gathering: Gathering, message: Message, actions: int
    ) -> tuple[Ruling, Message]:
        """Show a message to all who have not decided it, one after the other.

        Args:
            runner: What runs their handlers.
            gathering: What keeps the message.
            message: The message as it came.
            actions: The action bits that were agreed.

        Returns:
            What they have come to, and the message as they have changed it.

        Raises:
            GoneError: Nobody waits for an answer.
        """
        # Each with the last of its handlers, which is the one for the end if it has that.
        asked = [
            (member, handlers[-1])
            for member in self.members
            if member.in_message and (handlers := _content_handlers(member))
        ]
        # Who has pieces alone may take the time that all of a message has.
        whole = self.table.by_name["on_message"]
        deadline = runner.deadline(
            [whole if own.kind is not HandlerKind.EOM else own for _, own in asked] or [whole]
        )
        ruling = Ruling()
        branch, group = message, None
        for member, _ in asked:
            trial = member.trial
            if trial is None:
                base = message
            else:
                # Those that are run dry together see each other's edits.
                base = branch if trial.group == group else message
                group, base = trial.group, gathering.fork(base)
                for recipient in trial.refused:
                    base.recipients.discard(recipient)
                branch = base
            shown = gathering.fork(base)
            result: object = None
            is_fault = False
            try:
                status, result = await play_message(
                    runner, member, gathering, shown, base, deadline, actions
                )
            except FaultError as fault:
                status, is_fault = fault.answer, True
            member.in_message = False
            keeps = status in (_CONTINUE, _ACCEPT)
            if trial is not None:
                is_fault = await self._tell(
                    runner, gathering, member, status, result, base, shown, is_fault=is_fault
                )
                if keeps and not is_fault:
                    branch = shown
                continue
            if keeps and not is_fault:
                message = shown
            ruling = ruling.or_stricter(status, result, is_fault=is_fault)
            if not keeps:
                break
        return ruling, message

    async def _tell(
        self,
        runner: MemberRunner,
        gathering: Gathering,
        member: Member,
        status: Status,
        result: object,
        base: Message,
        shown: Message,
        *,
        is_fault: bool,
    ) -> bool:
        """Log what a member that is run dry has come to; return whether that is a fault."""
        plan = None
        if status in (_CONTINUE, _ACCEPT) and not is_fault:
            try:
                plan = await find_edits(runner, member, gathering, shown, base, ALL_ACTIONS)
            except FaultError as fault:
                status, is_fault = fault.answer, True
        assert member.trial is not None
        size = None if plan is None or plan.body is None else plan.body.size
        member.trial.tell(
            member.table.class_name,
            member.facts,
            "eom",
            status,
            result,
            () if plan is None else plan.edits,
            new_body_bytes=size,
            is_fault=is_fault,
        )
        return is_fault

    def pass_message(self) -> None:
        """Note that a message has come to its end, for those who do not want to see it."""
        for member in self.members:
            if member.in_message:
                member.in_message = False
                if member.trial is not None:
                    member.trial.tell(member.table.class_name, member.facts, "eom", _CONTINUE)

    async def give_up(self, runner: MemberRunner) -> None:
        """Tell those who have not decided the message that it is over."""
        for member in self.members:
            if member.in_message:
                member.in_message = False
                if member.trial is not None:
                    member.trial.tell_abort(member.table.class_name, member.facts)
                await self._call_hook(runner, member, "on_abort")

    async def close(self, runner: MemberRunner) -> None:
        """Tell all that the session is over; called once more if one of them does not come back."""
        await self.give_up(runner)
        while self._open:
            await self._call_hook(runner, self._open.pop(0), "on_close")

    async def _call_hook(self, runner: MemberRunner, member: Member, name: str) -> None:
        handler = member.table.by_name.get(name)
        if handler is not None:
            try:
                await runner.call_hook(member, handler)
            except (FaultError, GoneError):
                pass


def _content_handlers(member: Member) -> list[Handler]:
    return [handler for name in CONTENT if (handler := member.handler(name)) is not None]
