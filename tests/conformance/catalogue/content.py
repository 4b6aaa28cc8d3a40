"""Macros, bodies, packets of odd sizes and payloads of odd shapes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.catalogue.sessions import (
    AHEAD,
    ALL,
    OPENING,
    RESULT_NAMES,
    Session,
    without,
)
from tests.libmilter.plan import NOREPLY, REJECT, SKIP, Call, Plan, Script
from tests.packets import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    ENVELOPE,
    EOH,
    EOM,
    EOM_WITH_TAIL,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    macros,
    packet,
)

__all__ = ["BODIES", "FRAMING", "MACROS", "MALFORMED"]

_SEEING = Plan.of(macros=(b"i", b"{i}", b"j", b"{auth_authen}"))


def _macros() -> Iterator[Session]:
    for letter, ahead, command in (
        ("C", OFFER, CONNECT),
        ("H", OFFER + CONNECT, HELO),
        ("M", OPENING, MAIL),
        ("R", OPENING + MAIL, RCPT),
        ("T", OPENING + MAIL + RCPT, DATA),
        ("N", OPENING + ENVELOPE, EOH),
        ("E", OPENING + ENVELOPE + EOH, EOM),
        ("L", OPENING + ENVELOPE, HEADER),
        ("B", OPENING + ENVELOPE + EOH, BODY),
        ("U", OPENING, UNKNOWN),
        ("A", OPENING, MAIL),
        ("D", OPENING, MAIL),
        ("O", OPENING, MAIL),
        ("Q", OPENING, MAIL),
        ("m", OPENING, MAIL),
        ("\0", OPENING, MAIL),
    ):
        sends = (ahead, macros(letter, b"i", b"1", b"{auth_authen}", b"me") + command, QUIT)
        yield Session(f"macros for {letter!r}", _SEEING, sends)
    for title, strings in {
        "a name in braces": (b"{i}", b"1"),
        "a name with and without braces": (b"{i}", b"1", b"i", b"2"),
        "a name twice": (b"i", b"1", b"i", b"2"),
        "an empty value": (b"i", b""),
        "an empty name": (b"", b"1", b"i", b"2"),
        "a long name without braces": (b"auth_authen", b"me"),
        "a name in capitals": (b"I", b"1", b"{AUTH_AUTHEN}", b"me"),
        "a name with blanks": (b" i", b"1", b"i ", b"2"),
        "values of any bytes": (b"i", b"\xff\xc3\xa4\x01\r\n%", b"j", 300 * b"x"),
    }.items():
        sends = (OPENING, macros("M", *strings) + MAIL, QUIT)
        yield Session(title, _SEEING, sends)
    lookups = Script.always(
        0, *(Call.of("getsymval", name) for name in (b"i", b"{i}", b"", b"auth_authen", b"nil"))
    )
    sends = (OPENING, macros("M", b"i", b"1", b"{auth_authen}", b"me") + MAIL, QUIT)
    yield Session("lookups", Plan.of(envfrom=lookups), sends)


def _odd_macros() -> Iterator[Session]:
    """A name without value is looked up nowhere but where it is found (see `Plan.macros`)."""
    only_i = Plan.of(macros=(b"i",))
    first = macros("C", b"i", b"1") + CONNECT
    for title, payload in {
        "no strings": b"M",
        "a string without NUL": b"Mi",
        "a value without NUL": b"Mi\x002",
        "a name without value": b"Mi\0",
        "a name without value behind others": b"Mj\x002\0i\0",
        "nothing": b"",
    }.items():
        sends = (OFFER, first, HELO, packet("D", payload) + MAIL, QUIT)
        yield Session(f"macros of {title}", only_i, sends)
        again = (OFFER + CONNECT + HELO, macros("M", b"i", b"1"), packet("D", payload) + MAIL, QUIT)
        yield Session(f"macros of {title}, sent behind a whole set", only_i, again)


def _lives_of_macros() -> Iterator[Session]:
    def of(letter: str, value: bytes) -> bytes:
        return macros(letter, b"i", value)

    every = b"".join(of(letter, letter.encode()) for letter in "CHMRTNE")
    for name, command in {
        "CONNECT": CONNECT,
        "HELO": HELO,
        "MAIL": MAIL,
        "UNKNOWN": UNKNOWN,
    }.items():
        yield Session(f"macros for all stages ahead of {name}", _SEEING, (OFFER, every + command))
    staged = (
        OFFER,
        of("C", b"C") + CONNECT,
        of("H", b"H") + HELO,
        of("M", b"M") + MAIL,
        of("R", b"R") + RCPT,
        of("R", b"S") + RCPT,
        of("T", b"T") + DATA,
        HEADER,
        of("N", b"N") + EOH,
        BODY,
        of("E", b"E") + EOM,
    )
    yield Session("macros for every command", _SEEING, (*staged, QUIT))
    yield Session("macros at an end in mid-message", _SEEING, staged[:-1])
    yield Session("macros at the end after a message", _SEEING, staged)
    yield Session("macros, and HELO again", _SEEING, (*staged, HELO, QUIT))
    yield Session("macros of a new session", _SEEING, (*staged, QUIT_NC, CONNECT, HELO, QUIT))
    yield Session(
        "a set for RCPT replaces the whole set",
        _SEEING,
        (OPENING + MAIL, macros("R", b"i", b"1", b"j", b"2") + RCPT, of("R", b"3") + RCPT),
    )
    yield Session(
        "macros ahead of a swallowed command", _SEEING, (OPENING, of("T", b"T") + DATA, MAIL)
    )
    yield Session("HEADER and BODY keep macros", _SEEING, (*staged[:9], HEADER, QUIT))
    again = tuple(step.replace(b"i\0", b"i\0again ") for step in staged[3:])
    yield Session("each message has its own macros", _SEEING, (*staged, *again, QUIT))
    kept = "D15"
    yield Session("a message without macros after one with", _SEEING, (*staged, MESSAGE), kept)
    yield Session(
        "a message after ABORT", _SEEING, (OPENING, of("M", b"1") + MAIL, ABORT, MAIL), kept
    )
    bare = (OPENING, of("M", b"1") + MAIL, ABORT, packet("D", b"M") + MAIL)
    yield Session("a message with a set of no macros", _SEEING, bare, kept)
    login = macros("M", b"{auth_authen}", b"me") + MESSAGE
    yield Session("a login of the message before", _SEEING, (OPENING, login, MESSAGE), kept)
    few = Plan.of(("eom",), macros=(b"i",))
    sends: tuple[bytes, ...] = (OFFER, of("E", b"1") + EOM, EOM)
    yield Session("a filter with eom only", few, sends, kept)
    refused = Plan.of(envfrom=Script.always(REJECT), macros=(b"i",))
    yield Session("MAIL after a refused MAIL", refused, (OPENING, of("M", b"1") + MAIL, MAIL), kept)


MACROS = [*_macros(), *_odd_macros(), *_lives_of_macros()]


def _bodies() -> Iterator[Session]:
    ahead = AHEAD["body"]
    for title, pieces in {
        "one byte": [b"x"],
        "NUL bytes": [b"\0a\0"],
        "any bytes": [bytes(range(256))],
        "65535 bytes": [65535 * b"x"],
        "two pieces": [b"one\r", b"\ntwo\r\n"],
        "ten pieces": [b"%d" % number for number in range(10)],
    }.items():
        sends = (ahead, b"".join(packet("B", piece) for piece in pieces), EOM, QUIT)
        yield Session(title, ALL, sends)
    yield Session("no body", ALL, (ahead, EOM, QUIT))
    yield Session("an end with the last piece", ALL, (ahead, BODY, EOM_WITH_TAIL, QUIT))
    yield Session("an end with the only piece", ALL, (ahead, EOM_WITH_TAIL, MESSAGE))
    large = packet("E", 65535 * b"x")
    yield Session("an end with 65535 bytes", ALL, (ahead, large, QUIT))
    tail = (ahead, EOM_WITH_TAIL, EOM, MAIL)
    blind = Plan.of(without("body"))
    yield Session("a last piece without a body callback", blind, tail)
    endless = Plan.of(without("eom"))
    yield Session("a last piece without an eom callback", endless, tail)
    yield Session("an end without an eom callback", endless, (ahead, BODY, EOM, MAIL))
    neither = Plan.of(without("body", "eom"))
    yield Session("a last piece without both callbacks", neither, tail)
    for result, name in RESULT_NAMES.items():
        plan = Plan.of(body=Script.always(result))
        deviation = {0: None, NOREPLY: "D16", SKIP: "D11"}.get(result, "D4")
        yield Session(f"{name} on the last piece", plan, tail, deviation)
        at_end = Plan.of(eom=Script.always(result))
        deviation = {NOREPLY: "D16", SKIP: "D11"}.get(result)
        yield Session(f"{name} at the end with the last piece", at_end, tail, deviation)
    reply = Call.of("setreply", b"550", b"5.7.1", b"no")
    plan = Plan.of(body=Script.always(REJECT, reply))
    yield Session("a reply on the last piece", plan, tail, "D4")
    plan = Plan.of(body=Script.always(5))
    yield Session("an undefined result on the last piece", plan, tail, "D7")
    yield Session("a second end", ALL, (ahead, EOM, EOM, MAIL))


BODIES = [*_bodies()]


def _framing() -> Iterator[Session]:
    for title, data in {
        "length 0": b"\0\0\0\0N",
        "length 0x80000001": b"\x80\0\0\x01N",
        "length 0xffffffff": b"\xff\xff\xff\xffN",
        "length 0x80000000": b"\x80\0\0\0N",
        "length 0x7fffffff": b"\x7f\xff\xff\xffN",
        "65536 bytes of payload": b"\0\1\0\1N",
        "65535 bytes of payload": packet("N", 65535 * b"x"),
    }.items():
        yield Session(f"{title}, EOH", ALL, (AHEAD["eoh"], data, QUIT))
        same = data[:4] + b"B" + data[5:]
        yield Session(f"{title}, BODY", ALL, (AHEAD["body"], same, QUIT))
    for size, deviation in ((4096, None), (4097, "D20"), (65535, "D20")):
        early = packet("H", (size - 1) * b"x" + b"\0")
        yield Session(f"{size} bytes before the negotiation", ALL, (early, HELO), deviation)
        long_offer = packet("O", OFFER[5:] + (size - 12) * b"x")
        yield Session(f"an offer of {size} bytes", ALL, (long_offer, CONNECT), deviation)
    yield Session("the length of 65536 bytes, in two pieces", ALL, (OPENING, b"\0\1", b"\0\1H"))
    yield Session("a length that is too long", ALL, (OPENING, b"\0\1\0\1"), "D21")
    yield Session(
        "a length that is too long, then a letter", ALL, (OPENING, b"\0\1\0\1", b"H"), "D21"
    )
    for letter in (*b"\0\x01\x1f z:PSacdhinvy~", 0x7F, 0x80, 0xC3, 0xFF):
        name = f"the byte {letter:#04x}"
        data = b"\0\0\0\x01" + bytes((letter,))
        yield Session(f"{name} as a command", ALL, (OPENING, data, HELO))
        yield Session(
            f"{name} with payload in a message",
            ALL,
            (OPENING + MAIL, b"\0\0\0\x03" + data[4:] + b"x\0", HELO),
        )
    for title, data in {
        "a length": b"\0\0",
        "a head": b"\0\0\0\x11M",
        "a payload": b"\0\0\0\x11M<a@e",
    }.items():
        yield Session(f"an end within {title}", ALL, (OPENING, data))
        yield Session(f"an end within {title} in a message", ALL, (OPENING + MAIL, data))
    yield Session("an end at once", ALL, (b"",), "D2")
    yield Session("an end after the offer", ALL, (OFFER,))
    for size in (1, 2, 3, 5, 7):
        whole = MAIL + RCPT + EOM
        pieces = tuple(whole[at : at + size] for at in range(0, len(whole), size))
        yield Session(f"pieces of {size} bytes", ALL, (OPENING, *pieces))
    yield Session("two sessions' worth at once", ALL, (OPENING + MESSAGE + MESSAGE + QUIT,))
    for letter, ahead in (
        ("A", OPENING + MAIL),
        ("T", OPENING + MAIL + RCPT),
        ("N", AHEAD["eoh"]),
        ("Q", OPENING),
        ("K", OPENING + MESSAGE),
    ):
        sends = (ahead, packet(letter, b"payload\0"), HELO)
        yield Session(f"{letter} with payload that is ignored", ALL, sends)


FRAMING = [*_framing()]

_ABORTED = {("M", b"<a>"): "D2"}
"""What libmilter aborts a message for that has not begun."""


def _malformed() -> Iterator[Session]:
    shapes = {
        "H": (b"", b"abc", b"\0", b"abc\0def\0", b"abc\0def", b"a b\r\n\0", b"\xff\xc3\xa4\0"),
        "M": (b"", b"<a>", b"\0", b"<a>\0tail", b"\0\0\0", b"<a>\0SIZE=1\0\0BODY=8BITMIME\0"),
        "R": (b"", b"<b>", b"\0", b"<b>\0tail", b"\0\0\0", b"<b>\0NOTIFY=NEVER\0"),
        "L": (
            *(b"", b"\0", b"X", b"X\0", b"X\0\0", b"X\0v", b"X\0v\0w\0", b"X\0v\0w", b"\0v\0"),
            *(b"\0\0b\0", b"\0a\0b\0", b"\0\0", b"X Y:\0\xff\r\n v\0"),
        ),
        "B": (b"", b"\0"),
        "U": (b"", b"\0", b"XYZZ a b\0", b"XYZZ\0more\0", b"\xff\r\n\0"),
    }
    ahead = {
        "H": OFFER + CONNECT,
        "M": OPENING,
        "R": OPENING + MAIL,
        "L": AHEAD["header"],
        "B": AHEAD["body"],
        "U": OPENING,
    }
    callbacks = {
        "H": "helo",
        "M": "envfrom",
        "R": "envrcpt",
        "L": "header",
        "B": "body",
        "U": "unknown",
    }
    for letter, payloads in shapes.items():
        blind = Plan.of(without(callbacks[letter]))
        for payload in payloads:
            sends: tuple[bytes, ...] = (ahead[letter], packet(letter, payload), HELO, MAIL)
            deviation = _ABORTED.get((letter, payload))
            yield Session(f"{letter} of {payload!r}", ALL, sends, deviation)
            if not payload.endswith(b"\0"):
                yield Session(f"{letter} of {payload!r}, no callback", blind, sends)
    for letter in "CHMRLBUDO":
        sends = (OPENING + MAIL + RCPT, packet(letter), HELO)
        # An abort for leaving the message, and one for the end of the connection.
        deviation = "D2" if letter in "HM" else None
        yield Session(f"{letter} without payload in a message", ALL, sends, deviation)
        yield Session(
            f"{letter} without payload after a message",
            ALL,
            (OPENING + MESSAGE, packet(letter), HELO),
        )
    yield Session("a MAIL of many parameters", ALL, (OPENING, packet("M", b"<a>\0" + 200 * b"p\0")))
    yield Session("a malformed HELO, then MAIL", ALL, (OFFER, packet("H", b"abc"), MAIL, RCPT))
    yield Session(
        "a malformed RCPT after others", ALL, (OPENING + MAIL + RCPT, packet("R", b"x"), EOM)
    )


MALFORMED = [*_malformed()]
