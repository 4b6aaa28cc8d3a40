"""The negotiation of options, as pure functions.

Rules of this file (``st_optionneg`` in libmilter's ``engine.c``):

- The version answered is the lower of the two; below 2 there is no answer.
- No action offered means the four of version 1, no option offered the six of version 1.
- A stage without a handler is asked not to be sent. An MTA too old to leave out DATA or unknown
  commands may send them all the same; one that cannot leave out another stage is refused.
- Every ``NO_REPLY_*`` bit may be asked for: where the MTA does not offer it, the milter's end of
  the session answers CONTINUE by itself.
- Anything else must have been offered, and so must every action. If not, there is no answer and
  the connection is closed.
- Macro requests are sent whatever the MTA offers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiomilter.errors import RemoteProtocolError
from aiomilter.spec import (
    ACTIONS_OF_VERSION_1,
    COMMANDS,
    INTERNAL_OPTIONS,
    NO_REPLY_OPTIONS,
    OPTIONS_OF_VERSION_1,
    VERSION,
    VERSION_MIN,
    Actions,
    Options,
)
from aiomilter.wire.commands import OfferOptions
from aiomilter.wire.replies import Negotiated

__all__ = [
    "Agreement",
    "NegotiationOffer",
    "Request",
    "flag_names",
    "negotiate",
    "options_without",
    "read_offer",
]

_MAY_BE_SENT_ALL_THE_SAME = int(Options.NO_DATA | Options.NO_UNKNOWN)
_NEGATIVE = 0x80000000


@dataclass(slots=True)
class NegotiationOffer:
    """What the MTA offers, made sense of.

    Attributes:
        version: The version that will be answered.
        actions: Action bits; never 0.
        options: Option bits, without the internal ones.
    """

    version: int
    actions: int
    options: int


@dataclass(slots=True)
class Request:
    """What the milter wants.

    Attributes:
        actions: Action bits; all of them must have been offered.
        options: Option bits, ``NO_*`` and ``NO_REPLY_*`` among them.
        macros: By stage number, the names of the macros wanted there, separated by blanks.
    """

    actions: int
    options: int
    macros: Mapping[int, bytes] = field(default_factory=dict[int, bytes])


@dataclass(slots=True)
class Agreement:
    """What both ends will keep to.

    Attributes:
        actions: Action bits that edits may use.
        options: Option bits as requested: what the milter's end keeps to.
        options_sent: Option bits as answered: what the MTA knows of.
        reply: The answer.
    """

    actions: int
    options: int
    options_sent: int
    reply: Negotiated


def options_without(handled: int) -> int:
    """Return the ``NO_*`` bits of all stages without a handler.

    Args:
        handled: A mask with the bit ``1 << state`` of every stage that has one.
    """
    options = 0
    for row in COMMANDS:
        if row.no_option is not None and row.target is not None and not handled >> row.target & 1:
            options |= row.no_option
    return int(options)


def read_offer(command: OfferOptions) -> NegotiationOffer:
    """Return what an MTA offers.

    Raises:
        RemoteProtocolError: The version is below 2. libmilter reads it as a signed number.
    """
    version = command.version
    if version < VERSION_MIN or version >= _NEGATIVE:
        raise RemoteProtocolError(f"the MTA offers protocol version {version}, too old to speak")
    return NegotiationOffer(
        version=min(version, VERSION),
        actions=command.actions or ACTIONS_OF_VERSION_1,
        options=(command.options or OPTIONS_OF_VERSION_1) & ~INTERNAL_OPTIONS,
    )


def negotiate(offer: NegotiationOffer, request: Request) -> Agreement:
    """Return what is agreed between an offer and a request.

    Raises:
        RemoteProtocolError: The MTA does not offer an action or option that is requested. Its
            text names what is missing.
    """
    missing_actions = request.actions & ~offer.actions
    if missing_actions:
        raise RemoteProtocolError(
            f"the milter needs actions that this MTA does not offer: "
            f"{flag_names(Actions, missing_actions)}"
        )
    sent = request.options & ~(NO_REPLY_OPTIONS & ~offer.options)
    if sent & ~offer.options:
        sent &= ~(_MAY_BE_SENT_ALL_THE_SAME & ~offer.options)
    missing_options = sent & ~offer.options
    if missing_options:
        raise RemoteProtocolError(
            f"the milter needs options that this MTA does not offer: "
            f"{flag_names(Options, missing_options)}"
        )
    reply = Negotiated(offer.version, request.actions, sent, dict(request.macros))
    return Agreement(request.actions, request.options, sent, reply)


def flag_names(flags: type[Actions | Options], bits: int) -> str:
    """Return the names of bits, and those without a name as a number."""
    known = [flag.name for flag in flags if flag.name and bits & flag]
    unknown = bits & ~sum(flag.value for flag in flags)
    return ", ".join([*known, *([f"{unknown:#x}"] if unknown else [])])
