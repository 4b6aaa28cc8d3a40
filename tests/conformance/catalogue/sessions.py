"""What a session of the catalogue is, and packets and filters that many of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.libmilter.plan import CALLBACKS, CONTINUE, Call, Plan, Script, Step
from tests.packets import (
    BODY,
    CONNECT,
    DATA,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    OFFER,
    RCPT,
    UNKNOWN,
)

__all__ = [
    "AHEAD",
    "ALL",
    "OPENING",
    "RESULT_NAMES",
    "STAGES",
    "STAGE_PACKETS",
    "Session",
    "asking",
    "at_end",
    "reacting",
    "without",
]


@dataclass(frozen=True, slots=True)
class Session:
    """A filter and what it is sent; the MTA closes its half of the connection after that."""

    title: str
    plan: Plan
    sends: tuple[bytes, ...]
    deviation: str | None = None
    """In what aiomilter differs, written by hand: a row of docs/deviations.md."""


RESULT_NAMES = {
    0: "CONTINUE",
    1: "REJECT",
    2: "DISCARD",
    3: "ACCEPT",
    4: "TEMPFAIL",
    7: "NOREPLY",
    8: "SKIP",
}
"""The results that are defined for every stage."""

STAGE_PACKETS = {
    "connect": CONNECT,
    "helo": HELO,
    "envfrom": MAIL,
    "envrcpt": RCPT,
    "data": DATA,
    "header": HEADER,
    "eoh": EOH,
    "body": BODY,
    "eom": EOM,
    "unknown": UNKNOWN,
}
STAGES = tuple(STAGE_PACKETS)
"""The callbacks whose result is an answer."""

OPENING = OFFER + CONNECT + HELO

_IN_ORDER = STAGES[:-1]
AHEAD = {
    stage: OFFER + b"".join(STAGE_PACKETS[name] for name in _IN_ORDER[:place])
    for place, stage in enumerate(_IN_ORDER)
} | {"unknown": OPENING}
"""What an MTA has sent before a stage."""

ALL = Plan.of()


def without(*names: str) -> list[str]:
    """All callbacks but negotiate and these."""
    return [name for name in CALLBACKS[1:] if name not in names]


def reacting(scripts: Mapping[str, Script]) -> Plan:
    """A filter with all callbacks but negotiate, and with those that have a script."""
    return Plan({name: Script() for name in CALLBACKS[1:]} | dict(scripts))


def asking(actions: int, options: int, *calls: Call) -> Script:
    """A negotiate callback that requests this."""
    return Script(further=Step(calls, CONTINUE, (actions, options)))


def at_end(*calls: Call, result: int = CONTINUE) -> Script:
    """An eom callback, or another, that makes these calls each time."""
    return Script.always(result, *calls)
