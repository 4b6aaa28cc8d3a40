"""Offers of an MTA, and what a filter makes of them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.catalogue.sessions import ALL, OPENING, STAGES, Session, asking, without
from tests.libmilter.plan import ALL_OPTS, Call, Plan, Script
from tests.packets import CONNECT, HELO, MAIL, MESSAGE, OFFER, macros, offer, packet

__all__ = ["NEGOTIATION"]

_ACTIONS = {
    "ADDHDRS": 0x01,
    "CHGBODY": 0x02,
    "ADDRCPT": 0x04,
    "DELRCPT": 0x08,
    "CHGHDRS": 0x10,
    "QUARANTINE": 0x20,
    "CHGFROM": 0x40,
    "ADDRCPT_PAR": 0x80,
    "SETSYMLIST": 0x100,
}
_OPTIONS = {
    "NOCONNECT": 0x01,
    "NOHELO": 0x02,
    "NOMAIL": 0x04,
    "NORCPT": 0x08,
    "NOBODY": 0x10,
    "NOHDRS": 0x20,
    "NOEOH": 0x40,
    "NR_HDR": 0x80,
    "NOUNKNOWN": 0x100,
    "NODATA": 0x200,
    "SKIP": 0x400,
    "RCPT_REJ": 0x800,
    "NR_CONN": 0x1000,
    "NR_HELO": 0x2000,
    "NR_MAIL": 0x4000,
    "NR_RCPT": 0x8000,
    "NR_DATA": 0x10000,
    "NR_UNKN": 0x20000,
    "NR_EOH": 0x40000,
    "NR_BODY": 0x80000,
    "HDR_LEADSPC": 0x100000,
}
_INTERNAL = {"MDS_256K": 0x10000000, "MDS_1M": 0x20000000, "bit 30": 0x40000000}
_UNNAMED = {"bit 21": 0x200000, "bit 31": 0x80000000}
_EVERY_ACTION = 0x1FF
_EVERY_OPTION = 0x1FFFFF
_OF_VERSION_1 = 0x3F

_NONE = Plan.of(())
_ALL_OPTS = Plan.of(negotiate=Script.always(ALL_OPTS))
_DEFAULTS = Plan.of(negotiate=Script())


def _versions() -> Iterator[Session]:
    for version in (0, 1, 2, 3, 4, 5, 6, 7, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        sends = (offer(version), CONNECT)
        yield Session(f"version {version:#x}", ALL, sends)
        yield Session(f"version {version:#x}, a negotiate callback", _ALL_OPTS, sends)


def _bits() -> Iterator[Session]:
    for name, bit in _ACTIONS.items():
        less = offer(actions=_EVERY_ACTION & ~bit)
        yield Session(f"{name} is not offered and requested", ALL, (less, CONNECT))
        spared = Plan.of(flags=_EVERY_ACTION & ~bit)
        yield Session(f"{name} is not offered nor requested", spared, (less, CONNECT))
        asked = Plan.of(negotiate=asking(bit, 0))
        yield Session(f"{name} is requested alone by negotiate", asked, (OFFER, CONNECT))
    for name, bit in _OPTIONS.items():
        less = offer(options=_EVERY_OPTION & ~bit)
        asked = Plan.of(negotiate=asking(0, bit))
        yield Session(f"{name} is not offered, all callbacks", ALL, (less, CONNECT))
        yield Session(f"{name} is not offered, no callbacks", _NONE, (less, CONNECT))
        yield Session(f"{name} is not offered, ALL_OPTS", _ALL_OPTS, (less, CONNECT))
        yield Session(f"{name} is requested alone by negotiate", asked, (OFFER, CONNECT))
        yield Session(f"{name} is requested and not offered", asked, (less, CONNECT))
    for name, bit in _INTERNAL.items():
        sends = (offer(options=_EVERY_OPTION | bit), CONNECT)
        yield Session(f"{name} is offered", ALL, sends)
        yield Session(f"{name} is offered, a negotiate callback", _DEFAULTS, sends)
        only = (offer(options=bit), CONNECT)
        yield Session(f"{name} is all that is offered, all callbacks", ALL, only)
        yield Session(f"{name} is all that is offered, no callbacks", _NONE, only)
        yield Session(f"{name} is requested", Plan.of(negotiate=asking(0, bit)), sends)
    for name, bit in _UNNAMED.items():
        sends = (offer(options=_EVERY_OPTION | bit), CONNECT)
        yield Session(f"{name} is offered, ALL_OPTS", _ALL_OPTS, sends)
        yield Session(f"{name} is offered and requested", Plan.of(negotiate=asking(0, bit)), sends)
        yield Session(
            f"{name} is requested and not offered",
            Plan.of(negotiate=asking(0, bit)),
            (OFFER, CONNECT),
        )
    more = Plan.of(negotiate=asking(0x200, 0))
    yield Session("an action that does not exist is requested", more, (OFFER, CONNECT))
    yield Session(
        "an action that does not exist is offered and requested",
        more,
        (offer(actions=0x3FF), CONNECT),
    )
    yield Session("actions that do not exist are offered", _ALL_OPTS, (offer(actions=0xFFF),))


def _nothing_offered() -> Iterator[Session]:
    for name, plan in {
        "all callbacks": ALL,
        "no callbacks": _NONE,
        "no callbacks after the headers": Plan.of(without("eoh", "body")),
        "no data and unknown callbacks": Plan.of(without("data", "unknown")),
        "a negotiate callback": _DEFAULTS,
        "few actions": Plan.of(flags=0x0F),
        "no actions": Plan.of(flags=0),
    }.items():
        yield Session(f"no actions are offered, {name}", plan, (offer(actions=0), CONNECT))
        yield Session(f"no options are offered, {name}", plan, (offer(options=0), CONNECT))
        old = offer(2, 0, 0)
        yield Session(f"nothing is offered by version 2, {name}", plan, (old, CONNECT))


def _callbacks() -> Iterator[Session]:
    for name in without():
        plan = Plan.of(without(name))
        yield Session(f"no {name} callback", plan, (OFFER, CONNECT))
        if name in STAGES:
            old = offer(options=_OF_VERSION_1)
            yield Session(f"no {name} callback, options of version 1", plan, (old, CONNECT))
            unasked = Plan.of(without(name), negotiate=asking(0, 0))
            sends = (OFFER, CONNECT + HELO, MESSAGE, HELO)
            yield Session(f"no {name} callback, its stage is asked for", unasked, sends)


def _results() -> Iterator[Session]:
    faults = (5, 6, 9, 11, 20, 21, 23, -1)
    for result in (*range(11), 11, 20, 21, 23, -1):
        plan = Plan.of(negotiate=Script.always(result))
        deviation = "D7" if result in faults else None
        yield Session(f"negotiate returns {result}", plan, (OFFER, CONNECT), deviation)
    for options in (_EVERY_OPTION, 0xFF080, 0x37F, 0x400, 0xC00):
        plan = Plan.of(negotiate=asking(_EVERY_ACTION, options))
        yield Session(f"negotiate requests {options:#x}", plan, (OFFER, CONNECT + HELO))
        less = (offer(options=0x37F), CONNECT + HELO)
        yield Session(f"negotiate requests {options:#x} of 0x37f", plan, less)


def _symbol_lists() -> Iterator[Session]:
    def listing(*lists: tuple[int, bytes]) -> Plan:
        calls = (Call.of("setsymlist", stage, names) for stage, names in lists)
        return Plan.of(negotiate=Script.always(ALL_OPTS, *calls))

    for stage in range(7):
        plan = listing((stage, b"i {auth_authen}"))
        yield Session(f"symbols of stage {stage}", plan, (OFFER, CONNECT))
    several = listing((6, b"{f}"), (0, b"j"), (5, b"i"), (3, b"{rcpt_addr} {rcpt_host}"))
    yield Session("symbols of several stages", several, (OFFER, CONNECT))
    every = listing(*((stage, b"%d" % stage) for stage in range(7)))
    yield Session("symbols of every stage", every, (OFFER, CONNECT))
    yield Session("an empty list of symbols", listing((2, b"")), (OFFER, CONNECT))
    spared = (offer(actions=0xFF), CONNECT)
    yield Session("symbols without SETSYMLIST", listing((2, b"i")), spared)
    yield Session("symbols for version 5", listing((2, b"i")), (offer(5), CONNECT))


def _odd_times() -> Iterator[Session]:
    for size in (0, 1, 4, 8, 11):
        yield Session(f"an offer of {size} bytes", ALL, (packet("O", OFFER[5 : 5 + size]),))
    yield Session("an offer with more behind it", ALL, (packet("O", OFFER[5:] + b"more"), CONNECT))
    yield Session("a second offer", ALL, (OFFER, OFFER, CONNECT, HELO))
    yield Session("a second offer after CONNECT", ALL, (OFFER, CONNECT, OFFER, HELO, MAIL))
    yield Session("a second offer in a message", ALL, (OPENING, MAIL, OFFER, MAIL))
    yield Session("CONNECT without an offer", ALL, (CONNECT, HELO, OFFER, HELO))
    yield Session("HELO without an offer", ALL, (HELO, MAIL, OFFER))
    yield Session("a message without an offer", ALL, (HELO, MESSAGE))
    edit = Plan.of(eom=Script.always(0, Call.of("addheader", b"X", b"y")))
    yield Session("an edit without an offer", edit, (HELO, MESSAGE))
    yield Session("a message without an offer, no callbacks", _NONE, (HELO, MESSAGE))
    sends = (OFFER, macros("C", b"j", b"mx") + CONNECT)
    yield Session("macros behind the offer", Plan.of(macros=(b"j",)), sends)


NEGOTIATION = [
    *_versions(),
    *_bits(),
    *_nothing_offered(),
    *_callbacks(),
    *_results(),
    *_symbol_lists(),
    *_odd_times(),
]
