"""Shows a whole message to one of several milters, whichever handlers it has.

Rules of this file:

- `on_message` is given the message. The other handlers hear of it as from an MTA: each header,
  the end of the headers, the body in pieces, the end; a verdict ends it, SKIP ends the pieces of
  its kind. The envelope is not told again.
- The edits of `on_eom` are made in the message as the MTA would make them, so that a number means
  what it means there. Above the MTA's own Received header there is no place in a message: what is
  inserted there stands just below.
- What fails leaves the message as it was, for those behind.
- All of it happens at the end of the message, so the MTA is kept waiting by PROGRESS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from aiomilter.app.actions import EomActions
from aiomilter.app.compose.member import Member
from aiomilter.app.compose.member_runner import MemberRunner
from aiomilter.app.gathering import Gathering
from aiomilter.app.handlers import HandlerKind
from aiomilter.app.message.apply import apply_edits
from aiomilter.app.message.body import DEFAULT_SPOOL_THRESHOLD
from aiomilter.app.message.diff import Plan
from aiomilter.app.message.message import Message
from aiomilter.app.mta.edits import Edit, edit_of
from aiomilter.app.mta.kind import detect_mta
from aiomilter.app.running import FaultError
from aiomilter.app.text import decode_text
from aiomilter.session.status import Status
from aiomilter.spec import ALL_ACTIONS, BODY_CHUNK_BYTES
from aiomilter.wire.replies import decode_reply

__all__ = ["find_edits", "play_message"]

_CONTINUE, _SKIP = Status.CONTINUE, Status.SKIP
_KEEPS_MESSAGE = (Status.CONTINUE, Status.ACCEPT)
_PACKET_HEAD_BYTES = 5
_MANY_HEADERS = 200
"""To compare so many of them, all changed, takes some tens of milliseconds."""


async def play_message(
    runner: MemberRunner,
    member: Member,
    gathering: Gathering,
    message: Message,
    base: Message,
    deadline: float,
    actions: int,
) -> tuple[Status, object]:
    """Show a message to a member; return its verdict, and the result that says so.

    Args:
        runner: What runs its handlers.
        member: The member.
        gathering: What keeps the message.
        message: The message, for the member's edits.
        base: The same without them.
        deadline: When the time of all members is up.
        actions: The action bits that were agreed.

    Raises:
        FaultError: It failed, or an edit cannot be made.
        GoneError: Nobody waits for an answer.
    """
    handler = member.handler("on_message")
    if handler is None:
        play = _Playback(runner, member, gathering, message, deadline)
        return await play.run(ALL_ACTIONS if member.trial is not None else actions)
    status, result = await runner.ask_member(member, handler, (message,), deadline)
    if status is _SKIP:
        status = _CONTINUE
    if status in _KEEPS_MESSAGE and member.trial is None:
        try:
            _join_reasons(base, message)
        except ValueError as error:
            raise runner.fail_member(member, handler.name, error) from None
        # What the MTA cannot be asked for would cost the edits of all.
        await find_edits(runner, member, gathering, message, base, actions)
    return status, result


async def find_edits(
    runner: MemberRunner,
    member: Member,
    gathering: Gathering,
    message: Message,
    base: Message,
    actions: int,
) -> Plan:
    """Return the edits of a member.

    Args:
        runner: What runs its handlers.
        member: The member.
        gathering: What keeps the message.
        message: The message with the edits.
        base: The same without them.
        actions: The action bits that were agreed.

    Raises:
        FaultError: They cannot be found out, or the MTA cannot be asked for one of them.
        GoneError: Nobody waits for them.
    """
    return await runner.run_step(
        member, _find_edits, gathering, base, message, actions, may_block=_takes_long(base, message)
    )


def _find_edits(gathering: Gathering, base: Message, message: Message, bits: int) -> Plan:
    plan = gathering.compare(base, message)
    target = EomActions(bits, _no_progress)
    Plan(plan.edits, None).apply(target)
    if plan.body is not None:
        target.replace_body(b"")
    return plan


def _takes_long(base: Message, message: Message) -> bool:
    """Whether it may take long to find out what has changed in a message."""
    # An author may have put anything there; then it is found out when they are compared.
    with contextlib.suppress(Exception):
        if base.body.touches_disk or message.body.touches_disk:
            return True
        return len(message.headers) > _MANY_HEADERS
    return False


async def _no_progress() -> None:
    """Stand in for what tells the MTA that the end of the message takes longer."""


class _Playback:
    """Plays a message to handlers that want it piece by piece."""

    __slots__ = ("_deadline", "_gathering", "_member", "_message", "_runner")

    def __init__(
        self,
        runner: MemberRunner,
        member: Member,
        gathering: Gathering,
        message: Message,
        deadline: float,
    ) -> None:
        self._runner = runner
        self._member = member
        self._gathering = gathering
        self._message = message
        self._deadline = deadline

    async def run(self, actions: int) -> tuple[Status, object]:
        """Play all of it.

        Raises:
            FaultError, GoneError: As `play_message`.
        """
        for part in (self._headers, self._end_of_headers, self._body):
            status, result = await part()
            if status is not _CONTINUE:
                return status, result
        return await self._end(actions)

    async def _headers(self) -> tuple[Status, object]:
        member = self._member
        for header in list(self._message.headers):
            if member.handler("on_header") is None:
                break
            value = decode_text(header.raw_value)
            if not member.has_leading_space:
                value = value.removeprefix(" ")
            status, result = await self._ask("on_header", header.name, value)
            if status is not _CONTINUE:
                return status, result
        return _CONTINUE, None

    async def _end_of_headers(self) -> tuple[Status, object]:
        return await self._ask("on_eoh")

    async def _body(self) -> tuple[Status, object]:
        body, at = self._message.body, 0
        while at < body.size and self._member.handler("on_body") is not None:
            chunk = await self._runner.run_step(
                self._member, body.slice, at, at + BODY_CHUNK_BYTES, may_block=body.is_spooled
            )
            at += len(chunk)
            status, result = await self._ask("on_body", chunk)
            if status is not _CONTINUE:
                return status, result
        return _CONTINUE, None

    async def _ask(self, name: str, *arguments: object) -> tuple[Status, object]:
        """Call one of the handlers; CONTINUE if there is none."""
        runner, member = self._runner, self._member
        handler = member.handler(name)
        if handler is None:
            return _CONTINUE, None
        try:
            status, result = await runner.ask_member(
                member, handler, arguments, self._deadline, HandlerKind.EOM
            )
        except FaultError as fault:
            if fault.answer is not _CONTINUE:
                raise
            return _CONTINUE, None
        if status is _SKIP:
            member.skipped.add(name)
            return _CONTINUE, None
        return status, result

    async def _end(self, bits: int) -> tuple[Status, object]:
        runner, member = self._runner, self._member
        handler = member.handler("on_eom")
        if handler is None:
            return _CONTINUE, None
        actions = EomActions(bits, runner.send_progress)
        try:
            status, result = await runner.ask_member(member, handler, (actions,), self._deadline)
        finally:
            packets = actions.close()
        if status is _SKIP:
            status = _CONTINUE
        keeps = status in _KEEPS_MESSAGE
        if keeps and actions.fault is not None:
            raise runner.fail_member(member, handler.name, ValueError(actions.fault))
        edits, body = _edits_of(packets), self._message.body
        if keeps and edits:
            await runner.run_step(
                member,
                self._apply,
                edits,
                may_block=len(packets) > DEFAULT_SPOOL_THRESHOLD or body.touches_disk,
            )
        return status, result

    def _apply(self, edits: Sequence[Edit]) -> None:
        message = self._message
        before = message.quarantine_reason
        message.forget_quarantine()
        apply_edits(
            message,
            edits,
            detect_mta(message.macros),
            leading_space=self._member.has_leading_space,
        )
        if self._member.trial is None:
            _join(message, before)


def _join_reasons(base: Message, message: Message) -> None:
    """Have a reason for the quarantine beside those of others, not in their place."""
    if message.quarantine_reason != base.quarantine_reason:
        _join(message, base.quarantine_reason)


def _join(message: Message, before: str | None) -> None:
    reason = message.quarantine_reason
    if before is None:
        return
    if reason is None or reason in before.split("; "):
        message.quarantine(before)
    else:
        message.quarantine(f"{before}; {reason}")


def _edits_of(packets: bytes) -> list[Edit]:
    """Return edits as values."""
    found: list[Edit] = []
    at = 0
    while at < len(packets):
        end = at + _PACKET_HEAD_BYTES - 1 + int.from_bytes(packets[at : at + 4])
        found.append(edit_of(decode_reply(packets[at + 4], packets[at + 5 : end])))
        at = end
    return found
