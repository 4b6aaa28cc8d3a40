"""Results of callbacks at every stage, and stages without replies."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.catalogue.sessions import (
    AHEAD,
    OPENING,
    RESULT_NAMES,
    STAGE_PACKETS,
    STAGES,
    Session,
    asking,
    reacting,
    without,
)
from tests.libmilter.plan import (
    ACCEPT,
    ALL_OPTS,
    CONTINUE,
    DISCARD,
    NOREPLY,
    REJECT,
    SKIP,
    TEMPFAIL,
    Call,
    Plan,
    Script,
    Step,
)
from tests.packets import (
    ABORT,
    BODY,
    EOM,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    offer,
)

__all__ = ["NO_REPLY", "RESULTS"]

_UNDEFINED = (5, ALL_OPTS, 21, -1)

_NO_REPLY_BITS = {
    "connect": 0x1000,
    "helo": 0x2000,
    "envfrom": 0x4000,
    "envrcpt": 0x8000,
    "data": 0x10000,
    "unknown": 0x20000,
    "header": 0x80,
    "eoh": 0x40000,
    "body": 0x80000,
}

_LOSING = {
    "envfrom": (REJECT, DISCARD, ACCEPT, TEMPFAIL),
    "envrcpt": (ACCEPT,),
    "data": (REJECT, DISCARD, ACCEPT, TEMPFAIL),
    "header": (REJECT, DISCARD, ACCEPT, TEMPFAIL),
    "eoh": (REJECT, DISCARD, ACCEPT, TEMPFAIL),
    "body": (REJECT, DISCARD, ACCEPT, TEMPFAIL),
}
"""Verdicts without a reply that make libmilter swallow what follows."""


def _rest(stage: str) -> tuple[bytes, ...]:
    """What an MTA that takes any answer for CONTINUE sends behind a stage."""
    if stage in ("connect", "helo", "unknown"):
        return (HELO, MAIL + RCPT + EOM)
    order = [name for name in STAGES if name not in ("connect", "helo", "unknown")]
    rest = b"".join(STAGE_PACKETS[name] for name in order[order.index(stage) + 1 :])
    return (rest, MAIL) if rest else (MAIL,)


def _sends(stage: str) -> tuple[bytes, ...]:
    return (AHEAD[stage], STAGE_PACKETS[stage], *_rest(stage))


def _once(stage: str, result: int) -> Plan:
    return reacting({stage: Script((Step((), result),))})


def _every_stage() -> Iterator[Session]:
    for stage in STAGES:
        for result, name in RESULT_NAMES.items():
            deviation = {NOREPLY: "D16", SKIP: "D11"}.get(result)
            if stage == "unknown" and result in (ACCEPT, DISCARD):
                deviation = "D35"
            yield Session(f"{stage}: {name}", _once(stage, result), _sends(stage), deviation)
        for result in _UNDEFINED:
            title = f"{stage}: the undefined result {result}"
            yield Session(title, _once(stage, result), _sends(stage), "D7")
        always = reacting({stage: Script.always(TEMPFAIL)})
        twice = (*_sends(stage), STAGE_PACKETS[stage], QUIT)
        yield Session(f"{stage}: TEMPFAIL each time", always, twice)
    for hook in ("abort", "close"):
        for result, name in RESULT_NAMES.items():
            plan = reacting({hook: Script.always(result)})
            sends = (OPENING, MAIL, ABORT, MAIL, QUIT)
            yield Session(f"{hook}: {name} is ignored", plan, sends)


def _several() -> Iterator[Session]:
    rcpts = Script(tuple(Step((), result) for result in (REJECT, CONTINUE, TEMPFAIL)))
    sends: tuple[bytes, ...] = (
        OPENING + MAIL,
        RCPT,
        RCPT,
        RCPT,
        RCPT,
        MESSAGE[len(MAIL + RCPT) :],
        QUIT,
    )
    yield Session("some recipients are refused", Plan.of(envrcpt=rcpts), sends)
    nobody = Plan.of(envrcpt=Script.always(REJECT))
    yield Session("all recipients are refused", nobody, (OPENING + MAIL, RCPT, RCPT, ABORT, QUIT))
    sends = (OPENING, UNKNOWN, UNKNOWN, MAIL, QUIT)
    yield Session("unknown commands are refused", Plan.of(unknown=Script.always(REJECT)), sends)
    agreed = Plan.of(negotiate=Script.always(ALL_OPTS), body=Script.always(SKIP))
    sends = (AHEAD["body"], BODY, EOM, MAIL)
    yield Session("SKIP at the body is agreed", agreed, sends)
    sends = (AHEAD["body"], BODY, BODY, EOM, MAIL)
    yield Session("SKIP at the body is agreed, pieces still come", agreed, sends, "D11")
    headers = Plan.of(negotiate=Script.always(ALL_OPTS), header=Script.always(SKIP))
    sends = (AHEAD["header"], HEADER, HEADER, MESSAGE)
    yield Session("SKIP at a header is agreed, headers still come", headers, sends, "D11")
    refused = Plan.of(connect=Script.always(REJECT))
    yield Session("connect is refused, and a new session begins", refused, (OPENING, QUIT_NC, HELO))
    for result, name in RESULT_NAMES.items():
        if result not in (NOREPLY, SKIP):
            few = Plan.of(("eom",), eom=Script.always(result))
            sends = (OFFER, EOM, MESSAGE, QUIT)
            yield Session(f"a filter with eom only: {name}", few, sends)


RESULTS = [*_every_stage(), *_several()]


def _no_reply() -> Iterator[Session]:
    for stage, bit in _NO_REPLY_BITS.items():
        for offered, more in ((True, "offered"), (False, "not offered")):
            options = 0x1FFFFF if offered else 0x1FFFFF & ~bit
            ahead = offer(options=options) + AHEAD[stage][len(OFFER) :]
            sends = (ahead, STAGE_PACKETS[stage], *_rest(stage))
            for result, name in RESULT_NAMES.items():
                plan = reacting({"negotiate": asking(0, bit), stage: Script((Step((), result),))})
                deviation = "D3" if result in _LOSING.get(stage, ()) else None
                yield Session(f"{stage}, {more}: {name}", plan, sends, deviation)
            unhandled = Plan.of(without(stage), negotiate=asking(0, bit))
            yield Session(f"{stage}, {more}: no callback", unhandled, sends)
    reply = Call.of("setreply", b"550", b"5.7.1", b"no")
    plan = Plan.of(negotiate=asking(0, 0x8000), envrcpt=Script.always(REJECT, reply))
    yield Session("a reply without a reply", plan, (OPENING + MAIL, RCPT, RCPT, EOM))
    every = reacting(
        {"negotiate": asking(0, 0xFF080)}
        | {stage: Script.always(NOREPLY) for stage in _NO_REPLY_BITS}
    )
    yield Session("no stage replies", every, (OPENING + MESSAGE, UNKNOWN, MESSAGE, QUIT))
    faked = offer(options=0xF7F) + OPENING[len(OFFER) :]
    yield Session("every reply is faked", every, (faked + MESSAGE, UNKNOWN, MESSAGE, QUIT))


NO_REPLY = [*_no_reply()]
