r"""Packets as a person reads them, and a stream of bytes cut into packets without loss.

Rules of this file:

- Nothing here refuses anything: what is malformed, unknown or no packet at all is shown as such.
- Bytes that are not UTF-8 are shown as ``\xe9``; the control characters of a text are visible,
  those of fields are not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, assert_never

from aiomilter.app.text import printable
from aiomilter.errors import RemoteProtocolError
from aiomilter.spec import (
    ALL_ACTIONS,
    ALL_OPTIONS,
    COMMAND_BY_LETTER,
    REPLY_BY_LETTER,
    Actions,
    MacroStage,
    Options,
)
from aiomilter.wire import commands, replies
from aiomilter.wire.framing import PacketReader

__all__ = ["Description", "End", "PacketCutter", "Piece", "describe", "readable"]

End: TypeAlias = Literal["mta", "milter"]
"""One of the two ends of a connection."""

_MAX_PAYLOAD_BYTES = 0xFFFFFF
"""Far above what any end sends; and the first byte of a length is 0, which text never is."""
_BEGIN_BYTES = 60
"""How much of a body is shown."""
_HEAD_BYTES = 5
"""Length and letter."""
_FAMILIES = {b"4": "IPv4", b"6": "IPv6", b"L": "unix", b"U": "unknown"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a stream: one packet, or bytes that are none.

    Attributes:
        data: The bytes as they came; of a packet with its length field.
        is_packet: Whether they are one whole packet.
        reason: Why they are not; empty for what follows such bytes.
    """

    data: bytes
    is_packet: bool
    reason: str = ""


class PacketCutter:
    """Cuts a stream into pieces, which joined together are the stream again."""

    def __init__(self) -> None:
        self._reader = PacketReader(_MAX_PAYLOAD_BYTES)
        self._pending = bytearray()
        self.is_foreign = False
        """Whether the stream has turned out not to be the milter protocol."""

    def receive(self, data: bytes) -> Iterator[Piece]:
        """Take in bytes; yield the packets that are whole by now, or what is none."""
        if self.is_foreign:
            yield Piece(data, is_packet=False)
            return
        self._pending += data
        self._reader.receive_data(data)
        while True:
            before = self._reader.buffered_bytes
            try:
                packet = self._reader.next_packet()
            except RemoteProtocolError as error:
                self.is_foreign = True
                yield Piece(self._take(len(self._pending)), is_packet=False, reason=error.rule)
                return
            if packet is None:
                return
            yield Piece(self._take(before - self._reader.buffered_bytes), is_packet=True)

    def rest(self) -> Piece | None:
        """Return the beginning of a packet that the stream has ended in; None if there is none."""
        if not self._pending:
            return None
        data = self._take(len(self._pending))
        self._reader.discard()
        return Piece(data, is_packet=False, reason="the beginning of a packet")

    def _take(self, size: int) -> bytes:
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


@dataclass(frozen=True, slots=True)
class Description:
    """What a packet says.

    Attributes:
        name: As in `aiomilter.spec`.
        text: The content, for one line of a terminal.
        fields: The content, for a record.
    """

    name: str
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict[str, Any])


def readable(data: bytes) -> str:
    r"""Return bytes as text, with ``\xe9`` for what is not UTF-8."""
    return data.decode("utf-8", "backslashreplace")


def describe(sender: End, packet: bytes) -> Description:
    """Return what a packet says.

    Args:
        sender: The end that sent it.
        packet: The whole packet, with its length field.
    """
    letter, payload = packet[_HEAD_BYTES - 1], packet[_HEAD_BYTES:]
    row = (COMMAND_BY_LETTER if sender == "mta" else REPLY_BY_LETTER).get(letter)
    if row is None:
        shown = repr(chr(letter)) if 0x20 < letter < 0x7F else f"{letter:#04x}"
        problem = f"no letter of the protocol, {_amount(payload)}"
        return Description(f"letter {shown}", problem, {"malformed": problem})
    fields: dict[str, Any]
    try:
        if sender == "mta":
            text, fields = _command(commands.decode_command(letter, payload), payload)
        else:
            text, fields = _reply(replies.decode_reply(letter, payload))
    except RemoteProtocolError as error:
        text = f"malformed: {error.rule}: {_amount(payload)}"
        fields = {"malformed": error.rule}
    length = int.from_bytes(packet[: _HEAD_BYTES - 1])
    if length != len(payload) + 1:
        text += f" (its length field says {length})"
        fields["length"] = length
    return Description(row.name, text.strip(), fields)


_Content: TypeAlias = tuple[str, dict[str, Any]]


def _command(command: commands.Command, payload: bytes) -> _Content:
    match command:
        case commands.OfferOptions():
            return _negotiation(command.version, command.actions, command.options)
        case commands.Macro():
            return _macros(command)
        case commands.Connect():
            return _connect(command)
        case commands.Helo():
            return _one("hostname", command.hostname)
        case commands.Mail():
            return _address("sender", command.arguments)
        case commands.Rcpt():
            return _address("recipient", command.arguments)
        case commands.Header():
            return _header(command.name, command.value)
        case commands.Body():
            return _bytes(command.chunk)
        case commands.EndOfMessage():
            return _bytes(command.chunk) if command.chunk else ("", {})
        case commands.Unknown():
            return _one("line", command.line)
        case (
            commands.Data()
            | commands.EndOfHeaders()
            | commands.Abort()
            | commands.Quit()
            | commands.QuitNewConnection()
        ):
            return (f"with {_amount(payload)}, which say nothing", {}) if payload else ("", {})
        case _:
            assert_never(command)


