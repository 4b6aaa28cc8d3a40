from __future__ import annotations

import pytest

from aiomilter.errors import LocalProtocolError, RemoteProtocolError
from aiomilter.spec import REPLIES, MacroStage
from aiomilter.wire.framing import PacketReader
from aiomilter.wire.replies import (
    AddHeader,
    AddRecipient,
    AddRecipientWithParams,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    MilterReply,
    Negotiated,
    Quarantine,
    ReplyCode,
    decode_reply,
    encode_body,
)
from tests.packets import split_packets
from tests.wire.cases import ODD_REPLIES, REPLY_CASES, OddReply, ReplyCase


def case_id(case: ReplyCase | OddReply) -> str:
    return case.id


def test_every_reply_is_in_the_table() -> None:
    assert {case.packet[4:5] for case in REPLY_CASES} == {row.letter for row in REPLIES}


@pytest.mark.parametrize("case", REPLY_CASES, ids=case_id)
def test_reply_is_encoded(case: ReplyCase) -> None:
    assert case.reply.encode() == case.packet


@pytest.mark.parametrize("case", REPLY_CASES, ids=case_id)
def test_reply_is_decoded(case: ReplyCase) -> None:
    decoded = decode_reply(case.packet[4], case.packet[5:])
    assert decoded == case.reply
    assert type(decoded) is type(case.reply)


@pytest.mark.parametrize("case", REPLY_CASES, ids=case_id)
def test_reply_arrives_byte_by_byte(case: ReplyCase) -> None:
    reader = PacketReader()
    for byte in case.packet[:-1]:
        reader.receive_data(bytes((byte,)))
        assert reader.next_packet() is None
    reader.receive_data(case.packet[-1:])
    packet = reader.next_packet()
    assert packet is not None
    assert decode_reply(*packet) == case.reply


@pytest.mark.parametrize("case", REPLY_CASES, ids=case_id)
def test_payload_is_there_where_the_table_of_replies_says_so(case: ReplyCase) -> None:
    has_payload = next(row.has_payload for row in REPLIES if row.letter == case.packet[4:5])
    # An empty body is the one payload that may be empty.
    assert (len(case.packet) > 5) == has_payload or case.id == "replace-body-empty"


@pytest.mark.parametrize("case", ODD_REPLIES, ids=case_id)
def test_odd_reply_is_read_as_postfix_does(case: OddReply) -> None:
    if case.meaning is None:
        with pytest.raises(RemoteProtocolError):
            decode_reply(case.letter[0], case.payload)
    else:
        assert decode_reply(case.letter[0], case.payload) == case.meaning


@pytest.mark.parametrize(
    "reply",
    [
        Negotiated(6, 0, 0, {0: b"j\0i"}),
        ReplyCode(b"550 a\0b"),
        AddHeader(b"X\0", b"v"),
        AddHeader(b"X", b"v\0"),
        InsertHeader(0, b"X", b"\0"),
        ChangeHeader(1, b"\0", b"v"),
        ChangeSender(b"<a\0>"),
        ChangeSender(b"<a>", b"RET\0"),
        AddRecipient(b"\0<b>"),
        AddRecipientWithParams(b"<b>", b"\0"),
        DeleteRecipient(b"<b>\0"),
        Quarantine(b"why\0not"),
    ],
)
def test_nul_inside_a_string_is_not_sent(reply: MilterReply) -> None:
    with pytest.raises(LocalProtocolError, match="NUL"):
        reply.encode()


def test_macro_requests_are_sent_in_ascending_order() -> None:
    reply = Negotiated(6, 0, 0, {6: b"i", 0: b"j"})
    assert reply.encode()[17:] == b"\0\0\0\0j\0\0\0\0\x06i\0"


def test_macros_wanted_at_a_stage_are_separated_by_blanks() -> None:
    reply = Negotiated(6, 0, 0, {3: b" {rcpt_addr}  {rcpt_host}", 4: b""})
    assert reply.macros_at(MacroStage.RCPT) == [b"{rcpt_addr}", b"{rcpt_host}"]
    assert reply.macros_at(MacroStage.DATA) == []
    assert reply.macros_at(MacroStage.EOM) == []


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, [0]),
        (1, [1]),
        (65_535, [65_535]),
        (65_536, [65_535, 1]),
        (131_070, [65_535, 65_535]),
        (131_071, [65_535, 65_535, 1]),
    ],
)
def test_new_body_leaves_in_pieces_without_an_empty_tail(size: int, pieces: list[int]) -> None:
    body = bytes(number % 251 for number in range(size))
    packets = split_packets(encode_body(body))
    assert {packet[:1] for packet in packets} == {b"b"}
    assert [len(packet) - 1 for packet in packets] == pieces
    assert b"".join(packet[1:] for packet in packets) == body
