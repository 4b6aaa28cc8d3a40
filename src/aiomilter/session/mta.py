"""The MTA's end of a connection: commands out, replies in.

This is a state machine without input and output. Its owner sends commands, and asks for the
reply to each one that has one::

    session.send(command)
    while session.is_awaiting:
        while (reply := session.next_reply()) is None:
            ...                     # write session.data_to_send(), read, session.receive_data(...)

Rules of this file:

- What was agreed is kept: a command that the milter does not want is not sent, and no reply is
  awaited to one that it does not answer.
- A milter that breaks a rule of the protocol is told from one that does not: every breach is a
  `RemoteProtocolError` that names the rule, after which the connection is of no use. Where
  Postfix and Sendmail differ in what they put up with, the owner says which one this is.
- What a version does not have yet is not sent to a milter that speaks it: DATA from 4 on, UNKNOWN
  from 3 on. Postfix and Sendmail do the same.
- Which command follows which is up to the owner: a milter may be sent anything, also what no MTA
  would send.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiomilter.errors import LocalProtocolError, RemoteProtocolError
from aiomilter.session.negotiation import flag_names
from aiomilter.spec import (
    ACTIONS_OF_VERSION_1,
    ALL_ACTIONS,
    ALL_OPTIONS,
    COMMAND_BY_LETTER,
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_BYTES_1M,
    MAX_PAYLOAD_BYTES_256K,
    OPTIONS_OF_VERSION_1,
    REPLY_BY_LETTER,
    VERSION,
    VERSION_MIN,
    Actions,
    CommandSpec,
    Options,
    ReplyKind,
    ReplySpec,
)
from aiomilter.wire.commands import Command, Macro, OfferOptions
from aiomilter.wire.framing import PacketReader
from aiomilter.wire.replies import MilterReply, Negotiated, decode_reply

__all__ = ["MtaSession", "Offer"]

_ALL_ACTIONS, _ALL_OPTIONS = Actions(ALL_ACTIONS), Options(ALL_OPTIONS)
_SHUTDOWN = b"4"
_MAX_EDIT_BYTES = 256 * 1024 * 1024
"""Far above any message that a mail server takes; a milter that never ends is stopped there."""
_EDIT_OVERHEAD_BYTES = 256
"""What an edit takes here beside its payload."""
_SKIP = b"s"
_LENGTH_BYTES = 4
_SIGN_BIT = 0x80000000
_MOST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Offer:
    """What an MTA offers; by default what Postfix and Sendmail do.

    Attributes:
        version: The protocol version; any number, to see what a milter makes of it.
        actions: What the MTA lets a milter do.
        options: What the MTA can leave out, or do otherwise.

    Raises:
        ValueError: One of them does not fit into 32 bits.
    """

    version: int = VERSION
    actions: Actions = _ALL_ACTIONS
    options: Options = _ALL_OPTIONS

    def __post_init__(self) -> None:
        for value in (self.version, self.actions, self.options):
            if not 0 <= value <= _MOST:
                raise ValueError(f"an offer has numbers of 32 bits, not {int(value)}")

    @property
    def allowed_actions(self) -> int:
        """What a milter may ask for; to offer no action means those of version 1."""
        return int(self.actions) or ACTIONS_OF_VERSION_1

    @property
    def allowed_options(self) -> int:
        """What a milter may ask for; to offer no option means those of version 1."""
        return int(self.options) or OPTIONS_OF_VERSION_1


class _ReplyReader(PacketReader):
    """Cuts replies as the MTAs do: libmilter alone takes lengths that are zero or negative."""

    __slots__ = ()

    def next_packet(self) -> tuple[int, bytes] | None:
        begin = bytes(self.buffer[self._offset : self._offset + _LENGTH_BYTES])
        if len(begin) == _LENGTH_BYTES:
            length = int.from_bytes(begin, "big")
            if length == 0:
                raise RemoteProtocolError("a packet of length 0 has no letter", begin)
            if length > _SIGN_BIT:
                raise RemoteProtocolError(
                    f"a packet announces {length - 1} bytes of payload, above the limit of "
                    f"{self.max_payload_bytes}",
                    begin,
                )
        return super().next_packet()


@dataclass(slots=True)
class _Awaited:
    """The command that waits for its reply."""

    row: CommandSpec
    last_edit: bytes = b""
    has_body: bool = False
    edit_bytes: int = 0


class MtaSession:
    """One connection to a milter, seen from the MTA.

    Attributes:
        offer: What this end offers.
        agreed: What the milter has answered; an empty agreement before that.
        packets_sent: How many packets have been made.
        packets_received: How many have been taken in.
    """

    __slots__ = (
        "_awaited",
        "_eof",
        "_is_strict",
        "_out",
        "_reader",
        "agreed",
        "offer",
        "packets_received",
        "packets_sent",
    )

    def __init__(self, offer: Offer | None = None, *, is_strict: bool = False) -> None:
        """Begin with a connection that has just been opened.

        Args:
            offer: What is offered; None for all there is.
            is_strict: Whether to be as Sendmail in what is refused, not as Postfix. Sendmail
                alone refuses version 1, options that were not offered, SHUTDOWN, and progress
                before the end of a message; Postfix alone refuses another edit between two pieces
                of a body.
        """
        self.offer = offer or Offer()
        self.agreed = Negotiated(self.offer.version, 0, 0)
        self.packets_sent = 0
        self.packets_received = 0
        self._is_strict = is_strict
        self._reader = _ReplyReader()
        self._out: list[bytes] = []
        self._awaited: _Awaited | None = None
        self._eof = False

    # What was agreed

    @property
    def actions(self) -> Actions:
        """What the milter may do."""
        return Actions(self.agreed.actions)

    @property
    def options(self) -> Options:
        """How the two ends talk, of what was offered."""
        return Options(self.agreed.options & self.offer.allowed_options)

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload that either end may send."""
        if self.options & Options.DATA_SIZE_1M:
            return MAX_PAYLOAD_BYTES_1M
        if self.options & Options.DATA_SIZE_256K:
            return MAX_PAYLOAD_BYTES_256K
        return MAX_PAYLOAD_BYTES

    def is_wanted(self, letter: bytes) -> bool:
        """Return whether the milter knows a command, and wants to be sent it."""
        row = COMMAND_BY_LETTER[letter[0]]
        return self.is_known(letter) and not (row.no_option and self.options & row.no_option)

    def is_known(self, letter: bytes) -> bool:
        """Return whether a command is there in the version that the milter speaks."""
        # An offer of version 0 is still an offer.
        return COMMAND_BY_LETTER[letter[0]].since <= max(self.agreed.version, 1)

    def is_answered(self, letter: bytes) -> bool:
        """Return whether the milter replies to a command."""
        row = COMMAND_BY_LETTER[letter[0]]
        if row.no_reply_option is not None and self.options & row.no_reply_option:
            return False
        return bool(row.replies)

    # Commands

    @property
    def is_awaiting(self) -> bool:
        """Whether a command waits for its reply."""
        return self._awaited is not None

    @property
    def awaited(self) -> str | None:
        """The name of the command that waits for its reply, or None."""
        return None if self._awaited is None else self._awaited.row.name

    def send_offer(self) -> None:
        """Begin the negotiation; its reply sets `agreed`."""
        offer = self.offer
        self.send(OfferOptions(offer.version, int(offer.actions), int(offer.options)))

    def send(self, command: Command) -> bool:
        """Send a command if the milter wants it.

        Returns:
            Whether it was sent. If a reply is due to it, `is_awaiting` tells so.

        Raises:
            LocalProtocolError: The reply to the command before is still awaited, or the command
                does not fit into a packet; nothing was sent.
            RemoteProtocolError: The milter has answered where nothing was asked.
        """
        letter = command.LETTER
        row = COMMAND_BY_LETTER[letter[0]]
        if self._awaited is not None:
            raise LocalProtocolError(f"{self._awaited.row.name} still waits for its reply")
        self._check_silence()
        if not isinstance(command, Macro) and not self.is_wanted(letter):
            return False
        packet = command.encode()
        if len(packet) - 5 > self.max_payload_bytes:
            raise LocalProtocolError(
                f"{row.name}: {len(packet) - 5} bytes do not fit into a packet of "
                f"{self.max_payload_bytes}"
            )
        self._out.append(packet)
        self.packets_sent += 1
        if self.is_answered(letter):
            self._awaited = _Awaited(row)
        return True

    @property
    def unsent_bytes(self) -> int:
        """How many bytes `data_to_send` would return."""
        return sum(map(len, self._out))

    def data_to_send(self) -> bytes:
        """Return the bytes for the milter that have come up since the last call; possibly none."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # Replies

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the milter."""
        self._reader.receive_data(data)

    def receive_eof(self) -> None:
        """Note that the milter will send nothing more."""
        self._eof = True

    @property
    def has_eof(self) -> bool:
        """Whether the milter will send nothing more."""
        return self._eof

    def next_reply(self) -> MilterReply | None:
        """Return the next reply, or None if more bytes are needed.

        At the end of a message edits and progress come ahead of the verdict; `is_awaiting` is
        true until that has come.

        Raises:
            LocalProtocolError: No reply is awaited.
            RemoteProtocolError: The milter breaks a rule of the protocol, or has closed the
                connection within a packet.
        """
        awaited = self._awaited
        if awaited is None:
            raise LocalProtocolError("no command waits for a reply")
        packet = self._reader.next_packet()
        if packet is None:
            if self._eof and self._reader.buffered_bytes:
                raise RemoteProtocolError("the connection ends within a packet")
            return None
        self.packets_received += 1
        letter, payload = packet
        spec = REPLY_BY_LETTER.get(letter)
        if spec is not None:
            self._check_place(awaited, spec, payload)
        reply = decode_reply(letter, payload)
        if isinstance(reply, Negotiated):
            self._take_agreement(reply)
        if spec is not None and spec.kind in (ReplyKind.VERDICT, ReplyKind.NEGOTIATION):
            self._awaited = None
            self._check_silence()
        return reply

    def receive_unasked(self, data: bytes) -> None:
        """Take in bytes that came before the command that is now to be sent.

        Raises:
            RemoteProtocolError: Always; it shows the packet.
        """
        self._reader.receive_data(data)
        self._check_silence()

    def _check_silence(self) -> None:
        if self._reader.buffered_bytes:
            packet = self._reader.next_packet()
            shown = None if packet is None else bytes((packet[0],)) + packet[1]
            raise RemoteProtocolError("a reply where none is due", shown)

    def _check_place(self, awaited: _Awaited, spec: ReplySpec, payload: bytes) -> None:
        """Refuse a reply that does not belong here."""
        shown = spec.letter + payload
        if not self._is_reply_to(awaited.row, spec):
            raise RemoteProtocolError(f"{spec.name} is no reply to {awaited.row.name}", shown)
        if spec.kind is not ReplyKind.EDIT:
            return
        if spec.action is not None and not self.agreed.actions & spec.action:
            raise RemoteProtocolError(
                f"{spec.name} needs the action {spec.action.name}, which was not agreed", shown
            )
        is_body = spec.letter == b"b"
        if is_body and awaited.has_body and awaited.last_edit != b"b" and not self._is_strict:
            raise RemoteProtocolError("another edit stands between two pieces of a new body", shown)
        awaited.has_body |= is_body
        awaited.last_edit = spec.letter
        awaited.edit_bytes += len(payload) + _EDIT_OVERHEAD_BYTES
        if awaited.edit_bytes > _MAX_EDIT_BYTES:
            raise RemoteProtocolError(
                f"the edits of one message take more than {_MAX_EDIT_BYTES:,} bytes"
            )

    def _is_reply_to(self, row: CommandSpec, spec: ReplySpec) -> bool:
        if row.name == "negotiate" or spec.kind is ReplyKind.NEGOTIATION:
            return spec.letter in row.replies
        if row.name == "eom" and spec.kind in (ReplyKind.EDIT, ReplyKind.PROGRESS):
            return True
        if spec.kind is ReplyKind.PROGRESS or spec.letter == _SHUTDOWN:
            return not self._is_strict
        # libmilter sends SKIP wherever a filter says so, and both MTAs put up with it.
        return spec.letter in row.replies or (spec.letter == _SKIP and row.name != "eom")

    def _take_agreement(self, reply: Negotiated) -> None:
        offer = self.offer
        least = VERSION_MIN if self._is_strict else 1
        if not least <= reply.version <= offer.version:
            raise RemoteProtocolError(
                f"the milter answers with version {reply.version} to an offer of {offer.version}"
            )
        missing = reply.actions & ~offer.allowed_actions
        if missing:
            raise RemoteProtocolError(
                f"the milter asks for actions that were not offered: {flag_names(Actions, missing)}"
            )
        missing = reply.options & ~offer.allowed_options
        if missing and self._is_strict:
            raise RemoteProtocolError(
                f"the milter asks for options that were not offered: {flag_names(Options, missing)}"
            )
        self.agreed = reply
        self._reader.max_payload_bytes = self.max_payload_bytes
