"""Draws sessions: a plan for the filter, and the packets that an MTA, or no MTA at all, sends.

Rules of this file:

- Everything is drawn from one `random.Random`. Hypothesis hands in one that shrinks; the long run
  hands in one with a seed.
- What libmilter does with some inputs is undefined (it reads past their end), and they are not
  drawn: UNKNOWN and CONNECT without NUL, macro packets with an odd number of strings, results
  20 to 22.
- Mostly what is drawn is nearly right: a session that breaks at its first packet shows little.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

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
from tests.packets import packet

__all__ = ["THEMES", "Theme", "draw_packets", "draw_plan"]

_VERDICTS = (REJECT, DISCARD, ACCEPT, TEMPFAIL)
_STAGES = CALLBACKS[1:]
_MACRO_NAMES = (b"i", b"{i}", b"j", b"{auth_authen}")

GOOD: dict[str, tuple[bytes, ...]] = {
    "C": (
        b"host\x004\x00\x19192.0.2.1\0",
        b"host\x006\x00\x19IPv6:2001:db8::1\0",
        b"host\x006\x00\x00::1\0",
        b"host\0L\0\0/run/x\0",
        b"\0U",
        b"host\x004\0\0127.1\0",
    ),
    "H": (b"helo.example\0", b"\0", b"a\0b\0"),
    "M": (b"<a@example.com>\0", b"<>\0SIZE=1\0BODY=8BITMIME\0", b"\0", b"<a@x>\0tail"),
    "R": (b"<b@example.com>\0", b"<b@x>\0NOTIFY=NEVER\0", b"b@x\0"),
    "T": (b"",),
    "L": (b"Subject\0test\0", b"A\0b\n c\0", b"A\0\0", b"\xff\0\xfe\0", b"A\0b\0c\0", b"\0a\0b\0"),
    "N": (b"",),
    "B": (b"body\r\n", b"\0", b"\r"),
    "E": (b"",),
    "A": (b"",),
    "U": (b"XYZZY\0", b"A B\0C\0", b"\0"),
    "Q": (b"",),
    "K": (b"",),
}
"""Payloads that libmilter takes, by command."""

BAD: dict[str, tuple[bytes, ...]] = {
    "O": (b"", b"\0\0\0\6", b"\0\0\0\1\0\0\1\xff\0\x1f\xff\xff"),
    "D": (b"", b"C", b"Ci"),
    "C": (b"", b"h\0", b"h\0X\0\0a\0", b"h\x004", b"h\x004\0\x19", b"h\x004\0\x19192.0.2.1"),
    "H": (b"", b"helo"),
    "M": (b"", b"<a@x>"),
    "R": (b"", b"<b@x>"),
    "T": (b"junk",),
    "L": (b"", b"A\0", b"A\0b", b"\0v\0", b"A"),
    "N": (b"junk",),
    "B": (b"",),
    "E": (b"junk",),
    "A": (b"junk",),
    "U": (b"",),
    "Q": (b"junk",),
    "K": (b"junk",),
}
"""Payloads that are odd or malformed."""

UNREADABLE_ADDRESSES = (b"h\x004\0\0unknown\0", b"h\x006\0\x00127.0.0.1\0", b"h\x004\0\0\0")
BROKEN_FRAMES = (
    b"\0\0\0\0T",
    b"\xff\xff\xff\xffA",
    b"\x80\0\0\0B",
    b"\x80\0\0\1N",
    b"\0\1\0\1B",
    b"\0\0\0\1Z",
    b"\0\0\0\1\x80",
    b"\0\0\0",
    b"\0\0\0\5M<",
)
"""No packets, or only half of one: what follows on the stream is part of them."""

EDITS = (
    Call.of("addheader", b"X-A", b"v"),
    Call.of("addheader", b"X-A", b""),
    Call.of("insheader", 0, b"X-B", b"v"),
    Call.of("insheader", 2**31 - 1, b"X-B", b"v\n w"),
    Call.of("chgheader", b"Subject", 1, b"new"),
    Call.of("chgheader", b"Subject", 0, None),
    Call.of("chgfrom", b"<q@example.com>", None),
    Call.of("chgfrom", b"<q@example.com>", b"RET=HDRS"),
    Call.of("chgfrom", b"<>", b""),
    Call.of("addrcpt", b"<r@example.com>"),
    Call.of("addrcpt_par", b"<r@example.com>", b"NOTIFY=NEVER"),
    Call.of("delrcpt", b"<b@example.com>"),
    Call.of("quarantine", b"held"),
)
ODD_EDITS = (
    Call.of("addheader", b"", b"v"),
    Call.of("addheader", b"X A", b"v"),
    Call.of("addheader", b"X-A", b"v\r\nX-B: w"),
    Call.of("insheader", -1, b"X-B", b"v"),
    Call.of("chgheader", b"X:", 1, b"v"),
    Call.of("chgheader", b"X-A", -1, b"v"),
    Call.of("chgfrom", b"", None),
    Call.of("addrcpt", b"<a>\n<b>"),
    Call.of("delrcpt", b""),
    Call.of("quarantine", b""),
)


@dataclass(frozen=True, slots=True)
class Theme:
    """What a family of sessions is about; probabilities are from 0 to 1."""

    all_callbacks: float = 0.5
    negotiates: float = 0.35
    odd_offers: float = 0.3
    verdicts: float = 0.15
    odd_results: float = 0.0
    replies: float = 0.4
    odd_values: float = 0.0
    edits: float = 0.5
    macros: float = 0.2
    disorder: float = 0.06
    bad_payloads: float = 0.04
    broken_frames: float = 0.01
    tails: float = 0.05


THEMES: dict[str, Theme] = {
    "orderly": Theme(disorder=0, bad_payloads=0, odd_offers=0.1, broken_frames=0),
    "disorder": Theme(disorder=0.4, verdicts=0.05),
    "malformed": Theme(bad_payloads=0.25, broken_frames=0.1, disorder=0.02),
    "negotiation": Theme(negotiates=0.8, odd_offers=0.9, disorder=0.02),
    "macros": Theme(macros=0.8, disorder=0.1),
    "verdicts": Theme(verdicts=0.35, odd_results=0.1, tails=0.2, negotiates=0.5),
    "replies": Theme(verdicts=0.4, replies=1, odd_values=0.2),
    "edits": Theme(edits=1, odd_values=0.15, verdicts=0.05, disorder=0.02),
}
"""The families, by name."""


def draw_plan(random: Random, theme: Theme) -> Plan:
    """Draw what the filter does."""
    names = [name for name in _STAGES if theme.all_callbacks == 1 or random.random() < 0.65]
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
    return Step(tuple(calls), result)


def _draw_edits(random: Random, theme: Theme) -> list[Call]:
    calls = random.sample(EDITS, random.randrange(5))
    if random.random() < theme.odd_values:
        calls.append(random.choice(ODD_EDITS))
    if random.random() < 0.3:
        sizes = random.choice(((0,), (1,), (65_535,), (65_536,), (1, 0, 131_070)))
        at = random.randrange(len(calls) + 1)
        calls[at:at] = [Call.of("replacebody", b"x" * size) for size in sizes]
    return calls


def _draw_reply(random: Random, theme: Theme, kind: bytes) -> Call:
    code = kind + b"50"
    enhanced = random.choice((None, kind + b".7.1", kind + b".0.999"))
    if random.random() < theme.odd_values:
        odd = random.choice(((b"250", b"x"), (code, b"a\r\nb"), (code, b"x" * 981)))
        return Call.of("setreply", odd[0], enhanced, odd[1])
    if random.random() < 0.5:
        text = random.choice((None, b"", b"no", b"100% \xc3\xa9", b"x" * 980))
        return Call.of("setreply", code, enhanced, text)
    count = random.choice((1, 2, 3, 32))
    return Call.of("setmlreply", code, enhanced, *(b"line %d" % n for n in range(count)))


def _draw_negotiation(random: Random, theme: Theme) -> Step:
    result = random.choice((CONTINUE, CONTINUE, CONTINUE, ALL_OPTS, random.choice(_VERDICTS)))
    if random.random() < theme.odd_results:
        result = random.choice((NOREPLY, SKIP, -1, 5))
    calls: list[Call] = []
    for stage in range(7):
        if random.random() < 0.1:
            names = random.choice((b"i", b"i j", b"{auth_authen}", b""))
            calls.append(Call.of("setsymlist", stage, names))
    outputs = None
    if random.random() < 0.6:
        actions = random.choice((0x1FF, 0, 0x3F, random.getrandbits(9)))
        options = random.choice(
            (0, 0x400, 0xFF080, random.getrandbits(21), 1 << random.randrange(21))
        )
        outputs = actions, options
    return Step(tuple(calls), result, outputs)


def draw_packets(random: Random, theme: Theme) -> list[bytes]:
    """Draw what the MTA sends, a packet each; the last ones may be broken."""
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
    if random.random() < theme.broken_frames:
        at = random.randrange(len(sends) + 1)
        sends[at:] = [random.choice(BROKEN_FRAMES)]
    elif random.random() < 0.2:
        del sends[random.randrange(1, len(sends) + 1) :]
    return sends


def _draw_packet(random: Random, theme: Theme, letter: str) -> bytes:
    if letter == "O":
        return _draw_offer(random, theme)
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
        return packet("O", b"\0\0\0\6\0\0\1\xff\0\x1f\xff\xff")
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
