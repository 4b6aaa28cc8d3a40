"""What is noted while a session is served, for the record of each message and for observers.

A dispatcher has a `Watch` only if somebody listens: an observer, or the logger
``aiomilter.message``. Nothing here has an effect on mail.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from aiomilter.app.facts import Facts
from aiomilter.app.observer import Observers
from aiomilter.app.record import MessageRecord, count_edits, cut_recipients, cut_text
from aiomilter.app.reply import Reply
from aiomilter.app.results import name_of_result
from aiomilter.session.events import Event
from aiomilter.session.status import Status
from aiomilter.wire.commands import Body, Data, EndOfHeaders, EndOfMessage, Header, Mail, Rcpt

__all__ = ["Observation", "Watch"]

_logger = logging.getLogger("aiomilter")
_messages = logging.getLogger("aiomilter.message")

_STAGES: dict[type[Event], str] = {
    Mail: "mail",
    Rcpt: "rcpt",
    Data: "data",
    EndOfHeaders: "eoh",
    Body: "body",
    EndOfMessage: "eom",
}
_REFUSALS = (Status.REJECT, Status.TEMPFAIL)


class Observation:
    """What the connections of a server need to be watched.

    Attributes:
        observers: Who is told.
        clock: Returns a time in seconds that never goes back.
    """

    __slots__ = ("clock", "observers")

    def __init__(self, observers: Observers, clock: Callable[[], float]) -> None:
        self.observers = observers
        self.clock = clock

    def watch(self, facts: Facts) -> Watch | None:
        """Return a watch for a session that begins, or None if nobody listens."""
        if self.observers.is_empty and not _messages.isEnabledFor(logging.INFO):
            return None
        return Watch(self, facts)


class Watch:
    """Notes what happens in one session.

    Attributes:
        hears_handlers: Whether somebody wants to know of each handler.
    """

    __slots__ = (
        "_began_at",
        "_called_at",
        "_clock",
        "_edits",
        "_facts",
        "_faults",
        "_has_begun",
        "_is_open",
        "_observers",
        "_refused",
        "_reply",
        "_size_bytes",
        "_stage",
        "_status",
        "hears_handlers",
    )

    def __init__(self, observation: Observation, facts: Facts) -> None:
        self._clock = observation.clock
        self._observers = observation.observers
        self.hears_handlers = observation.observers.hears_handlers
        self._facts = facts
        self._has_begun = False
        self._is_open = False
        self._called_at = 0.0
        self._clear()

    def _clear(self) -> None:
        self._began_at = 0.0
        self._stage = "-"
        self._status: Status | None = None
        self._reply: Reply | None = None
        self._edits = b""
        self._size_bytes = self._faults = self._refused = 0

    def begin_session(self) -> None:
        """Note that there is a session, unless it is known."""
        if not self._has_begun:
            self._has_begun = True
            self._observers.session_started(self._facts.session_id, self._facts.listener)

    def end_session(self) -> None:
        """Note the end of the session."""
        if self._facts.macro_store.version:
            # Of a session that the milter was shown nothing of. A health check sends no macros.
            self.begin_session()
        self.settle(is_open=False)

    def begin_message(self) -> None:
        """Note that a message begins; the facts are still those of the one before."""
        self.begin_session()
        if self._is_open:
            self._facts.context.end()
            # The macros are the next one's.
            self.settle(is_open=False, macros={})
        self._clear()
        self._is_open = True
        self._began_at = self._clock()

    def see(self, event: Event) -> None:
        """Note an event that is shown to the milter."""
        if not self._has_begun:
            self.begin_session()
        # Hot path: `start_clock` without its call.
        if self.hears_handlers:
            self._called_at = self._clock()
        if type(event) is Header:
            # Hot path: there are more of these than of all the rest.
            self._stage = "header"
            self._size_bytes += len(event.name) + len(event.value)
            return
        self._stage = _STAGES.get(type(event), self._stage)
        if type(event) is Body:
            self._size_bytes += len(event.chunk)

    def start_clock(self) -> None:
        """Note that a handler is about to be called."""
        if self.hears_handlers:
            self._called_at = self._clock()

    def note_handler(self, handler: str, result: object) -> None:
        """Note that a handler has returned, or failed."""
        if self.hears_handlers:
            seconds = self._clock() - self._called_at
            self._observers.handler_finished(handler, seconds, name_of_result(result))

    def note_fault(self, handler: str, kind: str) -> None:
        """Note a fault."""
        # Its verdict may leave when the macros are already another message's: look it up now.
        _ = self._facts.context.queue_id
        self._faults += 1
        self._observers.handler_failed(handler, kind)

    def note_dropped(self, handler: str) -> None:
        """Note a verdict that had no effect."""
        self._observers.verdict_dropped(handler)

    def note_answer(
        self, stage: str, status: Status, result: object = None, edits: bytes = b""
    ) -> None:
        """Note an answer, also one that is given later (the result of a fault)."""
        self._stage = stage
        self._status = status
        self._reply = result if isinstance(result, Reply) else None
        self._edits = edits
        if stage == "rcpt" and status in _REFUSALS:
            self._refused += 1

    def settle(
        self, *, is_open: bool, is_aborted: bool = False, macros: Mapping[str, str] | None = None
    ) -> None:
        """Make the record of the message that is over, if there is one.

        Args:
            is_open: Whether the message in hand is still open.
            is_aborted: Whether it was given up without a verdict.
            macros: Those of that message; None for those that are visible.
        """
        if is_open or not self._is_open:
            return
        self._is_open = False
        try:
            record = self._record(is_aborted, self._facts.macros if macros is None else macros)
        except Exception:
            # A fault of the library: mail comes first.
            _logger.exception("the record of a message could not be made")
            return
        try:
            _messages.info(
                "%s",
                record,
                extra={
                    "aiomilter": record.as_dict(),
                    "session_id": record.session_id,
                    "queue_id": record.queue_id,
                },
            )
        except Exception:
            # A filter or a handler of the log, which may be the user's.
            _logger.exception("the record of a message could not be logged")
        self._observers.message_finished(record)

    def _record(self, is_aborted: bool, macros: Mapping[str, str]) -> MessageRecord:
        facts = self._facts
        # A message that ends without being told is one that was lost with the session.
        verdict = "abort" if is_aborted else (self._status or Status.TEMPFAIL).name.lower()
        reply = None if is_aborted else self._reply
        edits = count_edits(self._edits)
        sender = facts.sender
        if sender is None and (address := macros.get("{mail_addr}")) is not None:
            sender = f"<{address}>"
        known = facts.connect is not None
        return MessageRecord(
            session_id=facts.session_id,
            listener=cut_text(facts.listener, 100) or "",
            queue_id=cut_text(facts.context.queue_id, 64),
            client=cut_text(str(facts.client) if known else macros.get("{client_addr}"), 80),
            hostname=cut_text(facts.hostname if known else macros.get("{client_name}"), 120),
            helo_name=cut_text(facts.helo_name or macros.get("s"), 120),
            sender=cut_text(sender, 254),
            recipients=cut_recipients(facts.recipients),
            recipient_count=len(facts.recipients),
            refused_recipients=self._refused,
            verdict=verdict,
            code=None if reply is None else reply.code,
            enhanced_code=None if reply is None else reply.enhanced_code,
            stage=self._stage,
            edits=edits,
            is_quarantined="quarantine" in edits,
            seconds=max(0.0, self._clock() - self._began_at),
            size_bytes=self._size_bytes,
            faults=self._faults,
        )
