"""Replies of the milter, each with its payload in both directions.

Rules of this file:

- One class a reply. Its docstring shows the payload; `decode` takes a payload as it came,
  `encode` gives the whole packet.
- What is sent is valid: a NUL inside a string raises `LocalProtocolError`. Whether a header name
  or a reply code makes sense is decided in `aiomilter.app`, before it comes here.
- What is read is held to the rules by which Postfix reads it (``milter8.c``), the stricter of
  the two MTAs: every string ends in NUL, nothing is missing and nothing is left over. Any breach
  raises `RemoteProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Self

from aiomilter.errors import RemoteProtocolError
from aiomilter.spec import BODY_CHUNK_BYTES, MacroStage
from aiomilter.wire.fields import NUL, U32, join_strings
from aiomilter.wire.framing import encode_packet

__all__ = [
    "REPLY_DECODERS",
    "Accept",
    "AddHeader",
    "AddRecipient",
    "AddRecipientWithParams",
    "ChangeHeader",
    "ChangeSender",
    "ConnectionFailed",
    "Continue",
    "DeleteRecipient",
    "Discard",
    "InsertHeader",
    "MilterReply",
    "Negotiated",
    "Progress",
    "Quarantine",
    "Reject",
    "ReplaceBody",
    "ReplyCode",
    "Shutdown",
    "Skip",
    "TempFail",
    "decode_reply",
    "encode_body",
]


def _strings(payload: bytes, name: str, least: int, most: int) -> list[bytes]:
    """Return the strings of a payload that must be ``least`` to ``most`` strings and no more."""
    strings = payload.split(NUL)
    rest = strings.pop()
    if rest:
        raise RemoteProtocolError(f"{name}: bytes behind the last NUL", payload)
    if not least <= len(strings) <= most:
        raise RemoteProtocolError(f"{name}: {len(strings)} strings, not {least}", payload)
    return strings


def _indexed(payload: bytes, name: str) -> tuple[int, bytes, bytes]:
    """Read the payload ``u32 index | name NUL | value NUL``."""
    if len(payload) < U32.size:
        raise RemoteProtocolError(f"{name}: no index", payload)
    header, value = _strings(payload[U32.size :], name, 2, 2)
    return U32.unpack_from(payload)[0], header, value


@dataclass(slots=True)
class Negotiated:
    """SMFIC_OPTNEG, ``O``: what was agreed.

    Payload: ``u32 version | u32 actions | u32 options | (u32 stage | names NUL)*``, the names of
    the macros wanted at a stage separated by blanks.
    """

    LETTER: ClassVar = b"O"
    version: int
    actions: int
    options: int
    macros: dict[int, bytes] = field(default_factory=dict[int, bytes])

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the numbers and the macro requests, of any stage number."""
        if len(payload) < 3 * U32.size:
            raise RemoteProtocolError("an answer to the offer has less than 12 bytes", payload)
        version, actions, options = (U32.unpack_from(payload, at)[0] for at in (0, 4, 8))
        macros: dict[int, bytes] = {}
        rest = payload[3 * U32.size :]
        while rest:
            names, nul, after = rest[U32.size :].partition(NUL)
            if len(rest) < U32.size or not nul:
                raise RemoteProtocolError("a macro request does not end in NUL", payload)
            macros[U32.unpack_from(rest)[0]] = names
            rest = after
        return cls(version, actions, options, macros)

    def encode(self) -> bytes:
        """Return the packet, the stages in ascending order, as libmilter sends them."""
        numbers = (self.version, self.actions, self.options)
        payload = b"".join(U32.pack(number) for number in numbers)
        for stage in sorted(self.macros):
            payload += U32.pack(stage) + join_strings(self.macros[stage])
        return encode_packet(self.LETTER, payload)

    def macros_at(self, stage: MacroStage) -> list[bytes]:
        """Return the names of the macros that are wanted at ``stage``; empty if none."""
        return self.macros.get(stage, b"").replace(b",", b" ").split()


