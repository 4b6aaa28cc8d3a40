"""Asking a milter about a message, and saying in one sentence what is wrong with it if it breaks.

Rules of this file:

- What was learnt before a milter broke is kept: it often shows why.
- A sentence names the milter, the stage and the rule, and what may help.
- Whoever does not answer the offer is sent an empty line: a server of lines answers to that, and
  there is nothing to lose.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field

from aiomilter.aio.dial import Stream, dial
from aiomilter.aio.mta import MilterConnection, Timeouts
from aiomilter.app.mta.conversation import Conversation
from aiomilter.app.mta.outcome import Outcome, Step
from aiomilter.app.text import decode_text
from aiomilter.cli.console import quoted
from aiomilter.cli.question import Question
from aiomilter.errors import LocalProtocolError, MilterUnavailable, RemoteProtocolError
from aiomilter.spec import COMMAND_BY_LETTER
from aiomilter.wire.framing import PacketReader
from aiomilter.wire.replies import Negotiated

__all__ = ["Failure", "Inquiry", "WatchedStream", "explain", "inquire"]

_MACRO = ord("D")
_HEAD_BYTES = 5
_EMPTY_LINE, _PATIENCE_S = b"\r\n\r\n", 1.0
_BEGINNINGS = (
    # Python's http.server answers to a line that is none of HTTP with a page and no status line.
    (re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE), "HTTP"),
    (re.compile(rb"[45][0-9][0-9][ -]"), "SMTP or the like"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no verdict.

    Attributes:
        stage: The command that was sent last, or None if there was no connection.
        sentence: What is wrong.
        argument: What that command said, in one line.
    """

    stage: str | None
    sentence: str
    argument: str = ""


@dataclass(slots=True)
class Inquiry:
    """What came of a question.

    Attributes:
        question: What was asked.
        agreed: The milter's answer to the offer; None if there is none.
        outcomes: One for every message.
        open_steps: What was said about a message that came to no outcome.
        failure: None if all is well.
    """

    question: Question
    agreed: Negotiated | None = None
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    open_steps: tuple[Step, ...] = ()
    failure: Failure | None = None


class WatchedStream:
    """A connection that knows which command it has carried last.

    Attributes:
        stage: The name of the command.
    """

    def __init__(self, stream: Stream) -> None:
        self.stage = "negotiate"
        self._stream = stream
        self._last = b"", 0, 0

    @property
    def argument(self) -> str:
        """What the last command said, in one line."""
        data, start, end = self._last
        return _argument(self.stage, data[start:end])

    async def read(self) -> bytes:
        """Return what has come in."""
        return await self._stream.read()

    async def write(self, data: bytes) -> None:
        """Send whole packets."""
        at = 0
        while at < len(data):
            letter = data[at + _HEAD_BYTES - 1]
            end = at + _HEAD_BYTES - 1 + int.from_bytes(data[at : at + _HEAD_BYTES - 1])
            if letter != _MACRO:
                self.stage = COMMAND_BY_LETTER[letter].name
                self._last = data, at + _HEAD_BYTES, end
            at = end
        await self._stream.write(data)

    async def close(self) -> None:
        """Close the connection."""
        await self._stream.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._stream.abort()


