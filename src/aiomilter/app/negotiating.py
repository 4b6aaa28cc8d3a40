"""What a `Dispatcher` does for the negotiation: asks `on_negotiate`, and agrees with the MTA."""

from __future__ import annotations

from aiomilter.app.compose.member import Member
from aiomilter.app.compose.relay import Relay
from aiomilter.app.compose.tables import merge_macros
from aiomilter.app.facts import Facts
from aiomilter.app.gatherer import MessageGatherer
from aiomilter.app.handlers import Handler, HandlerTable
from aiomilter.app.host import FaultPolicy, Host
from aiomilter.app.negotiation import Negotiation
from aiomilter.app.running import FaultError, GoneError
from aiomilter.app.text import describe_error
from aiomilter.session.filter import FilterSession
from aiomilter.session.negotiation import NegotiationOffer, Request
from aiomilter.session.status import Status
from aiomilter.spec import MacroStage, Options

__all__ = ["Negotiator"]

_CONTINUE = Status.CONTINUE


class Negotiator(MessageGatherer):
    """What a `Dispatcher` knows and does for the negotiation."""

    __slots__ = ("_default_request", "_relay")

    def __init__(
        self, host: Host, policy: FaultPolicy, facts: Facts, session: FilterSession
    ) -> None:
        super().__init__(host, policy, facts, session)
        self._default_request: Request | None = None
        # The milter, if it is several that are served as one.
        self._relay: Relay | None = None

    async def _negotiate(self, offer: NegotiationOffer) -> None:
        session, table = self._session, self._table
        if table is None:
            session.agree(Request(actions=0, options=0))
            return
        if self._relay is not None:
            await self._negotiate_for(self._relay, table, offer)
            return
        options = table.options & ~(table.optional & ~offer.options)
        actions = offer.actions if table.actions is None else int(table.actions)
        macros = {stage: list(names) for stage, names in table.macros.items()}
        request = Negotiation(offer, actions, options, macros).request()
        handler = table.by_name.get("on_negotiate")
        if handler is None:
            session.agree(request)
            return
        negotiation = _negotiation(offer, actions, options, macros)
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

    async def _negotiate_for(
        self, relay: Relay, table: HandlerTable, offer: NegotiationOffer
    ) -> None:
        """Agree on what several milters want together."""
        session = self._session
        defaults = [_default(member, offer) for member in relay.members]
        asked = [{**default.macros} for default in defaults]
        actions = table.also_required | (offer.actions if table.actions is None else 0)
        options = table.options & ~(table.optional & ~offer.options)
        self._default_request = Negotiation(offer, actions, options, merge_macros(asked)).request()
        answer = _CONTINUE
        for number, member in enumerate(relay.members):
            handler = member.table.by_name.get("on_negotiate")
            if handler is None:
                continue
            try:
                wanted = await self._ask_member(member, handler, defaults[number])
            except FaultError as fault:
                if member.trial is None and answer is _CONTINUE:
                    answer = fault.answer
                continue
            except GoneError:
                session.close()
                return
            if wanted is None:
                if member.trial is None:
                    session.close()
                    return
                member.in_session = False
                continue
            asked[number] = wanted.macros
            member.unwanted = int(wanted.options)
            member.has_leading_space = wanted.options & Options.LEADING_SPACE > 0
            member.wants_rejected = wanted.options & Options.REJECTED_RECIPIENTS > 0
            rejected = int(wanted.options & Options.REJECTED_RECIPIENTS)
            if member.trial is None:
                actions |= int(wanted.actions)
                options |= rejected
            else:
                options |= rejected & offer.options
        try:
            request = Negotiation(offer, actions, options, merge_macros(asked)).request()
        except ValueError as error:
            # Each asks for what a packet takes, and all of them for more.
            request = self._default_request
            answer = self._fault("on_negotiate", describe_error(error), error).answer
        self._agree_after_fault(request, answer)

    async def _ask_member(
        self, member: Member, handler: Handler, negotiation: Negotiation
    ) -> Negotiation | None:
        """Let a member's `on_negotiate` decide; return what it wants, or None for a refusal.

        Raises:
            FaultError, GoneError: As `call_member`.
        """
        default_options = negotiation.options
        result = await self.call_member(member, handler, (negotiation,), self.deadline([handler]))
        if result is Status.ALL_OPTS:
            negotiation.actions = negotiation.offered_actions
            negotiation.options = default_options
        elif type(result) is Status and result is not _CONTINUE:
            self.log.warning(
                "%s of %s refuses the MTA by returning %s", handler.name, member.name, result.name
            )
            return None
        elif result is not None and result is not _CONTINUE:
            raise self.wrong_result_of(member, handler, result)
        try:
            negotiation.request()
        except Exception as error:  # noqa: BLE001  (it holds whatever the handler put there)
            raise self.fail_member(member, handler.name, error) from None
        return negotiation


def _negotiation(
    offer: NegotiationOffer, actions: int, options: int, macros: dict[MacroStage, list[str]]
) -> Negotiation:
    """Return what `on_negotiate` is given: with SKIP, where that is offered."""
    return Negotiation(offer, actions, options | (offer.options & int(Options.SKIP)), macros)


def _default(member: Member, offer: NegotiationOffer) -> Negotiation:
    """Return what a member asks for unless its `on_negotiate` says otherwise."""
    table = member.table
    options = table.options & ~(table.optional & ~offer.options)
    actions = offer.actions if table.actions is None else int(table.actions)
    macros = {stage: list(names) for stage, names in table.macros.items()}
    return _negotiation(offer, actions, options, macros)
