"""Which command may follow in which state: libmilter's transition rule, as lookup tables.

Rules of this file (``trans_ok`` and ``mi_engine`` in libmilter's ``engine.c``):

- A command may come if its state follows the current one directly, or if all states in between,
  by their numbers, belong to stages that the milter does not want.
- Otherwise the message in progress is aborted, the session falls back to HELO, and the command
  is tried again from there.
- What does not fit even then is swallowed: no handler, no answer, and the session stays in HELO.
- Here the skippable stages are those of one connection; libmilter shares them between all
  connections of the process.
- Where the rest of a message would be swallowed only because it has no header, that stage is
  stepped over as well: a message need not have any. libmilter swallows it if the milter wants
  headers but not their end, and the MTA waits.
- An unknown SMTP command inside a message leaves the message where it is; in libmilter it can
  leave the rest of the message unanswered, and the MTA waiting.
"""

from __future__ import annotations

from functools import lru_cache

from aiomilter.spec import COMMAND_BY_LETTER, COMMANDS, IN_MESSAGE, State

__all__ = [
    "ABORTS",
    "ABORTS_AND_SWALLOWS",
    "NOT_A_COMMAND",
    "PROCESS",
    "SWALLOW",
    "can_reach",
    "moves_for",
]

PROCESS = 0
"""The command is processed in the current state."""
ABORTS = 1
"""The message in progress is aborted, then the command is processed."""
SWALLOW = 2
"""Nothing happens and nothing is answered."""
ABORTS_AND_SWALLOWS = 3
"""The message in progress is aborted, then the command is swallowed."""
NOT_A_COMMAND = 4
"""The byte is no command at all."""

_STATE_OF_NO_OPTION = {
    int(row.no_option): row.target
    for row in COMMANDS
    if row.no_option is not None and row.target is not None
}


def can_reach(state: State, target: State, unwanted: frozenset[State]) -> bool:
    """Return whether ``target`` follows ``state``, stepping over ``unwanted`` stages."""
    here = int(state)
    follows = next(row.follows for row in COMMANDS if row.target is target)
    while here not in follows:
        here += 1
        if here not in unwanted:
            return False
    return True


def _move(state: State, target: State, unwanted: frozenset[State]) -> int:
    in_message = state in IN_MESSAGE
    if can_reach(state, target, unwanted) or (in_message and target is State.UNKNOWN):
        return PROCESS
    if can_reach(State.HELO, target, unwanted):
        return ABORTS if in_message else PROCESS
    if in_message and can_reach(state, target, unwanted | {State.HEADER}):
        return PROCESS
    return ABORTS_AND_SWALLOWS if in_message else SWALLOW


@lru_cache(maxsize=512)
def moves_for(skippable: int) -> tuple[bytes, ...]:
    """Return what to do with a command, as ``moves[state][letter]``.

    Args:
        skippable: The ``NO_*`` bits of the stages that the milter does not want.

    Returns:
        One row of 256 moves a state. Macro packets are always `PROCESS`.
    """
    unwanted = frozenset(target for bit, target in _STATE_OF_NO_OPTION.items() if skippable & bit)
    rows: list[bytes] = []
    for state in State:
        row = bytearray([NOT_A_COMMAND]) * 256
        for letter, command in COMMAND_BY_LETTER.items():
            target = command.target
            row[letter] = PROCESS if target is None else _move(state, target, unwanted)
        rows.append(bytes(row))
    return tuple(rows)
