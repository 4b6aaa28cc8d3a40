"""Whole sessions, as MTAs and odd peers hold them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.catalogue.sessions import (
    ALL,
    OPENING,
    STAGE_PACKETS,
    STAGES,
    Session,
    at_end,
    without,
)
from tests.libmilter.plan import ACCEPT, ALL_OPTS, REJECT, Call, Plan, Script, Step
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
    MESSAGE,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    macros,
    offer,
    packet,
)

__all__ = ["COMPLETE"]

_PACKETS = (CONNECT, HELO, MAIL, RCPT, RCPT, DATA, HEADER, HEADER, EOH, BODY, BODY, EOM)
_CONTENT = (HEADER, EOH, BODY, EOM)


def _ordinary() -> Iterator[Session]:
    yield Session("one message, step by step", ALL, (OFFER, *_PACKETS, QUIT))
    yield Session("one message at once", ALL, (OFFER + b"".join(_PACKETS) + QUIT,))
    yield Session("three messages", ALL, (OPENING, *(3 * (MESSAGE, ABORT)), QUIT))
    yield Session("a session without a message", ALL, (OPENING, QUIT))
    yield Session("a session that is cut off", ALL, (OPENING, MESSAGE))
    yield Session("a message that is cut off", ALL, (OPENING, MESSAGE[: -len(EOM)]))
    yield Session("RSET after MAIL and a message", ALL, (OPENING, MAIL, ABORT, MESSAGE, QUIT))
    yield Session("HELO in a message", ALL, (OPENING, MAIL + RCPT, HELO, MESSAGE, QUIT))
    yield Session("HELO twice", ALL, (OPENING, HELO, HELO, MESSAGE, QUIT))
    yield Session("TLS: HELO before and after", ALL, (OPENING, ABORT, HELO, MESSAGE, ABORT, QUIT))
    yield Session("no DATA command", ALL, (OPENING, MAIL + RCPT, HEADER + EOH + BODY + EOM, QUIT))
    yield Session("no headers", ALL, (OPENING, MAIL + RCPT + DATA, EOH + BODY + EOM, QUIT))
    yield Session("an unknown command before a message", ALL, (OPENING, UNKNOWN, MESSAGE, QUIT))
    yield Session("an unknown command after a message", ALL, (OPENING, MESSAGE, UNKNOWN, QUIT))
    yield Session(
        "two sessions of one connection",
        ALL,
        (OPENING + MESSAGE, QUIT_NC, CONNECT, HELO + MESSAGE, QUIT),
    )
    yield Session("QUIT and more", ALL, (OPENING, QUIT + MESSAGE))
    for name in (*STAGES, "abort", "close"):
        plan = Plan.of(without(name))
        packets = (p for stage, p in STAGE_PACKETS.items() if stage != name and stage != "unknown")
        yield Session(f"a message without {name}", plan, (OFFER, *packets, QUIT))
        yield Session(f"a message, no {name} callback", plan, (OPENING, MESSAGE, QUIT))
    for name in STAGES[:-1]:
        lone = Plan({name: Script.always(REJECT)})
        yield Session(f"only {name}, which refuses", lone, (OPENING, MESSAGE, MESSAGE, QUIT))


def _filters() -> Iterator[Session]:
    quiet = Plan.of(
        ("connect", "envfrom", "envrcpt", "eom"),
        negotiate=Script.always(ALL_OPTS),
        eom=at_end(Call.of("addheader", b"X-Seen", b"yes"), Call.of("getsymval", b"i")),
        macros=(b"i", b"{client_addr}"),
    )
    postfix = (
        OFFER,
        macros("C", b"j", b"mx", b"{client_addr}", b"192.0.2.1") + CONNECT,
        macros("M", b"i", b"4Zx") + MAIL,
        macros("R", b"i", b"4Zx") + RCPT,
        macros("E", b"i", b"4Zx") + EOM,
        packet("D", b"A") + ABORT,
        QUIT,
    )
    yield Session("a filter that asks for little", quiet, postfix)
    whitelist = Plan.of(connect=Script.always(ACCEPT))
    yield Session("a client that is accepted", whitelist, (OFFER, CONNECT, QUIT))
    yield Session("a client that is accepted, and hangs up", whitelist, (OFFER, CONNECT))
    grey = Plan.of(
        ("envrcpt",),
        envrcpt=Script(
            (
                Step((Call.of("setreply", b"451", b"4.7.1", b"come back"),), 4),
                Step((Call.of("setreply", b"550", b"5.1.1", b"nobody"),), REJECT),
            )
        ),
    )
    old = offer(2, 0x3F, 0x7F)
    sends: tuple[bytes, ...] = (OFFER, MAIL, RCPT, RCPT, RCPT, DATA, EOM, QUIT)
    yield Session("greylisting", grey, sends)
    yield Session("greylisting of an old MTA", grey, (old, CONNECT, HELO, *sends[1:]))
    yield Session("an old MTA", ALL, (old, CONNECT, HELO, MAIL, RCPT, HEADER, EOH, BODY, EOM, QUIT))
    second = Plan.of(envfrom=Script((Step(), Step((), REJECT), Step((), ACCEPT))))
    yield Session("three messages, three fates", second, (OPENING, MESSAGE, MESSAGE, MESSAGE, QUIT))


def _bdat() -> Iterator[Session]:
    """An unknown SMTP command in the middle of a message."""
    for at in range(3, len(_PACKETS)):
        before, after = b"".join(_PACKETS[:at]), b"".join(_PACKETS[at:])
        sends: tuple[bytes, ...] = (OFFER + before, UNKNOWN, after, MESSAGE)
        # RCPT and DATA go on with the message in libmilter, too.
        deviation = "D10" if after.startswith(_CONTENT) else None
        yield Session(f"an unknown command behind packet {at}", ALL, sends, deviation)
        deaf = Plan.of(without("unknown"))
        yield Session(f"no unknown callback, one behind packet {at}", deaf, sends, deviation)
    refusing = Plan.of(unknown=Script.always(REJECT))
    sends = (OPENING + MAIL + RCPT, UNKNOWN, RCPT, DATA, EOH, EOM)
    yield Session("a refused unknown command between recipients", refusing, sends)


COMPLETE = [*_ordinary(), *_filters(), *_bdat()]
