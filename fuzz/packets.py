"""Packets and dialogues by hand, for the fuzz targets; nothing here uses the code under test."""

from __future__ import annotations

import struct

SEPARATOR = b"\xf5"
"""Between the fields of an input. A byte that is in no UTF-8 and in no offer that makes sense."""


def packet(letter: bytes, payload: bytes = b"") -> bytes:
    """Return one packet: the length counts the letter and the payload."""
    return struct.pack(">I", len(payload) + 1) + letter + payload


def letters_received(stream: bytes) -> bytes:
    """Return the letters of all packets in a stream, as libmilter reads lengths.

    The payload is ``length - 1`` bytes as a signed number, and none where that is negative.
    """
    letters = bytearray()
    at = 0
    while len(stream) - at >= 5:
        length, letter = struct.unpack_from(">IB", stream, at)
        payload = length - 1 if 1 <= length <= 0x80000000 else 0
        at += 5 + payload
        if at > len(stream):
            break
        letters.append(letter)
    return bytes(letters)


def split_packets(data: bytes) -> list[bytes]:
    """Return letter and payload of each packet in ``data``, which must be whole packets."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        assert len(data) - at >= 5, f"half a packet: {data[at:]!r}"
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 4 + length
        assert 1 <= length <= 65_536, f"no packet: {data[at : at + 80]!r}"
        assert end <= len(data), f"half a packet: {data[at : at + 80]!r}"
        found.append(data[at + 4 : end])
        at = end
    return found


OFFER = b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
OFFER_WITH_DATA_SIZES = b"O\0\0\0\x06\0\0\x01\xff\x70\x1f\xff\xff"
OFFER_OF_VERSION_2 = b"O\0\0\0\x02\0\0\0\x3f\0\0\0\x7f"
OFFER_OF_NOTHING = b"O\0\0\0\x02\0\0\0\0\0\0\0\0"

CONNECT = b"Chost.example\x004\0\x19192.0.2.1\0"
CONNECT_IPV6 = b"C[2001:db8::1]\x006\x82\x35IPv6:2001:db8::1\0"
CONNECT_UNIX = b"Clocalhost\0L\0\0/run/mta.sock\0"
CONNECT_UNKNOWN = b"Cunknown\0U"
HELO = b"Hclient.example\0"
MAIL = b"M<a@example.com>\0SIZE=100\0BODY=8BITMIME\0"
RCPT = b"R<b@example.com>\0NOTIFY=NEVER\0"
DATA = b"T"
HEADER = b"LSubject\0test\n folded\0"
HEADER_WITH_BLANK = b"LSubject\0 test\0"
EOH = b"N"
BODY = b"Bbody\r\n.\r\n"
EOM = b"E"
EOM_WITH_TAIL = b"Etail"
ABORT = b"A"
UNKNOWN = b"UXYZZ\0"
QUIT = b"Q"
QUIT_NC = b"K"
MACROS_OF_CONNECT = b"Dj\0mail.example.com\0{daemon_name}\0MTA\0"
MACROS = {
    letter: b"D" + letter + b"j\0mail.example\0{auth_authen}\0me\0i\0" + letter + b"1\0"
    for letter in (b"C", b"H", b"M", b"R", b"T", b"N", b"E")
}

ENVELOPE = (MAIL, RCPT, RCPT, DATA)
MESSAGE = (*ENVELOPE, HEADER, HEADER, EOH, BODY, BODY, EOM)
POSTFIX_MESSAGE = (
    MACROS[b"M"], MAIL, MACROS[b"R"], RCPT, MACROS[b"T"], DATA, HEADER,
    MACROS[b"N"], EOH, BODY, MACROS[b"E"], EOM, ABORT,
)  # fmt: skip

DIALOGUES: tuple[tuple[bytes, ...], ...] = (
    (OFFER, CONNECT, HELO, *MESSAGE, QUIT),
    (OFFER, MACROS[b"C"], CONNECT, MACROS[b"H"], HELO, *POSTFIX_MESSAGE, QUIT),
    (OFFER, CONNECT, HELO, *POSTFIX_MESSAGE, *POSTFIX_MESSAGE, QUIT_NC, CONNECT_IPV6, HELO, QUIT),
    (OFFER_WITH_DATA_SIZES, CONNECT_UNIX, HELO, *ENVELOPE, EOH, EOM_WITH_TAIL, *MESSAGE),
    (OFFER_OF_VERSION_2, CONNECT_UNKNOWN, HELO, MAIL, RCPT, HEADER, EOH, BODY, EOM, QUIT),
    (OFFER_OF_NOTHING, CONNECT, HELO, MAIL, RCPT, HEADER, EOH, BODY, EOM),
    (OFFER, CONNECT, HELO, UNKNOWN, MAIL, UNKNOWN, RCPT, ABORT, MAIL, MAIL, RCPT, HELO, UNKNOWN),
    (OFFER, CONNECT, HELO, MAIL, EOM, EOM, RCPT, BODY, EOH, HEADER, CONNECT, OFFER, QUIT_NC, EOM),
    (CONNECT, HELO, *MESSAGE, QUIT),
    (OFFER, CONNECT, b"Hno end", HELO, b"M", QUIT),
    (OFFER, MACROS_OF_CONNECT, b"D", CONNECT),
    (b"O\0\0\0\x01\0\0\0\0\0\0\0\0", CONNECT),
)
"""What MTAs say, and what they should not; letter and payload of each packet."""
