"""Packets and what they mean: every command and every reply, good and bad."""

from __future__ import annotations

from typing import NamedTuple

from aiomilter.wire.commands import (
    Abort,
    Body,
    Command,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Macro,
    Mail,
    OfferOptions,
    Quit,
    QuitNewConnection,
    Rcpt,
    Unknown,
)
from aiomilter.wire.replies import (
    Accept,
    AddHeader,
    AddRecipient,
    AddRecipientWithParams,
    ChangeHeader,
    ChangeSender,
    ConnectionFailed,
    Continue,
    DeleteRecipient,
    Discard,
    InsertHeader,
    MilterReply,
    Negotiated,
    Progress,
    Quarantine,
    Reject,
    ReplaceBody,
    ReplyCode,
    Shutdown,
    Skip,
    TempFail,
)


class CommandCase(NamedTuple):
    """A command and its packet; both ways lead from one to the other."""

    id: str
    command: Command
    packet: bytes


class ReplyCase(NamedTuple):
    """A reply and its packet; both ways lead from one to the other."""

    id: str
    reply: MilterReply
    packet: bytes


class OddCommand(NamedTuple):
    """A payload that nobody should send, and how libmilter reads it; None is an error."""

    id: str
    letter: bytes
    payload: bytes
    meaning: Command | None


class OddReply(NamedTuple):
    """A payload that nobody should send, and how it is read; None is an error."""

    id: str
    letter: bytes
    payload: bytes
    meaning: MilterReply | None


COMMAND_CASES = (
    CommandCase(
        "offer",
        OfferOptions(6, 0x1FF, 0x1FFFFF),
        b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff",
    ),
    CommandCase(
        "offer-of-the-largest-numbers",
        OfferOptions(0xFFFFFFFF, 0xFFFFFFFF, 0x80000000),
        b"\0\0\0\x0dO\xff\xff\xff\xff\xff\xff\xff\xff\x80\0\0\0",
    ),
    CommandCase("macros-none", Macro(b"T", []), b"\0\0\0\x02DT"),
    CommandCase(
        "macros",
        Macro(b"C", [b"j", b"mx", b"{daemon_name}", b""]),
        b"\0\0\0\x16DCj\0mx\0{daemon_name}\0\0",
    ),
    CommandCase("macro-without-value", Macro(b"M", [b"i"]), b"\0\0\0\x04DMi\0"),
    CommandCase(
        "connect-inet",
        Connect(b"host.example", b"4", 25, b"192.0.2.1"),
        b"\0\0\0\x1bChost.example\x004\0\x19192.0.2.1\0",
    ),
    CommandCase(
        "connect-inet6",
        Connect(b"[::1]", b"6", 65535, b"IPv6:::1"),
        b"\0\0\0\x13C[::1]\x006\xff\xffIPv6:::1\0",
    ),
    CommandCase(
        "connect-unix",
        Connect(b"localhost", b"L", 0, b"/run/smtp"),
        b"\0\0\0\x18Clocalhost\0L\0\0/run/smtp\0",
    ),
    CommandCase("connect-unknown", Connect(b"localhost", b"U"), b"\0\0\0\x0cClocalhost\0U"),
    CommandCase("connect-without-name", Connect(b"", b"U"), b"\0\0\0\x03C\0U"),
    # Postfix sends family 4 with this text where it does not know the client.
    CommandCase(
        "connect-postfix-unknown",
        Connect(b"unknown", b"4", 0, b"unknown"),
        b"\0\0\0\x14Cunknown\x004\0\0unknown\0",
    ),
    CommandCase("connect-empty-address", Connect(b"h", b"4", 1, b""), b"\0\0\0\x07Ch\x004\0\x01\0"),
    CommandCase("helo", Helo(b"client.example"), b"\0\0\0\x10Hclient.example\0"),
    CommandCase("helo-empty", Helo(b""), b"\0\0\0\x02H\0"),
    CommandCase("mail", Mail([b"<a@example.com>"]), b"\0\0\0\x11M<a@example.com>\0"),
    CommandCase(
        "mail-params",
        Mail([b"<>", b"SIZE=9", b"", b"BODY=8BITMIME"]),
        b"\0\0\0\x1aM<>\0SIZE=9\0\0BODY=8BITMIME\0",
    ),
    CommandCase("mail-empty", Mail([b""]), b"\0\0\0\x02M\0"),
    CommandCase("rcpt", Rcpt([b"<b@example.com>"]), b"\0\0\0\x11R<b@example.com>\0"),
    CommandCase("rcpt-params", Rcpt([b"<b>", b"NOTIFY=NEVER"]), b"\0\0\0\x12R<b>\0NOTIFY=NEVER\0"),
    CommandCase("rcpt-not-utf8", Rcpt([b"<\xff@\xc3>"]), b"\0\0\0\x07R<\xff@\xc3>\0"),
    CommandCase("data", Data(), b"\0\0\0\x01T"),
    CommandCase("header", Header(b"Subject", b"test"), b"\0\0\0\x0eLSubject\0test\0"),
    CommandCase("header-empty-value", Header(b"X", b""), b"\0\0\0\x04LX\0\0"),
    CommandCase("header-folded", Header(b"To", b" a,\n\tb"), b"\0\0\0\x0bLTo\0 a,\n\tb\0"),
    CommandCase("eoh", EndOfHeaders(), b"\0\0\0\x01N"),
    CommandCase("body", Body(b"body\r\n"), b"\0\0\0\x07Bbody\r\n"),
    CommandCase("body-of-nuls", Body(b"\0\0"), b"\0\0\0\x03B\0\0"),
    CommandCase("eom", EndOfMessage(), b"\0\0\0\x01E"),
    CommandCase("eom-with-tail", EndOfMessage(b"tail"), b"\0\0\0\x05Etail"),
    CommandCase("abort", Abort(), b"\0\0\0\x01A"),
    CommandCase("unknown", Unknown(b"XYZZ a b"), b"\0\0\0\x0aUXYZZ a b\0"),
    CommandCase("unknown-empty", Unknown(b""), b"\0\0\0\x02U\0"),
    CommandCase("quit", Quit(), b"\0\0\0\x01Q"),
    CommandCase("quit-nc", QuitNewConnection(), b"\0\0\0\x01K"),
)

