"""Running the handlers of several milters that are served as one, each within its own budget."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

from aiomilter.app.compose.member import Member
from aiomilter.app.facts import Facts
from aiomilter.app.handlers import Handler, HandlerKind
from aiomilter.app.host import Abandoned, FaultPolicy, Host
from aiomilter.app.milter import Milter
from aiomilter.app.results import FAILED, read_result
from aiomilter.app.running import FaultError, GoneError, HandlerRunner
from aiomilter.app.text import describe_error, show_value
from aiomilter.session.status import Status

__all__ = ["MemberRunner"]

_T = TypeVar("_T")

_STEP_LIMIT_S = 30.0
"""For reading and writing what is in files; on top of the budgets of handlers."""
_NO_VERDICT = (Status.CONTINUE, Status.SKIP)


class MemberRunner(HandlerRunner):
    """What a `Dispatcher` knows and does to run the handlers of members."""

    __slots__ = ("_member",)

    def __init__(self, host: Host, policy: FaultPolicy, facts: Facts) -> None:
        super().__init__(host, policy, facts)
        # Whose handler runs, if it is one of several milters.
        self._member: Member | None = None

    @property
    def facts(self) -> Facts:
        """What is known of the session."""
        return self._facts

    async def send_progress(self) -> None:
        """Tell the MTA, now, that the end of the message takes longer."""
        await self._host.send_progress()

    def deadline(self, handlers: list[Handler]) -> float:
        """Return until when all of some handlers have to be done.

        Together they get as long as the one that may take longest: the MTA that waits knows
        nothing of their number.
        """
        return self._host.time() + max(map(self._limit_s, handlers), default=0.0)

    async def call_member(
        self,
        member: Member,
        handler: Handler,
        arguments: tuple[object, ...],
        deadline: float,
        kind: HandlerKind | None = None,
    ) -> object:
        """Run a handler of a member and return its result.

        Args:
            member: The member.
            handler: One of its handlers.
            arguments: What it is called with.
            deadline: When the time of all members is up.
            kind: What the MTA does meanwhile; None for what it does for this handler alone.

        Raises:
            FaultError: It failed.
            GoneError: It was cut short because nobody waits for its answer.
        """
        kind = handler.kind if kind is None else kind
        self._name, self._member = member.name, member
        is_abandoned = False
        try:
            if member.is_at_work and kind is not HandlerKind.HOOK:
                reason = "not called: an earlier handler, cut short, is still at work"
                raise self._fault(handler.name, reason, None, kind="not_called")
            limit_s = self._limit_s(handler)
            if kind is not HandlerKind.HOOK:
                limit_s = max(0.0, min(limit_s, deadline - self._host.time()))
            return await self._call(member, handler, arguments, limit_s, kind)
        except Abandoned:
            # By now the name is that of another one.
            is_abandoned = True
            raise
        finally:
            if not is_abandoned:
                self._name = self._member = None

    async def _call(
        self,
        member: Member,
        handler: Handler,
        arguments: tuple[object, ...],
        limit_s: float,
        kind: HandlerKind,
    ) -> object:
        member.follow(self._facts)
        is_hook = kind is HandlerKind.HOOK
        watch = self.watch
        if watch is not None:
            watch.start_clock()
        self._running = handler
        ticket = self._host.start_clock(limit_s, kind)
        result: object = FAILED
        error: BaseException | None = None
        try:
            if not handler.is_async:
                call = partial(handler.function, member.milter, *arguments)
                result = await self._host.run_in_thread(
                    call if is_hook else partial(member.work, call)
                )
            elif is_hook:
                # It does not wait for one that was cut short, and says nothing of that one's end.
                result = await handler.function(member.milter, *arguments)
            else:
                member.is_at_work = True
                try:
                    result = await handler.function(member.milter, *arguments)
                finally:
                    member.is_at_work = False
        except BaseException as raised:  # noqa: BLE001  (a milter may raise anything)
            error = raised
        try:
            cut = self._host.stop_clock(ticket)
            if cut is not None:
                result = FAILED
                self._raise_cut(handler, cut, limit_s)
            self._running = None
            if error is not None:
                raise self._fault(handler.name, describe_error(error), error) from None
        finally:
            del error  # which holds this frame
            if watch is not None:
                # What a hook returns is of no account.
                is_fine = is_hook and result is not FAILED
                watch.note_handler(handler.name, None if is_fine else result)
        return result

    async def ask_member(
        self,
        member: Member,
        handler: Handler,
        arguments: tuple[object, ...],
        deadline: float,
        kind: HandlerKind | None = None,
        *,
        may_answer: bool = True,
    ) -> tuple[Status, object]:
        """Run a handler of a member; return its verdict, and the result that says so.

        Raises:
            FaultError: It failed, or its result is none that it may have.
            GoneError: It was cut short because nobody waits for its answer.
        """
        result = await self.call_member(member, handler, arguments, deadline, kind)
        known = read_result(result)
        is_silent = handler.no_reply or not may_answer
        if known is None or (known[0] is Status.NOREPLY and not is_silent):
            raise self.wrong_result_of(member, handler, result)
        status = known[0]
        if status is Status.NOREPLY:
            return Status.CONTINUE, None
        if is_silent and status not in _NO_VERDICT:
            self.drop_verdict(member, handler, result, "it is declared no_reply")
            return Status.CONTINUE, None
        return status, result

    def drop_verdict(self, member: Member, handler: Handler, result: object, reason: str) -> None:
        """Log that a verdict of a member is without effect: once, as it may have very many."""
        level = logging.DEBUG if member.has_dropped else logging.WARNING
        member.has_dropped = True
        if self.watch is not None:
            self.watch.note_dropped(handler.name)
        what = show_value(result)
        text = "%s of %s returned %s, which is dropped: %s"
        self.log.log(level, text, handler.name, member.name, what, reason)

    async def call_hook(self, member: Member, handler: Handler) -> None:
        """Run `on_abort` or `on_close` of a member.

        Raises:
            FaultError, GoneError: As `call_member`.
        """
        # The task may know only of a message that is over.
        self._facts.context.enter()
        result = await self.call_member(member, handler, (), 0.0)
        if inspect.iscoroutine(result):
            result.close()

    async def run_step(
        self, member: Member, function: Callable[..., _T], *arguments: object, may_block: bool
    ) -> _T:
        """Do what the library has to do for a member at the end of a message.

        Args:
            member: Whose fault it is if that fails.
            function: A plain function.
            *arguments: What it is called with.
            may_block: Whether it is a thing for a thread.

        Raises:
            FaultError: It failed.
            GoneError: It was cut short because nobody waits for it any more.
        """
        if not may_block:
            try:
                return function(*arguments)
            except Exception as error:  # noqa: BLE001  (an author's edits may be anything)
                raise self.fail_member(member, "on_message", error) from None
        self._name = member.name
        step = Handler(
            "on_message",
            partial(_without_milter, partial(function, *arguments)),
            is_async=False,
            time_limit_s=_STEP_LIMIT_S,
            kind=HandlerKind.EOM,
        )
        try:
            found = await self._run(step, ())
        except (FaultError, GoneError):
            self._name = None
            raise
        self._name = None
        return cast("_T", found)

    def wrong_result_of(self, member: Member, handler: Handler, result: object) -> FaultError:
        """Log that a handler of a member has returned what it must not; return the fault."""
        self._name = member.name
        try:
            return self._wrong_result(handler, result)
        finally:
            self._name = None

    def fail_member(self, member: Member, where: str, error: BaseException) -> FaultError:
        """Log a fault of a member that none of its handlers has raised; return it."""
        return self.fail_named(member.name, where, error)

    def fail_named(self, name: str, where: str, error: BaseException) -> FaultError:
        """The same of one that is no member, since it could not be made."""
        self._name = name
        try:
            return self._fault(where, describe_error(error), error)
        finally:
            self._name = None


def _without_milter(function: Callable[[], object], milter: Milter | None) -> object:
    """Run a step of the library in place of a handler."""
    del milter
    return function()
