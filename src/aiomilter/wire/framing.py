"""Packets: where one ends and the next begins.

Layout of every packet, in both directions::

    u32 length (big-endian) | u8 letter | length - 1 bytes of payload

``length`` counts the letter and the payload, not itself. There is no padding and no checksum.

Rules of this file, all libmilter's (``mi_rd_cmd`` in ``comm.c``):

- The payload's size is ``length - 1`` as a *signed* 32-bit number. Where that is zero or
  negative, the packet is the letter alone: a length of 0 still has its letter.
- A payload above the limit ends the connection. libmilter waits for the letter before it says
  so; here four bytes are enough, so that nothing is ever allocated for a size that is refused.
- Nothing is read beyond the packet: bytes stay in the buffer until they are asked for.
"""

from __future__ import annotations

from struct import Struct

from aiomilter.errors import RemoteProtocolError
from aiomilter.spec import MAX_PAYLOAD_BYTES

__all__ = ["HEAD_BYTES", "PacketReader", "encode_packet", "unpack_head"]

_LENGTH = Struct(">I")
_HEAD = Struct(">IB")
# Hot path: a method of an object that another module has made is looked up anew for each call.
HEAD_BYTES = _HEAD.size
"""How many bytes length and letter are."""
unpack_head = _HEAD.unpack_from
"""Return length and letter from a buffer, and perhaps an offset in it."""
_SIGN_BIT = 0x80000000

_FOREIGN_GREETINGS: tuple[tuple[bytes, str], ...] = (
    (b"GET ", "HTTP"),
    (b"POST", "HTTP"),
    (b"HEAD", "HTTP"),
    (b"OPTI", "HTTP"),
    (b"PRI ", "HTTP/2"),
    (b"EHLO", "SMTP"),
    (b"HELO", "SMTP"),
    (b"HTTP", "HTTP"),
    (b"220 ", "SMTP"),
    (b"220-", "SMTP"),
    (b"* OK", "IMAP"),
    (b"+OK ", "POP3"),
    (b"SSH-", "SSH"),
    (b"\x16\x03\x01", "TLS"),
    (b"\x16\x03\x03", "TLS"),
)
"""How other protocols begin; read as a length they all are far above any limit."""


def encode_packet(letter: bytes, payload: bytes = b"") -> bytes:
    """Return one packet of ``letter`` (one byte) and ``payload`` (may be empty)."""
    return _LENGTH.pack(len(payload) + 1) + letter + payload


class PacketReader:
    """Cuts a stream of bytes into packets, however the bytes arrive.

    Attributes:
        is_closed: Whether nothing more is taken in; may be set.
        buffer: What has come in and is not all returned as packets; empty if all is. To be looked
            at only.
        max_payload_bytes: The largest payload that is let in; may be changed between packets.
    """

    __slots__ = ("_offset", "buffer", "is_closed", "max_payload_bytes")

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self.max_payload_bytes = max_payload_bytes
        # Hot path: an MTA sends a command and waits, so that the buffer is nearly always one
        # read, taken as it is. Only a piece of a packet makes it a bytearray, which grows in
        # place: joining bytes would make a peer that sends single bytes cost quadratic time.
        self.buffer: bytes | bytearray = b""
        self._offset = 0
        self.is_closed = False

    @property
    def buffered_bytes(self) -> int:
        """The number of bytes received and not yet returned as packets."""
        return len(self.buffer) - self._offset

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the other end; any number of them, cut anywhere."""
        buffer = self.buffer
        if self.is_closed:
            return
        if not buffer:
            self.buffer = data
            return
        offset = self._offset
        if isinstance(buffer, bytearray):
            del buffer[:offset]
            buffer += data
        else:
            self.buffer = bytearray(memoryview(buffer)[offset:])
            self.buffer += data
        self._offset = 0

    def next_packet(self) -> tuple[int, bytes] | None:
        """Return the next packet as (letter, payload), or None if it has not all arrived.

        Raises:
            RemoteProtocolError: The packet announces a payload above ``max_payload_bytes``. The
                buffer is as it was.
        """
        buffer, start = self.buffer, self._offset
        size = len(buffer)
        body = start + HEAD_BYTES
        if size < body:
            if size - start >= _LENGTH.size:
                self._check_length(_LENGTH.unpack_from(buffer, start)[0])
            return None
        length, letter = unpack_head(buffer, start)
        payload_bytes = length - 1
        if 0 <= payload_bytes <= self.max_payload_bytes:
            end = body + payload_bytes
            if end > size:
                return None
        else:
            self._check_length(length)
            end = body
        if end < size:
            self._offset = end
        else:
            # Nothing is left: an idle connection does not hold on to what it has read last.
            self.buffer = b""
            self._offset = 0
        payload = buffer[body:end]
        return letter, payload if type(payload) is bytes else bytes(payload)

    def put_back(self, letter: int, payload: bytes) -> None:
        """Have the packet that was returned last returned once more."""
        if self.buffer:
            self._offset -= HEAD_BYTES + len(payload)
        else:
            self.buffer = encode_packet(bytes((letter,)), payload)

    def discard(self) -> None:
        """Forget everything that was received and not yet returned."""
        self.buffer = b""
        self._offset = 0

    def _check_length(self, length: int) -> None:
        if not self.max_payload_bytes < length - 1 < _SIGN_BIT:
            return
        begin = bytes(self.buffer[self._offset : self._offset + 16])
        for greeting, protocol in _FOREIGN_GREETINGS:
            if begin.startswith(greeting):
                raise RemoteProtocolError(f"this is {protocol}, not the milter protocol", begin)
        raise RemoteProtocolError(
            f"a packet announces {length - 1} bytes of payload, above the limit of "
            f"{self.max_payload_bytes}",
            begin,
        )
