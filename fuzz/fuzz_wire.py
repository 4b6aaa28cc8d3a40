"""Any payload decodes or raises RemoteProtocolError; what decodes encodes to the same again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aiomilter.errors import RemoteProtocolError
from aiomilter.wire.commands import DECODERS, Command, Header, decode_command
from aiomilter.wire.replies import REPLY_DECODERS, MilterReply, decode_reply
from fuzz.packets import DIALOGUES, split_packets

Message = Command | MilterReply

REPLIES = (
    b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff\0\0\0\x00j {client_addr}\0\0\0\0\x05i\0",
    b"c",
    b"y550-5.7.1 100%% sure\r\n550 5.7.1 that this is spam\0",
    b"hX-Spam\0yes\0",
    b"i\0\0\0\x01X-Spam\0yes\0",
    b"m\0\0\0\x01Subject\0\0",
    b"e<a@example.com>\0",
    b"e<a@example.com>\0RET=HDRS\0",
    b"+<b@example.com>\0",
    b"2<b@example.com>\0NOTIFY=NEVER\0",
    b"-<b@example.com>\0",
    b"bbody\r\n",
    b"qvirus\0",
)


def check(data: bytes) -> None:
    """Take the payload for that of every packet; the first byte also for a packet's letter."""
    letter, payload = data[0] if data else 0, data[1:]
    for decode_any in (decode_command, decode_reply):
        try:
            decode_any(letter, payload)
        except RemoteProtocolError as error:
            check_error(error)
    for known, decode in DECODERS.items():
        check_round_trip(known, decode, payload)
    for known, decode_answer in REPLY_DECODERS.items():
        check_round_trip(known, decode_answer, payload)


def check_round_trip(letter: int, decode: Callable[[bytes], Message], payload: bytes) -> None:
    """Decode, encode, decode and encode again."""
    try:
        message = decode(payload)
    except RemoteProtocolError as error:
        check_error(error)
        return
    encoded = message.encode()
    (packet,) = split_packets(encoded)
    assert packet[0] == letter, f"{message} is sent as {encoded!r}"
    assert len(packet) - 1 <= len(payload) + 1, f"{message} grows from {payload!r} to {encoded!r}"
    if isinstance(message, Header) and not message.name:
        # libmilter's search for the name's end begins at the second byte: a header with an empty
        # name is read from `\0a\0b\0` but from nothing that is made of it and its value alone.
        return
    again = decode(packet[1:])
    assert again == message, f"{message} comes back as {again}"
    assert again.encode() == encoded, f"{message} is sent in two ways"


def check_error(error: RemoteProtocolError) -> None:
    """An error is one line of a log, of bounded length, whatever the payload."""
    text = str(error)
    assert text.isascii(), text
    assert text.isprintable(), f"more than a line: {text!r}"
    assert len(text) < 600, f"{len(text)} characters of an error"


def describe(data: bytes) -> str:
    """Return the payload."""
    return f"letter {data[:1]!r}, payload {data[1:]!r}"


def seeds() -> Iterator[bytes]:
    """Yield every packet of the dialogues and every reply."""
    for dialogue in DIALOGUES:
        yield from dialogue
    yield from REPLIES