def _reply(reply: replies.MilterReply) -> _Content:
    match reply:
        case replies.Negotiated():
            return _negotiation(reply.version, reply.actions, reply.options, reply.macros)
        case replies.ReplyCode():
            return _one("text", reply.text)
        case replies.AddHeader():
            return _header(reply.name, reply.value)
        case replies.InsertHeader():
            text, fields = _header(reply.name, reply.value)
            return f"at {reply.index}: {text}", {"index": reply.index, **fields}
        case replies.ChangeHeader():
            text, fields = _header(reply.name, reply.value)
            text = text if reply.value else f"{_shown(reply.name)} (deleted)"
            return f"no. {reply.index}: {text}", {"index": reply.index, **fields}
        case replies.ChangeSender() | replies.AddRecipientWithParams():
            return _address("address", [reply.address, *_optional(reply.params)])
        case replies.AddRecipient() | replies.DeleteRecipient():
            return _address("address", [reply.address])
        case replies.ReplaceBody():
            return _bytes(reply.chunk)
        case replies.Quarantine():
            return _one("reason", reply.reason)
        case (
            replies.Continue()
            | replies.Accept()
            | replies.Reject()
            | replies.TempFail()
            | replies.Discard()
            | replies.Skip()
            | replies.Progress()
            | replies.Shutdown()
            | replies.ConnectionFailed()
        ):
            return "", {}
        case _:
            assert_never(reply)


def _negotiation(
    version: int, actions: int, options: int, macros: dict[int, bytes] | None = None
) -> _Content:
    action_names, option_names = _flags(Actions, actions), _flags(Options, options)
    fields: dict[str, Any] = {
        "version": version,
        "actions": action_names,
        "options": option_names,
    }
    text = (
        f"version {version}, "
        f"actions {'all' if actions == ALL_ACTIONS else _joined(action_names)}, "
        f"options {'all' if options == ALL_OPTIONS else _joined(option_names)}"
    )
    if macros:
        wanted = {_stage(stage): readable(names) for stage, names in macros.items()}
        fields["macros"] = wanted
        text += "".join(f", macros {stage}: {printable(names)}" for stage, names in wanted.items())
    return text, fields


def _flags(kind: type[Actions | Options], value: int) -> list[str]:
    names = [flag.name or "" for flag in kind if flag & value]
    rest = value & ~sum(int(flag) for flag in kind)
    return [*names, hex(rest)] if rest else names


def _joined(names: Iterable[str]) -> str:
    return "|".join(names) or "none"


def _stage(number: int) -> str:
    return MacroStage(number).name.lower() if number in list(MacroStage) else str(number)


def _macros(macro: commands.Macro) -> _Content:
    row = COMMAND_BY_LETTER.get(macro.command[0])
    stage = row.name if row else f"letter {printable(macro.command)!r}"
    names, values = macro.pairs[::2], macro.pairs[1::2]
    pairs = [f"{_shown(name)}={_shown(value)}" for name, value in zip(names, values, strict=False)]
    # As they came: a list, since the same name may come twice and the last may have no value.
    pairs.extend(f"{_shown(name)} (no value)" for name in names[len(values) :])
    fields = {"command": stage, "macros": [readable(text) for text in macro.pairs]}
    return f"{stage}: {', '.join(pairs)}", fields


def _connect(connect: commands.Connect) -> _Content:
    family = _FAMILIES[connect.family]
    fields: dict[str, Any] = {"hostname": readable(connect.hostname), "family": family}
    text = f"{_shown(connect.hostname)} {family}"
    if connect.address is not None:
        fields |= {"address": readable(connect.address), "port": connect.port}
        port = "" if family == "unix" else f" port {connect.port}"
        text += f" {_shown(connect.address)}{port}"
    return text, fields


def _address(name: str, arguments: list[bytes]) -> _Content:
    address, *params = arguments
    fields: dict[str, Any] = {name: readable(address)}
    if params:
        fields["params"] = [readable(param) for param in params]
    return " ".join(_shown(argument) for argument in arguments), fields


def _optional(params: bytes | None) -> list[bytes]:
    return [] if params is None else [params]


def _header(name: bytes, value: bytes) -> _Content:
    return f"{_shown(name)}: {_shown(value)}", {"name": readable(name), "value": readable(value)}


def _one(name: str, value: bytes) -> _Content:
    return _shown(value), {name: readable(value)}


def _bytes(data: bytes) -> _Content:
    return _amount(data), {"bytes": len(data), "begin": readable(data[:_BEGIN_BYTES])}


def _amount(data: bytes) -> str:
    """Return how many bytes there are, and how they begin."""
    size = f"{len(data):,} byte{'' if len(data) == 1 else 's'}"
    if not data:
        return size
    more = "..." if len(data) > _BEGIN_BYTES else ""
    return f"{size}: {_shown(data[:_BEGIN_BYTES])}{more}"


def _shown(data: bytes) -> str:
    return printable(readable(data))
