"""The values that sessions are drawn from: payloads, frames, edits and replies, good and odd.

Rules of this file:

- What libmilter does with some inputs is undefined (it reads past their end), and they are not
  here: UNKNOWN and CONNECT without NUL, macro packets with an odd number of strings.
- An argument that no author can write in Python (a NULL for a name, a text with a NUL) is not here
  either.
"""

from __future__ import annotations

from tests.libmilter.plan import Call

__all__ = [
    "BAD",
    "BROKEN_FRAMES",
    "EDITS",
    "FULL_OFFER",
    "GOOD",
    "ODD_EDITS",
    "ODD_ENHANCED_CODES",
    "ODD_LENGTHS",
    "ODD_REPLY_CODES",
    "ODD_TEXTS",
    "UNREADABLE_ADDRESSES",
]

FULL_OFFER = b"\0\0\0\6\0\0\1\xff\0\x1f\xff\xff"
"""Version 6 with all actions and options."""

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
ODD_LENGTHS = (b"\0\0\0\0", b"\x80\0\0\1", b"\xff\xff\xff\xff")
"""Lengths that mean, with the letter behind them, a packet without payload."""
BROKEN_FRAMES = (
    b"\x80\0\0\0B",
    b"\0\1\0\1B",
    b"\x7f\xff\xff\xffD",
    b"\0\0\0\1Z",
    b"\0\0\0\1\x80",
    b"\0\0\0\0z",
    b"\0\0\0",
    b"\0\0\0\5M<",
)
"""No packets, or only half of one: what follows on the stream is part of them."""

EDITS = (
    Call.of("addheader", b"X-A", b"v"),
    Call.of("addheader", b"X-A", b""),
    Call.of("addheader", b"X-A", b" v\xc3\xa9\n\tw"),
    Call.of("insheader", 0, b"X-B", b"v"),
    Call.of("insheader", 2**31 - 1, b"X-B", b"v\n w"),
    Call.of("chgheader", b"Subject", 1, b"new"),
    Call.of("chgheader", b"Subject", 0, None),
    Call.of("chgheader", b"Subject", 7, b""),
    Call.of("chgfrom", b"<q@example.com>", None),
    Call.of("chgfrom", b"<q@example.com>", b"RET=HDRS"),
    Call.of("chgfrom", b"<>", b""),
    Call.of("addrcpt", b"<r@example.com>"),
    Call.of("addrcpt", b"r"),
    Call.of("addrcpt_par", b"<r@example.com>", b"NOTIFY=NEVER"),
    Call.of("addrcpt_par", b"<r@example.com>", b""),
    Call.of("delrcpt", b"<b@example.com>"),
    Call.of("quarantine", b"held"),
    Call.of("progress"),
)
ODD_EDITS = (
    Call.of("addheader", b"", b"v"),
    Call.of("addheader", b"X A", b"v"),
    Call.of("addheader", b"X\xff", b"v"),
    Call.of("addheader", b"X-A", b"v\r\nX-B: w"),
    Call.of("addheader", b"X-A", b"x" * 65_530),
    Call.of("addheader", b"X-A", b"x" * 65_531),
    Call.of("insheader", -1, b"X-B", b"v"),
    Call.of("insheader", -(2**31), b"X-B", b"v"),
    Call.of("insheader", 1, b"", b""),
    Call.of("chgheader", b"X:", 1, b"v"),
    Call.of("chgheader", b"X-A", -1, b"v"),
    Call.of("chgheader", b"X-A", -1, None),
    Call.of("chgheader", b"", 1, b"v"),
    Call.of("chgfrom", b"", None),
    Call.of("chgfrom", b"<a>\r\n", b"RET=HDRS"),
    Call.of("chgfrom", b"<a>", b"RET=\nHDRS"),
    Call.of("addrcpt", b"<a>\n<b>"),
    Call.of("addrcpt", b""),
    Call.of("addrcpt_par", b"", b"NOTIFY=NEVER"),
    Call.of("addrcpt_par", b"<a>", b"A=\r"),
    Call.of("delrcpt", b""),
    Call.of("delrcpt", b"<a>\n"),
    Call.of("quarantine", b""),
    Call.of("quarantine", b"a\nb"),
    Call.of("quarantine", b"x" * 65_535),
)
"""Arguments that one side or both refuse."""

ODD_REPLY_CODES = (b"250", b"354", b"45", b"5500", b"600", b"399", b"0")
ODD_ENHANCED_CODES = (
    *(b"", b"5", b"5.1", b"5.1.1.1", b"5.1000.1", b"5.1.1000", b"2.0.0", b"6.7.1", b"5..1"),
    *(b"5.7.1 ", b"x.y.z", b"5.07.001", b"4.7.1", b"5.7.1"),
)
ODD_TEXTS = (b"a\r\nb", b"a\nb", b"\r", b"x" * 981, b"%" * 490, b"%s%n", b"\xff\xfe", b" ", b"\t")
