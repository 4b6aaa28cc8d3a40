"""What ``check`` and ``bench`` ask a milter about: options of the command line as values.

Rules of this file:

- Whatever cannot be meant so is a `CommandError` that names the option and shows the forms.
- Nothing is opened here but the message.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path as FilePath

import click

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.text import encode_text, printable
from aiomilter.cli.console import CommandError, quoted
from aiomilter.session.mta import Offer
from aiomilter.spec import ALL_ACTIONS, ALL_OPTIONS, VERSION, Actions, Options

__all__ = [
    "BUILT_IN",
    "Question",
    "client_of",
    "envelope_of",
    "finite",
    "generated",
    "macros_of",
    "message_of",
    "offer_of",
]

_CLIENT = re.compile(r"([^\[\]]*)\[([^\[\]]*)\](?::([0-9]{1,9}))?")
_CLIENT_FORMS = "mx.example.com[192.0.2.1]:25025, mx.example.com[2001:db8::1], 192.0.2.1"
_PATH = re.compile(r" *(<[^>]*>|[^ ]*) *(.*)", re.DOTALL)
_BITS = re.compile(r"(actions|options) *= *(.*)", re.IGNORECASE)
_NUMBER = re.compile(r"(0x[0-9a-f]{1,8}|[0-9]{1,10})", re.IGNORECASE)
_FLAGS: dict[str, Actions | Options] = {
    flag.name: flag for kind in (Actions, Options) for flag in kind if flag.name
}
_MOST_BITS = 0xFFFFFFFF
_LINE = b"The quick brown fox jumps over the lazy dog, and then it does so once more.\r\n"
_FIRST_HEADERS = (
    ("From", " Sender <sender@example.com>"),
    ("To", " Recipient <recipient@example.org>"),
    ("Subject", " A message to question a milter with"),
    ("Date", " Thu, 01 Jan 2026 12:00:00 +0000"),
    ("Message-ID", " <question@example.com>"),
)

BUILT_IN = Content(_FIRST_HEADERS, b"Hello,\r\n\r\nthis is a message without a meaning.\r\n")
"""What a milter is asked about if nobody says what."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a milter is asked, and how.

    Attributes:
        address: Where the milter is.
        envelope: Who sends the message to whom.
        content: The message.
        client: Who brings it.
        macros: Values by name.
        offer: What the MTA offers.
        mta: As which MTA to behave.
        timeout_s: How long every answer may take.
        repeat: How often to ask on the same connection.
    """

    address: str
    envelope: Envelope
    content: Content
    client: Client
    macros: dict[str, str]
    offer: Offer
    mta: Mta
    timeout_s: float
    repeat: int = 1


# The message


def message_of(name: str | None) -> Content:
    """Return the message in a file, of stdin (``-``), or the built-in one (None)."""
    if name is None:
        return BUILT_IN
    if not name:
        raise CommandError("the message's name is empty; leave it out for the built-in message")
    try:
        if name == "-":
            if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
                raise CommandError("cannot read the message: stdin is closed; name a file")
            return Content.parse(sys.stdin.buffer.read())
        return Content.parse(FilePath(name))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"cannot read the message {printable(name)}: {reason}") from error


def generated(body_bytes: int, headers: int) -> Content:
    """Return a message of a size: so many bytes of body, so many headers."""
    named = list(_FIRST_HEADERS[:headers])
    named += [(f"X-Header-{number}", " value") for number in range(len(named) + 1, headers + 1)]
    body = _LINE * (body_bytes // len(_LINE) + 1)
    return Content(named, body[:body_bytes])


# The envelope


def envelope_of(sender: str, recipients: Iterable[str]) -> Envelope:
    """Return an envelope of addresses as options have them, parameters behind a blank."""
    texts = list(recipients)
    if not all(text.strip() for text in texts):
        raise CommandError("--rcpt is empty; name a recipient, such as joe@example.com")
    return Envelope(_path("--from", sender), [_path("--rcpt", text) for text in texts])


def _path(option: str, text: str) -> Path:
    found = _PATH.fullmatch(text)
    assert found is not None
    try:
        path = Path(found[1], *(param for param in found[2].split(" ") if param))
        path.to_wire()
    except ValueError as error:
        raise CommandError(f"{option} {quoted(text)}: {error}") from error
    return path


def macros_of(pairs: Iterable[str]) -> dict[str, str]:
    """Return macros, each given as ``NAME=VALUE``; a name may have its braces."""
    macros: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip("{}"):
            raise CommandError(f"--macro is NAME=VALUE, as in auth_authen=joe; not {quoted(pair)}")
        if any(char.isspace() for char in name):
            raise CommandError(f"--macro {quoted(pair)}: there is a blank in the name")
        try:
            encode_text(pair, "a macro")
        except ValueError as error:
            raise CommandError(f"--macro {quoted(pair)}: {error}") from error
        macros[name] = value
    return macros


# The client


def client_of(text: str | None, helo: str | None) -> Client:
    """Return the client that an option describes, or one that is made up.

    Args:
        text: ``NAME[ADDRESS]:PORT``; the name, the port, or all but the address may be missing,
            or all but the name. The address ``unknown`` is none.
        helo: What the client says at HELO; None for its name.
    """
    default = Client()
    name, address, port = default.hostname, default.address, default.port
    if text is not None:
        name, address, port = _parts(text)
    try:
        client = Client(name, address, port, helo=name if helo is None else helo)
        encode_text(client.hostname + client.helo, "the client")
    except ValueError as error:
        raise CommandError(f"{error}; --client has forms like {_CLIENT_FORMS}") from error
    return client


def _parts(text: str) -> tuple[str, str | None, int]:
    default = Client()
    found = _CLIENT.fullmatch(text)
    if found is None:
        if _is_ip(text):
            return f"[{text}]", text, default.port
        if text and not set(text) & set("[]:/ "):
            return text, default.address, default.port
        raise CommandError(f"--client {quoted(text)} is no client; forms are {_CLIENT_FORMS}")
    address = None if found[2] == "unknown" else found[2].removeprefix("IPv6:")
    # As both MTAs do: a client without a name has its address in brackets for one.
    name = found[1] or f"[{found[2]}]"
    return name, address, default.port if found[3] is None else int(found[3])


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


# The offer


def offer_of(version: int | None, texts: Sequence[str]) -> Offer:
    """Return the offer that options describe.

    Args:
        version: None for the newest one.
        texts: Each with terms parted by commas: ``NAME`` for only this (and other such) of its
            kind, ``-NAME`` for all but this, ``+NAME`` for this besides, ``actions=0x3f`` and
            ``options=0x0`` for exactly these bits.
    """
    terms = [term.strip() for text in texts for term in text.split(",") if term.strip()]
    if texts and not terms:
        raise CommandError("--offer is empty; to offer nothing write actions=0,options=0")
    bits: dict[type, int | None] = {Actions: None, Options: None}
    changes: list[tuple[str, Actions | Options]] = []
    for term in terms:
        if found := _BITS.fullmatch(term):
            kind = Actions if found[1].lower() == "actions" else Options
            bits[kind] = _bits(term, found[2])
            continue
        sign = term[0] if term[0] in "+-" else ""
        flag = _flag(term.removeprefix(sign))
        if sign:
            changes.append((sign, flag))
        else:
            bits[type(flag)] = (bits[type(flag)] or 0) | int(flag)
    chosen = {
        Actions: ALL_ACTIONS if bits[Actions] is None else bits[Actions] or 0,
        Options: ALL_OPTIONS if bits[Options] is None else bits[Options] or 0,
    }
    for sign, flag in changes:
        if sign == "+":
            chosen[type(flag)] |= int(flag)
        else:
            chosen[type(flag)] &= ~int(flag)
    offered = VERSION if version is None else version
    return Offer(offered, Actions(chosen[Actions]), Options(chosen[Options]))


def _bits(term: str, text: str) -> int:
    number = -1
    if _NUMBER.fullmatch(text):
        number = int(text, 16 if text.lower().startswith("0x") else 10)
    if not 0 <= number <= _MOST_BITS:
        raise CommandError(
            f"--offer {quoted(term)}: the bits are a number from 0 to {_MOST_BITS:#x}, no more "
            f"than 32 bits, in decimal or as 0x1f"
        )
    return number


def _flag(name: str) -> Actions | Options:
    flag = _FLAGS.get(name.upper().replace("-", "_"))
    if flag is not None:
        return flag
    alike = difflib.get_close_matches(name.upper(), _FLAGS, n=1)
    hint = f"did you mean {alike[0]}?" if alike else f"there are {', '.join(_FLAGS)}"
    raise CommandError(f"--offer: there is no action or option {quoted(name)}; {hint}")


# Options of their own


def finite(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Refuse what Python takes for a number of seconds, too; a callback of an option."""
    if not math.isfinite(value):
        raise click.BadParameter(f"'{value}' is no number of seconds", ctx, param)
    return value
