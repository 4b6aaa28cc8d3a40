"""Milters that break the rules: each breach is told from every other, by its rule."""

from __future__ import annotations

import pytest

from aiomilter.errors import RemoteProtocolError
from aiomilter.session.mta import MtaSession
from aiomilter.wire import commands
from tests.packets import packet
from tests.session.mta_driver import (
    COMMANDS,
    EOM,
    MAIL,
    agreed,
    answer,
    asked,
)


def feed(session: MtaSession, pieces: list[bytes]) -> None:
    """Have a session read all there is, and send what shows what stands behind a verdict."""
    for piece in pieces:
        session.receive_data(piece)
        while session.is_awaiting and session.next_reply() is not None:
            pass
    session.send(commands.Abort())


# What it is, the bytes, the rule

NEGOTIATION = [
    ("continue", packet("c"), "continue is no reply to negotiate"),
    ("progress", packet("p"), "progress is no reply to negotiate"),
    ("shutdown", packet("4"), "shutdown is no reply to negotiate"),
    ("skip", packet("s"), "skip is no reply to negotiate"),
    ("eleven bytes", packet("O", bytes(11)), "an answer to the offer has less than 12 bytes"),
    ("no bytes", packet("O"), "an answer to the offer has less than 12 bytes"),
    (
        "higher version",
        answer(7),
        "the milter answers with version 7 to an offer of 6",
    ),
    ("no version", answer(0), "the milter answers with version 0 to an offer of 6"),
    (
        "absurd version",
        answer(0xFFFFFFFF),
        "the milter answers with version 4294967295 to an offer of 6",
    ),
    (
        "actions",
        answer(actions=0xFFF),
        "the milter asks for actions that were not offered: 0xe00",
    ),
    ("list without NUL", answer(rest=b"\0\0\0\x02i"), "a macro request does not end in NUL"),
    ("stray bytes", answer(rest=b"junkjunk"), "a macro request does not end in NUL"),
    ("stray byte", answer(rest=b"\0"), "a macro request does not end in NUL"),
    ("twice", answer() * 2, "a reply where none is due"),
    ("HTTP", b"HTTP/1.1 400 Bad Request\r\n", "this is HTTP, not the milter protocol"),
    ("SMTP", b"220 mx.example ESMTP\r\n", "this is SMTP, not the milter protocol"),
    ("SMTP, multi-line", b"220-mx.example\r\n", "this is SMTP, not the milter protocol"),
    ("IMAP", b"* OK ready\r\n", "this is IMAP, not the milter protocol"),
    ("POP3", b"+OK ready\r\n", "this is POP3, not the milter protocol"),
    ("SSH", b"SSH-2.0-x\r\n", "this is SSH, not the milter protocol"),
]
FRAMES = [
    ("length 0", b"\0\0\0\0c", "a packet of length 0 has no letter"),
    ("length 0 alone", b"\0\0\0\0", "a packet of length 0 has no letter"),
    (
        "one byte too long",
        b"\0\1\0\1b",
        "a packet announces 65536 bytes of payload, above the limit of 65535",
    ),
    (
        "longest",
        b"\x7f\xff\xff\xff",
        "a packet announces 2147483646 bytes of payload, above the limit of 65535",
    ),
    (
        "smallest negative",
        b"\x80\0\0\0",
        "a packet announces 2147483647 bytes of payload, above the limit of 65535",
    ),
    (
        "negative",
        b"\xff\xff\xff\xffc",
        "a packet announces 4294967294 bytes of payload, above the limit of 65535",
    ),
    ("unknown letter", packet("Z"), "an unknown reply"),
    ("letter of a command", packet("C"), "an unknown reply"),
    ("NUL as letter", packet("\0"), "an unknown reply"),
]
ANYWHERE = [
    ("continue with a byte", packet("c", b"\0"), "Continue: a reply without payload has one"),
    ("continue with junk", packet("c", b"junk"), "Continue: a reply without payload has one"),
    ("accept with a byte", packet("a", b"x"), "Accept: a reply without payload has one"),
    ("reject with a byte", packet("r", b"x"), "Reject: a reply without payload has one"),
    ("tempfail with a byte", packet("t", b"x"), "TempFail: a reply without payload has one"),
    ("discard with a byte", packet("d", b"x"), "Discard: a reply without payload has one"),
    ("words without NUL", packet("y", b"550 no"), "ReplyCode: bytes behind the last NUL"),
    ("words without words", packet("y"), "ReplyCode: 0 strings, not 1"),
    ("words twice", packet("y", b"550 a\x00550 b\0"), "ReplyCode: 2 strings, not 1"),
    ("two verdicts", packet("c") + packet("c"), "a reply where none is due"),
    ("a verdict and half of one", packet("c") + b"\0", "a reply where none is due"),
]
ONLY_AT_EOM = ["h", "i", "m", "e", "+", "2", "-", "b", "q"]
AT_EOM = [
    ("skip", packet("s"), "skip is no reply to eom"),
    ("connection failed", packet("f"), "connection_failed is no reply to eom"),
    ("offer", packet("O", bytes(12)), "negotiation is no reply to eom"),
    ("progress with a byte", packet("p", b"x"), "Progress: a reply without payload has one"),
    ("header without NUL", packet("h", b"X-A\0v"), "AddHeader: bytes behind the last NUL"),
    ("header without value", packet("h", b"X-A\0"), "AddHeader: 1 strings, not 2"),
    ("header and more", packet("h", b"X-A\0v\0w\0"), "AddHeader: 3 strings, not 2"),
    ("no index", packet("m", b"\0\0"), "ChangeHeader: no index"),
    ("no index to insert", packet("i", b"\0\0\0"), "InsertHeader: no index"),
    ("index alone", packet("i", b"\0\0\0\0"), "InsertHeader: 0 strings, not 2"),
    ("recipient without NUL", packet("+", b"<x@y>"), "AddRecipient: bytes behind the last NUL"),
    ("no recipient", packet("-"), "DeleteRecipient: 0 strings, not 1"),
    ("recipient and more", packet("-", b"a\0b\0"), "DeleteRecipient: 2 strings, not 1"),
    (
        "parameters and more",
        packet("2", b"a\0b\0c\0"),
        "AddRecipientWithParams: 3 strings, not 1",
    ),
    ("no sender", packet("e"), "ChangeSender: 0 strings, not 1"),
    ("no reason", packet("q"), "Quarantine: 0 strings, not 1"),
    (
        "body apart",
        packet("b", b"1") + packet("q", b"\0") + packet("b", b"2"),
        "another edit stands between two pieces of a new body",
    ),
    ("edit after the verdict", packet("c") + packet("q", b"\0"), "a reply where none is due"),
]
NOT_AGREED = [
    ("h", b"X\0v\0", "add_header needs the action ADD_HEADER"),
    ("i", b"\0\0\0\0X\0v\0", "insert_header needs the action ADD_HEADER"),
    ("m", b"\0\0\0\0X\0v\0", "change_header needs the action CHANGE_HEADER"),
    ("e", b"<>\0", "change_sender needs the action CHANGE_SENDER"),
    ("+", b"<>\0", "add_recipient needs the action ADD_RECIPIENT"),
    ("2", b"<>\0", "add_recipient_with_params needs the action ADD_RECIPIENT_WITH_PARAMS"),
    ("-", b"<>\0", "delete_recipient needs the action DELETE_RECIPIENT"),
    ("b", b"", "replace_body needs the action REPLACE_BODY"),
    ("q", b"why\0", "quarantine needs the action QUARANTINE"),
]
OF_SENDMAIL = [
    (
        "negotiate",
        answer(options=0x200000),
        "the milter asks for options that were not offered: 0x200000",
    ),
    ("negotiate", answer(1), "the milter answers with version 1 to an offer of 6"),
    ("mail", packet("p"), "progress is no reply to mail"),
    ("body", packet("p"), "progress is no reply to body"),
    ("mail", packet("4"), "shutdown is no reply to mail"),
    ("eom", packet("4"), "shutdown is no reply to eom"),
]

