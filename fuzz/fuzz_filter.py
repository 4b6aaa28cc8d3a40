"""Any bytes, cut anywhere, under any handlers and verdicts, give events or RemoteProtocolError.

Beyond that: each command gets at most one answer, and exactly one if it is to get any; events
come in pairs; how the bytes are cut changes nothing; what is kept and what is sent are bounded.

An input is the script of one connection: `_HEAD_BYTES` that say what the milter does, then what
the MTA sends, either raw or as packets without their lengths (see `Script`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from aiomilter.errors import LocalProtocolError, RemoteProtocolError
from aiomilter.session.events import (
    ConnectionEnd,
    Event,
    Ignored,
    MessageAborted,
    MessageStart,
    SessionEnd,
    SessionStart,
)
from aiomilter.session.filter import FilterSession
from aiomilter.session.negotiation import NegotiationOffer, Request
from aiomilter.session.status import Status
from aiomilter.wire.commands import (
    Body,
    Connect,
    Data,
    EndOfHeaders,
    EndOfMessage,
    Header,
    Helo,
    Mail,
    Rcpt,
    Unknown,
)
from fuzz.packets import DIALOGUES, OFFER, SEPARATOR, letters_received, packet, split_packets

_HEAD = struct.Struct(">BHIH8s8s")
_HEAD_BYTES = _HEAD.size

# Bits of a script's first byte.
RAW, OWN_OPTIONS, EARLY_END, NO_END = 1, 2, 4, 8
PAYLOAD_LIMITS = (65_535, 4_096, 64, 0)  # by its two highest bits

# What follows is the protocol once more, by hand: the tables of the library are under test.
STAGES = {"C": 2, "H": 3, "M": 4, "R": 5, "T": 6, "L": 7, "N": 8, "B": 9, "E": 10, "U": 13}
NO_EVENT = {
    "C": 0x1, "H": 0x2, "M": 0x4, "R": 0x8, "B": 0x10, "L": 0x20, "N": 0x40, "U": 0x100, "T": 0x200,
}  # fmt: skip
NO_REPLY = {
    "L": 0x80, "C": 0x1000, "H": 0x2000, "M": 0x4000, "R": 0x8000, "T": 0x10000, "U": 0x20000,
    "N": 0x40000, "B": 0x80000,
}  # fmt: skip
ANSWERED = frozenset(b"OCHMRTLNBEU")
LETTER_OF_IGNORED = {
    "negotiate": ord("O"), "connect": ord("C"), "helo": ord("H"), "mail": ord("M"),
    "rcpt": ord("R"), "data": ord("T"), "header": ord("L"), "eoh": ord("N"), "body": ord("B"),
    "eom": ord("E"), "unknown": ord("U"), "quit_nc": ord("K"),
}  # fmt: skip
ANSWERS = frozenset(b"Oacrtdys")
ALL_OPTIONS = 0x1FFFFF
OPTIONS_BESIDE_EVENTS = 0x0FF080 | 0x400 | 0x800 | 0x100000

_WITH_ANSWER = (
    Connect | Helo | Mail | Rcpt | Data | Header | EndOfHeaders | Body | EndOfMessage | Unknown
)
_OF_MESSAGE = Mail | Rcpt | Data | Header | EndOfHeaders | Body | EndOfMessage

TEXT = b"550 5.7.1 100%% sure"
EDITS = packet(b"h", b"X-Seen\0yes\0") + packet(b"b", b"new body\r\n")

# What the milter says, by the lower half of a byte; the other values mean CONTINUE.
VERDICTS = {
    5: (Status.REJECT, TEXT),
    6: (Status.TEMPFAIL, TEXT),
    7: (Status.REJECT, b"550 a\0b"),
    8: (Status.REJECT, None),
    9: (Status.TEMPFAIL, None),
    10: (Status.DISCARD, None),
    11: (Status.ACCEPT, None),
    12: (Status.SKIP, None),
    13: (Status.NOREPLY, None),
    14: (Status.ALL_OPTS, None),
}
CLOSES = 15
# And beside it, by the upper half.
WITH_EDITS, WITH_PROGRESS, OWES, REFUSES = 0x10, 0x20, 0x40, 0x80


@dataclass(frozen=True, slots=True)
class Script:
    """What happens on one connection."""

    flags: int
    handled: int
    options: int
    actions: int
    verdicts: bytes
    cuts: bytes
    stream: bytes

    @classmethod
    def read(cls, data: bytes) -> Script:
        """Make a script of an input; one that is too short is filled up."""
        head = data[:_HEAD_BYTES].ljust(_HEAD_BYTES, b"\0")
        flags, stages, options, actions, verdicts, cuts = _HEAD.unpack(head)
        stream = data[_HEAD_BYTES:]
        if not flags & RAW:
            pieces = stream.split(SEPARATOR) if stream else []
            stream = b"".join(packet(piece[:1] or b"Q", piece[1:]) for piece in pieces)
        handled, unwanted = 0, 0
        for bit, (letter, stage) in enumerate(STAGES.items()):
            if stages >> bit & 1:
                handled |= 1 << stage
            else:
                unwanted |= NO_EVENT.get(letter, 0)
        if flags & OWN_OPTIONS:
            options &= ALL_OPTIONS
        else:
            options = options & OPTIONS_BESIDE_EVENTS | unwanted
        return cls(flags, handled, options, actions & 0x1FF, verdicts, cuts, stream)

    @property
    def max_payload_bytes(self) -> int:
        """The limit that the milter sets for packets."""
        return PAYLOAD_LIMITS[self.flags >> 6]

    def chunks(self) -> Iterator[bytes]:
        """Yield the stream in pieces of one byte to some kilobytes."""
        at = turn = 0
        while at < len(self.stream):
            cut = self.cuts[turn % len(self.cuts)]
            size = cut % 32 + 1 if cut < 192 else (cut - 191) * 64
            yield self.stream[at : at + size]
            at += size
            turn += 1


def head(
    flags: int = 0,
    stages: int = 0x3FF,
    options: int = 0,
    actions: int = 0x1FF,
    verdicts: bytes = b"",
    cuts: bytes = b"",
) -> bytes:
    """Return the beginning of an input, as `Script.read` reads it."""
    return _HEAD.pack(
        flags, stages, options, actions, verdicts.ljust(8, b"\0"), cuts.ljust(8, b"\x1d")
    )


@dataclass(slots=True)
class Trace:
    """All that can be seen of a session from outside."""

    events: list[tuple[Event, tuple[tuple[bytes, bytes], ...]]] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)
    broken_rule: str | None = None
    packets: int = 0


class Owner:
    """Feeds a session and serves its events by a script, with an eye on every step."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.session = FilterSession(script.max_payload_bytes)
        self.trace = Trace()
        self.letters = letters_received(script.stream)
        self.turn = 0
        self.received = 0
        self.packets_seen = 0
        # Answers that were given, that commands have asked for, and that had to be given; and
        # the commands that the two ends agreed to leave without one.
        self.answers = self.asked = self.due = 0
        self.silent: frozenset[int] = frozenset()
        self.own_bytes = 0
        self.was_closed = self.has_ended = self.has_owed = self.may_be_over = False
        self.in_session = self.in_message = False

    # The connection

    def run(self, chunks: Iterable[bytes], *, end_is_early: bool) -> Trace:
        """Play the whole connection and return what was seen."""
        for chunk in chunks:
            self.session.receive_data(chunk)
            self.received += len(chunk)
            if end_is_early and self.received == len(self.script.stream):
                self.session.receive_eof()
            self.serve_events()
            self.check_what_is_kept(len(chunk))
        if self.script.flags & NO_END:
            self.session.close()
            self.was_closed = True
        else:
            self.session.receive_eof()
        self.serve_events()
        assert self.has_ended, "no end of the connection"
        assert isinstance(self.session.next_event(), ConnectionEnd), "more after the end"
        assert not self.session.outgoing, "an answer after the end"
        self.check_nothing_is_open()
        self.trace.packets = self.session.packets_received
        return self.trace

    def serve_events(self) -> None:
        """Take events and answer them until none is left."""
        while not self.has_ended:
            try:
                event = self.session.next_event()
            except RemoteProtocolError as error:
                self.note_broken_rule(error)
                continue
            self.take_output(event)
            if event is None:
                assert not self.was_closed, "no end after the connection was closed"
                self.check_every_command_was_answered()
                return
            macros = tuple(self.session.macros.visible().items())
            self.trace.events.append((event, macros))
            self.check_pairs(event)
            self.serve(event)
            self.take_output(event)

    def note_broken_rule(self, error: RemoteProtocolError) -> None:
        """Note that the MTA is at fault: a last time, and the end follows."""
        assert not self.was_closed, f"a second end: {error}"
        self.was_closed = True
        self.take_output(None)
        self.trace.broken_rule = error.rule

    # Events and answers

    def serve(self, event: Event) -> None:
        """Do what the script says."""
        session = self.session
        if isinstance(event, SessionStart):
            session.start(self.script.handled)
        elif isinstance(event, NegotiationOffer):
            self.agree(event)
        elif isinstance(event, _WITH_ANSWER):
            self.answer(event)
        elif isinstance(event, MessageStart):
            if self.next_byte() & OWES:
                session.owe(Status.TEMPFAIL)
                self.has_owed = True
        elif isinstance(event, ConnectionEnd):
            self.has_ended = True
        elif isinstance(event, Ignored):
            letter = LETTER_OF_IGNORED[event.command]
            self.due -= letter in ANSWERED and letter not in self.silent

    def agree(self, offer: NegotiationOffer) -> None:
        """Answer an offer."""
        assert self.session.is_unanswered
        request = Request(self.script.actions & offer.actions, self.script.options, {0: b"j i"})
        try:
            agreement = self.session.agree(request)
        except RemoteProtocolError as error:
            self.note_broken_rule(error)
            return
        silent = request.options & offer.options
        self.silent = frozenset(ord(letter) for letter, bit in NO_REPLY.items() if silent & bit)
        assert not agreement.options_sent & ~offer.options, "an option that was not offered"
        # Three numbers and a request of macros are more than an answer.
        self.own_bytes += 30

    def answer(self, event: Event) -> None:
        """Give a verdict, or try to: what cannot be sent must change nothing."""
        session = self.session
        assert session.is_unanswered
        byte = self.next_byte()
        is_end = isinstance(event, EndOfMessage)
        if byte & WITH_PROGRESS:
            refused(session.send_progress, is_refused=not is_end)
            self.own_bytes += 5
        if byte & 0x0F == CLOSES:
            session.close()
            self.was_closed = True
            return
        if byte & REFUSES:
            session.refuse_new_messages(b"421 4.3.2 later")
            self.has_owed = True
        status, text = VERDICTS.get(byte & 0x0F, (Status.CONTINUE, None))
        edits = EDITS if byte & WITH_EDITS else b""
        is_wrong = (
            (bool(edits) and not is_end)
            or (status is Status.NOREPLY and session.may_answer())
            or status is Status.ALL_OPTS
            or (text is not None and b"\0" in text)
        )
        if is_wrong:
            refused(lambda: session.respond(status, text, edits), is_refused=True)
            refused(session.next_event, is_refused=True)
            status, text, edits = Status.CONTINUE, None, b""
        session.respond(status, text, edits)
        self.own_bytes += len(edits)
        if byte & OWES:
            session.owe(Status.REJECT, TEXT)
            self.has_owed = True

    def next_byte(self) -> int:
        """Return the next byte of the script's verdicts, which begin anew at their end."""
        self.turn += 1
        return self.script.verdicts[(self.turn - 1) % len(self.script.verdicts)]

    # Invariants

    def take_output(self, event: Event | None) -> None:
        """Take what is to be sent after ``event`` and count the answers in it."""
        taken = self.letters[self.packets_seen : self.session.packets_received]
        self.packets_seen += len(taken)
        self.asked += sum(letter in ANSWERED for letter in taken)
        self.due += sum(letter in ANSWERED and letter not in self.silent for letter in taken)
        data = self.session.data_to_send()
        if not data:
            return
        answers = sum(reply[0] in ANSWERS for reply in split_packets(data))
        self.answers += answers
        self.trace.sent += data
        assert self.answers <= self.asked, f"{self.answers} answers to {self.asked} commands"
        # The longest answer is the script's own text.
        bound = self.own_bytes + self.answers * (6 + len(TEXT))
        assert len(self.trace.sent) <= bound, f"{len(self.trace.sent)} bytes sent, above {bound}"
        # A message ends with its verdict, of which no event tells: one that was given here, or
        # by the session for an end of message without handler or for a verdict that was owed.
        may_end = not taken or ord("E") in taken or self.has_owed
        is_over = isinstance(event, MessageStart) or not self.session.message_is_open
        if not answers or not may_end or not is_over:
            return
        if self.was_closed:
            # The end, too, leaves no message open: whether one is aborted is not known yet.
            self.may_be_over = True
        elif not isinstance(event, MessageAborted):
            self.in_message = False

    def check_every_command_was_answered(self) -> None:
        """Compare the number of answers with what the commands so far must have got."""
        assert self.answers == self.due, f"{self.answers} answers, not {self.due}"

    def check_what_is_kept(self, chunk_bytes: int) -> None:
        """The buffer holds a piece of one packet, and what one chunk has brought."""
        session = self.session
        limit = max(self.script.max_payload_bytes, 4_096) + 5
        assert session.buffered_bytes < limit, f"{session.buffered_bytes} bytes are kept"
        # What is private is looked at, since no public name tells what memory is held.
        held = len(session.reader.buffer)
        assert held < limit + chunk_bytes, f"a buffer of {held} bytes"
        kept = (session.macros._sets or (), session.macros._overwritten or ())
        macros = sum(len(payload) for sets in kept for payload in sets if payload is not None)
        assert macros <= min(14 * limit, self.received), f"{macros} bytes of macros"
        assert not session.queue
        assert not session.outgoing

    def check_nothing_is_open(self) -> None:
        """At the end, all closing events have been seen."""
        assert not self.in_session, "a session is left open"
        assert not self.in_message, "a message is left open"

    def check_pairs(self, event: Event) -> None:
        """Sessions and messages begin once, end once, and never overlap."""
        if isinstance(event, ConnectionEnd):
            self.check_nothing_is_open()
            return
        if isinstance(event, SessionStart):
            assert not self.in_session, "a session inside a session"
            self.in_session = True
            return
        assert self.in_session or isinstance(event, Ignored), f"{event} outside of a session"
        if isinstance(event, SessionEnd):
            assert not self.in_message or self.may_be_over, "the session ends before its message"
            self.in_session = self.in_message = False
        elif isinstance(event, MessageStart):
            assert not self.in_message, "a message inside a message"
            self.in_message = True
        elif isinstance(event, MessageAborted):
            assert self.in_message, "there is no message to abort"
            self.in_message = False
        elif isinstance(event, _OF_MESSAGE):
            assert self.in_message, f"{event} outside of a message"
        elif isinstance(event, Connect | Helo | NegotiationOffer):
            assert not self.in_message, f"{event} inside a message"
        if self.was_closed:
            assert isinstance(event, MessageAborted | SessionEnd), f"{event} after the end"
        else:
            assert self.session.message_is_open == self.in_message, f"{event}: who is right?"


