"""The milter protocol as data: every number, letter, name and "when is it legal".

Rules of this file:

- A number, a name, a bit or a state of the protocol stands here and nowhere else. How bytes are
  laid out is `aiomilter.wire`; what follows from the tables is `aiomilter.session`.
- Each row carries libmilter's own token once, so that one can search for either name.
- The facts are those of sendmail's ``libmilter/mfdef.h`` and ``mfapi.h`` (protocol version 6)
  and of the behaviour of Debian's libmilter 1.0.1, which is the reference.
- Flags are `enum.IntFlag` for people; code on the hot path compares plain integers, since
  ``IntFlag & IntFlag`` costs thirty times ``int & int``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = [
    "ACTIONS_OF_VERSION_1",
    "ALL_ACTIONS",
    "ALL_OPTIONS",
    "BODY_CHUNK_BYTES",
    "COMMANDS",
    "COMMAND_BY_LETTER",
    "INTERNAL_OPTIONS",
    "IN_MESSAGE",
    "MACRO_SLOTS",
    "MAX_HEADER_INDEX",
    "MAX_PAYLOAD_BYTES",
    "MAX_PAYLOAD_BYTES_1M",
    "MAX_PAYLOAD_BYTES_256K",
    "MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION",
    "MAX_REPLY_LINES",
    "MAX_REPLY_LINE_BYTES",
    "MAX_UNIX_PATH_BYTES",
    "NO_REPLY_OPTIONS",
    "OPTIONS_OF_VERSION_1",
    "REPLIES",
    "REPLY_BY_LETTER",
    "VERSION",
    "VERSION_MIN",
    "Actions",
    "CommandSpec",
    "MacroStage",
    "Options",
    "ReplyKind",
    "ReplySpec",
    "State",
]

VERSION = 6
"""The protocol version of this library; a higher offer is answered with this one."""

VERSION_MIN = 2
"""The lowest version that libmilter still speaks."""


class Actions(enum.IntFlag):
    """What a milter may do to a message at its end (``SMFIF_*``), one bit each."""

    ADD_HEADER = 0x001
    """SMFIF_ADDHDRS: add and insert headers."""
    REPLACE_BODY = 0x002
    """SMFIF_CHGBODY: replace the body."""
    ADD_RECIPIENT = 0x004
    """SMFIF_ADDRCPT: add recipients."""
    DELETE_RECIPIENT = 0x008
    """SMFIF_DELRCPT: delete recipients."""
    CHANGE_HEADER = 0x010
    """SMFIF_CHGHDRS: change and delete headers."""
    QUARANTINE = 0x020
    """SMFIF_QUARANTINE: hold the message."""
    CHANGE_SENDER = 0x040
    """SMFIF_CHGFROM: change the envelope sender and its parameters."""
    ADD_RECIPIENT_WITH_PARAMS = 0x080
    """SMFIF_ADDRCPT_PAR: add recipients with ESMTP parameters."""
    REQUEST_MACROS = 0x100
    """SMFIF_SETSYMLIST: ask for macros by stage."""


class Options(enum.IntFlag):
    """How the two ends talk (``SMFIP_*``), one bit each.

    ``NO_*``: do not send this event. ``NO_REPLY_*``: the milter answers nothing to it. The MTA
    offers what it can do, the milter asks for some of it.
    """

    NO_CONNECT = 0x000001
    NO_HELO = 0x000002
    NO_MAIL = 0x000004
    NO_RCPT = 0x000008
    NO_BODY = 0x000010
    NO_HEADER = 0x000020
    NO_EOH = 0x000040
    NO_REPLY_HEADER = 0x000080
    """SMFIP_NR_HDR, formerly SMFIP_NOHREPL."""
    NO_UNKNOWN = 0x000100
    NO_DATA = 0x000200
    SKIP = 0x000400
    """SMFIP_SKIP: the MTA understands the reply SKIP."""
    REJECTED_RECIPIENTS = 0x000800
    """SMFIP_RCPT_REJ: also send recipients that the MTA itself has refused."""
    NO_REPLY_CONNECT = 0x001000
    NO_REPLY_HELO = 0x002000
    NO_REPLY_MAIL = 0x004000
    NO_REPLY_RCPT = 0x008000
    NO_REPLY_DATA = 0x010000
    NO_REPLY_UNKNOWN = 0x020000
    NO_REPLY_EOH = 0x040000
    NO_REPLY_BODY = 0x080000
    LEADING_SPACE = 0x100000
    """SMFIP_HDR_LEADSPC: header values keep the blank behind the colon, both ways."""
    DATA_SIZE_256K = 0x10000000
    """SMFIP_MDS_256K: payloads up to 256 KiB."""
    DATA_SIZE_1M = 0x20000000
    """SMFIP_MDS_1M: payloads up to 1 MiB."""


ALL_ACTIONS = 0x1FF
"""SMFI_CURR_ACTS: all actions of version 6."""
ALL_OPTIONS = 0x1FFFFF
"""SMFI_CURR_PROT: all options of version 6 without the internal ones."""
NO_REPLY_OPTIONS = 0x0FF080
"""All ``NO_REPLY_*`` bits: libmilter itself answers for an MTA that lacks them."""
INTERNAL_OPTIONS = 0x70000000
"""SMFI_INTERNAL: data sizes. libmilter as Debian builds it takes them out of every offer."""
ACTIONS_OF_VERSION_1 = 0x0F
"""SMFI_V1_ACTS: what an offer of no action at all means."""
OPTIONS_OF_VERSION_1 = 0x3F
"""SMFI_V1_PROT: what an offer of no option at all means."""

MAX_PAYLOAD_BYTES = 65_535
"""MILTER_MDS_64K: bytes behind the command letter, in both directions."""
MAX_PAYLOAD_BYTES_256K = 262_143
"""MILTER_MDS_256K."""
MAX_PAYLOAD_BYTES_1M = 1_048_575
"""MILTER_MDS_1M."""
MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION = 4_096
"""No MTA sends anything large before the two ends have agreed; who does is no MTA."""
BODY_CHUNK_BYTES = 65_535
"""MILTER_CHUNK_SIZE: the largest piece of a replaced body, whatever the payload limit."""
MAX_REPLY_LINE_BYTES = 980
"""MAXREPLYLEN: text of one line of an SMTP reply."""
MAX_REPLY_LINES = 32
"""MAXREPLIES: lines of one SMTP reply."""
MAX_HEADER_INDEX = 2**31 - 1
"""smfi_chgheader and smfi_insheader take a non-negative C int."""
MAX_UNIX_PATH_BYTES = 107
"""What fits into ``sockaddr_un`` with its NUL."""


class State(enum.IntEnum):
    """Where a session is: named for the last command that was processed.

    The numbers are libmilter's (``ST_*`` in ``engine.c``). Their order matters: a stage that the
    milter does not want may be stepped over, from one number to the next.
    """

    INIT = 0
    NEGOTIATION = 1
    CONNECT = 2
    HELO = 3
    MAIL = 4
    RCPT = 5
    DATA = 6
    HEADER = 7
    EOH = 8
    BODY = 9
    EOM = 10
    QUIT = 11
    ABORT = 12
    UNKNOWN = 13
    QUIT_NC = 14


IN_MESSAGE = range(State.MAIL, State.EOM)
"""The states in which a message has begun and not yet come to its end."""


class MacroStage(enum.IntEnum):
    """The stages for which a milter may request macros (``SMFIM_*``).

    Mind the order of the last two: it is not that of the events.
    """

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    EOM = 5
    EOH = 6


class ReplyKind(enum.Enum):
    """What a reply is good for."""

    NEGOTIATION = "answers the MTA's offer"
    VERDICT = "decides, and ends the answer to a command"
    EDIT = "changes the message; a verdict follows"
    PROGRESS = "keeps the MTA waiting; a verdict follows"


class CommandSpec(NamedTuple):
    """One command of the MTA.

    Attributes:
        letter: The command's byte on the wire.
        name: Its name here; a handler is called ``on_`` + name.
        libmilter: Its token in sendmail's headers.
        target: The state after it, or None if it does not move the session.
        follows: The states that it may directly follow. States that the milter does not want
            may be stepped over in between; see `aiomilter.session.states`.
        needs_payload: Whether a packet without payload is a fault.
        replies: The letters of the verdicts that may answer it; empty if none is expected.
        no_option: The bit with which a milter asks not to be sent it, or None.
        no_reply_option: The bit with which a milter says that it will not answer, or None.
        macro_stage: The stage whose macros the MTA sends ahead of it, or None.
        since: The protocol version that introduced it.
    """

    letter: bytes
    name: str
    libmilter: str
    target: State | None
    follows: frozenset[State]
    needs_payload: bool
    replies: frozenset[bytes]
    no_option: Options | None
    no_reply_option: Options | None
    macro_stage: MacroStage | None
    since: int


def _states(*states: State) -> frozenset[State]:
    return frozenset(states)


_NONE: frozenset[bytes] = frozenset()
_VERDICTS = frozenset((b"a", b"c", b"d", b"r", b"t", b"y"))
_VERDICTS_OR_SKIP = _VERDICTS | {b"s"}

_S, _O, _M = State, Options, MacroStage

# fmt: off
COMMANDS: tuple[CommandSpec, ...] = (
    CommandSpec(b"O", "negotiate", "SMFIC_OPTNEG", _S.NEGOTIATION, _states(_S.INIT),
                True, frozenset((b"O",)), None, None, None, 1),
    CommandSpec(b"D", "macro", "SMFIC_MACRO", None, frozenset(_S),
                True, _NONE, None, None, None, 1),
    CommandSpec(b"C", "connect", "SMFIC_CONNECT", _S.CONNECT,
                _states(_S.NEGOTIATION, _S.QUIT_NC),
                True, _VERDICTS, _O.NO_CONNECT, _O.NO_REPLY_CONNECT, _M.CONNECT, 1),
    CommandSpec(b"H", "helo", "SMFIC_HELO", _S.HELO,
                _states(_S.CONNECT, _S.HELO, _S.UNKNOWN),
                True, _VERDICTS, _O.NO_HELO, _O.NO_REPLY_HELO, _M.HELO, 1),
    CommandSpec(b"M", "mail", "SMFIC_MAIL", _S.MAIL,
                _states(_S.CONNECT, _S.HELO, _S.EOM, _S.UNKNOWN),
                True, _VERDICTS, _O.NO_MAIL, _O.NO_REPLY_MAIL, _M.MAIL, 1),
    CommandSpec(b"R", "rcpt", "SMFIC_RCPT", _S.RCPT,
                _states(_S.MAIL, _S.RCPT, _S.UNKNOWN),
                True, _VERDICTS, _O.NO_RCPT, _O.NO_REPLY_RCPT, _M.RCPT, 1),
    CommandSpec(b"T", "data", "SMFIC_DATA", _S.DATA, _states(_S.RCPT, _S.UNKNOWN),
                False, _VERDICTS, _O.NO_DATA, _O.NO_REPLY_DATA, _M.DATA, 4),
    CommandSpec(b"L", "header", "SMFIC_HEADER", _S.HEADER,
                _states(_S.RCPT, _S.DATA, _S.HEADER),
                True, _VERDICTS, _O.NO_HEADER, _O.NO_REPLY_HEADER, None, 1),
    CommandSpec(b"N", "eoh", "SMFIC_EOH", _S.EOH, _states(_S.RCPT, _S.DATA, _S.HEADER),
                False, _VERDICTS, _O.NO_EOH, _O.NO_REPLY_EOH, _M.EOH, 1),
    CommandSpec(b"B", "body", "SMFIC_BODY", _S.BODY,
                _states(_S.RCPT, _S.EOH, _S.BODY, _S.UNKNOWN),
                True, _VERDICTS_OR_SKIP, _O.NO_BODY, _O.NO_REPLY_BODY, None, 1),
    CommandSpec(b"E", "eom", "SMFIC_BODYEOB", _S.EOM, _states(_S.RCPT, _S.EOH, _S.BODY),
                False, _VERDICTS, None, None, _M.EOM, 1),
    CommandSpec(b"A", "abort", "SMFIC_ABORT", _S.ABORT,
                _states(_S.MAIL, _S.RCPT, _S.DATA, _S.HEADER, _S.EOH, _S.BODY, _S.UNKNOWN),
                False, _NONE, None, None, None, 1),
    CommandSpec(b"U", "unknown", "SMFIC_UNKNOWN", _S.UNKNOWN,
                _states(_S.NEGOTIATION, _S.CONNECT, _S.HELO, _S.MAIL, _S.RCPT, _S.EOM,
                        _S.UNKNOWN, _S.QUIT_NC),
                True, _VERDICTS, _O.NO_UNKNOWN, _O.NO_REPLY_UNKNOWN, None, 3),
    CommandSpec(b"Q", "quit", "SMFIC_QUIT", _S.QUIT, _states(_S.EOM, _S.UNKNOWN),
                False, _NONE, None, None, None, 1),
    CommandSpec(b"K", "quit_nc", "SMFIC_QUIT_NC", _S.QUIT_NC, _states(_S.EOM, _S.UNKNOWN),
                False, _NONE, None, None, None, 6),
)
"""All commands of the MTA."""
# fmt: on

COMMAND_BY_LETTER: dict[int, CommandSpec] = {row.letter[0]: row for row in COMMANDS}
"""The same rows by the command's byte."""