@dataclass(slots=True)
class _WithoutPayload:
    """A reply that is its letter alone: Postfix gives up the connection over a stray byte."""

    LETTER: ClassVar = b""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return the reply; the payload must be empty."""
        if payload:
            raise RemoteProtocolError(f"{cls.__name__}: a reply without payload has one", payload)
        return cls()

    def encode(self) -> bytes:
        """Return the packet."""
        return encode_packet(self.LETTER)


class Continue(_WithoutPayload):
    """SMFIR_CONTINUE, ``c``: go on."""

    __slots__ = ()
    LETTER: ClassVar = b"c"


class Accept(_WithoutPayload):
    """SMFIR_ACCEPT, ``a``: let the message (at connect and HELO: the session) pass."""

    __slots__ = ()
    LETTER: ClassVar = b"a"


class Reject(_WithoutPayload):
    """SMFIR_REJECT, ``r``: refuse for good, in the MTA's words."""

    __slots__ = ()
    LETTER: ClassVar = b"r"


class TempFail(_WithoutPayload):
    """SMFIR_TEMPFAIL, ``t``: refuse for now, in the MTA's words."""

    __slots__ = ()
    LETTER: ClassVar = b"t"


class Discard(_WithoutPayload):
    """SMFIR_DISCARD, ``d``: accept, and throw away."""

    __slots__ = ()
    LETTER: ClassVar = b"d"


class Skip(_WithoutPayload):
    """SMFIR_SKIP, ``s``: go on without further events of this kind."""

    __slots__ = ()
    LETTER: ClassVar = b"s"


class Progress(_WithoutPayload):
    """SMFIR_PROGRESS, ``p``: still at work; at the end of a message only, Sendmail demands."""

    __slots__ = ()
    LETTER: ClassVar = b"p"


class Shutdown(_WithoutPayload):
    """SMFIR_SHUTDOWN, ``4``: known to Postfix alone; libmilter never sends it."""

    __slots__ = ()
    LETTER: ClassVar = b"4"


class ConnectionFailed(_WithoutPayload):
    """SMFIR_CONN_FAIL, ``f``: a fault to every MTA; libmilter never sends it."""

    __slots__ = ()
    LETTER: ClassVar = b"f"


@dataclass(slots=True)
class ReplyCode:
    """SMFIR_REPLYCODE, ``y``: refuse with these words.

    Payload: ``text NUL``; the text is the SMTP reply: a code of 4xx or 5xx, lines joined by
    CRLF, every percent sign doubled, since Sendmail takes the text as a format.
    """

    LETTER: ClassVar = b"y"
    text: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the text; one string, to the end."""
        return cls(*_strings(payload, "ReplyCode", 1, 1))

    def encode(self) -> bytes:
        """Return the packet."""
        return encode_packet(self.LETTER, join_strings(self.text))


@dataclass(slots=True)
class AddHeader:
    """SMFIR_ADDHEADER, ``h``: put a header behind all others.

    Payload: ``name NUL | value NUL``; the value may be empty.
    """

    LETTER: ClassVar = b"h"
    name: bytes
    value: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read name and value."""
        return cls(*_strings(payload, "AddHeader", 2, 2))

    def encode(self) -> bytes:
        """Return the packet."""
        return encode_packet(self.LETTER, join_strings(self.name, self.value))


@dataclass(slots=True)
class InsertHeader:
    """SMFIR_INSHEADER, ``i``: put a header at a position among all headers.

    Payload: ``u32 index | name NUL | value NUL``; 0 is the very top.
    """

    LETTER: ClassVar = b"i"
    index: int
    name: bytes
    value: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read index, name and value."""
        return cls(*_indexed(payload, "InsertHeader"))

    def encode(self) -> bytes:
        """Return the packet."""
        strings = join_strings(self.name, self.value)
        return encode_packet(self.LETTER, U32.pack(self.index) + strings)


@dataclass(slots=True)
class ChangeHeader:
    """SMFIR_CHGHEADER, ``m``: replace or delete one of the headers of a name.

    Payload: ``u32 index | name NUL | value NUL``; the index counts the headers of that name
    from 1 (0 means 1), an empty value deletes.
    """

    LETTER: ClassVar = b"m"
    index: int
    name: bytes
    value: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read index, name and value."""
        return cls(*_indexed(payload, "ChangeHeader"))

    def encode(self) -> bytes:
        """Return the packet."""
        strings = join_strings(self.name, self.value)
        return encode_packet(self.LETTER, U32.pack(self.index) + strings)


