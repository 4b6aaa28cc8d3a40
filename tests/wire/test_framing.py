from __future__ import annotations

import pytest

from aiomilter.errors import RemoteProtocolError
from aiomilter.wire.framing import PacketReader, encode_packet

STREAM = b"\0\0\0\x01T\0\0\0\x07Bbody\r\n\0\0\0\0E\0\0\0\x02U\0\xff\xff\xff\xffQ"
PACKETS = [
    (ord("T"), b""),
    (ord("B"), b"body\r\n"),
    (ord("E"), b""),
    (ord("U"), b"\0"),
    (ord("Q"), b""),
]


def packets_of(reader: PacketReader) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while (packet := reader.next_packet()) is not None:
        found.append(packet)
    return found


@pytest.mark.parametrize(
    ("letter", "payload", "packet"),
    [
        (b"c", b"", b"\0\0\0\x01c"),
        (b"q", b"why\0", b"\0\0\0\x05qwhy\0"),
        (b"b", b"x" * 65_535, b"\0\x01\0\0b" + b"x" * 65_535),
    ],
)
def test_length_counts_letter_and_payload(letter: bytes, payload: bytes, packet: bytes) -> None:
    assert encode_packet(letter, payload) == packet


def test_nothing_received_is_no_packet() -> None:
    reader = PacketReader()
    assert reader.next_packet() is None
    reader.receive_data(b"")
    assert reader.next_packet() is None
    assert reader.buffered_bytes == 0


def test_packets_in_one_piece() -> None:
    reader = PacketReader()
    reader.receive_data(STREAM)
    assert packets_of(reader) == PACKETS
    assert reader.buffered_bytes == 0


def test_packets_byte_by_byte() -> None:
    reader = PacketReader()
    found: list[tuple[int, bytes]] = []
    for byte in STREAM:
        reader.receive_data(bytes((byte,)))
        found += packets_of(reader)
    assert found == PACKETS


def test_packets_byte_by_byte_and_fetched_at_the_end() -> None:
    reader = PacketReader()
    for byte in STREAM:
        reader.receive_data(bytes((byte,)))
    assert reader.buffered_bytes == len(STREAM)
    assert packets_of(reader) == PACKETS


@pytest.mark.parametrize("first", range(len(STREAM) + 1))
def test_packets_cut_anywhere(first: int) -> None:
    for second in range(first, len(STREAM) + 1):
        reader = PacketReader()
        found: list[tuple[int, bytes]] = []
        for piece in (STREAM[:first], STREAM[first:second], STREAM[second:]):
            reader.receive_data(piece)
            found += packets_of(reader)
        assert found == PACKETS


def test_payload_is_bytes_however_it_arrived() -> None:
    reader = PacketReader()
    reader.receive_data(b"\0\0\0\x03Ba")
    reader.receive_data(b"b\0\0\0\x02Bc")
    payloads = [payload for _, payload in packets_of(reader)]
    assert payloads == [b"ab", b"c"]
    assert {type(payload) for payload in payloads} == {bytes}


def test_buffered_bytes_are_those_not_yet_returned() -> None:
    reader = PacketReader()
    reader.receive_data(b"\0\0\0\x01T\0\0\0")
    assert reader.buffered_bytes == 8
    assert reader.next_packet() == (ord("T"), b"")
    assert reader.buffered_bytes == 3
    reader.receive_data(b"\x02")
    assert reader.buffered_bytes == 4
    assert reader.next_packet() is None
    reader.receive_data(b"Bx\0")
    assert reader.buffered_bytes == 7
    assert reader.next_packet() == (ord("B"), b"x")
    assert reader.buffered_bytes == 1


def test_discarded_bytes_are_never_seen_again() -> None:
    reader = PacketReader()
    reader.receive_data(b"\0\0\0\x09Bhalf")
    reader.discard()
    assert reader.buffered_bytes == 0
    reader.receive_data(b"\0\0\0\x01T")
    assert packets_of(reader) == [(ord("T"), b"")]


