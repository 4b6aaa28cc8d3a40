"""Sessions of the MTA's end in the states that tests begin from, and what milters say to them."""

from __future__ import annotations

import struct

from aiomilter.session.mta import MtaSession
from aiomilter.wire import commands, replies
from tests.packets import packet

__all__ = [
    "COMMANDS",
    "EOM",
    "MAIL",
    "NO_OPTION",
    "NO_REPLY_OPTION",
    "VERDICTS",
    "agreed",
    "answer",
    "asked",
]

MAIL = commands.Mail([b"<a@example.com>"])
EOM = commands.EndOfMessage()
COMMANDS: dict[str, commands.Command] = {
    "connect": commands.Connect(b"host.example", b"U"),
    "helo": commands.Helo(b"client.example"),
    "mail": MAIL,
    "rcpt": commands.Rcpt([b"<b@example.com>"]),
    "data": commands.Data(),
    "header": commands.Header(b"Subject", b"test"),
    "eoh": commands.EndOfHeaders(),
    "body": commands.Body(b"body\r\n"),
    "eom": EOM,
    "unknown": commands.Unknown(b"XYZZY"),
}
NO_OPTION = {
    "connect": 0x1,
    "helo": 0x2,
    "mail": 0x4,
    "rcpt": 0x8,
    "body": 0x10,
    "header": 0x20,
    "eoh": 0x40,
    "unknown": 0x100,
    "data": 0x200,
}
NO_REPLY_OPTION = {
    "header": 0x80,
    "connect": 0x1000,
    "helo": 0x2000,
    "mail": 0x4000,
    "rcpt": 0x8000,
    "data": 0x10000,
    "unknown": 0x20000,
    "eoh": 0x40000,
    "body": 0x80000,
}
VERDICTS: dict[bytes, type[replies.MilterReply]] = {
    b"c": replies.Continue,
    b"a": replies.Accept,
    b"r": replies.Reject,
    b"t": replies.TempFail,
    b"d": replies.Discard,
}


def answer(version: int = 6, actions: int = 0x1FF, options: int = 0, rest: bytes = b"") -> bytes:
    """What a milter says to an offer."""
    return packet("O", struct.pack(">III", version, actions, options) + rest)


def agreed(
    options: int = 0, *, actions: int = 0x1FF, version: int = 6, is_strict: bool = False
) -> MtaSession:
    """A session that has agreed with its milter."""
    session = MtaSession(is_strict=is_strict)
    session.send_offer()
    session.receive_data(answer(version, actions, options))
    assert isinstance(session.next_reply(), replies.Negotiated)
    session.data_to_send()
    return session


def asked(name: str, *, is_strict: bool = False, actions: int = 0x1FF) -> MtaSession:
    """A session that waits for an answer to a command, or to its offer."""
    if name == "negotiate":
        session = MtaSession(is_strict=is_strict)
        session.send_offer()
    else:
        session = agreed(is_strict=is_strict, actions=actions)
        session.send(COMMANDS[name])
    assert session.awaited == name
    return session