ODD_COMMANDS = (
    OddCommand("offer-empty", b"O", b"", None),
    OddCommand("offer-of-11-bytes", b"O", b"\0\0\0\x06\0\0\0\x01\0\0\0", None),
    OddCommand(
        "offer-with-more",
        b"O",
        b"\0\0\0\x06\0\0\0\x01\0\0\0\x02more",
        OfferOptions(6, 1, 2),
    ),
    OddCommand("macros-empty", b"D", b"", None),
    OddCommand("macros-without-nul", b"D", b"Cj", Macro(b"C", [])),
    OddCommand("macros-of-no-command", b"D", b"?j\0mx\0", Macro(b"?", [b"j", b"mx"])),
    OddCommand("macros-odd", b"D", b"Cj\0mx\0i\0", Macro(b"C", [b"j", b"mx", b"i"])),
    OddCommand("macros-unterminated", b"D", b"Cj\0mx\0i", Macro(b"C", [b"j", b"mx"])),
    OddCommand("macros-empty-names", b"D", b"C\0\0", Macro(b"C", [b"", b""])),
    OddCommand("connect-empty", b"C", b"", None),
    OddCommand("connect-without-nul", b"C", b"host", None),
    OddCommand("connect-without-family", b"C", b"host\0", None),
    OddCommand("connect-family-unknown-with-more", b"C", b"h\0U\0\x19junk", Connect(b"h", b"U")),
    OddCommand("connect-family-of-no-protocol", b"C", b"h\0X\0\x19192.0.2.1\0", None),
    OddCommand("connect-family-in-small-letters", b"C", b"h\0l\0\0/run/smtp\0", None),
    OddCommand("connect-without-port", b"C", b"h\x004", None),
    OddCommand("connect-half-a-port", b"C", b"h\x004\0", None),
    OddCommand("connect-without-address", b"C", b"h\x004\0\x19", None),
    OddCommand("connect-address-without-nul", b"C", b"h\x004\0\x19192.0.2.1", None),
    OddCommand("connect-bytes-behind", b"C", b"h\x004\0\x19192.0.2.1\0tail", None),
    OddCommand(
        "connect-string-behind",
        b"C",
        b"h\x004\0\x19192.0.2.1\0more\0",
        Connect(b"h", b"4", 25, b"192.0.2.1"),
    ),
    # libmilter gives up here; a client that nobody can name is still a client.
    OddCommand(
        "connect-no-address-at-all",
        b"C",
        b"h\x006\0\x19not-an-address\0",
        Connect(b"h", b"6", 25, b"not-an-address"),
    ),
    OddCommand(
        "connect-path-of-108-bytes",
        b"C",
        b"h\0L\0\0" + b"p" * 108 + b"\0",
        Connect(b"h", b"L", 0, b"p" * 108),
    ),
    OddCommand("helo-empty", b"H", b"", None),
    OddCommand("helo-without-nul", b"H", b"abc", None),
    OddCommand("helo-bytes-behind", b"H", b"abc\0def", None),
    OddCommand("helo-with-nul-inside", b"H", b"abc\0def\0", Helo(b"abc")),
    OddCommand("mail-empty", b"M", b"", None),
    OddCommand("mail-without-nul", b"M", b"<a>", None),
    OddCommand("mail-bytes-behind", b"M", b"<a>\0TAIL", Mail([b"<a>"])),
    OddCommand("mail-of-nuls", b"M", b"\0\0", Mail([b"", b""])),
    OddCommand("rcpt-empty", b"R", b"", None),
    OddCommand("rcpt-without-nul", b"R", b"<b>", None),
    OddCommand("rcpt-bytes-behind", b"R", b"<b>\0TAIL", Rcpt([b"<b>"])),
    OddCommand("data-with-payload", b"T", b"x", Data()),
    OddCommand("header-empty", b"L", b"", None),
    OddCommand("header-nul", b"L", b"\0", None),
    OddCommand("header-two-nuls", b"L", b"\0\0", None),
    OddCommand("header-without-nul", b"L", b"X", None),
    OddCommand("header-without-value", b"L", b"X\0", None),
    OddCommand("header-value-without-nul", b"L", b"X\0v", None),
    OddCommand("header-empty-name-alone", b"L", b"\0v\0", None),
    OddCommand("header-empty-name-unterminated", b"L", b"\0a\0b", None),
    OddCommand("header-empty-name-and-two-strings", b"L", b"\0a\0b\0", Header(b"", b"b")),
    OddCommand("header-empty-name-and-empty-string", b"L", b"\0\0b\0", Header(b"", b"b")),
    OddCommand("header-three-nuls", b"L", b"\0\0\0", Header(b"", b"")),
    OddCommand("header-third-string", b"L", b"X\0v\0more\0", Header(b"X", b"v")),
    OddCommand("header-third-string-empty-value", b"L", b"X\0\0more\0", Header(b"X", b"")),
    OddCommand("header-bytes-behind", b"L", b"X\0v\0tail", None),
    OddCommand("eoh-with-payload", b"N", b"x", EndOfHeaders()),
    OddCommand("body-empty", b"B", b"", None),
    OddCommand("abort-with-payload", b"A", b"x", Abort()),
    OddCommand("unknown-empty", b"U", b"", None),
    # libmilter reads on into whatever stands behind; the bytes that are there are enough.
    OddCommand("unknown-without-nul", b"U", b"XYZZ", Unknown(b"XYZZ")),
    OddCommand("unknown-bytes-behind", b"U", b"XYZZ\0tail", Unknown(b"XYZZ")),
    OddCommand("quit-with-payload", b"Q", b"x", Quit()),
    OddCommand("quit-nc-with-payload", b"K", b"x", QuitNewConnection()),
    OddCommand("letter-small", b"c", b"", None),
    OddCommand("letter-nul", b"\0", b"", None),
    OddCommand("letter-eight-bit", b"\xff", b"x", None),
)

