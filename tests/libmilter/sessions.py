"""Draws sessions: a plan for the filter, and the packets that an MTA, or no MTA at all, sends.

Rules of this file:

- Everything is drawn from one `random.Random`. Hypothesis hands in one that shrinks; the long run
  hands in one with a seed.
- The results 20 to 22 are not drawn: by these libmilter speaks to itself, and they are a filter's
  by mistake only.
- Mostly what is drawn is nearly right: a session that breaks at its first packet shows little.
- One theme is different. `triples` takes the shortest way to a state, sends one command there, and
  has its callback return one result, and draws all of these evenly.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

from aiomilter.session.states import ABORTS, PROCESS, moves_for
from aiomilter.spec import COMMANDS, State
from tests.libmilter.plan import (
    ACCEPT,
    ALL_OPTS,
    CALLBACKS,
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
from tests.libmilter.values import (
    BAD,
    BROKEN_FRAMES,
    EDITS,
    FULL_OFFER,
    GOOD,
    ODD_EDITS,
    ODD_ENHANCED_CODES,
    ODD_LENGTHS,
    ODD_REPLY_CODES,
    ODD_TEXTS,
    UNREADABLE_ADDRESSES,
)
from tests.packets import packet

__all__ = ["CALLBACK_OF", "THEMES", "TRIPLES", "Theme", "Triple", "cut", "draw_session"]

_VERDICTS = (REJECT, DISCARD, ACCEPT, TEMPFAIL)
_STAGES = CALLBACKS[1:]
_MACRO_NAMES = (b"i", b"{i}", b"j", b"{auth_authen}")
_NO_REPLY = 0xFF080

RESULTS = (CONTINUE, *_VERDICTS, NOREPLY, SKIP, ALL_OPTS)
"""All results that mean something to libmilter somewhere."""

Triple = tuple[State, str, int | None]
"""A state, the letter of a command, and the result of its callback, if one runs."""

CALLBACK_OF = {
    "O": "negotiate",
    "C": "connect",
    "H": "helo",
    "M": "envfrom",
    "R": "envrcpt",
    "T": "data",
    "U": "unknown",
    "L": "header",
    "N": "eoh",
    "B": "body",
    "E": "eom",
}
"""The callback of each command whose callback has a result."""

WAYS = {
    State.INIT: "",
    State.NEGOTIATION: "O",
    State.CONNECT: "OC",
    State.HELO: "OCH",
    State.MAIL: "OCHM",
    State.RCPT: "OCHMR",
    State.DATA: "OCHMRT",
    State.HEADER: "OCHMRTL",
    State.EOH: "OCHMRTLN",
    State.BODY: "OCHMRTLNB",
    State.EOM: "OCHMRTLNBE",
    State.ABORT: "OCHMRA",
    State.UNKNOWN: "OCHU",
    State.QUIT_NC: "OCHUK",
}
"""The commands that lead to each state that can be left again."""


@dataclass(frozen=True, slots=True)
class Theme:
    """What a family of sessions is about; probabilities are from 0 to 1."""

    all_callbacks: float = 0.5
    negotiates: float = 0.35
    odd_offers: float = 0.3
    second_offers: float = 0.02
    verdicts: float = 0.15
    odd_results: float = 0.0
    replies: float = 0.4
    unused_replies: float = 0.0
    odd_values: float = 0.0
    edits: float = 0.5
    macros: float = 0.2
    disorder: float = 0.06
    bad_payloads: float = 0.04
    odd_lengths: float = 0.01
    broken_frames: float = 0.02
    tails: float = 0.05
    is_triples: bool = False


THEMES: dict[str, Theme] = {
    "orderly": Theme(
        disorder=0, bad_payloads=0, odd_offers=0.1, odd_lengths=0, broken_frames=0, second_offers=0
    ),
    "disorder": Theme(disorder=0.4, verdicts=0.05),
    "malformed": Theme(bad_payloads=0.25, disorder=0.02),
    "framing": Theme(odd_lengths=0.15, broken_frames=0.5, disorder=0.02, verdicts=0.05),
    "negotiation": Theme(negotiates=0.8, odd_offers=0.9, second_offers=0.2, disorder=0.02),
    "macros": Theme(macros=0.8, disorder=0.1),
    "verdicts": Theme(verdicts=0.35, odd_results=0.1, tails=0.2, negotiates=0.5),
    "replies": Theme(verdicts=0.4, replies=1, unused_replies=0.1, odd_values=0.3),
    "edits": Theme(edits=1, odd_values=0.15, verdicts=0.05, disorder=0.02),
    "triples": Theme(
        is_triples=True, negotiates=0.3, odd_offers=0, bad_payloads=0, odd_lengths=0, tails=0
    ),
}
"""The families, by name."""


def draw_session(random: Random, theme: Theme) -> tuple[Plan, list[bytes]]:
    """Draw what the filter does, and what the MTA sends, a packet each."""
    if theme.is_triples:
        return _draw_triple(random, theme)
    return _draw_plan(random, theme), _draw_packets(random, theme)


def cut(random: Random, packets: list[bytes]) -> list[bytes]:
    """Return the same bytes cut anywhere: all at once, byte by byte, or something between."""
    data = b"".join(packets)
    longest = random.choice((1, 3, 50, len(data)))
    pieces: list[bytes] = []
    while data:
        size = random.randint(1, max(1, min(longest, len(data))))
        if longest > 50:
            size = longest
        pieces.append(data[:size])
        data = data[size:]
    return pieces


# ---------------------------------------------------------------- the filter


def _draw_plan(random: Random, theme: Theme) -> Plan:
    names = [name for name in _STAGES if random.random() < 0.65]
    if random.random() < theme.all_callbacks:
        names = list(_STAGES)
    scripts = {name: _draw_script(random, theme, name) for name in names}
    if random.random() < theme.negotiates:
        scripts["negotiate"] = Script((_draw_negotiation(random, theme),))
    flags = random.choice((0x1FF, 0x1FF, 0, random.getrandbits(9)))
    return Plan(scripts, flags=flags, macros=_MACRO_NAMES)


def _draw_script(random: Random, theme: Theme, name: str) -> Script:
    return Script(tuple(_draw_step(random, theme, name) for _ in range(random.randrange(4))))


def _draw_step(random: Random, theme: Theme, name: str) -> Step:
    result = CONTINUE
    if random.random() < theme.verdicts:
        result = random.choice(_VERDICTS)
    if random.random() < theme.odd_results and name not in ("abort", "close"):
        result = random.choice((NOREPLY, SKIP, 5, ALL_OPTS, -1))
    calls: list[Call] = []
    if name == "eom" and random.random() < theme.edits:
        calls = _draw_edits(random, theme)
    has_reply = name not in ("abort", "close") and random.random() < theme.replies
    if has_reply and result in (REJECT, TEMPFAIL):
        calls.append(_draw_reply(random, theme, b"5" if result == REJECT else b"4"))
    elif has_reply and random.random() < theme.unused_replies:
        calls.append(_draw_reply(random, theme, random.choice((b"4", b"5"))))
    return Step(tuple(calls), result)


def _draw_edits(random: Random, theme: Theme) -> list[Call]:
    calls = random.sample(EDITS, random.randrange(6))
    if random.random() < theme.odd_values:
        calls.append(random.choice(ODD_EDITS))
    if random.random() < 0.3:
        sizes = random.choice(((0,), (1,), (65_535,), (65_536,), (1, 0, 131_070)))
        for size in sizes:
            calls.insert(random.randrange(len(calls) + 1), Call.of("replacebody", b"x" * size))
    return calls


def _draw_reply(random: Random, theme: Theme, kind: bytes) -> Call:
    code = kind + random.choice((b"50", b"21", b"99", b"00"))
    enhanced = random.choice((None, kind + b".7.1", kind + b".0.999"))
    if random.random() < 0.5:
        text = random.choice((None, b"", b"no", b"100% \xc3\xa9", b"x" * 980))
        call = Call.of("setreply", code, enhanced, text)
    else:
        count = random.choice((0, 1, 2, 3, 32))
        call = Call.of("setmlreply", code, enhanced, *(b"line %d" % n for n in range(count)))
    if random.random() >= theme.odd_values:
        return call
    arguments = list(call.args)
    at = random.randrange(4)
    if at == 3:
        lines = [b"x"] * 33 if random.random() < 0.2 else [b"a", b"b"]
        if len(lines) == 2:
            lines[random.randrange(2)] = random.choice(ODD_TEXTS)
        return Call.of("setmlreply", code, enhanced, *lines)
    arguments[at:] = [
        random.choice((ODD_REPLY_CODES, ODD_ENHANCED_CODES, ODD_TEXTS)[at]),
        *arguments[at + 1 :],
    ]
    return Call.of(call.name, *arguments)


def _draw_negotiation(random: Random, theme: Theme) -> Step:
    result = random.choice((CONTINUE, CONTINUE, CONTINUE, ALL_OPTS, random.choice(_VERDICTS)))
    if random.random() < theme.odd_results:
        result = random.choice((NOREPLY, SKIP, -1, 5))
    calls: list[Call] = []
    for stage in (*range(7), random.randrange(-1, 8)):
        if random.random() < 0.1:
            names = random.choice((b"i", b"i j", b"{auth_authen}", b""))
            calls.append(Call.of("setsymlist", stage, names))
    outputs = None
    if random.random() < 0.6:
        actions = random.choice((0x1FF, 0, 0x3F, random.getrandbits(9), random.getrandbits(32)))
        options = random.choice(
            (
                *(0, 0x400, 0xFF080, random.getrandbits(21), 1 << random.randrange(21)),
                random.getrandbits(32),
            )
        )
        outputs = actions, options
    return Step(tuple(calls), result, outputs)


# ---------------------------------------------------------------- the MTA


def _draw_packets(random: Random, theme: Theme) -> list[bytes]:
    letters = "CH"
    for _ in range(random.choice((1, 1, 2, 3))):
        letters += "M" + "R" * random.choice((1, 1, 2)) + random.choice(("T", "T", ""))
        letters += "L" * random.randrange(3) + "N" + "B" * random.randrange(3) + "E"
        letters += random.choice(("A", ""))
    sends = [_draw_offer(random, theme)] if random.random() < 0.95 else []
    for letter in letters + "Q":
        if random.random() < theme.disorder:
            other = random.choice("OCHMRTLNBEAUUKQ")
            sends.append(_draw_packet(random, theme, other))
            if random.random() < 0.5:
                continue
        # Not as the very first: what comes ahead of all commands libmilter's pool of threads
        # forgets, or not, by the time that passes until the next packet.
        if sends and random.random() < theme.macros:
            sends.append(_draw_macros(random, theme))
        sends.append(_draw_packet(random, theme, letter))
        if letter == "E" and random.random() < 0.03:
            sends.append(_draw_packet(random, theme, "K"))
    if random.random() < theme.second_offers:
        sends.insert(random.randrange(len(sends) + 1), _draw_offer(random, theme))
    if random.random() < theme.broken_frames:
        at = random.randrange(len(sends) + 1)
        sends[at:] = [random.choice(BROKEN_FRAMES)]
    elif random.random() < 0.2:
        del sends[random.randrange(1, len(sends) + 1) :]
    return sends


def _draw_packet(random: Random, theme: Theme, letter: str) -> bytes:
    if random.random() < theme.odd_lengths and letter != "O":
        return random.choice(ODD_LENGTHS) + letter.encode()
    if letter == "O":
        return _draw_offer(random, theme)
    if letter == "D":
        return _draw_macros(random, theme)
    if letter == "C" and random.random() < theme.bad_payloads:
        return packet("C", random.choice(UNREADABLE_ADDRESSES))
    if letter == "E" and random.random() < theme.tails:
        return packet("E", b"tail")
    if random.random() < theme.bad_payloads:
        return packet(letter, random.choice(BAD[letter]))
    return packet(letter, random.choice(GOOD[letter]))


def _draw_offer(random: Random, theme: Theme) -> bytes:
    if random.random() < theme.bad_payloads / 4:
        return packet("O", random.choice(BAD["O"]))
    if random.random() >= theme.odd_offers:
        return packet("O", FULL_OFFER)
    version = random.choice((6, 6, 6, 2, 3, 4, 5, 7, 0x7FFFFFFF, 0, 1, 0x80000000))
    actions = random.choice((0x1FF, 0x1FF, 0, 0x0F, 0x3F, 0xFFFFFFFF, random.getrandbits(9)))
    options = random.choice(
        (
            *(0x1FFFFF, 0x1FFFFF, 0, 0x3F, 0x7F, 0x17F, 0x37F, 0x3FF),
            *(0x7FFFFFFF, 0xFFFFFFFF, 0x10000000),
            random.getrandbits(21),
            0x1FFFFF & ~(1 << random.randrange(21)),
        )
    )
    return packet("O", struct.pack(">III", version, actions, options))


def _draw_macros(random: Random, theme: Theme) -> bytes:
    if random.random() < theme.bad_payloads:
        return packet("D", random.choice(BAD["D"]))
    letter = random.choice("CHMRTNECHMRTNELBUZ").encode()
    pairs = b"".join(
        random.choice(_MACRO_NAMES) + b"\0%d\0" % random.randrange(100)
        for _ in range(random.randrange(4))
    )
    return packet("D", letter + pairs + random.choice((b"", b"", b"tail")))


# ---------------------------------------------------------------- state, command and result


def _draw_triple(random: Random, theme: Theme) -> tuple[Plan, list[bytes]]:
    state, letter, result = random.choice(TRIPLES)
    callback = CALLBACK_OF.get(letter)
    names = {name for name in _STAGES if random.random() < 0.7}
    if random.random() < 0.3 or not _is_processed(state, letter, names):
        names = set()
    scripts = {name: Script() for name in sorted(names)}
    if random.random() < theme.negotiates:
        options = _NO_REPLY & random.choice((_NO_REPLY, random.getrandbits(20)))
        scripts["negotiate"] = Script((Step(outputs=(0x1FF, options)),))
    way = WAYS[state]
    if callback is not None:
        scripts.pop(callback, None)
        if result is not None:
            steps = [Step()] * way.count(letter)
            scripts[callback] = Script((*steps, Step(result=result)))
    further = random.choice(("", "MRTLNBEQ", "RTLNBEQ", "LNBEQ", "EQ", "AMRE", "UU", "CHMRE"))
    sends = [packet(one, FULL_OFFER if one == "O" else GOOD[one][0]) for one in way]
    sends.append(_draw_packet(random, theme, letter))
    sends += [packet(one, GOOD[one][0]) for one in further]
    return Plan(scripts, macros=_MACRO_NAMES), sends


def _is_processed(state: State, letter: str, names: set[str]) -> bool:
    """Return whether a command is not swallowed in a state, with these callbacks."""
    unwanted = sum(
        row.no_option
        for row in COMMANDS
        if row.no_option and CALLBACK_OF[row.letter.decode()] not in names
    )
    return moves_for(unwanted)[state][ord(letter)] in (PROCESS, ABORTS)


def _all_triples() -> list[Triple]:
    """Return each command in each state with each result that its callback can have.

    A callback runs where its command is processed, be it after the abort of a message, if the
    milter wants no other stages. Without a result is a command that has no callback, here or at
    all, or is swallowed. Macros ahead of all else are left out: what libmilter then does is a
    matter of time (D25).
    """
    found: list[Triple] = []
    for state in WAYS:
        for row in COMMANDS:
            letter = row.letter.decode()
            if (state, letter) != (State.INIT, "D"):
                found.append((state, letter, None))
            if letter in CALLBACK_OF and _is_processed(state, letter, set()):
                found += [(state, letter, result) for result in RESULTS]
    return found


TRIPLES = _all_triples()
"""All triples of a state, a command in it, and the result of its callback."""