@dataclass(slots=True)
class ChangeSender:
    """SMFIR_CHGFROM, ``e``: replace the envelope sender.

    Payload: ``address NUL | [parameters NUL]``; no parameters and empty ones differ.
    """

    LETTER: ClassVar = b"e"
    address: bytes
    params: bytes | None = None

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the address and, where there are some, the parameters."""
        return cls(*_strings(payload, "ChangeSender", 1, 2))

    def encode(self) -> bytes:
        """Return the packet."""
        strings = (self.address,) if self.params is None else (self.address, self.params)
        return encode_packet(self.LETTER, join_strings(*strings))


@dataclass(slots=True)
class AddRecipient:
    """SMFIR_ADDRCPT, ``+``: add a recipient.

    Payload: ``address NUL``.
    """

    LETTER: ClassVar = b"+"
    address: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the address."""
        return cls(*_strings(payload, "AddRecipient", 1, 1))

    def encode(self) -> bytes:
        """Return the packet."""
        return encode_packet(self.LETTER, join_strings(self.address))


@dataclass(slots=True)
class AddRecipientWithParams:
    """SMFIR_ADDRCPT_PAR, ``2``: add a recipient with ESMTP parameters.

    Payload: ``address NUL | [parameters NUL]``; no parameters and empty ones differ.
    """

    LETTER: ClassVar = b"2"
    address: bytes
    params: bytes | None = None

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the address and, where there are some, the parameters."""
        return cls(*_strings(payload, "AddRecipientWithParams", 1, 2))

    def encode(self) -> bytes:
        """Return the packet."""
        strings = (self.address,) if self.params is None else (self.address, self.params)
        return encode_packet(self.LETTER, join_strings(*strings))


@dataclass(slots=True)
class DeleteRecipient:
    """SMFIR_DELRCPT, ``-``: take a recipient away.

    Payload: ``address NUL``.
    """

    LETTER: ClassVar = b"-"
    address: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the address."""
        return cls(*_strings(payload, "DeleteRecipient", 1, 1))

    def encode(self) -> bytes:
        """Return the packet."""
        return encode_packet(self.LETTER, join_strings(self.address))


@dataclass(slots=True)
class ReplaceBody:
    """SMFIR_REPLBODY, ``b``: a piece of the new body.

    Payload: the bytes, at most `BODY_CHUNK_BYTES`, possibly none. The first piece drops the old
    body, the others follow it. Postfix demands that nothing stands between them.
    """

    LETTER: ClassVar = b"b"
    chunk: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Take the payload as it is."""
        return cls(payload)

    def encode(self) -> bytes:
        """Return the packet."""
        return encode_packet(self.LETTER, self.chunk)


@dataclass(slots=True)
class Quarantine:
    """SMFIR_QUARANTINE, ``q``: hold the message for an administrator.

    Payload: ``reason NUL``.
    """

    LETTER: ClassVar = b"q"
    reason: bytes

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the reason."""
        return cls(*_strings(payload, "Quarantine", 1, 1))

    def encode(self) -> bytes:
        """Return the packet."""
        return encode_packet(self.LETTER, join_strings(self.reason))


MilterReply = (
    Negotiated
    | Continue
    | Accept
    | Reject
    | TempFail
    | Discard
    | Skip
    | Progress
    | Shutdown
    | ConnectionFailed
    | ReplyCode
    | AddHeader
    | InsertHeader
    | ChangeHeader
    | ChangeSender
    | AddRecipient
    | AddRecipientWithParams
    | DeleteRecipient
    | ReplaceBody
    | Quarantine
)
"""Any reply of the milter."""

_REPLY_CLASSES: tuple[type[MilterReply], ...] = MilterReply.__args__

REPLY_DECODERS: dict[int, Callable[[bytes], MilterReply]] = {
    cls.LETTER[0]: cls.decode for cls in _REPLY_CLASSES
}
"""By a reply's byte, what makes a reply of its payload."""


def decode_reply(letter: int, payload: bytes) -> MilterReply:
    """Return the reply of one packet.

    Raises:
        RemoteProtocolError: The letter is none of the protocol's, or the payload is malformed.
    """
    decode = REPLY_DECODERS.get(letter)
    if decode is None:
        raise RemoteProtocolError("an unknown reply", bytes((letter,)) + payload)
    return decode(payload)


def encode_body(data: bytes) -> bytes:
    """Return the packets of a new body, in pieces of `BODY_CHUNK_BYTES`.

    An empty body is one packet without payload; there is never an empty tail.
    """
    view = memoryview(data)
    pieces = range(0, len(data) or 1, BODY_CHUNK_BYTES)
    return b"".join(
        encode_packet(ReplaceBody.LETTER, bytes(view[start : start + BODY_CHUNK_BYTES]))
        for start in pieces
    )