REPLY_CASES = (
    ReplyCase(
        "negotiated",
        Negotiated(6, 0x1FF, 0),
        b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0",
    ),
    ReplyCase(
        "negotiated-macros",
        Negotiated(2, 0, 0x80000000, {0: b"j {daemon_name}", 5: b"", 6: b"i"}),
        b"\0\0\0\x2cO\0\0\0\x02\0\0\0\0\x80\0\0\0"
        b"\0\0\0\0j {daemon_name}\0"
        b"\0\0\0\x05\0"
        b"\0\0\0\x06i\0",
    ),
    ReplyCase("continue", Continue(), b"\0\0\0\x01c"),
    ReplyCase("accept", Accept(), b"\0\0\0\x01a"),
    ReplyCase("reject", Reject(), b"\0\0\0\x01r"),
    ReplyCase("tempfail", TempFail(), b"\0\0\0\x01t"),
    ReplyCase("discard", Discard(), b"\0\0\0\x01d"),
    ReplyCase("skip", Skip(), b"\0\0\0\x01s"),
    ReplyCase("progress", Progress(), b"\0\0\0\x01p"),
    ReplyCase("shutdown", Shutdown(), b"\0\0\0\x014"),
    ReplyCase("connection-failed", ConnectionFailed(), b"\0\0\0\x01f"),
    ReplyCase(
        "reply-code",
        ReplyCode(b"550 5.7.1 no thanks"),
        b"\0\0\0\x15y550 5.7.1 no thanks\0",
    ),
    ReplyCase(
        "reply-code-lines",
        ReplyCode(b"451-4.0.0 100%%\r\n451 4.0.0 b"),
        b"\0\0\0\x1ey451-4.0.0 100%%\r\n451 4.0.0 b\0",
    ),
    ReplyCase("add-header", AddHeader(b"X-A", b"v"), b"\0\0\0\x07hX-A\0v\0"),
    ReplyCase("add-header-empty-value", AddHeader(b"X-A", b""), b"\0\0\0\x06hX-A\0\0"),
    ReplyCase("insert-header", InsertHeader(0, b"X", b"v"), b"\0\0\0\x09i\0\0\0\0X\0v\0"),
    ReplyCase(
        "insert-header-last",
        InsertHeader(0x7FFFFFFF, b"X", b""),
        b"\0\0\0\x08i\x7f\xff\xff\xffX\0\0",
    ),
    ReplyCase(
        "change-header",
        ChangeHeader(2, b"X", b"w"),
        b"\0\0\0\x09m\0\0\0\x02X\0w\0",
    ),
    ReplyCase(
        "delete-header",
        ChangeHeader(1, b"Subject", b""),
        b"\0\0\0\x0em\0\0\0\x01Subject\0\0",
    ),
    ReplyCase("change-sender", ChangeSender(b"<a@b>"), b"\0\0\0\x07e<a@b>\0"),
    ReplyCase(
        "change-sender-params", ChangeSender(b"<a>", b"RET=HDRS"), b"\0\0\0\x0ee<a>\0RET=HDRS\0"
    ),
    ReplyCase("change-sender-no-params", ChangeSender(b"<a>", b""), b"\0\0\0\x06e<a>\0\0"),
    ReplyCase("add-recipient", AddRecipient(b"<b>"), b"\0\0\0\x05+<b>\0"),
    ReplyCase("add-recipient-bare", AddRecipientWithParams(b"<b>"), b"\0\0\0\x052<b>\0"),
    ReplyCase(
        "add-recipient-params",
        AddRecipientWithParams(b"<b>", b"NOTIFY=NEVER"),
        b"\0\0\0\x122<b>\0NOTIFY=NEVER\0",
    ),
    ReplyCase(
        "add-recipient-no-params", AddRecipientWithParams(b"<b>", b""), b"\0\0\0\x062<b>\0\0"
    ),
    ReplyCase("delete-recipient", DeleteRecipient(b"<b>"), b"\0\0\0\x05-<b>\0"),
    ReplyCase("replace-body", ReplaceBody(b"new\0\r\n"), b"\0\0\0\x07bnew\0\r\n"),
    ReplyCase("replace-body-empty", ReplaceBody(b""), b"\0\0\0\x01b"),
    ReplyCase("quarantine", Quarantine(b"why"), b"\0\0\0\x05qwhy\0"),
)