MACRO_SLOTS: dict[int, int] = {letter: slot for slot, letter in enumerate(b"CHMRTNE")}
"""Where the macros of a packet ``D<letter>`` are kept; a later slot hides an earlier one."""


class ReplySpec(NamedTuple):
    """One reply of the milter.

    Attributes:
        letter: The reply's byte on the wire.
        name: Its name here.
        libmilter: Its token in sendmail's headers.
        kind: What it is good for.
        action: The action that must have been agreed for it, or None.
        has_payload: Whether bytes follow the letter; where not, one stray byte makes Postfix
            give up the connection.
        since: The protocol version that introduced it.
    """

    letter: bytes
    name: str
    libmilter: str
    kind: ReplyKind
    action: Actions | None
    has_payload: bool
    since: int


_K, _A = ReplyKind, Actions

# fmt: off
REPLIES: tuple[ReplySpec, ...] = (
    ReplySpec(b"O", "negotiation", "SMFIC_OPTNEG", _K.NEGOTIATION, None, True, 1),
    ReplySpec(b"c", "continue", "SMFIR_CONTINUE", _K.VERDICT, None, False, 1),
    ReplySpec(b"a", "accept", "SMFIR_ACCEPT", _K.VERDICT, None, False, 1),
    ReplySpec(b"r", "reject", "SMFIR_REJECT", _K.VERDICT, None, False, 1),
    ReplySpec(b"t", "tempfail", "SMFIR_TEMPFAIL", _K.VERDICT, None, False, 1),
    ReplySpec(b"d", "discard", "SMFIR_DISCARD", _K.VERDICT, None, False, 1),
    ReplySpec(b"y", "reply_code", "SMFIR_REPLYCODE", _K.VERDICT, None, True, 1),
    ReplySpec(b"s", "skip", "SMFIR_SKIP", _K.VERDICT, None, False, 6),
    ReplySpec(b"4", "shutdown", "SMFIR_SHUTDOWN", _K.VERDICT, None, False, 2),
    ReplySpec(b"f", "connection_failed", "SMFIR_CONN_FAIL", _K.VERDICT, None, False, 2),
    ReplySpec(b"p", "progress", "SMFIR_PROGRESS", _K.PROGRESS, None, False, 2),
    ReplySpec(b"h", "add_header", "SMFIR_ADDHEADER", _K.EDIT, _A.ADD_HEADER, True, 1),
    ReplySpec(b"i", "insert_header", "SMFIR_INSHEADER", _K.EDIT, _A.ADD_HEADER, True, 2),
    ReplySpec(b"m", "change_header", "SMFIR_CHGHEADER", _K.EDIT, _A.CHANGE_HEADER, True, 1),
    ReplySpec(b"e", "change_sender", "SMFIR_CHGFROM", _K.EDIT, _A.CHANGE_SENDER, True, 6),
    ReplySpec(b"+", "add_recipient", "SMFIR_ADDRCPT", _K.EDIT, _A.ADD_RECIPIENT, True, 1),
    ReplySpec(b"2", "add_recipient_with_params", "SMFIR_ADDRCPT_PAR", _K.EDIT,
              _A.ADD_RECIPIENT_WITH_PARAMS, True, 6),
    ReplySpec(b"-", "delete_recipient", "SMFIR_DELRCPT", _K.EDIT, _A.DELETE_RECIPIENT, True, 1),
    ReplySpec(b"b", "replace_body", "SMFIR_REPLBODY", _K.EDIT, _A.REPLACE_BODY, True, 1),
    ReplySpec(b"q", "quarantine", "SMFIR_QUARANTINE", _K.EDIT, _A.QUARANTINE, True, 2),
)
"""All replies of the milter."""
# fmt: on

REPLY_BY_LETTER: dict[int, ReplySpec] = {row.letter[0]: row for row in REPLIES}
"""The same rows by the reply's byte."""
