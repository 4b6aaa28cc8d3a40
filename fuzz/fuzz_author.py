"""Any text of an author raises ValueError, or becomes wire bytes that no CR, LF or NUL can split.

The bytes are read by parsers that are written here by hand: what they find must be what was
asked for, neither less nor more. The other way round, no text of an MTA makes SocketInfo or
Macros raise, and addresses are read as the C library reads them.

An input is a list of calls, each a field with its letter and then the fields of its arguments.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from aiomilter.app.actions import EomActions
from aiomilter.app.line_endings import LineEndings
from aiomilter.app.macros import Macros
from aiomilter.app.negotiation import Negotiation
from aiomilter.app.reply import Reply
from aiomilter.app.socket_info import SocketInfo
from aiomilter.errors import ActionNotNegotiated
from aiomilter.session.macros import MacroStore
from aiomilter.session.negotiation import NegotiationOffer, negotiate
from aiomilter.spec import MacroStage
from aiomilter.wire.commands import Connect
from aiomilter.wire.replies import ReplyCode
from fuzz.drawing import Draw, fields
from fuzz.packets import split_packets

# The action that an edit needs, by the letter of its packet.
ACTION = {
    b"h": 0x01, b"i": 0x01, b"b": 0x02, b"+": 0x04, b"-": 0x08, b"m": 0x10, b"q": 0x20,
    b"e": 0x40, b"2": 0x80,
}  # fmt: skip
MAX_CALLS = 40
INJECTIONS = (
    "a\nBcc: all", "a\n\n b", "a\n", "a\r\n b", "a\r\n\r\n b", "a\rb", "a\0b", "a\n b\n\tc",
    "a\x85b", "a\u2028b", "a\x0bb", "a\r\r\n b", "a\n \n", "a%b%%c", "\r\n", "\ud800",
    "\udc0a", "\udc8d",
)  # fmt: skip
LINE_ENDINGS: tuple[LineEndings, ...] = ("checked", "canonical", "raw")
_BARE_CR_WITHIN = re.compile(rb"\r(?!\n|\Z)")
_LINE_BREAK_OR_NUL = re.compile(rb"[\r\n\0]")


def to_bytes(text: str) -> bytes:
    """Return what a text is on the wire."""
    return text.encode("utf-8", "surrogateescape")


# Replies


def check_reply(draw: Draw) -> None:
    """Make a reply; its bytes must read as the lines of one SMTP reply."""
    code, enhanced, lines = draw.number(), draw.text() or None, draw.texts()
    try:
        reply = Reply(code, enhanced, *lines)
    except ValueError:
        return
    assert 400 <= code <= 599
    assert len(lines) <= 32
    (packet,) = split_packets(ReplyCode(reply.encode()).encode())
    assert packet[:1] + packet[-1:] == b"y\0"
    assert packet.count(b"\0") == 1
    found = read_reply(packet[1:-1], code)
    wanted = [to_bytes(line) for line in lines] or [b""]
    prefix = enhanced or (f"{code // 100}.0.0" if len(lines) > 1 else None)
    if prefix is not None:
        head = prefix.encode()
        blank = b" " if lines else b""
        assert all(line.startswith(head + blank) for line in found), f"no {head!r}: {found}"
        found = [line[len(head + blank) :] for line in found]
    assert found == wanted, f"{found} was sent, not {wanted}"
    assert all(len(line) <= 980 for line in found)


def read_reply(text: bytes, code: int) -> list[bytes]:
    """Return the lines of an SMTP reply as a client reads them, percent signs made single."""
    found: list[bytes] = []
    lines = text.split(b"\r\n")
    for number, line in enumerate(lines, start=1):
        assert not _LINE_BREAK_OR_NUL.search(line), f"half a line break in {line!r}"
        assert line[:3] == b"%d" % code, f"another code in {line!r}"
        assert line[3:4] == (b" " if number == len(lines) else b"-"), f"a loose end: {line!r}"
        halves = line[4:].split(b"%%")
        assert not any(b"%" in half for half in halves), f"a format in {line!r}"
        found.append(b"%".join(halves))
    return found


# Edits


class Edits:
    """The edits of one message, and what must come of them.

    Attributes:
        wanted: The packets to come, each as letter, number (None where it has none) and strings.
    """

    def __init__(self, actions: int, line_endings: LineEndings) -> None:
        self.agreed = actions
        self.line_endings = line_endings
        self.actions = EomActions(actions, _send_nothing)
        self.wanted: list[tuple[bytes, int | None, tuple[bytes, ...]]] = []
        self.body: bytearray | None = None

    def call(self, kind: bytes, draw: Draw) -> None:
        """Make one edit and, if it was taken, note what it must become."""
        actions = self.actions
        number: int | None = None
        texts: list[str] = []
        data = b""
        make: Callable[[], None]
        if kind in (b"h", b"i", b"m"):
            if kind != b"h":
                number = draw.number()
            name, value = texts = [draw.text(), draw.text()]
            index = number or 0
            make = {
                b"h": partial(actions.add_header, name, value),
                b"i": partial(actions.insert_header, index, name, value),
                b"m": partial(actions.change_header, name, index, value),
            }[kind]
        elif kind in (b"e", b"2"):
            address, params = draw.text(), draw.texts()
            if kind == b"2" or params:
                texts = [address, " ".join(params)]
                edit = actions.change_sender if kind == b"e" else actions.add_recipient
                make = partial(edit, address, params)
            else:
                texts = [address]
                make = partial(actions.change_sender, address)
        elif kind == b"b":
            data = draw.text().encode("utf-8", "surrogatepass")
            make = partial(actions.replace_body, data, line_endings=self.line_endings)
        else:
            (text,) = texts = [draw.text()]
            make = {
                b"+": partial(actions.add_recipient, text),
                b"-": partial(actions.delete_recipient, text),
                b"q": partial(actions.quarantine, text),
            }[kind]
        is_agreed = bool(self.agreed & ACTION[kind])
        try:
            make()
        except ActionNotNegotiated:
            assert not is_agreed, f"{kind!r} was agreed"
            return
        except ValueError:
            if kind == b"b":
                assert self.line_endings == "checked", "a body was refused"
                assert _BARE_CR_WITHIN.search((self.body or b"") + data), "a good body was refused"
            return
        assert is_agreed, f"{kind!r} was not agreed"
        if kind != b"b":
            strings = [to_bytes(text) for text in texts]
            if kind in (b"h", b"i", b"m"):
                strings[1] = strings[1].replace(b"\r\n", b"\n")
            self.wanted.append((kind, number, tuple(strings)))
        elif self.body is None:
            self.body = bytearray(data)
            self.wanted.append((kind, None, ()))
        else:
            self.body += data

    def finish(self) -> None:
        """Read the packets of all edits and compare them with what was asked for."""
        packets = split_packets(self.actions.close())
        found: list[tuple[bytes, int | None, tuple[bytes, ...]]] = []
        body: bytearray | None = None
        for packet in packets:
            kind, payload = packet[:1], packet[1:]
            if kind != b"b":
                found.append(read_edit(kind, payload))
            elif body is None:
                body = bytearray(payload)
                found.append((b"b", None, ()))
            else:
                assert found[-1][0] == b"b", "something stands between the pieces of a body"
                body += payload
        assert found == self.wanted, f"{found} was sent, not {self.wanted}"
        wanted = self.body
        if wanted is not None and self.line_endings == "canonical":
            wanted = bytearray(re.sub(rb"\r\n|\r|\n", b"\r\n", wanted))
        assert body == wanted, "another body was sent"
        is_fault = self.line_endings == "checked" and body is not None and body.endswith(b"\r")
        assert (self.actions.fault is not None) == is_fault
        if self.line_endings == "checked" and body is not None:
            assert not _BARE_CR_WITHIN.search(body), "a bare CR was sent"


async def _send_nothing() -> None:
    """Stand in for the connection; no edit sends anything by itself."""


def read_edit(kind: bytes, payload: bytes) -> tuple[bytes, int | None, tuple[bytes, ...]]:
    """Read the packet of an edit as the more careful MTA reads it, and look for injections."""
    number: int | None = None
    if kind in (b"i", b"m"):
        assert payload[0] < 0x80, f"a negative index in {payload!r}"
        (number,) = struct.unpack_from(">I", payload)
        payload = payload[4:]
    *strings, rest = payload.split(b"\0")
    assert rest == b"", f"bytes behind the last string: {payload!r}"
    if kind in (b"h", b"i", b"m"):
        name, value = strings
        assert name, "an empty name"
        assert all(0x21 <= byte <= 0x7E and byte != 0x3A for byte in name), name
        assert b"\r" not in value, f"a CR in the value {value!r}"
        _, *folded = value.split(b"\n")
        assert all(line[:1] in (b" ", b"\t") for line in folded), f"two headers in {value!r}"
        # The value ends where the header does: the break behind its last line is the MTA's.
        assert not value.endswith(b"\n"), f"an empty line behind {value!r}"
    else:
        assert 1 <= len(strings) <= (2 if kind in (b"e", b"2") else 1), strings
        assert strings[0], "nothing to say"
        assert not any(map(_LINE_BREAK_OR_NUL.search, strings)), strings
    return kind, number, tuple(strings)


# Requests of macros


def check_request(draw: Draw) -> None:
    """Ask for macros; the answer to the offer must name them and no others."""
    offer = NegotiationOffer(6, 0x1FF, 0x1FFFFF)
    negotiation = Negotiation(offer, 0x1FF, 0, {})
    wanted: dict[int, list[str]] = {}
    for _ in range(draw.number() % 8):
        stage, names = MacroStage(draw.number() % 7), draw.texts()
        negotiation.request_macros(stage, *names)
        wanted[int(stage)] = names
    try:
        request = negotiation.request()
    except ValueError:
        return
    (packet,) = split_packets(negotiate(offer, request).reply.encode())
    assert len(packet) <= 1 + 65_535, "more than a packet takes"
    assert packet[:13] == b"O" + struct.pack(">III", 6, 0x1FF, 0)
    rest = packet[13:]
    found: dict[int, list[bytes]] = {}
    while rest:
        (stage_number,) = struct.unpack_from(">I", rest)
        text, nul, rest = rest[4:].partition(b"\0")
        assert nul, f"no end of {text!r}"
        assert stage_number not in found
        assert not re.search(rb"[\x00-\x1f]", text), f"a control character in {text!r}"
        found[stage_number] = text.split(b" ") if text else []
    assert found == {stage: list(map(to_bytes, names)) for stage, names in wanted.items()}


# What the MTA says


def check_socket_info(draw: Draw) -> None:
    """Read an address: as the C library does, and never with an exception."""
    family = draw.field()[:1]
    address = draw.field().replace(b"\0", b"")
    port = draw.number() & 0xFFFF
    info = SocketInfo.from_connect(Connect(b"host", family, port, address))
    shown = str(info)
    assert shown.isascii(), shown
    assert shown.isprintable(), f"{shown!r} is not one line"
    assert info.raw.encode("utf-8", "surrogateescape") == address
    info.is_in("192.0.2.0/24", "2001:db8::/32", "::ffff:0:0/96")
    repr(info)
    if not address.isascii():
        return  # the C library's functions take text here, and that is in UTF-8
    text = address.decode("ascii")
    if family == b"4":
        try:
            wanted = IPv4Address(socket.inet_aton(text))
        except OSError:
            assert info.ip is None, f"{text!r} is no address, not {info.ip}"
        else:
            assert info.ip == wanted, f"{text!r} is {wanted}, not {info.ip}"
    if family == b"6":
        text = text[5:] if text[:5].lower() == "ipv6:" else text
        try:
            wanted_ipv6 = IPv6Address(socket.inet_pton(socket.AF_INET6, text))
        except OSError:
            assert info.ip is None, f"{text!r} is no address, not {info.ip}"
        else:
            assert info.ip == wanted_ipv6, f"{text!r} is {wanted_ipv6}, not {info.ip}"


def check_macros(draw: Draw) -> None:
    """Look macros up by any name; what is listed is there, and anything else a KeyError."""
    store = MacroStore()
    macros = Macros(store)
    for _ in range(draw.number() % 8):
        payload = draw.field()
        if payload:
            store.store(payload)
    listed = list(macros)
    assert len(macros) == len(listed) == len(set(listed))
    visible = store.visible()
    for name in listed:
        assert to_bytes(macros[name]) == visible[to_bytes(name)]
    for name in draw.texts():
        assert macros.get(name) is None or name in listed or name[1:-1] in listed, name
    repr(macros)


CHECKS: dict[bytes, Callable[[Draw], None]] = {
    b"Y": check_reply,
    b"O": check_request,
    b"C": check_socket_info,
    b"D": check_macros,
}


def check(data: bytes) -> None:
    """Make the calls of the input, up to `MAX_CALLS`."""
    draw = Draw(data)
    number = draw.number()
    edits = Edits(0x1FF & ~number, LINE_ENDINGS[(number >> 9) % 3])
    for _ in range(MAX_CALLS):
        if draw.is_empty:
            break
        kind = draw.field()[:1]
        if kind in CHECKS:
            CHECKS[kind](draw)
        elif kind in ACTION:
            edits.call(kind, draw)
    edits.finish()


def describe(data: bytes) -> str:
    """Return the fields."""
    draw = Draw(data)
    found: list[bytes] = []
    while not draw.is_empty:
        found.append(draw.field())
    return f"fields {found}"


def seeds() -> Iterator[bytes]:
    """Yield calls as authors make them, and some that they should not."""
    yield fields(0, b"Y", 550, "5.7.1", 1, "no such user")
    yield fields(0, b"Y", 451, "", 3, "100% sure", "second line", "")
    yield fields(0, b"Y", 550, "", 0)
    yield fields(0, b"Y", 421, "4.3.2", 2, "a\r\n250 ok", "b\0c")
    yield fields(0, b"Y", 550, "", 2, b"r\x03four", b"w\x3d\xd8\x4c\xdc")
    yield fields(0, b"h", "X-Spam", "yes", b"h", "Subject", "folded\r\n here\n\tand here")
    yield fields(0, b"h", "X-Spam: yes", "no", b"h", "X", "a\n", b"h", "X", "a\nBcc: all")
    yield fields(0, b"i", 1, "Received", "from", b"i", -1, "X", "", b"i", 2147483647, "X", "b")
    yield fields(0, b"m", 1, "Subject", "new", b"m", 2, "Subject", "", b"m", 0, "X", b"w\x00\xdc")
    yield fields(0, b"e", "<a@example.com>", 0, b"e", "<>", 2, "RET=HDRS", "ENVID=1")
    yield fields(0, b"+", "<b@example.com>", b"-", "<b@example.com>", b"+", "", b"-", "a\rb")
    yield fields(0, b"2", "<b@example.com>", 1, "NOTIFY=NEVER", b"2", "<b@example.com>", 1, "a\nb")
    yield fields(0, b"b", "new body\r\n", b"q", "virus", b"b", "more", b"h", "X", "y", b"b", b"")
    yield fields(0, b"b", b"r\xff0123456789", b"h", "X", b"r\xff0123456789", b"b", "end")
    yield fields(511, b"h", "X", "y", b"b", "body", b"q", "virus", b"+", "a", b"e", "a", 0)
    for number in (0, 512, 1024):
        yield fields(number, b"b", "a\r", b"b", "", b"b", "\nb\nc\rd\r", b"b", "\r", b"b", "\n")
    for text in INJECTIONS:
        raw = b"w" + text.encode("utf-16-le", "surrogatepass")
        yield fields(0, b"h", "X", raw, b"m", 1, raw, "value", b"i", 1, "X", raw)
        yield fields(0, b"e", raw, 0, b"e", "a", 1, raw, b"2", "a", 2, "b", raw)
        yield fields(0, b"+", raw, b"-", raw, b"q", raw, b"b", raw)
        yield fields(0, b"Y", 550, "5.7.1", 1, raw, b"Y", 450, "", 2, "a", raw, b"Y", 450, raw, 0)
        yield fields(0, b"O", 1, 2, 2, "i", raw)
    yield fields(0, b"O", 2, 0, 2, "j", "{client_addr}", 5, 1, "i")
    yield fields(0, b"O", 3, 6, 0, 3, 1, "", 2, 1, "a b")
    for address in (
        b"192.0.2.1", b"127.1", b"0x7f.1", b"0177.0.0.1", b"1.2.3.4 x", b"1.2.3.256", b"1.2.3.08",
        b"4294967295", b"unknown", b"1.2.3.4.5", b"",
    ):  # fmt: skip
        yield fields(0, b"C", b"4", address, 25)
    for address in (b"IPv6:2001:db8::1", b"::", b"::ffff:192.0.2.1", b"fe80::1%eth0", b"1:2", b""):
        yield fields(0, b"C", b"6", address, 25)
    yield fields(0, b"C", b"L", b"/run/mta.sock", 0, b"C", b"L", b"/" * 120, 0)
    yield fields(0, b"D", 2, b"Ci\0one\0{auth_authen}\0me\0", b"M{i}\0two\0x\0", 3, "i", "{i}", "x")
    yield fields(0, b"D", 1, b"Ej\0", 2, "j", "")
