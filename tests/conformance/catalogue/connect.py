"""Names and addresses of clients."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.catalogue.sessions import ALL, Session, without
from tests.libmilter.plan import Plan
from tests.packets import HELO, MAIL, OFFER, packet

__all__ = ["CONNECT_ADDRESSES"]

_PORT = b"\x04\x01"

_ADDRESSES = {
    "4": [
        *(b"192.0.2.1", b"0.0.0.0", b"255.255.255.255", b"127.1", b"10.258", b"3221225985"),
        *(b"0x7f.1", b"0300.0.2.1", b"0xC0000201", b"192.0.2.1 and more", b"192.0.2.1\tmore"),
    ],
    "6": [
        *(b"2001:db8::1", b"IPv6:2001:db8::1", b"ipv6:::1", b"::", b"::ffff:192.0.2.1"),
        *(b"::192.0.2.1", b"2001:0DB8:0:0:0:0:0:A", b"fe80::1"),
    ],
    "L": [b"/run/smtp.sock", b"relative", b"/" + 106 * b"p", b""],
}
_SENSELESS = {
    "4": [
        *(b"", b"unknown", b"192.0.2.256", b"192.0.2.1.5", b"1.2.3.4x", b"::1", b"08.0.0.1"),
        *(b" 192.0.2.1", b"[192.0.2.1]", b"-1", b"4294967296"),
    ],
    "6": [
        *(b"", b"unknown", b"192.0.2.1", b"IPv6:192.0.2.1", b"2001:db8::1::2", b"fe80::1%eth0"),
        *(b"IPv6:IPv6:::1", b"12345::", b"2001:db8::1 "),
    ],
    "L": [b"/" + 107 * b"p", b"/" + 300 * b"p"],
}


def _address(family: str, address: bytes) -> bytes:
    return packet("C", b"client.example\0" + family.encode() + _PORT + address + b"\0")


def _addresses() -> Iterator[Session]:
    for family, addresses in _ADDRESSES.items():
        for address in addresses:
            sends = (OFFER, _address(family, address), HELO)
            yield Session(f"family {family}: {_short(address)}", ALL, sends)
    for family, addresses in _SENSELESS.items():
        for address in addresses:
            sends = (OFFER, _address(family, address), HELO)
            yield Session(f"family {family}, no address: {_short(address)}", ALL, sends, "D14")


def _short(address: bytes) -> str:
    text = address.decode("ascii")
    return text if len(text) <= 40 else f"{text[:3]}… of {len(text)} bytes"


def _layouts() -> Iterator[Session]:
    for title, payload in {
        "port 0": b"h\x004\0\x00192.0.2.1\0",
        "port 65535": b"h\x004\xff\xff192.0.2.1\0",
        "an empty name": b"\x004\0\x19192.0.2.1\0",
        "a name in brackets": b"[192.0.2.1]\x004\0\x19192.0.2.1\0",
        "a name of any bytes": b"\x01\xff\xc3\xa4%\r\n\x004\0\x19192.0.2.1\0",
        "more strings behind the address": b"h\x004\0\x19192.0.2.1\0more\0",
        "an unknown family": b"h\0U",
        "an unknown family with more": b"h\0U\0\x19192.0.2.1",
        "an unknown family with an empty name": b"\0U",
        "a family that does not exist": b"h\0X\0\x19192.0.2.1\0",
        "a family in lower case": b"h\0l\0\0/run/smtp\0",
        "the family 0": b"h\0\0\0\x19192.0.2.1\0",
        "no family": b"h\0",
        "no name and no family": b"\0",
        "no port": b"h\x004",
        "half a port": b"h\x004\0",
        "no address": b"h\x004\0\x19",
        "an address without NUL": b"h\x004\0\x19192.0.2.1",
        "more bytes than strings": b"h\x004\0\x19192.0.2.1\0more",
        "a path without NUL": b"h\0L\0\0/run/smtp",
        "nothing": b"",
    }.items():
        yield Session(title, ALL, (OFFER, packet("C", payload), HELO))
    blind = Plan.of(without("connect"))
    for payload in (b"h", b"\0", b"h\0X", b"h\x004\0\x19unknown\0"):
        sends = (OFFER, packet("C", payload), HELO)
        yield Session(f"no connect callback: {payload!r}", blind, sends)
    yield Session("no connect callback: nothing", blind, (OFFER, packet("C"), HELO))
    senseless = (OFFER, _address("4", b"unknown"), HELO, MAIL)
    yield Session("the address unknown, and on to MAIL", ALL, senseless, "D14")


CONNECT_ADDRESSES = [*_addresses(), *_layouts()]
