"""Holding a recorded conversation with a milter once more, and comparing what it says.

Rules of this file:

- An *answer* is what ends in a verdict: the edits and the verdict itself, or the milter's half of
  the negotiation. The MTA's packets are sent when as many answers have come as had come before
  they were recorded, so that no pause has to be guessed.
- PROGRESS is left out on both sides: how often a milter sends it depends on time alone.
- What follows a first missing answer was not sent, and is not compared. Nor is what comes after
  the end of a record that was cut off, as by a full disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest

from aiomilter.aio.dial import Stream, dial
from aiomilter.cli.packets import PacketCutter, describe
from aiomilter.cli.record import Entry
from aiomilter.errors import MilterUnavailable, RemoteProtocolError
from aiomilter.spec import REPLY_BY_LETTER, ReplyKind

__all__ = ["Answer", "Difference", "Outcome", "replay_connection"]

_READ_BYTES = 2**16
_LAST_ANSWERS_S = 1.0
"""How long something unasked may still come, where the record does not say that all had come."""
_ENDS_AN_ANSWER = frozenset(
    letter
    for letter, row in REPLY_BY_LETTER.items()
    if row.kind in (ReplyKind.VERDICT, ReplyKind.NEGOTIATION)
)
_PROGRESS, _NEGOTIATION = b"p", b"O"
_LETTER = slice(4, 5)


@dataclass(slots=True)
class Answer:
    """What a milter says to a command.

    Attributes:
        to: The command that was sent last before it.
        packets: As they came, with their length fields.
        is_whole: Whether the last one ends the answer.
    """

    to: str
    packets: list[bytes] = field(default_factory=list[bytes])
    is_whole: bool = False


@dataclass(slots=True)
class Difference:
    """An answer that is not the recorded one.

    Attributes:
        number: Of the answer on this connection, from 1 on.
        to: The command that it answers.
        recorded: The recorded packets; None if there was no such answer.
        now: The packets that came; None if there was none.
        note: What else there is to say; may be empty.
    """

    number: int
    to: str
    recorded: list[bytes] | None
    now: list[bytes] | None
    note: str = ""


@dataclass(slots=True)
class Outcome:
    """What came of one connection.

    Attributes:
        connection: Its number in the record.
        sent: How many of the MTA's packets were sent.
        answers: How many answers came.
        differences: Empty if all is the same.
        is_cut_off: Whether the record does not go on to the end of the connection.
    """

    connection: int
    sent: int
    answers: int
    differences: list[Difference]
    is_cut_off: bool = False


class _Answers:
    """Joins packets to answers."""

    def __init__(self) -> None:
        self.found: list[Answer] = []
        self.whole = 0
        self._was_packet = True

    def add(self, data: bytes, is_packet: bool, to: str) -> None:
        """Take in the next packet, or bytes that are none."""
        if is_packet and data[_LETTER] == _PROGRESS:
            return
        if not self.found or self.found[-1].is_whole:
            self.found.append(Answer(to))
        answer = self.found[-1]
        if not is_packet and not self._was_packet and answer.packets:
            # Where such bytes were cut is chance.
            answer.packets[-1] += data
        else:
            answer.packets.append(data)
        self._was_packet = is_packet
        if is_packet and data[_LETTER][0] in _ENDS_AN_ANSWER:
            answer.is_whole = True
            self.whole += 1


class _StoppedError(Exception):
    """The conversation cannot go on; the text says why."""

    def __init__(self, text: str, *, is_timeout: bool = False) -> None:
        super().__init__(text)
        self.is_timeout = is_timeout


async def replay_connection(
    entries: list[Entry], address: str, *, timeout_s: float, keeps_time: bool
) -> Outcome:
    """Send what the MTA sent on a recorded connection, and compare the answers.

    Args:
        entries: The connection's, in their order.
        address: Where the milter is.
        timeout_s: How long an answer may take.
        keeps_time: Whether to send no packet earlier than it was recorded.

    Raises:
        MilterUnavailable: There is no connection, or not even the negotiation is answered in time.
        RemoteProtocolError: What answers is no milter.
    """
    stream = await dial(address, timeout_s=timeout_s)
    talk = _Conversation(stream, timeout_s)
    listening = asyncio.create_task(talk.listen())
    try:
        note = ""
        try:
            await talk.follow(entries, keeps_time=keeps_time)
        except _StoppedError as error:
            note = str(error)
            if error.is_timeout and not talk.now.found:
                raise MilterUnavailable(
                    f"{address} takes the connection, but does not answer the first packet within "
                    f"{timeout_s:g} s; is it a milter, and is it busy?"
                ) from None
        talk.refuse_foreign()
        return Outcome(
            entries[0].connection, talk.sent, talk.now.whole, talk.compare(note), talk.is_cut_off
        )
    finally:
        listening.cancel()
        stream.writer.transport.abort()
        await asyncio.gather(listening, return_exceptions=True)


class _Conversation:
    """One connection to the milter, and both versions of what it says."""

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        self.recorded = _Answers()
        self.now = _Answers()
        self.sent = 0
        self._stream = stream
        self._timeout_s = timeout_s
        self._cutter = PacketCutter()
        self._foreign_reason = ""
        self._recorded_foreign = False
        self._last_sent = "the connection"
        self._is_closed = False
        self._changed = asyncio.Event()
        self.is_cut_off = False

    async def listen(self) -> None:
        """Take in what the milter sends, until it closes."""
        try:
            while data := await self._stream.reader.read(_READ_BYTES):
                for piece in self._cutter.receive(data):
                    self._foreign_reason = self._foreign_reason or piece.reason
                    self.now.add(piece.data, piece.is_packet, self._last_sent)
                self._changed.set()
        except OSError:
            # A reset ends it as well as a close.
            pass
        if rest := self._cutter.rest():
            self.now.add(rest.data, is_packet=False, to=self._last_sent)
        self._is_closed = True
        self._changed.set()

    async def follow(self, entries: list[Entry], *, keeps_time: bool) -> None:
        """Go through the record.

        Raises:
            _StoppedError: An answer, or the end of the connection, does not come.
        """
        loop = asyncio.get_running_loop()
        start = loop.time() - entries[0].t
        self.is_cut_off = entries[-1].event != "close"
        for entry in entries:
            if entry.sender == "milter":
                if entry.data:
                    self._expect(entry)
                elif entry.event in ("eof", "error"):
                    await self._until_closed()
                    return
            elif entry.sender == "mta":
                await self._until_answered()
                if keeps_time:
                    await asyncio.sleep(start + entry.t - loop.time())
                if entry.event == "error":
                    return
                self._send(entry)
        await self._until_answered()
        if self.is_cut_off:
            await self._until_last_begun()
        else:
            await self._take_in_the_rest()

    def compare(self, note: str) -> list[Difference]:
        """Return the differences; the last one with ``note``."""
        found: list[Difference] = []
        pairs = zip_longest(self.recorded.found, self._comparable())
        for number, (recorded, now) in enumerate(pairs, 1):
            if recorded is not None and now is not None and recorded.packets == now.packets:
                continue
            one = recorded or now
            assert one is not None
            then = None if recorded is None else recorded.packets
            found.append(Difference(number, one.to, then, None if now is None else now.packets))
        if note and found:
            found[-1].note = note
        elif note:
            found.append(Difference(len(self.now.found) + 1, self._last_sent, None, None, note))
        for difference in found[:-1]:
            if difference.recorded and difference.recorded[-1][_LETTER] == _NEGOTIATION:
                difference.note = "another negotiation makes the MTA send other packets than these"
        return found

    def _comparable(self) -> list[Answer]:
        """Return what came, as far as the record goes."""
        if not self.is_cut_off:
            return self.now.found
        recorded = self.recorded.found
        now = self.now.found[: len(recorded)]
        if now and len(now) == len(recorded) and not recorded[-1].is_whole:
            begin = now[-1].packets[: len(recorded[-1].packets)]
            now = [*now[:-1], Answer(now[-1].to, begin)]
        return now

    def refuse_foreign(self) -> None:
        """Raise `RemoteProtocolError` if what answers is no milter, as the recorded one was."""
        if self._cutter.is_foreign and not self._recorded_foreign:
            raise RemoteProtocolError(self._foreign_reason)

    def _expect(self, entry: Entry) -> None:
        is_packet = entry.event == "packet"
        self._recorded_foreign = self._recorded_foreign or not is_packet
        self.recorded.add(entry.data, is_packet, self._last_sent)

    def _send(self, entry: Entry) -> None:
        if entry.event == "eof":
            self._write_eof()
        elif entry.data:
            self._stream.writer.write(entry.data)
            is_packet = entry.event == "packet"
            self._last_sent = describe("mta", entry.data).name if is_packet else "bytes"
            self.sent += 1

    async def _until_answered(self) -> None:
        """Wait for as many answers as have been recorded up to here."""
        wanted = self.recorded.whole
        if not await self._until(lambda: self.now.whole >= wanted or self._is_closed):
            raise _StoppedError(f"no answer within {self._timeout_s:g} s", is_timeout=True)
        if self.now.whole < wanted:
            raise _StoppedError("the milter closed the connection")

    async def _until_last_begun(self) -> None:
        """Wait for as much of the last answer as has been recorded, if that is not the whole."""
        count = len(self.recorded.found)
        if not count or self.recorded.found[-1].is_whole:
            return
        size = len(self.recorded.found[-1].packets)

        def has_come() -> bool:
            found = self.now.found[count - 1 : count]
            return any(answer.is_whole or len(answer.packets) >= size for answer in found)

        if not await self._until(lambda: has_come() or self._is_closed):
            raise _StoppedError(f"no answer within {self._timeout_s:g} s", is_timeout=True)

    async def _until_closed(self) -> None:
        await self._until_answered()
        if not await self._until(lambda: self._is_closed):
            raise _StoppedError(
                f"the milter closed the connection when it was recorded; now it has not within "
                f"{self._timeout_s:g} s"
            )

    async def _take_in_the_rest(self) -> None:
        """Give the milter a moment for what was not recorded."""
        self._write_eof()
        await self._until(lambda: self._is_closed, _LAST_ANSWERS_S)

    def _write_eof(self) -> None:
        # The milter may be gone already.
        with contextlib.suppress(OSError):
            self._stream.writer.write_eof()

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s if timeout_s is None else timeout_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