def refused(call: Callable[[], object], *, is_refused: bool) -> None:
    """Make a call that must, or must not, raise LocalProtocolError."""
    try:
        call()
    except LocalProtocolError:
        assert is_refused, "a legal call was refused"
    else:
        assert not is_refused, "an illegal call was taken"


def check(data: bytes) -> None:
    """Play a script twice: all bytes at once, and cut into pieces."""
    script = Script.read(data)
    is_early = bool(script.flags & EARLY_END)
    whole = Owner(script).run([script.stream], end_is_early=is_early)
    pieces = Owner(script).run(script.chunks(), end_is_early=not is_early)
    assert whole == pieces, f"it matters how the bytes are cut:\n{whole}\n{pieces}"


def describe(data: bytes) -> str:
    """Return the script."""
    script = Script.read(data)
    sizes = [len(chunk) for chunk in script.chunks()]
    return f"{script}\nlimit {script.max_payload_bytes}, cut into pieces of {sizes} bytes"


def seeds() -> Iterator[bytes]:
    """Yield each dialogue with no handler, all handlers, and a refusal late; raw as well."""
    for number, dialogue in enumerate(DIALOGUES):
        packets = SEPARATOR.join(dialogue)
        raw = b"".join(packet(piece[:1], piece[1:]) for piece in dialogue)
        yield head(cuts=b"\3\x1f\7\x11\x80\0\x1c\x0a") + packets
        yield head(stages=0) + packets
        yield head(RAW, cuts=b"\xff") + raw
        yield head(RAW | NO_END | number % 4 << 6, options=0x0FF480) + raw
        # A verdict of every kind, at another event in every dialogue.
        for verdict in (5, 9, 10, 11, 12, 13, 15, 0x10, 0x24, 0x40, 0x80):
            verdicts = bytearray(8)
            verdicts[(number + verdict) % 8] = verdict
            yield head(options=0x400, verdicts=bytes(verdicts)) + packets
            yield head(EARLY_END, options=0x400, verdicts=bytes([verdict] * 8)) + packets
            yield head(EARLY_END, options=0x0FF480, verdicts=bytes([verdict] * 8)) + packets
    offer, quits = packet(OFFER[:1], OFFER[1:]), packet(b"Q")
    for length in (0, 1, 2, 4_097, 65_536, 65_537, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1):
        strange = struct.pack(">I", length) + b"Ux\0"
        yield head(RAW) + offer + strange + quits
        yield head(RAW) + strange + offer + quits
