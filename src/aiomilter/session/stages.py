"""Commands that are one event with one answer, as the hot path of the milter's end wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aiomilter.spec import COMMAND_BY_LETTER, MACRO_SLOTS
from aiomilter.wire.commands import (
    Body,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Mail,
    Rcpt,
    Unknown,
)

__all__ = ["STAGES", "EventWithAnswer", "Stage", "content_of"]

EventWithAnswer = (
    Connect | Helo | Mail | Rcpt | Data | Header | EndOfHeaders | Body | EndOfMessage | Unknown
)


class Stage(NamedTuple):
    """A row of `spec.COMMANDS` as the hot path wants it."""

    target: int
    handled_bit: int
    needs_payload: bool
    decode: Callable[[bytes], EventWithAnswer]
    no_reply: int
    first_macro_slot_to_clear: int


_DECODE: dict[int, Callable[[bytes], EventWithAnswer]] = {
    ord("C"): Connect.decode,
    ord("H"): Helo.decode,
    ord("M"): Mail.decode,
    ord("R"): Rcpt.decode,
    ord("T"): Data.decode,
    ord("L"): Header.decode,
    ord("N"): EndOfHeaders.decode,
    ord("B"): Body.decode,
    ord("U"): Unknown.decode,
}


def _stage_of(letter: int) -> Stage:
    row = COMMAND_BY_LETTER[letter]
    assert row.target is not None
    # CONNECT, HELO, MAIL and RCPT clear the macros of the stages behind them.
    clears = MACRO_SLOTS[letter] + 1 if letter in b"CHMR" else 0
    return Stage(
        int(row.target),
        1 << row.target,
        row.needs_payload,
        _DECODE[letter],
        int(row.no_reply_option or 0),
        clears,
    )


STAGES: dict[int, Stage] = {letter: _stage_of(letter) for letter in _DECODE}
"""The commands that are an event with an answer and nothing else."""

_CONTENT: dict[int, tuple[int, int, int, Callable[[bytes], EventWithAnswer]]] = {
    letter: (stage.target, stage.handled_bit, stage.no_reply, stage.decode)
    for letter, stage in STAGES.items()
    if letter in b"TLNB"
}
content_of = _CONTENT.get
"""Return target, bit, no-reply option and decoder by the letter of a command that does no more in
an open message than to come next; None for all others."""
