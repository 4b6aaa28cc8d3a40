"""Every command in every state, against what libmilter was seen to do."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from aiomilter.session.events import (
    ConnectionEnd,
    Ignored,
    MessageAborted,
    MessageStart,
    SessionEnd,
    SessionStart,
)
from aiomilter.session.states import (
    ABORTS,
    ABORTS_AND_SWALLOWS,
    NOT_A_COMMAND,
    PROCESS,
    SWALLOW,
    can_reach,
    moves_for,
)
from aiomilter.spec import State
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
from tests.session.driver import ALL_STAGES, Driver, kinds, options_for

# Cells, as in libmilter:
#   P    processed               aP   the message is aborted, then processed
#   -    swallowed               a-   the message is aborted, then swallowed
#   A    aborts, nothing said    Q    the session ends        aQ   aborted, and the session ends
HEAD = "             O   C   H   M   R   T   L   N   B   E   A   U   K   Q"

ALL_HANDLERS = """
INIT         P   -   P   P   -   -   -   -   -   -   -   P   -   Q
NEGOTIATION  -   P   P   P   -   -   -   -   -   -   -   P   -   Q
CONNECT      -   -   P   P   -   -   -   -   -   -   -   P   -   Q
HELO         -   -   P   P   -   -   -   -   -   -   -   P   -   Q
MAIL         a-  a-  aP  aP  P   a-  a-  a-  a-  a-  A   P   a-  aQ
RCPT         a-  a-  aP  aP  P   P   P   P   P   P   A   P   a-  aQ
DATA         a-  a-  aP  aP  a-  a-  P   P   a-  a-  A   aP  a-  aQ
HEADER       a-  a-  aP  aP  a-  a-  P   P   a-  a-  A   aP  a-  aQ
EOH          a-  a-  aP  aP  a-  a-  a-  a-  P   P   A   aP  a-  aQ
BODY         a-  a-  aP  aP  a-  a-  a-  a-  P   P   A   aP  a-  aQ
EOM          -   -   P   P   -   -   -   -   -   -   -   P   P   Q
ABORT        -   -   P   P   -   -   -   -   -   -   -   P   -   Q
UNKNOWN      -   -   P   P   P   P   -   -   P   -   A   P   P   Q
QUIT_NC      -   P   P   P   -   -   -   -   -   -   -   P   -   Q
"""

EOM_ALONE = """
INIT         P   -   P   P   P   P   P   P   P   P   A   P   -   Q
NEGOTIATION  -   P   P   P   P   P   P   P   P   P   A   P   -   Q
CONNECT      -   -   P   P   P   P   P   P   P   P   A   P   -   Q
HELO         -   -   P   P   P   P   P   P   P   P   A   P   -   Q
MAIL         a-  a-  aP  aP  P   P   P   P   P   P   A   P   a-  aQ
RCPT         a-  a-  aP  aP  P   P   P   P   P   P   A   P   a-  aQ
DATA         a-  a-  aP  aP  aP  aP  P   P   P   P   A   aP  a-  aQ
HEADER       a-  a-  aP  aP  aP  aP  P   P   P   P   A   aP  a-  aQ
EOH          a-  a-  aP  aP  aP  aP  aP  aP  P   P   A   aP  a-  aQ
BODY         a-  a-  aP  aP  aP  aP  aP  aP  P   P   A   aP  a-  aQ
EOM          -   -   P   P   P   P   P   P   P   P   A   P   P   Q
ABORT        -   -   P   P   P   P   P   P   P   P   A   P   P   Q
UNKNOWN      -   -   P   P   P   P   P   P   P   P   A   P   P   Q
QUIT_NC      -   P   P   P   P   P   P   P   P   P   A   P   -   Q
"""

ALL_BUT_UNKNOWN = """
INIT         P   -   P   P   -   -   -   -   -   -   -   P   -   Q
NEGOTIATION  -   P   P   P   -   -   -   -   -   -   -   P   -   Q
CONNECT      -   -   P   P   -   -   -   -   -   -   -   P   -   Q
HELO         -   -   P   P   -   -   -   -   -   -   -   P   -   Q
MAIL         a-  a-  aP  aP  P   a-  a-  a-  a-  a-  A   P   a-  aQ
RCPT         a-  a-  aP  aP  P   P   P   P   P   P   A   P   a-  aQ
DATA         a-  a-  aP  aP  a-  a-  P   P   a-  a-  A   aP  a-  aQ
HEADER       a-  a-  aP  aP  a-  a-  P   P   a-  a-  A   aP  a-  aQ
EOH          a-  a-  aP  aP  a-  a-  a-  a-  P   P   A   aP  a-  aQ
BODY         a-  a-  aP  aP  a-  a-  a-  a-  P   P   A   aP  a-  aQ
EOM          -   -   P   P   -   -   -   -   -   -   -   P   P   Q
ABORT        -   -   P   P   P   P   -   -   P   -   A   P   P   Q
UNKNOWN      -   -   P   P   P   P   -   -   P   -   A   P   P   Q
QUIT_NC      -   P   P   P   -   -   -   -   -   -   -   P   -   Q
"""

MILTERS = {
    "all": (ALL_STAGES, ALL_HANDLERS),
    "eom": (frozenset({State.EOM}), EOM_ALONE),
    "no-unknown": (ALL_STAGES - {State.UNKNOWN}, ALL_BUT_UNKNOWN),
}

IN_MESSAGE = (State.MAIL, State.RCPT, State.DATA, State.HEADER, State.EOH, State.BODY)

ENVELOPE = OFFER + CONNECT + HELO + MAIL + RCPT
PATHS = {
    State.INIT: b"",
    State.NEGOTIATION: OFFER,
    State.CONNECT: OFFER + CONNECT,
    State.HELO: OFFER + CONNECT + HELO,
    State.MAIL: OFFER + CONNECT + HELO + MAIL,
    State.RCPT: ENVELOPE,
    State.DATA: ENVELOPE + DATA,
    State.HEADER: ENVELOPE + DATA + HEADER,
    State.EOH: ENVELOPE + DATA + HEADER + EOH,
    State.BODY: ENVELOPE + DATA + HEADER + EOH + BODY,
    State.EOM: ENVELOPE + DATA + HEADER + EOH + BODY + EOM,
    State.ABORT: OFFER + CONNECT + HELO + MAIL + ABORT,
    State.UNKNOWN: OFFER + CONNECT + HELO + UNKNOWN,
    State.QUIT_NC: ENVELOPE + EOM + QUIT_NC,
}

# packet, state behind it, name of its event, name of the command
COMMANDS = {
    "O": (OFFER, State.NEGOTIATION, "NegotiationOffer", "negotiate"),
    "C": (CONNECT, State.CONNECT, "Connect", "connect"),
    "H": (HELO, State.HELO, "Helo", "helo"),
    "M": (MAIL, State.MAIL, "Mail", "mail"),
    "R": (RCPT, State.RCPT, "Rcpt", "rcpt"),
    "T": (DATA, State.DATA, "Data", "data"),
    "L": (HEADER, State.HEADER, "Header", "header"),
    "N": (EOH, State.EOH, "EndOfHeaders", "eoh"),
    "B": (BODY, State.BODY, "Body", "body"),
    "E": (EOM, State.EOM, "EndOfMessage", "eom"),
    "A": (ABORT, State.ABORT, "", "abort"),
    "U": (UNKNOWN, State.UNKNOWN, "Unknown", "unknown"),
    "K": (QUIT_NC, State.QUIT_NC, "SessionEnd", "quit_nc"),
    "Q": (QUIT, State.QUIT, "", "quit"),
}


class Pair(NamedTuple):
    milter: str
    state: State
    letter: str
    cell: str
    """What libmilter does."""


def pairs() -> list[Pair]:
    letters = HEAD.split()
    found: list[Pair] = []
    for milter, (_, table) in MILTERS.items():
        for line in table.strip().splitlines():
            name, *cells = line.split()
            found += (
                Pair(milter, State[name], letter, cell)
                for letter, cell in zip(letters, cells, strict=True)
            )
    return found


def pair_id(pair: Pair) -> str:
    return f"{pair.milter}-{pair.state.name}-{pair.letter}"


def test_the_tables_are_complete() -> None:
    assert len(pairs()) == 3 * 14 * 14
    assert HEAD.split() == list(COMMANDS)
    # Nothing comes behind QUIT; all other states have a row.
    assert PATHS.keys() == set(State) - {State.QUIT}
    assert {pair.state for pair in pairs()} == PATHS.keys()


def deviates(pair: Pair) -> bool:
    """Whether this is the one place where libmilter is not followed.

    There an unknown SMTP command inside a message makes the session forget that it is in a
    message, or aborts it; what follows may stay without any answer, and the MTA waits.
    """
    return pair.letter == "U" and pair.state in IN_MESSAGE


@pytest.mark.parametrize("pair", pairs(), ids=pair_id)
def test_move(pair: Pair) -> None:
    stages = MILTERS[pair.milter][0]
    move = moves_for(options_for(stages))[pair.state][ord(pair.letter)]
    if deviates(pair):
        assert move == PROCESS
    elif pair.cell == "Q":
        # Processed or swallowed, the session ends.
        assert move in (PROCESS, SWALLOW)
    else:
        moves = {"P": PROCESS, "A": PROCESS, "aP": ABORTS, "-": SWALLOW}
        assert move == moves.get(pair.cell, ABORTS_AND_SWALLOWS)


@pytest.mark.parametrize("pair", pairs(), ids=pair_id)
def test_command_in_state(pair: Pair) -> None:
    stages = MILTERS[pair.milter][0]
    packet, target, event_name, command_name = COMMANDS[pair.letter]
    driver = Driver(stages)
    driver.feed(PATHS[pair.state])
    assert driver.session.state is pair.state
    was_open = pair.state in IN_MESSAGE
    assert driver.session.message_is_open == was_open
    driver.take_events()

    sent = driver.feed(packet)
    events = driver.take_events()
    session = driver.session
    if SessionStart() in events:
        assert pair.state in (State.INIT, State.QUIT_NC)
        assert events.pop(0) == SessionStart()

    cell = "P" if deviates(pair) else pair.cell
    aborts = was_open and (cell.startswith("a") or cell == "A")
    if aborts:
        assert events.pop(0) == MessageAborted()
    assert MessageAborted() not in events

    if cell in ("Q", "aQ"):
        assert sent == []
        # A session that nobody has begun has no end: libmilter would call close here.
        is_started = pair.state not in (State.INIT, State.QUIT_NC)
        assert events == [SessionEnd()] * is_started + [ConnectionEnd()]
    elif cell in ("-", "a-"):
        assert sent == []
        # The MTA says ABORT whenever it likes; that is nothing to report.
        before = State.HELO if aborts else pair.state
        ignored = Ignored(command_name, before, "it is out of order")
        assert events == ([] if pair.letter == "A" else [ignored])
        assert session.state is State.HELO
    elif cell == "A":
        assert (sent, events) == ([], [])
        assert session.state is State.ABORT
    else:
        in_message = State.MAIL <= target <= State.EOM
        if in_message and (aborts or not was_open):
            assert events.pop(0) == MessageStart()
        is_handled = target in stages or pair.letter in "OK"
        assert kinds(events) == [event_name] * is_handled
        assert [reply[:1] for reply in sent] == {"O": [b"O"], "K": []}.get(pair.letter, [b"c"])
        assert session.state is (pair.state if deviates(pair) else target)


@pytest.mark.parametrize("state", [state for state in State if state is not State.QUIT])
def test_macros_never_move_a_session(state: State) -> None:
    assert moves_for(0)[state][ord("D")] == PROCESS
    driver = Driver()
    driver.feed(PATHS[state])
    driver.take_events()
    assert driver.feed(b"\0\0\0\x07DCj\0mx\0") == []
    assert driver.events == []
    assert driver.session.state is state


@pytest.mark.parametrize("state", list(State), ids=lambda state: str(state.name))
def test_other_bytes_are_no_commands(state: State) -> None:
    row = moves_for(0x37F)[state]
    assert len(row) == 256
    known = {letter for letter in range(256) if row[letter] != NOT_A_COMMAND}
    assert known == set(b"OCHMRTLNBEAUKQD")


def test_stages_are_stepped_over_by_number() -> None:
    unwanted = frozenset({State.RCPT, State.DATA})
    assert can_reach(State.MAIL, State.HEADER, unwanted)
    assert not can_reach(State.MAIL, State.HEADER, frozenset({State.DATA}))
    # ABORT and QUIT are no stages: nothing is stepped over beyond the end of a message.
    everything = frozenset(ALL_STAGES - {State.EOM})
    assert not can_reach(State.BODY, State.QUIT_NC, everything)
    assert not can_reach(State.QUIT_NC, State.HELO, everything)


def test_tables_are_made_once() -> None:
    assert moves_for(0x37F) is moves_for(0x37F)