HOSTILE: list[tuple[str, bool, str, bytes, str]] = [
    *(("negotiate", False, *row) for row in NEGOTIATION),
    *((name, False, *row) for name in ("negotiate", "mail", "eom") for row in FRAMES),
    *((name, False, *row) for name in COMMANDS for row in ANYWHERE),
    *(("eom", False, *row) for row in AT_EOM),
    *(
        (name, is_strict, letter, packet(letter, b"\0\0\0\0x\0y\0"), f" is no reply to {name}")
        for name in COMMANDS
        if name != "eom"
        for letter in (*ONLY_AT_EOM, "O", "f")
        for is_strict in (False, True)
    ),
    *((name, True, "as Sendmail", data, rule) for name, data, rule in OF_SENDMAIL),
]


@pytest.mark.parametrize(
    ("name", "is_strict", "data", "rule"),
    [(name, is_strict, data, rule) for name, is_strict, _, data, rule in HOSTILE],
    ids=[f"{row[0]}-{row[2]}-{'sendmail' if row[1] else 'postfix'}" for row in HOSTILE],
)
@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "bytewise"])
def test_a_broken_rule_is_named(
    name: str, is_strict: bool, data: bytes, rule: str, is_bytewise: bool
) -> None:
    pieces = [bytes((byte,)) for byte in data] if is_bytewise else [data]
    with pytest.raises(RemoteProtocolError) as caught:
        feed(asked(name, is_strict=is_strict), pieces)
    assert caught.value.rule.endswith(rule)
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("letter", "payload", "rule"), NOT_AGREED)
@pytest.mark.parametrize("is_strict", [False, True])
def test_an_edit_that_was_not_agreed_is_told(
    letter: str, payload: bytes, rule: str, is_strict: bool
) -> None:
    session = asked("eom", actions=0, is_strict=is_strict)
    session.receive_data(packet(letter, payload))
    with pytest.raises(RemoteProtocolError) as caught:
        session.next_reply()
    assert caught.value.rule == f"{rule}, which was not agreed"
    assert caught.value.value == letter.encode() + payload


def test_an_answer_to_what_has_none_is_told_at_the_next_command() -> None:
    session = agreed(0x4000)
    session.send(MAIL)
    session.receive_data(packet("c"))
    with pytest.raises(RemoteProtocolError) as caught:
        session.send(EOM)
    assert (caught.value.rule, caught.value.value) == ("a reply where none is due", b"c")


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\x01", b"\0\0\0\x05hX"])
def test_an_end_within_a_packet_is_told(data: bytes) -> None:
    session = asked("eom")
    session.receive_data(data)
    assert session.next_reply() is None
    session.receive_eof()
    with pytest.raises(RemoteProtocolError) as caught:
        session.next_reply()
    assert caught.value.rule == "the connection ends within a packet"


def test_edits_without_end_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomilter.session.mta._MAX_EDIT_BYTES", 1_000)
    session = asked("eom")
    session.receive_data(packet("h", b"A\0b\0") * 4)
    for _ in range(3):
        assert session.next_reply() is not None
    with pytest.raises(RemoteProtocolError, match="the edits of one message take more than 1,000"):
        session.next_reply()
