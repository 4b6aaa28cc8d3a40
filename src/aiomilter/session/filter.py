"""The milter's end of a connection: commands in, events out, verdicts in, replies out.

This is a state machine without input and output. Its owner feeds it bytes and asks for events::

    session.receive_data(data)
    while (event := session.next_event()) is not None:
        ...                         # an event with an answer: session.respond(...)
    transport.write(session.data_to_send())

Rules of this file:

- What is answered, and what follows it, is libmilter's (``mi_engine`` in ``engine.c``); where it
  is not, a comment says so and why.
- Stages without a handler are answered here, and their payload is not even looked at.
- Every command that expects an answer gets exactly one. The owner cannot go on before it has
  given it, and cannot give another.
- A message is *open* from its first command to its verdict. `MessageAborted` is reported once,
  for an open message only, and `SessionEnd` once a session; libmilter may do both twice.
- Whatever ends the connection (QUIT, the end of the stream, a broken rule, the owner), the
  events that close message and session are still to be fetched, up to `ConnectionEnd`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from aiomilter.errors import LocalProtocolError, RemoteProtocolError
from aiomilter.session.answers import AnsweringSession
from aiomilter.session.events import (
    ConnectionEnd,
    Event,
    Ignored,
    MessageAborted,
    MessageStart,
    SessionEnd,
    SessionStart,
)
from aiomilter.session.macros import MacroStore
from aiomilter.session.negotiation import (
    Agreement,
    NegotiationOffer,
    Request,
    negotiate,
    options_without,
    read_offer,
)
from aiomilter.session.stages import STAGES, EventWithAnswer, Stage, content_of
from aiomilter.session.states import (
    ABORTS,
    ABORTS_AND_SWALLOWS,
    NOT_A_COMMAND,
    PROCESS,
    moves_for,
)
from aiomilter.session.status import Status
from aiomilter.spec import (
    COMMAND_BY_LETTER,
    COMMANDS,
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION,
    Options,
    State,
)
from aiomilter.wire.commands import Body, OfferOptions
from aiomilter.wire.framing import HEAD_BYTES, PacketReader, unpack_head

__all__ = ["FilterSession"]

# Hot path: states as globals and plain integers (see `aiomilter.spec`).
_INIT, _HELO = int(State.INIT), int(State.HELO)
_MAIL, _BODY = int(State.MAIL), int(State.BODY)
_EOM, _UNKNOWN = int(State.EOM), int(State.UNKNOWN)
_ABORT_LETTER, _QUIT_LETTER, _HELO_LETTER, _MAIL_LETTER, _MACRO_LETTER = b"AQHMD"
_NO_MAIL = int(Options.NO_MAIL)
_MACROS_OF_MESSAGE = b"RTLNBE"
_RCPT_AND_DATA = b"RT"
_TEMPFAIL = Status.TEMPFAIL

_NO_STAGE_OPTIONS = int(sum(row.no_option for row in COMMANDS if row.no_option is not None))


class FilterSession(AnsweringSession):
    """One connection from an MTA, seen from the milter.

    The answers (`respond`, `owe`, …) are in `AnsweringSession`.

    Attributes:
        ends_in_macros: Whether the last packet was one of macros, so that a command is to follow.
        offer: The offer of options that waits for an answer, or None; to be looked at only.
        packets_received: How many packets have been taken in.
        reader: Where bytes wait that are no packet yet; to be looked at only.
    """

    __slots__ = (
        "_ended",
        "_eof",
        "_max_payload_bytes",
        "_moves",
        "_started",
        "ends_in_macros",
        "offer",
        "packets_received",
        "reader",
    )

    def __init__(self, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        """Begin with a connection that has just been accepted.

        Args:
            max_payload_bytes: The largest payload that the MTA may send once it has negotiated.
        """
        super().__init__()
        self._max_payload_bytes = max_payload_bytes
        self.reader = PacketReader(min(max_payload_bytes, MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION))
        self._moves = moves_for(0)
        self.offer: NegotiationOffer | None = None
        self._started = False
        self.ends_in_macros = False
        self._eof = False
        self._ended = False
        self.packets_received = 0

    # What the owner asks

    @property
    def state(self) -> State:
        """Where the session is."""
        return State(self._state)

    @property
    def is_in_transaction(self) -> bool:
        """Whether a message is open, or the MTA's macros tell of one that is not yet shown."""
        return self.message_is_open or self._is_announced

    @property
    def is_unanswered(self) -> bool:
        """Whether the last event expects an answer and has none."""
        return not self.queue and (self.awaiting is not None or self.offer is not None)

    @property
    def buffered_bytes(self) -> int:
        """The number of bytes received and not yet processed."""
        return self.reader.buffered_bytes

    @property
    def has_negotiated(self) -> bool:
        """Whether the negotiation is over, or was left out by the MTA."""
        return self._state != _INIT and self.offer is None

    @property
    def has_eof(self) -> bool:
        """Whether the MTA will send nothing more."""
        return self._eof

    # Input

    def receive_data(self, data: bytes) -> None:
        """Take in bytes from the MTA; after the end of the connection they are of no interest.

        Nor are they after `receive_eof`: what came before may be discarded by now, and these
        would begin anywhere in a packet.
        """
        self.reader.receive_data(data)

    def receive_eof(self) -> None:
        """Note that the MTA will send nothing more; what it has sent is still processed."""
        self._eof = True
        self.reader.is_closed = True

    def discard_input(self) -> None:
        """Forget what was received and not yet processed."""
        self.reader.discard()

    def close(self) -> None:
        """End the connection from this side.

        Nothing that was received is processed any more and the answer to an open event is no
        longer expected. The closing events are still to be fetched.
        """
        if self._ended:
            return
        self._ended = self.reader.is_closed = True
        self.discard_input()
        self.offer = None
        self.awaiting = None
        self._eom_follows = False
        self.queue.clear()
        if self.message_is_open:
            self._end_message()
            self.queue.append(MessageAborted())
        if self._started:
            self._started = False
            self.queue.append(SessionEnd())
        self.queue.append(ConnectionEnd())

    def end_session_again(self) -> None:
        """Report `SessionEnd` once more: not all that it is for could be done."""
        self.queue.insert(0, SessionEnd())

    def next_event(self) -> Event | None:
        """Return the next event, or None if more bytes are needed.

        Raises:
            RemoteProtocolError: The MTA broke a rule that libmilter ends the connection for. The
                closing events follow.
            LocalProtocolError: The event before this one has not been answered.
        """
        if self.queue:
            return self.queue.pop(0)
        if self.awaiting is not None or self.offer is not None:
            raise LocalProtocolError("the last event has not been answered yet")
        try:
            while (packet := self.reader.next_packet()) is not None:
                self.packets_received += 1
                letter, payload = packet
                if letter == _MACRO_LETTER:
                    if self._receive_macros(payload):
                        return MessageAborted()
                    continue
                has_macros = self.ends_in_macros
                self.ends_in_macros = False
                move = self._moves[self._state][letter]
                if not self._started and move != NOT_A_COMMAND and letter != _QUIT_LETTER:
                    self._started = True
                    self._put_back(letter, payload)
                    return SessionStart()
                if move == PROCESS:
                    stage = STAGES.get(letter)
                    if stage is None:
                        event = self._others[letter](self, payload)
                    else:
                        event = self._receive_command(stage, letter, payload)
                elif move == NOT_A_COMMAND:
                    raise RemoteProtocolError("an unknown command", bytes((letter,)) + payload)
                else:
                    event = self._receive_unexpected(letter, payload, move, has_macros)
                if event is not None:
                    return event
        except RemoteProtocolError:
            self.close()
            raise
        if self._eof:
            self.close()
        return self._closing_event() if self._ended else None

    def receive(self, data: bytes) -> Event | None:
        """Take in bytes and return the next event: `receive_data` and `next_event` in one.

        Raises:
            RemoteProtocolError: As `next_event`.
            LocalProtocolError: As `next_event`; the bytes are taken in.
        """
        # Hot path: nearly all reads are one command of an open message. This does for it what
        # those two do, with half of their steps (a sixth of all steps of the library).
        reader = self.reader
        size = len(data)
        if self.message_is_open and not reader.buffer and size >= HEAD_BYTES:
            length, letter = unpack_head(data)
            content = content_of(letter)
            if content is not None and size == length + 4 <= reader.max_payload_bytes + 5:
                target, bit, no_reply, decode = content
                if (
                    self._wanted & bit
                    and self._moves[self._state][letter] == PROCESS
                    and self.awaiting is None
                    and not (self._owed or reader.is_closed)
                ):
                    try:
                        event = decode(data[HEAD_BYTES:])
                    except RemoteProtocolError:
                        # The long way finds out what is wrong, too, and ends the connection.
                        reader.receive_data(data)
                        return self.next_event()
                    self.packets_received += 1
                    self.ends_in_macros = False
                    self._state = self.awaiting = target
                    self._awaiting_no_reply = no_reply
                    return event
        reader.receive_data(data)
        return self.next_event()

    # Commands

    def _put_back(self, letter: int, payload: bytes) -> None:
        """Have the packet that is being processed come once more."""
        self.packets_received -= 1
        self.reader.put_back(letter, payload)

    def _receive_command(self, stage: Stage, letter: int, payload: bytes) -> Event | None:
        """Process one of `STAGES`; return its event, or None if it was answered here."""
        target, bit, needs_payload, decode, no_reply, clear_from = stage
        if needs_payload and not payload:
            name = COMMAND_BY_LETTER[letter].name
            raise RemoteProtocolError(f"a {name} packet without payload")
        if self._refusal_of_data is not None and letter in _RCPT_AND_DATA:
            # Only without MAIL: with it, they are out of order here.
            self._refuse_again(no_reply)
            return None
        if clear_from:
            self.macros.clear_from(clear_from)
        event: EventWithAnswer | None = None
        if self._wanted & bit:
            if letter == _HELO_LETTER and payload[-1]:
                # The one malformed payload that does not end the connection: libmilter's helo
                # handler fails without a result, and nothing is answered.
                self._state = target
                return Ignored("helo", State.HELO, "it does not end in NUL")
            event = decode(payload)
        may_answer = not self._options & no_reply
        starts = False
        if not self.message_is_open:
            self._state = target
            if self._refusal is not None and not self._spares_message:
                if may_answer:
                    self._conclude(target, _TEMPFAIL, self._refusal)
                    return None
                self._owed = _TEMPFAIL, self._refusal
            if _MAIL <= target <= _BODY:
                self._begin_message()
                starts = True
        elif target != _UNKNOWN:
            # An unknown command leaves an open message where it is. libmilter forgets the
            # message's state and may then answer nothing more of it.
            self._state = target
        if self._owed is not None and may_answer:
            event = None
            self._conclude(target, *self._owed)
            starts = starts and self.message_is_open
        elif event is None or self._owed is not None:
            # A message that is already lost is not shown to the milter any more.
            event = None
            self._answer_continue(no_reply)
        else:
            self.awaiting = target
            self._awaiting_no_reply = no_reply
        if starts:
            if event is not None:
                self.queue.append(event)
            return MessageStart()
        return event

    def _receive_macros(self, payload: bytes) -> bool:
        """Keep macros; return whether they tell that the message in progress was given up."""
        if not payload:
            raise RemoteProtocolError("a macro packet without payload")
        self.macros.store(payload, self.ends_in_macros)
        self.ends_in_macros = True
        # Where MAIL is not wanted, Sendmail says nothing at RSET either. All that it sends of the
        # next message's beginning are the macros of MAIL.
        is_unseen_mail = payload[0] == _MAIL_LETTER and self._options & _NO_MAIL > 0
        if is_unseen_mail:
            self._mail_is_told = True
            self._refusal_of_data = None
        is_next = is_unseen_mail and self.message_is_open
        if is_next:
            self._state = _HELO
            self._end_message(next_has_macros=True)
        if payload[0] in _MACROS_OF_MESSAGE:
            self._is_announced = True
        return is_next

    def _receive_offer(self, payload: bytes) -> Event | None:
        if not payload:
            raise RemoteProtocolError("a negotiate packet without payload")
        self._state = int(State.NEGOTIATION)
        self.macros.clear_from(0)
        self.offer = read_offer(OfferOptions.decode(payload))
        return self.offer

    def _receive_end_of_message(self, payload: bytes) -> Event | None:
        self._state = _EOM
        starts = not self.message_is_open
        if starts:
            if self._refusal is not None and not self._spares_message:
                self._conclude(_EOM, _TEMPFAIL, self._refusal)
                return None
            self._begin_message()
        event: Event | None
        wants_body = 1 << _BODY & self._wanted
        if payload and wants_body and self._owed is None:
            # The answer to this last piece is no answer to the MTA unless it is a verdict.
            self.awaiting = _BODY
            self._awaiting_no_reply = 0
            self._eom_follows = True
            event = Body(payload)
        else:
            event = self._reach_end_of_message()
        if event is not None and starts:
            self.queue.append(event)
            return MessageStart()
        return event

    def _receive_abort(self, payload: bytes) -> Event | None:
        # Postfix sends one after every message, finished or not: nothing to report then.
        del payload
        self._forget_refusal()
        self._state = int(State.ABORT)
        return self._abort_message()

    def _receive_quit(self, payload: bytes) -> Event | None:
        del payload
        self._state = int(State.QUIT)
        self.close()
        return self._closing_event()

    def _receive_quit_new_connection(self, payload: bytes) -> Event | None:
        del payload
        self._state = int(State.QUIT_NC)
        # The session that ends still sees its macros; the next one begins without any.
        self.macros = MacroStore()
        self._owed = self._refusal_of_data = None
        self._started = False
        return SessionEnd()

    def _receive_unexpected(
        self, letter: int, payload: bytes, move: int, has_macros: bool
    ) -> Event | None:
        """Process a command that does not follow from the current state."""
        before = State(self._state)
        self._state = _HELO
        if move == ABORTS or (move == ABORTS_AND_SWALLOWS and self.message_is_open):
            # Once more from HELO, to be processed, or swallowed, there.
            self._put_back(letter, payload)
            return self._abort_message(has_macros)
        if letter == _QUIT_LETTER:
            self.close()
            return self._closing_event()
        if letter == _ABORT_LETTER:
            self._forget_refusal()
            return None
        if letter in _RCPT_AND_DATA and self._refuse_again(STAGES[letter].no_reply):
            return None
        return Ignored(COMMAND_BY_LETTER[letter].name, before, "it is out of order")

    def start(self, handled: int) -> None:
        """Answer `SessionStart`: say which stages have a handler.

        Args:
            handled: A mask with the bit ``1 << state`` of each of them.
        """
        self._handled = self._wanted = handled
        if self._state == State.INIT:
            self._options = self._options_sent = options_without(handled)
            self._moves = moves_for(self._options)

    def agree(self, request: Request) -> Agreement:
        """Answer a `NegotiationOffer`.

        Raises:
            RemoteProtocolError: The MTA lacks what is requested; the connection ends.
            LocalProtocolError: There is no open offer, or a macro request has a NUL in it.
        """
        offer = self.offer
        if offer is None:
            raise LocalProtocolError("there is no offer to answer")
        try:
            agreement = negotiate(offer, request)
        except RemoteProtocolError:
            self.close()
            raise
        # A reply that cannot be sent leaves the offer open.
        reply = agreement.reply.encode()
        self.offer = None
        self.actions = agreement.actions
        self._offered_options = offer.options
        # What was unwanted before the negotiation may be stepped over for good.
        skippable = self._options | agreement.options
        self._options = agreement.options
        self._options_sent = agreement.options_sent
        self._moves = moves_for(skippable & _NO_STAGE_OPTIONS)
        self.reader.max_payload_bytes = self._max_payload_bytes
        self.outgoing.append(reply)
        return agreement

    def _forget_refusal(self) -> None:
        """The message of which something was said or refused is over."""
        self._is_announced = self._spares_message = False
        self._refusal_of_data = None

    def _abort_message(self, next_has_macros: bool = False) -> Event | None:
        if not self.message_is_open:
            return None
        self._end_message(next_has_macros)
        return MessageAborted()

    def _closing_event(self) -> Event:
        return self.queue.pop(0) if self.queue else ConnectionEnd()

    # The commands that are more, or less, than an event with an answer.
    _others: ClassVar[dict[int, Callable[[FilterSession, bytes], Event | None]]] = {
        ord("O"): _receive_offer,
        ord("E"): _receive_end_of_message,
        ord("A"): _receive_abort,
        ord("Q"): _receive_quit,
        ord("K"): _receive_quit_new_connection,
    }
