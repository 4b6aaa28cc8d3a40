"""Putting a milter under load: many connections, the same message over and over.

Rules of this file:

- What goes over the wire is what `Conversation` says as a Postfix, rehearsed once for every
  agreement with a milter that continues: packets are made once, and sent as they are. Only the
  queue id is another one for each message.
- Of a reply only the letter is looked at. A milter that breaks finer rules is found by ``check``.
- A connection that a milter has turned away at CONNECT or HELO has no second message, nor has one
  that was told 421: an MTA then hangs up on its client, and so on the milter.
- A message that comes to no verdict is a failure, and its connection is opened anew.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from aiomilter.aio.dial import Stream, dial
from aiomilter.aio.mta import MilterConnection, Timeouts
from aiomilter.app.mta.conversation import Conversation
from aiomilter.cli.inquiry import WatchedStream, explain
from aiomilter.cli.latency import Latencies
from aiomilter.cli.question import Question
from aiomilter.errors import MilterUnavailable, RemoteProtocolError, escape
from aiomilter.spec import COMMAND_BY_LETTER, REPLY_BY_LETTER, ReplyKind
from aiomilter.wire.commands import Abort, Quit
from aiomilter.wire.framing import PacketReader
from aiomilter.wire.replies import Continue

__all__ = ["Load", "Plan", "Result"]

_QUEUE_ID = "4aio{:08X}"
_STAGES = ("open", "negotiate", *(row.name for row in COMMAND_BY_LETTER.values()))
_SESSION_STAGES = ("connect", "helo")
_MOST_FAILURES = 5
"""A worker that fails so often in a row gives up: the milter is gone."""
_KINDS = {letter: row.kind for letter, row in REPLY_BY_LETTER.items()}
_VERDICTS = {
    ord("c"): "CONTINUE",
    ord("a"): "ACCEPT",
    ord("r"): "REJECT",
    ord("t"): "TEMPFAIL",
    ord("d"): "DISCARD",
    ord("s"): "SKIP",
    ord("4"): "TEMPFAIL",
}
_REPLY_CODE = ord("y")
_HANG_UP = "421"
_ABORT, _QUIT = Abort().encode(), Quit().encode()


@dataclass(frozen=True, slots=True)
class Plan:
    """What load there is to be.

    Attributes:
        question: What every message is.
        connections: How many at a time.
        messages: How many in all; None for no end but the duration.
        duration_s: How long; None for no end but the number.
        messages_per_connection: After how many a connection is closed; None for never.
    """

    question: Question
    connections: int
    messages: int | None
    duration_s: float | None
    messages_per_connection: int | None


@dataclass(slots=True)
class Result:
    """What the load has shown.

    Attributes:
        messages: How many have come to a verdict.
        failed: How many have not.
        connections: How many were opened.
        hang_ups: How many of them were closed as the milter said 421; each is a verdict, too.
        elapsed_s: How long it took.
        verdicts: How many messages came to each.
        errors: How often what went wrong.
        whole: The times of messages, from MAIL to the verdict.
        stages: Those of the commands that were answered, by name.
        is_interrupted: Whether it was ended from outside.
        has_given_up: Whether the milter failed too often in a row.
    """

    messages: int = 0
    failed: int = 0
    connections: int = 0
    hang_ups: int = 0
    elapsed_s: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    whole: Latencies = field(default_factory=Latencies)
    stages: dict[str, Latencies] = field(
        default_factory=lambda: {stage: Latencies() for stage in _STAGES}
    )
    is_interrupted: bool = False
    has_given_up: bool = False


@dataclass(frozen=True, slots=True)
class _Exchange:
    """Packets, and the command among them that is answered."""

    stage: str
    data: bytes
    has_queue_id: bool


@dataclass(frozen=True, slots=True)
class _Script:
    """All exchanges of a message.

    Attributes:
        exchanges: In their order.
        queue_id: The one that they were rehearsed with.
        recipients: How many of them are about a recipient.
    """

    exchanges: list[_Exchange]
    queue_id: bytes
    recipients: int


@dataclass(slots=True)
class _Connection:
    """A connection that has been agreed on.

    Attributes:
        scripts: For the first message, and for all others.
        messages: How many it has had.
        is_usable: Whether the milter takes messages on it.
        is_over: Whether the milter has said 421.
    """

    stream: Stream
    reader: PacketReader
    scripts: tuple[_Script, _Script]
    messages: int = 0
    is_usable: bool = True
    is_over: bool = False


class Load:
    """Load on a milter.

    Attributes:
        result: As it is by now.
    """

    def __init__(self, plan: Plan) -> None:
        self.result = Result()
        self._plan = plan
        self._address = plan.question.address
        self._timeout_s = plan.question.timeout_s
        self._numbers = itertools.count(1)
        self._left = plan.messages
        self._scripts: dict[object, tuple[_Script, _Script]] = {}
        self._ends_at = float("inf")

    async def run(self, stop: asyncio.Event) -> Result:
        """Work until all is done, or until ``stop`` is set.

        Raises:
            MilterUnavailable: There is no milter to begin with.
            RemoteProtocolError: What answers is none.
            LocalProtocolError: The message does not fit into packets.
        """
        stopped = asyncio.create_task(stop.wait())
        opening = asyncio.create_task(self._open())
        try:
            await asyncio.wait((opening, stopped), return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                await self._work_with(opening.result(), stopped)
            self.result.is_interrupted = stopped.done()
        finally:
            opening.cancel()
            stopped.cancel()
            await asyncio.gather(opening, stopped, return_exceptions=True)
        return self.result

    async def _work_with(self, first: _Connection, stopped: asyncio.Task[Any]) -> None:
        """Have all workers work, the first one on a connection that is there."""
        self.result.connections = 1
        begin = perf_counter()
        if self._plan.duration_s is not None:
            self._ends_at = begin + self._plan.duration_s
        workers = [
            asyncio.create_task(self._work(first if number == 0 else None))
            for number in range(self._plan.connections)
        ]
        all_done = asyncio.gather(*workers, return_exceptions=True)
        await asyncio.wait((all_done, stopped), return_when=asyncio.FIRST_COMPLETED)
        self.result.elapsed_s = perf_counter() - begin
        for worker in workers:
            worker.cancel()
        for outcome in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    # A worker

    async def _work(self, connection: _Connection | None) -> None:
        failures = 0
        try:
            while failures < _MOST_FAILURES and self._take_message():
                try:
                    if connection is None:
                        connection = await self._open()
                        self.result.connections += 1
                    verdict = await self._send(connection)
                except (MilterUnavailable, RemoteProtocolError, OSError) as error:
                    self._note_failure(error)
                    failures += 1
                    if connection is not None:
                        connection.stream.abort()
                        connection = None
                else:
                    failures = 0
                    self.result.messages += 1
                    self.result.verdicts[verdict] += 1
                    connection = await self._keep(connection)
        except asyncio.CancelledError:
            if connection is not None:
                connection.stream.abort()
            raise
        if connection is not None:
            await _close(connection)
        if failures == _MOST_FAILURES:
            self.result.has_given_up = True

    def _take_message(self) -> bool:
        if perf_counter() >= self._ends_at or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _note_failure(self, error: Exception) -> None:
        self.result.failed += 1
        text = str(error)
        if isinstance(error, OSError):
            text = f"{self._address} is gone ({error.strerror or error})"
        elif isinstance(error, RemoteProtocolError):
            text = f"{self._address} breaks a rule of the milter protocol: {error}"
        self.result.errors[text] += 1

    async def _keep(self, connection: _Connection) -> _Connection | None:
        """Return the connection, or None if it has had its messages."""
        has_had_all = connection.messages == self._plan.messages_per_connection
        if connection.is_usable and not connection.is_over and not has_had_all:
            return connection
        await _close(connection)
        return None

    # A connection

    async def _open(self) -> _Connection:
        question, stages = self._plan.question, self.result.stages
        conversation = Conversation(question.offer, mta=question.mta, macros=question.macros)
        begin = perf_counter()
        stream = await dial(self._address, timeout_s=self._timeout_s)
        opened = perf_counter()
        wire = WatchedStream(stream)
        timeouts = Timeouts(*(self._timeout_s,) * 3)
        try:
            await MilterConnection(
                wire, conversation, timeouts=timeouts, name=self._address
            ).negotiate()
        except (MilterUnavailable, RemoteProtocolError) as error:
            text = explain(error, self._address, wire.stage, conversation, self._timeout_s)
            raise MilterUnavailable(text) from error
        stages["open"].add(opened - begin)
        stages["negotiate"].add(perf_counter() - opened)
        agreed = conversation.session.agreed
        key = agreed.version, agreed.actions, agreed.options, tuple(sorted(agreed.macros.items()))
        if key not in self._scripts:
            self._scripts[key] = (
                _rehearse(conversation, question, 1),
                _rehearse(conversation, question, 2),
            )
        reader = PacketReader(conversation.session.max_payload_bytes)
        return _Connection(stream, reader, self._scripts[key])

    # A message

    async def _send(self, connection: _Connection) -> str:
        """Send a message; return its verdict."""
        script = connection.scripts[connection.messages > 0]
        connection.messages += 1
        queue_id = _QUEUE_ID.format(next(self._numbers)).encode()
        progress = _Progress(script)
        begin = 0.0
        for exchange in script.exchanges:
            if exchange.stage == progress.skipped:
                continue
            data = exchange.data
            if exchange.has_queue_id:
                data = data.replace(script.queue_id, queue_id)
            if not begin and exchange.stage not in _SESSION_STAGES:
                begin = perf_counter()
            answer = await self._ask(connection, exchange.stage, data)
            if answer == _HANG_UP:
                self.result.hang_ups += 1
                connection.is_over = True
                progress.verdict = "TEMPFAIL"
                break
            progress.take(exchange.stage, answer)
            if progress.verdict:
                break
        if begin:
            self.result.whole.add(perf_counter() - begin)
            await connection.stream.write(_ABORT)
        else:
            connection.is_usable = False
        return progress.verdict or "ACCEPT"

    async def _ask(self, connection: _Connection, stage: str, data: bytes) -> str:
        """Send packets, and return the answer to the last of them: a verdict, or 421."""
        begin = perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.stream.write(data)
                answer = await self._answer(connection, stage)
        except TimeoutError:
            raise MilterUnavailable(
                f"{self._address} has not answered {stage} within {self._timeout_s:g} s"
            ) from None
        self.result.stages[stage].add(perf_counter() - begin)
        return answer

    async def _answer(self, connection: _Connection, stage: str) -> str:
        stream, reader = connection.stream, connection.reader
        while True:
            packet = reader.next_packet()
            if packet is None:
                received = await stream.read()
                if not received:
                    raise MilterUnavailable(
                        f"{self._address} has closed the connection instead of an answer to {stage}"
                    )
                reader.receive_data(received)
                continue
            letter, payload = packet
            if letter == _REPLY_CODE:
                if payload[:3] == b"421":
                    return _HANG_UP
                return "TEMPFAIL" if payload[:1] == b"4" else "REJECT"
            verdict = _VERDICTS.get(letter)
            if verdict is not None:
                return verdict
            if _KINDS.get(letter) not in (ReplyKind.EDIT, ReplyKind.PROGRESS):
                raise RemoteProtocolError(f"{escape(bytes((letter,)))} is no reply to {stage}")


class _Progress:
    """How far a message has come, as Postfix sees it.

    Attributes:
        skipped: The stage of which the milter wants no more.
        verdict: Empty while there is none.
    """

    __slots__ = ("_recipients", "skipped", "verdict")

    def __init__(self, script: _Script) -> None:
        self.skipped = ""
        self.verdict = ""
        self._recipients = script.recipients

    def take(self, stage: str, answer: str) -> None:
        """Take in the answer to a command."""
        if answer == "SKIP":
            self.skipped = stage
        elif stage == "rcpt" and answer in ("REJECT", "TEMPFAIL"):
            self._recipients -= 1
            if not self._recipients:
                self.verdict = answer
        elif answer != "CONTINUE" and not (answer == "DISCARD" and stage in _SESSION_STAGES):
            self.verdict = answer


async def _close(connection: _Connection) -> None:
    try:
        # As Postfix does, which has its client's session end before the connection.
        await connection.stream.write(_ABORT + _QUIT if connection.is_usable else _QUIT)
        await connection.stream.close()
    except OSError:
        # It has closed already; all was answered.
        connection.stream.abort()


def _rehearse(conversation: Conversation, question: Question, number: int) -> _Script:
    """Return what is said about a message if the milter continues at every command."""
    session = conversation.session
    queue_id = _QUEUE_ID.format(number).encode()
    exchanges: list[_Exchange] = []
    steps = conversation.send(question.envelope, question.content, question.client)
    for must_read in steps:
        if must_read:
            stage, data = session.awaited, session.data_to_send()
            assert stage is not None
            exchanges.append(_Exchange(stage, data, queue_id in data))
            session.receive_data(Continue().encode())
    session.data_to_send()  # ABORT, which follows every message
    recipients = sum(exchange.stage == "rcpt" for exchange in exchanges)
    return _Script(exchanges, queue_id, recipients)
