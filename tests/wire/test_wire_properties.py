"""What holds for any command, any reply and any bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from aiomilter.errors import RemoteProtocolError
from aiomilter.wire.commands import Command, decode_command
from aiomilter.wire.framing import PacketReader
from aiomilter.wire.replies import MilterReply, decode_reply, encode_body
from tests.packets import split_packets
from tests.wire.strategies import REPEATABLE, commands, cut_streams, replies, streams

Decoded = Command | MilterReply | str


def read(pieces: Iterable[bytes], decode: Callable[[int, bytes], Decoded]) -> list[Decoded]:
    """All that is in the pieces; a broken rule, which is the end, as its text."""
    reader = PacketReader()
    found: list[Decoded] = []
    for piece in pieces:
        reader.receive_data(piece)
        try:
            while (packet := reader.next_packet()) is not None:
                try:
                    found.append(decode(*packet))
                except RemoteProtocolError as error:
                    found.append(str(error))
        except RemoteProtocolError as error:
            # Its text shows the bytes that have arrived, which is not the same for all cuts.
            return [*found, error.rule]
    return found


@REPEATABLE
@given(commands)
def test_command_comes_back_as_it_went(command: Command) -> None:
    assert read([command.encode()], decode_command) == [command]


@REPEATABLE
@given(replies)
def test_reply_comes_back_as_it_went(reply: MilterReply) -> None:
    assert read([reply.encode()], decode_reply) == [reply]


@REPEATABLE
@given(st.lists(commands, max_size=6))
def test_pipelined_commands_come_back_in_order(sent: list[Command]) -> None:
    stream = b"".join(command.encode() for command in sent)
    assert read([stream], decode_command) == sent


@REPEATABLE
@given(streams())
def test_any_bytes_are_packets_or_a_broken_rule(data: bytes) -> None:
    read([data], decode_command)
    read([data], decode_reply)


@REPEATABLE
@given(st.integers(0, 255), st.binary(max_size=40))
def test_any_payload_is_decoded_or_a_broken_rule(letter: int, payload: bytes) -> None:
    packet = (len(payload) + 1).to_bytes(4, "big") + bytes((letter,)) + payload
    assert len(read([packet], decode_command)) == 1
    assert len(read([packet], decode_reply)) == 1


@REPEATABLE
@given(cut_streams(streams()))
def test_how_bytes_are_cut_never_matters(cut: tuple[bytes, list[bytes]]) -> None:
    whole, pieces = cut
    expected = read([whole], decode_command)
    assert read(pieces, decode_command) == expected
    assert read((bytes((byte,)) for byte in whole), decode_command) == expected


@REPEATABLE
@given(st.integers(0, 200_000))
def test_new_body_is_the_sum_of_its_pieces(size: int) -> None:
    packets = split_packets(encode_body(b"x" * size))
    assert sum(len(packet) - 1 for packet in packets) == size
    assert all(len(packet) - 1 == 65_535 for packet in packets[:-1])