# libmilter takes the size of the payload for a signed number: zero and below is no payload.
@pytest.mark.parametrize("length", [0, 1, 0x80000001, 0x80000002, 0xFFFFFFFE, 0xFFFFFFFF], ids=hex)
def test_length_without_payload_is_the_letter_alone(length: int) -> None:
    reader = PacketReader()
    head = length.to_bytes(4, "big")
    reader.receive_data(head)
    assert reader.next_packet() is None
    reader.receive_data(b"E\0\0\0\x01Q")
    assert packets_of(reader) == [(ord("E"), b""), (ord("Q"), b"")]


@pytest.mark.parametrize("limit", [1, 4_096, 65_535, 1_048_575])
def test_payload_of_the_limit_is_let_in(limit: int) -> None:
    reader = PacketReader(limit)
    reader.receive_data((limit + 1).to_bytes(4, "big") + b"B" + b"x" * limit)
    assert packets_of(reader) == [(ord("B"), b"x" * limit)]


@pytest.mark.parametrize("limit", [1, 4_096, 65_535, 1_048_575])
def test_payload_above_the_limit_is_refused_at_the_fourth_byte(limit: int) -> None:
    reader = PacketReader(limit)
    head = (limit + 2).to_bytes(4, "big")
    reader.receive_data(head[:3])
    assert reader.next_packet() is None
    reader.receive_data(head[3:])
    with pytest.raises(RemoteProtocolError, match=f"{limit + 1} bytes.*limit of {limit}"):
        reader.next_packet()
    assert reader.buffered_bytes == 4


@pytest.mark.parametrize("length", [65_537, 0x01000000, 0x7FFFFFFF, 0x80000000], ids=hex)
@pytest.mark.parametrize("rest", [b"", b"B", b"Bxyz"])
def test_oversize_is_refused_whatever_has_arrived_of_it(length: int, rest: bytes) -> None:
    reader = PacketReader()
    reader.receive_data(length.to_bytes(4, "big") + rest)
    with pytest.raises(RemoteProtocolError, match="above the limit of 65535"):
        reader.next_packet()


def test_oversize_is_refused_behind_good_packets() -> None:
    reader = PacketReader()
    reader.receive_data(b"\0\0\0\x01T\0\0\0\x02Bx\0\x01\0\x01B")
    assert reader.next_packet() == (ord("T"), b"")
    assert reader.next_packet() == (ord("B"), b"x")
    with pytest.raises(RemoteProtocolError) as caught:
        reader.next_packet()
    assert caught.value.value == b"\0\x01\0\x01B"


def test_a_refused_packet_is_refused_again() -> None:
    reader = PacketReader()
    reader.receive_data(b"\x7f\0\0\0B")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            reader.next_packet()
    assert reader.buffered_bytes == 5


def test_limit_may_be_changed_between_packets() -> None:
    reader = PacketReader(4)
    reader.receive_data(b"\0\0\0\x06Bfives")
    reader.max_payload_bytes = 5
    assert reader.next_packet() == (ord("B"), b"fives")


@pytest.mark.parametrize(
    ("greeting", "protocol"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP,"),
        (b"POST /x HTTP/1.1\r\n", "HTTP,"),
        (b"HEAD / HTTP/1.0\r\n", "HTTP,"),
        (b"OPTIONS * HTTP/1.1\r\n", "HTTP,"),
        (b"PRI * HTTP/2.0\r\n", "HTTP/2,"),
        (b"EHLO client.example\r\n", "SMTP,"),
        (b"HELO client.example\r\n", "SMTP,"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH,"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc", "TLS,"),
        (b"\x16\x03\x03\x02\0\x01\0\x01\xfc", "TLS,"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_foreign_protocol_is_named(greeting: bytes, protocol: str, whole: bool) -> None:
    reader = PacketReader()
    reader.receive_data(greeting if whole else greeting[:4])
    with pytest.raises(RemoteProtocolError, match=f"this is {protocol}") as caught:
        reader.next_packet()
    assert caught.value.value == (greeting[:16] if whole else greeting[:4])
