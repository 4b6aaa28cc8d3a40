"""Every command in every state, for three filters."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.catalogue.sessions import ALL, Session, without
from tests.libmilter.plan import Plan
from tests.packets import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
)

__all__ = ["STATES"]

_COMMANDS = {
    "OPTNEG": OFFER,
    "CONNECT": CONNECT,
    "HELO": HELO,
    "MAIL": MAIL,
    "RCPT": RCPT,
    "DATA": DATA,
    "HEADER": HEADER,
    "EOH": EOH,
    "BODY": BODY,
    "EOM": EOM,
    "ABORT": ABORT,
    "UNKNOWN": UNKNOWN,
    "QUIT_NC": QUIT_NC,
    "QUIT": QUIT,
}
_WAYS = {
    "INIT": b"",
    "OPTS": OFFER,
    "CONN": OFFER + CONNECT,
    "HELO": OFFER + HELO,
    "MAIL": OFFER + MAIL,
    "RCPT": OFFER + MAIL + RCPT,
    "DATA": OFFER + MAIL + RCPT + DATA,
    "HDRS": OFFER + MAIL + RCPT + DATA + HEADER,
    "EOHS": OFFER + MAIL + RCPT + DATA + EOH,
    "BODY": OFFER + MAIL + RCPT + DATA + EOH + BODY,
    "ENDM": OFFER + MAIL + RCPT + EOM,
    "ABRT": OFFER + MAIL + ABORT,
    "UNKN": OFFER + UNKNOWN,
    "Q_NC": OFFER + MAIL + RCPT + EOM + QUIT_NC,
}
"""The shortest ways to the states."""

_FILTERS = {
    "all callbacks": ALL,
    "no unknown callback": Plan.of(without("unknown")),
    "eom, abort and close only": Plan.of(("eom", "abort", "close")),
}
_UNKNOWN_IN_MESSAGE = (
    "MAIL:UNKNOWN RCPT:UNKNOWN DATA:UNKNOWN HDRS:UNKNOWN EOHS:UNKNOWN BODY:UNKNOWN"
)
_DEVIATIONS = {
    "all callbacks": {
        "D2": "INIT:QUIT ENDM:QUIT_NC UNKN:ABORT UNKN:QUIT_NC Q_NC:QUIT",
        "D10": _UNKNOWN_IN_MESSAGE,
    },
    "no unknown callback": {
        # Behind an ABORT, libmilter takes what it takes behind an unknown command.
        "D2": ("INIT:QUIT ENDM:QUIT_NC ABRT:ABORT ABRT:QUIT_NC UNKN:ABORT UNKN:QUIT_NC Q_NC:QUIT"),
        "D10": _UNKNOWN_IN_MESSAGE,
    },
    "eom, abort and close only": {
        # libmilter reaches ABORT from everywhere here, and aborts what has not begun.
        "D2": (
            "INIT:ABORT OPTS:ABORT CONN:ABORT HELO:ABORT ENDM:ABORT ABRT:ABORT UNKN:ABORT "
            "Q_NC:ABORT INIT:QUIT ENDM:QUIT_NC ABRT:QUIT_NC UNKN:QUIT_NC Q_NC:QUIT"
        ),
        "D10": _UNKNOWN_IN_MESSAGE,
    },
}
"""Where aiomilter differs: a state and a command each."""


def _cells() -> Iterator[Session]:
    for name, plan in _FILTERS.items():
        named = {
            cell: deviation
            for deviation, cells in _DEVIATIONS[name].items()
            for cell in cells.split()
        }
        for state, way in _WAYS.items():
            for command, data in _COMMANDS.items():
                deviation = named.pop(f"{state}:{command}", None)
                sends = (way, data) if way else (data,)
                yield Session(f"{command} in {state}, {name}", plan, sends, deviation)
        assert not named, f"no such cells: {named}"


STATES = [*_cells()]
