"""Packets as bytes, written by hand: nothing here uses the code under test."""

from __future__ import annotations

import struct


def packet(letter: str, payload: bytes = b"") -> bytes:
    """One packet: the length counts the letter and the payload."""
    return struct.pack(">I", len(payload) + 1) + letter.encode("latin-1") + payload


def split_packets(data: bytes) -> list[bytes]:
    """Letter and payload of each packet in ``data``, which must be whole packets."""
    found: list[bytes] = []
    while data:
        (length,) = struct.unpack_from(">I", data)
        assert 1 <= length <= len(data) - 4, f"half a packet: {data!r}"
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def offer(version: int = 6, actions: int = 0x1FF, options: int = 0x1FFFFF) -> bytes:
    """What an MTA sends first."""
    return packet("O", struct.pack(">III", version, actions, options))


def macros(letter: str, *strings: bytes) -> bytes:
    """The macros ahead of a command: names and values in turn."""
    return packet("D", letter.encode() + b"".join(string + b"\0" for string in strings))


OFFER = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
CONNECT = b"\0\0\0\x1bChost.example\x004\0\x19192.0.2.1\0"
HELO = b"\0\0\0\x10Hclient.example\0"
MAIL = b"\0\0\0\x11M<a@example.com>\0"
RCPT = b"\0\0\0\x11R<b@example.com>\0"
DATA = b"\0\0\0\x01T"
HEADER = b"\0\0\0\x0eLSubject\0test\0"
EOH = b"\0\0\0\x01N"
BODY = b"\0\0\0\x07Bbody\r\n"
EOM = b"\0\0\0\x01E"
EOM_WITH_TAIL = b"\0\0\0\x05Etail"
ABORT = b"\0\0\0\x01A"
UNKNOWN = b"\0\0\0\x06UXYZZ\0"
QUIT = b"\0\0\0\x01Q"
QUIT_NC = b"\0\0\0\x01K"

ENVELOPE = MAIL + RCPT + DATA
MESSAGE = ENVELOPE + HEADER + EOH + BODY + EOM