class _HeldStream(WatchedStream):
    """One that stays open when it is given up, until `abort_at_last`."""

    def abort(self) -> None:
        """Do nothing yet."""

    def abort_at_last(self) -> None:
        """Close the connection at once."""
        super().abort()

    async def words(self) -> bytes:
        """Return what the other end says to an empty line; possibly nothing."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._stream.write(_EMPTY_LINE)
                return await self._stream.read()
        return b""


async def inquire(question: Question) -> Inquiry:
    """Ask a milter; a milter that cannot be asked, or breaks, is a `Failure`.

    Raises:
        ConfigError: The address is none.
    """
    inquiry = Inquiry(question)
    conversation = Conversation(question.offer, mta=question.mta, macros=question.macros)
    try:
        wire = _HeldStream(await dial(question.address, timeout_s=question.timeout_s))
    except MilterUnavailable as error:
        inquiry.failure = Failure(None, str(error))
        return inquiry
    connection = MilterConnection(
        wire, conversation, timeouts=Timeouts(*(question.timeout_s,) * 3), name=question.address
    )
    try:
        async with connection:
            await connection.negotiate()
            inquiry.agreed = connection.agreed
            for _ in range(question.repeat):
                conversation.steps = []
                outcome = await connection.send(
                    question.envelope, question.content, client=question.client
                )
                inquiry.outcomes.append(outcome)
    except (MilterUnavailable, RemoteProtocolError) as error:
        inquiry.open_steps = tuple(conversation.steps)
        found = await _other_protocol(wire, error, conversation) or error
        sentence = explain(found, question.address, wire.stage, conversation, question.timeout_s)
        inquiry.failure = Failure(wire.stage, sentence, wire.argument)
    except LocalProtocolError as error:
        inquiry.open_steps = tuple(conversation.steps)
        inquiry.failure = _too_long(error, question, conversation)
    finally:
        wire.abort_at_last()
    return inquiry


def _argument(stage: str, payload: bytes) -> str:
    """Return what a command says as `Step` has it."""
    if stage == "body":
        return f"{len(payload):,} bytes"
    if stage == "negotiate":
        return ""
    fields = decode_text(payload).removesuffix("\0").split("\0")
    if stage == "header":
        return f"{fields[0]}: {fields[-1].strip()}"
    return fields[0] if stage == "connect" else " ".join(fields)


async def _other_protocol(
    wire: _HeldStream, error: Exception, conversation: Conversation
) -> RemoteProtocolError | None:
    """Return what somebody who has not answered the offer speaks instead, if that shows."""
    if (
        wire.stage != "negotiate"
        or isinstance(error, RemoteProtocolError)
        or conversation.session.has_eof
        or error.__cause__ is not None
    ):
        return None
    words = await wire.words()
    for beginning, protocol in _BEGINNINGS:
        if beginning.match(words):
            return RemoteProtocolError(f"this is {protocol}, not the milter protocol", words)
    reader = PacketReader()
    reader.receive_data(words)
    try:
        reader.next_packet()
    except RemoteProtocolError as found:
        return found if found.rule.startswith("this is ") else None
    return None


def _too_long(error: LocalProtocolError, question: Question, conversation: Conversation) -> Failure:
    """Return that the message does not fit into packets."""
    headers, limit = question.content.headers, conversation.session.max_payload_bytes
    number = sum(step.stage == "header" for step in conversation.steps)
    if number < len(headers):
        name, value = headers[number]
        size = len(f"{name}{value}".encode("utf-8", "surrogateescape"))
        if size + 2 >= limit:
            return Failure(
                "header",
                f"header {number + 1} of the message, {quoted(name)}, has {size:,} bytes, but a "
                f"packet of the milter protocol holds {limit:,}: this is the message's fault, not "
                f"the milter's; make that header shorter",
                f"{name}: {value.strip()}",
            )
    return Failure(None, f"the message cannot be sent to a milter, by its own fault: {error}")


def explain(
    error: MilterUnavailable | RemoteProtocolError,
    address: str,
    stage: str,
    conversation: Conversation,
    timeout_s: float,
) -> str:
    """Return what is wrong with a milter in one sentence.

    Args:
        error: What the connection has raised.
        address: Where the milter is.
        stage: The command that was sent last.
        conversation: What was said.
        timeout_s: How long an answer may take.
    """
    if isinstance(error, RemoteProtocolError):
        if error.rule.startswith("this is "):
            return f"{address}: {error}; is this the milter's port?"
        place = "offer" if stage == "negotiate" else stage
        return f"{address} breaks a rule of the milter protocol in its answer to {place}: {error}"
    if stage != "negotiate":
        return str(error)
    if conversation.session.has_eof:
        return (
            f"{address} takes the connection, and closes it instead of answering the offer: it is "
            f"no milter, or one that does without such an offer or client; its log may tell"
        )
    if error.__cause__ is not None:
        return str(error)
    return (
        f"{address} takes the connection, but does not answer the offer within {timeout_s:g} s: "
        f"it is probably no milter, but something that waits for other words, such as a web "
        f"server, or it hangs"
    )
