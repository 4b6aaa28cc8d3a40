from __future__ import annotations

import dataclasses

import pytest

from aiomilter.errors import LocalProtocolError, RemoteProtocolError
from aiomilter.spec import COMMANDS
from aiomilter.wire.commands import (
    Connect,
    Header,
    Helo,
    Macro,
    Mail,
    Rcpt,
    Unknown,
    decode_command,
)
from aiomilter.wire.framing import PacketReader
from tests.wire.cases import COMMAND_CASES, ODD_COMMANDS, CommandCase, OddCommand


def case_id(case: CommandCase | OddCommand) -> str:
    return case.id


def test_every_command_is_in_the_table() -> None:
    assert {case.packet[4:5] for case in COMMAND_CASES} == {row.letter for row in COMMANDS}


@pytest.mark.parametrize("case", COMMAND_CASES, ids=case_id)
def test_command_is_encoded(case: CommandCase) -> None:
    assert case.command.encode() == case.packet


@pytest.mark.parametrize("case", COMMAND_CASES, ids=case_id)
def test_command_is_decoded(case: CommandCase) -> None:
    decoded = decode_command(case.packet[4], case.packet[5:])
    assert decoded == case.command
    assert type(decoded) is type(case.command)


@pytest.mark.parametrize("case", COMMAND_CASES, ids=case_id)
def test_command_arrives_byte_by_byte(case: CommandCase) -> None:
    reader = PacketReader()
    for byte in case.packet[:-1]:
        reader.receive_data(bytes((byte,)))
        assert reader.next_packet() is None
    reader.receive_data(case.packet[-1:])
    packet = reader.next_packet()
    assert packet is not None
    assert decode_command(*packet) == case.command


@pytest.mark.parametrize("case", COMMAND_CASES, ids=case_id)
def test_bytes_behind_a_command_stay_for_later(case: CommandCase) -> None:
    reader = PacketReader()
    reader.receive_data(case.packet + b"\0\0\0\x01")
    packet = reader.next_packet()
    assert packet is not None
    assert decode_command(*packet) == case.command
    assert reader.next_packet() is None
    assert reader.buffered_bytes == 4


@pytest.mark.parametrize("case", ODD_COMMANDS, ids=case_id)
def test_odd_command_is_read_as_libmilter_does(case: OddCommand) -> None:
    if case.meaning is None:
        with pytest.raises(RemoteProtocolError):
            decode_command(case.letter[0], case.payload)
    else:
        assert decode_command(case.letter[0], case.payload) == case.meaning


def test_error_shows_the_payload() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_command(ord("M"), b"<a>")
    assert caught.value.value == b"<a>"
    with pytest.raises(RemoteProtocolError) as caught:
        decode_command(ord("!"), b"abc")
    assert caught.value.value == b"!abc"


@pytest.mark.parametrize(
    "command",
    [
        Connect(b"a\0b", b"U"),
        Connect(b"a", b"4", 25, b"192.0\0.2.1"),
        Helo(b"\0"),
        Mail([b"<a>", b"SIZE\0=1"]),
        Rcpt([b"<b\0>"]),
        Header(b"X\0", b"v"),
        Header(b"X", b"\0v"),
        Unknown(b"a\0"),
        Macro(b"C", [b"j", b"m\0x"]),
    ],
)
def test_nul_inside_a_string_is_not_sent(
    command: Connect | Helo | Mail | Rcpt | Header | Unknown | Macro,
) -> None:
    with pytest.raises(LocalProtocolError, match="NUL"):
        command.encode()


@pytest.mark.parametrize("command", [Mail([]), Rcpt([])])
def test_an_envelope_command_without_an_address_is_not_sent(command: Mail | Rcpt) -> None:
    with pytest.raises(LocalProtocolError):
        command.encode()


@pytest.mark.parametrize("case", COMMAND_CASES, ids=case_id)
def test_command_has_slots_and_fields_alone(case: CommandCase) -> None:
    assert dataclasses.is_dataclass(case.command)
    assert not hasattr(case.command, "__dict__")
