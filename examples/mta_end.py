"""The mail server's end of the milter protocol, in as few lines as it takes.

It speaks as Postfix does, on top of `aiomilter.wire`, which has every packet in both directions.
The demo feeds a milter with it; so can a test of your own milter:

- An offer first; the milter answers what it wants to see and what it will answer to.
- Macros go ahead of every command that has some, even of one that the milter does not want.
- One answer is awaited for each command, and none where none was agreed.
- ABORT follows every message, also one that got through; QUIT ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aiomilter import MacroStage, Options, ProtocolError
from aiomilter.spec import (
    ALL_ACTIONS,
    ALL_OPTIONS,
    BODY_CHUNK_BYTES,
    COMMAND_BY_LETTER,
    REPLY_BY_LETTER,
    VERSION,
    ReplyKind,
)
from aiomilter.wire import commands, replies
from aiomilter.wire.framing import PacketReader

__all__ = ["Envelope", "Message", "MtaEnd", "Outcome", "Step", "is_refusal"]

_PATIENCE_S = 10.0
"""How long an answer may take. Postfix waits longer, but somebody is watching this."""
_READ_BYTES = 65_536

# Postfix's milter_*_macros of main.cf, as far as this program knows their values.
_DEFAULT_MACROS: Mapping[int, bytes] = {
    MacroStage.CONNECT: b"j {daemon_name} v _",
    MacroStage.MAIL: b"i {mail_addr}",
    MacroStage.RCPT: b"i {rcpt_addr}",
    MacroStage.DATA: b"i",
    MacroStage.EOH: b"i",
    MacroStage.EOM: b"i {mail_addr}",
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """What SMTP says about a message. Addresses come in brackets, their ESMTP parameters behind.

    A client without a name has its address in brackets in the place of the name.
    """

    client_name: str
    client_address: str
    client_port: int
    helo: str
    sender: list[str]
    recipients: list[list[str]]


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a milter sees it: values without the blank behind the colon, a body in CRLF."""

    envelope: Envelope
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def parse(cls, envelope: Envelope, text: bytes) -> Self:
        """Take a message apart whose lines end in LF."""
        head, _, body = text.partition(b"\n\n")
        headers: list[tuple[bytes, bytes]] = []
        for line in head.split(b"\n"):
            if line.startswith((b" ", b"\t")) and headers:
                name, value = headers[-1]
                headers[-1] = name, value + b"\n" + line
            else:
                name, _, value = line.partition(b":")
                headers.append((name, value.removeprefix(b" ")))
        return cls(envelope, headers, body.replace(b"\n", b"\r\n"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read NAME.eml and beside it NAME.envelope.json."""
        envelope = path.with_suffix(".envelope.json").read_text(encoding="utf-8")
        return cls.parse(Envelope(**json.loads(envelope)), path.read_bytes())


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what came of it.

    Attributes:
        stage: As in the handler's name: ``rcpt`` for ``on_rcpt``.
        what: What the command was about.
        was_sent: False if the milter does not want to see it.
        verdict: None if none was awaited.
        edits: What is to be done to the message; only at its end.
    """

    stage: str
    what: str
    was_sent: bool
    verdict: replies.MilterReply | None = None
    edits: list[replies.MilterReply] = field(default_factory=list[replies.MilterReply])


@dataclass(slots=True)
class Outcome:
    """What has become of a message.

    Attributes:
        refused: The recipients that the milter refused one by one.
        edits: What the milter changes.
        verdict: The last one, which decides; None if no recipient was left to ask about.
        packets: How many packets went to the milter and came from it.
    """

    refused: list[str] = field(default_factory=list[str])
    edits: list[replies.MilterReply] = field(default_factory=list[replies.MilterReply])
    verdict: replies.MilterReply | None = None
    packets: int = 0


def is_refusal(verdict: replies.MilterReply | None) -> bool:
    """Whether a verdict refuses what it was asked about."""
    return isinstance(verdict, replies.Reject | replies.TempFail | replies.ReplyCode)


def _goes_on(verdict: replies.MilterReply | None) -> bool:
    return verdict is None or isinstance(verdict, replies.Continue | replies.Skip)


class MtaEnd:
    """One connection to a milter, for one SMTP client.

    Any method may raise `ProtocolError`, `OSError` or `TimeoutError`: the milter does not keep to
    the protocol, is gone, or says nothing.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._packets = PacketReader()
        self._macro_values: dict[bytes, str] = {}
        self._skipped: set[bytes] = set()
        self._packets_exchanged = 0
        self.agreed = replies.Negotiated(VERSION, 0, 0)
        self.outcome = Outcome()

    @classmethod
    async def connect(cls, path: str) -> Self:
        """Connect to a unix socket and negotiate."""
        mta = cls(*await asyncio.open_unix_connection(path))
        mta._write(commands.OfferOptions(VERSION, ALL_ACTIONS, ALL_OPTIONS))
        answer = await mta._read()
        if not isinstance(answer, replies.Negotiated):
            raise ProtocolError(f"the milter answered the offer with {answer}")
        mta.agreed = answer
        return mta

    async def close(self) -> None:
        """Say goodbye."""
        self._write(commands.Quit())
        self._writer.close()
        with contextlib.suppress(OSError):  # the milter may have hung up first
            await self._writer.wait_closed()

    async def send(self, message: Message, queue_id: str) -> AsyncGenerator[Step]:
        """Consult the milter about a message; yield each step as it is done.

        What has become of the message is in `outcome` afterwards.
        """
        self.outcome = outcome = Outcome()
        self._skipped.clear()
        self._macro_values = _session_macros(message.envelope)
        before = self._packets_exchanged
        async with contextlib.aclosing(self._steps(message, queue_id)) as steps:
            async for step in steps:
                outcome.edits += step.edits
                # A refusal at RCPT means that recipient, one anywhere else the whole message.
                is_for_one = step.stage == "rcpt" and is_refusal(step.verdict)
                if step.verdict is not None and not is_for_one:
                    outcome.verdict = step.verdict
                yield step
                if not (is_for_one or _goes_on(step.verdict)):
                    break
        if len(outcome.refused) == len(message.envelope.recipients):
            outcome.verdict = None
        self._write(commands.Abort())
        outcome.packets = self._packets_exchanged - before

    async def _steps(self, message: Message, queue_id: str) -> AsyncGenerator[Step]:
        envelope = message.envelope
        address = envelope.client_address
        client = f"{envelope.client_name} [{address}]:{envelope.client_port}"
        family = b"6" if ":" in address else b"4"
        yield await self._ask(
            commands.Connect(
                envelope.client_name.encode(), family, envelope.client_port, address.encode()
            ),
            client,
        )
        yield await self._ask(commands.Helo(envelope.helo.encode()), envelope.helo)

        self._macro_values[b"{mail_addr}"] = envelope.sender[0].strip("<>")
        sender = [argument.encode() for argument in envelope.sender]
        yield await self._ask(commands.Mail(sender), " ".join(envelope.sender))
        for recipient in envelope.recipients:
            self._macro_values[b"{rcpt_addr}"] = recipient[0].strip("<>")
            arguments = [argument.encode() for argument in recipient]
            step = await self._ask(commands.Rcpt(arguments), " ".join(recipient))
            if is_refusal(step.verdict):
                self.outcome.refused.append(recipient[0])
            else:
                # Postfix has a queue file, and a name for it, from the first good recipient on.
                self._macro_values[b"i"] = queue_id
            yield step
        if len(self.outcome.refused) == len(envelope.recipients):
            return

        yield await self._ask(commands.Data(), "")
        for name, value in message.headers:
            blank = b" " if self.agreed.options & Options.LEADING_SPACE else b""
            shown = (name + b": " + value).decode("utf-8", "replace")
            yield await self._ask(commands.Header(name, blank + value), shown)
        yield await self._ask(commands.EndOfHeaders(), "")
        for start in range(0, len(message.body), BODY_CHUNK_BYTES):
            chunk = message.body[start : start + BODY_CHUNK_BYTES]
            yield await self._ask(commands.Body(chunk), f"{len(chunk):,} bytes")
        yield await self._ask(commands.EndOfMessage(), "")

    async def _ask(self, command: commands.Command, what: str) -> Step:
        """Send a command and its macros, and return what the milter says."""
        row = COMMAND_BY_LETTER[command.LETTER[0]]
        options = self.agreed.options
        self._write(commands.Macro(command.LETTER, self._macros_for(row.macro_stage)))
        is_unwanted = row.no_option is not None and options & row.no_option
        if is_unwanted or command.LETTER in self._skipped:
            return Step(row.name, what, was_sent=False)
        self._write(command)
        if row.no_reply_option is not None and options & row.no_reply_option:
            # The milter may read slowly all the same.
            async with asyncio.timeout(_PATIENCE_S):
                await self._writer.drain()
            return Step(row.name, what, was_sent=True)
        edits: list[replies.MilterReply] = []
        while True:
            reply = await self._read()
            kind = REPLY_BY_LETTER[reply.LETTER[0]].kind
            if kind is ReplyKind.EDIT and row.name == "eom":
                edits.append(reply)
            elif kind is ReplyKind.VERDICT:
                break
            elif kind is not ReplyKind.PROGRESS:
                raise ProtocolError(f"the milter answered {row.name} with {reply}")
        if isinstance(reply, replies.Skip):
            self._skipped.add(command.LETTER)
        return Step(row.name, what, was_sent=True, verdict=reply, edits=edits)

    def _macros_for(self, stage: MacroStage | None) -> list[bytes]:
        """Return the macros of a stage: those asked for, else the default ones."""
        if stage is None:
            wanted = [b"i"]  # headers and pieces of the body; no milter can ask for others
        else:
            wanted = self.agreed.macros_at(stage) or _DEFAULT_MACROS.get(stage, b"").split()
        known = ((name, self._macro_values.get(name)) for name in wanted)
        pairs = [(name, value.encode()) for name, value in known if value is not None]
        return [text for pair in pairs for text in pair]

    def _write(self, command: commands.Command) -> None:
        self._writer.write(command.encode())
        self._packets_exchanged += 1

    async def _read(self) -> replies.MilterReply:
        async with asyncio.timeout(_PATIENCE_S):
            while (packet := self._packets.next_packet()) is None:
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    raise ConnectionError("the milter has closed the connection")
                self._packets.receive_data(data)
        self._packets_exchanged += 1
        return replies.decode_reply(*packet)


def _session_macros(envelope: Envelope) -> dict[bytes, str]:
    """Return what is known from the beginning."""
    return {
        b"j": "mx.example.org",
        b"{daemon_name}": "mx.example.org",
        b"v": "Postfix",
        b"_": f"{envelope.client_name} [{envelope.client_address}]",
    }