ODD_REPLIES = (
    OddReply("negotiated-empty", b"O", b"", None),
    OddReply("negotiated-of-11-bytes", b"O", b"\0" * 11, None),
    OddReply("negotiated-half-a-stage", b"O", b"\0" * 12 + b"\0\0\0", None),
    OddReply("negotiated-stage-alone", b"O", b"\0" * 12 + b"\0\0\0\x01", None),
    OddReply("negotiated-macros-without-nul", b"O", b"\0" * 12 + b"\0\0\0\x01j", None),
    OddReply(
        "negotiated-stage-of-no-protocol",
        b"O",
        b"\0\0\0\x06" + b"\0" * 8 + b"\0\0\0\x63j\0",
        Negotiated(6, 0, 0, {99: b"j"}),
    ),
    OddReply("reply-code-empty", b"y", b"", None),
    OddReply("reply-code-without-nul", b"y", b"550 no", None),
    OddReply("reply-code-two-strings", b"y", b"550 no\0more\0", None),
    OddReply("add-header-empty", b"h", b"", None),
    OddReply("add-header-name-alone", b"h", b"X\0", None),
    OddReply("add-header-without-nul", b"h", b"X\0v", None),
    OddReply("add-header-three-strings", b"h", b"X\0v\0w\0", None),
    OddReply("insert-header-empty", b"i", b"", None),
    OddReply("insert-header-half-an-index", b"i", b"\0\0\0", None),
    OddReply("insert-header-index-alone", b"i", b"\0\0\0\0", None),
    OddReply("insert-header-name-alone", b"i", b"\0\0\0\0X\0", None),
    OddReply("insert-header-bytes-behind", b"i", b"\0\0\0\0X\0v\0tail", None),
    OddReply("change-header-empty", b"m", b"", None),
    OddReply("change-header-index-alone", b"m", b"\0\0\0\x01", None),
    OddReply("change-header-three-strings", b"m", b"\0\0\0\x01X\0v\0w\0", None),
    OddReply("change-sender-empty", b"e", b"", None),
    OddReply("change-sender-without-nul", b"e", b"<a>", None),
    OddReply("change-sender-three-strings", b"e", b"<a>\0p\0q\0", None),
    OddReply("add-recipient-empty", b"+", b"", None),
    OddReply("add-recipient-params", b"+", b"<b>\0p\0", None),
    OddReply("add-recipient-with-params-empty", b"2", b"", None),
    OddReply("add-recipient-with-params-three-strings", b"2", b"<b>\0p\0q\0", None),
    OddReply("delete-recipient-empty", b"-", b"", None),
    OddReply("delete-recipient-without-nul", b"-", b"<b>", None),
    OddReply("quarantine-empty", b"q", b"", None),
    OddReply("quarantine-two-strings", b"q", b"why\0not\0", None),
    OddReply("letter-of-no-reply", b"x", b"", None),
    # Names of macros travel in the answer to the offer, never in a packet of their own.
    OddReply("letter-of-macro-lists", b"l", b"\0\0\0\x01j\0", None),
    # A stray byte behind a letter makes Postfix give up the connection.
    *(OddReply(f"payload-behind-{letter}", letter.encode(), b"x", None) for letter in "cartdsp4f"),
)
