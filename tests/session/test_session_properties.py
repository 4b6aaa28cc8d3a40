"""What holds for any packets, any verdicts and any milter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
from aiomilter.spec import State
from aiomilter.wire.commands import EndOfMessage, Header, Mail, Rcpt, Unknown
from tests.packets import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    EOH,
    EOM,
    EOM_WITH_TAIL,
    HEADER,
    HELO,
    MAIL,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    macros,
    offer,
    packet,
    split_packets,
)
from tests.session.driver import ALL_STAGES, NO_OPTION, NO_REPLY_OPTION, SKIP_OPTION, mask
from tests.wire.strategies import REPEATABLE

FINAL = (Status.ACCEPT, Status.REJECT, Status.TEMPFAIL, Status.DISCARD)
NOT_ANSWERED_LETTERS = b"DAQK"
ALL_NO_REPLY = 0x0FF080


class Setting(NamedTuple):
    """A milter, and what it has agreed on with an MTA."""

    stages: frozenset[State]
    options: int
    offered: int


class Verdict(NamedTuple):
    status: Status
    text: bytes | None = None


class Run(NamedTuple):
    """All that is seen from outside of a session."""

    events: list[Event]
    sent: list[bytes]
    broken: str | None


good = st.sampled_from(
    [
        *(CONNECT, HELO, MAIL, MAIL, RCPT, RCPT, DATA, HEADER, HEADER, EOH, BODY, BODY, EOM, EOM),
        *(EOM_WITH_TAIL, ABORT, UNKNOWN, QUIT_NC, OFFER),
        macros("C", b"j", b"mx"),
        macros("M", b"i"),
        macros("L"),
        packet("H", b"no NUL"),
        packet("R", b"\0"),
        packet("L", b"\0a\0b\0"),
        packet("E", b"t"),
        packet("U", b"no NUL"),
    ]
)
bad = st.one_of(
    st.just(QUIT),
    st.builds(packet, st.sampled_from("ODCHMRTLNBEAUKQ!\xff"), st.binary(max_size=8)),
    st.just(b"\x7f\xff\xff\xff?"),
    st.just(b"GET / HTTP/1.1\r\n"),
)
# Sessions that get somewhere, now and then with something that does not belong there.
polite = st.lists(good, max_size=30)
rude = st.lists(good | bad, max_size=20)
dialogues = st.sampled_from(
    [
        OFFER + CONNECT + HELO + MAIL + RCPT + DATA + HEADER + EOH + BODY + EOM,
        OFFER + CONNECT + HELO,
        OFFER + CONNECT + HELO + MAIL + RCPT,
        OFFER,
        b"",
    ]
).map(lambda data: [packet(chr(p[0]), p[1:]) for p in split_packets(data)])
packet_lists = st.builds(lambda first, rest: [*first, *rest], dialogues, polite | rude)

texts = st.none() | st.just(b"550 5.7.1 no")
verdicts = st.lists(
    st.one_of(
        st.just(Verdict(Status.CONTINUE)),
        st.builds(Verdict, st.sampled_from([Status.REJECT, Status.TEMPFAIL]), texts),
        st.builds(Verdict, st.sampled_from([Status.ACCEPT, Status.DISCARD, Status.SKIP])),
        st.just(Verdict(Status.NOREPLY)),
    ),
    max_size=12,
)


@st.composite
def settings_of_a_milter(draw: st.DrawFn) -> Setting:
    some = st.frozensets(st.sampled_from(sorted(ALL_STAGES)))
    stages = draw(st.just(ALL_STAGES) | st.just(ALL_STAGES - {State.UNKNOWN}) | some)
    silent = draw(st.just(frozenset[State]()) | st.frozensets(st.sampled_from(sorted(NO_OPTION))))
    options = sum(bit for stage, bit in NO_OPTION.items() if stage not in stages)
    options += sum(NO_REPLY_OPTION[stage] for stage in silent)
    options += draw(st.sampled_from([0, SKIP_OPTION]))
    return Setting(stages, options, draw(st.sampled_from([0x1FFFFF, 0x1FFFFF & ~ALL_NO_REPLY])))


class Owner:
    """Serves a session with one verdict after the other, and checks what must always hold."""

    def __init__(self, setting: Setting, answers: Iterable[Verdict]) -> None:
        self.setting = setting
        self.session = FilterSession()
        self.answers: Iterator[Verdict] = iter(answers)
        self.run = Run([], [], None)
        self.has_ended = False
        self.in_session = False
        self.in_message = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return what is sent in answer; nothing once the connection has ended."""
        if self.has_ended:
            return []
        self.session.receive_data(data)
        sent = self.serve()
        self.run.sent.extend(sent)
        return sent

    def end(self) -> None:
        if not self.has_ended:
            self.session.receive_eof()
            assert self.serve() == []
        assert self.has_ended

    def serve(self, data: bytes = b"") -> list[bytes]:
        while not self.has_ended:
            try:
                event = self.session.receive(data) if data else self.session.next_event()
                data = b""
            except RemoteProtocolError as error:
                assert self.run.broken is None
                self.run = self.run._replace(broken=error.rule)
                data = b""
                continue
            if event is None:
                break
            self.run.events.append(event)
            self.note(event)
        return split_packets(self.session.data_to_send())

    def note(self, event: Event) -> None:
        if State.EOM not in self.setting.stages and not isinstance(event, MessageAborted):
            # Without a handler the end of a message is answered without an event; an abort or
            # a verdict is not.
            self.in_message = self.in_message and not isinstance(event, MessageStart | SessionEnd)
        if isinstance(event, SessionStart):
            assert not self.in_session
            self.in_session = True
            self.session.start(mask(self.setting.stages))
        elif isinstance(event, NegotiationOffer):
            assert self.in_session
            self.session.agree(Request(0, self.setting.options))
        elif isinstance(event, MessageStart):
            assert self.in_session
            assert not self.in_message
            self.in_message = True
        elif isinstance(event, MessageAborted):
            assert self.in_message
            self.in_message = False
        elif isinstance(event, SessionEnd):
            assert self.in_session
            assert not self.in_message
            self.in_session = False
        elif isinstance(event, ConnectionEnd):
            assert not self.in_session
            self.has_ended = True
        elif not isinstance(event, Ignored):
            self.answer(event)

    def answer(self, event: Event) -> None:
        session = self.session
        assert self.in_session
        assert session.is_unanswered
        may_answer = session.may_answer()
        status, text = next(self.answers, Verdict(Status.CONTINUE))
        if status is Status.NOREPLY and may_answer:
            status = Status.CONTINUE
        self.respond(status, text)
        if may_answer and (
            status is Status.ACCEPT
            or (status in FINAL and not isinstance(event, Rcpt | Unknown))
            or isinstance(event, EndOfMessage)
        ):
            self.in_message = False

    def respond(self, status: Status, text: bytes | None) -> None:
        self.session.respond(status, text)


@REPEATABLE
@given(settings_of_a_milter(), packet_lists, verdicts)
def test_hooks_pair_up_and_no_command_has_two_answers(
    setting: Setting, packets: list[bytes], answers: list[Verdict]
) -> None:
    owner = Owner(setting, answers)
    for index, data in enumerate(packets):
        data = offer(options=setting.offered) if data == OFFER else data
        sent = owner.feed(data)
        assert len(sent) <= 1, f"packet {index} was answered twice"
        if data[4] in NOT_ANSWERED_LETTERS:
            assert sent == []
        elif sent:
            # By its letter, a reply of the protocol and one that answers this command.
            allowed = b"O" if data[:1] == b"\0" and data[4:5] == b"O" else b"acdrtys"
            assert sent[0][0] in allowed
            assert sent[0][0] != ord("s") or data[4:5] == b"B"
    owner.end()


@REPEATABLE
@given(settings_of_a_milter(), packet_lists, verdicts)
def test_how_bytes_are_cut_never_matters(
    setting: Setting, packets: list[bytes], answers: list[Verdict]
) -> None:
    stream = b"".join(packets).replace(OFFER, offer(options=setting.offered))
    whole = Owner(setting, answers)
    whole.feed(stream)
    whole.end()
    bytewise = Owner(setting, answers)
    for byte in stream:
        bytewise.feed(bytes((byte,)))
    bytewise.end()
    assert bytewise.run == whole.run


class Shortcut(Owner):
    """Takes every way that is there for speed alone."""

    def feed(self, data: bytes) -> list[bytes]:
        if self.has_ended or not data:
            return []
        sent = self.serve(data)
        self.run.sent.extend(sent)
        return sent

    def respond(self, status: Status, text: bytes | None) -> None:
        if status is Status.CONTINUE:
            self.session.go_on()
        else:
            super().respond(status, text)


TO_DATA = [OFFER, CONNECT, HELO, MAIL, RCPT, DATA]
WAITS = Setting(ALL_STAGES, 0, 0x1FFFFF)
ENVELOPE_STAGES = frozenset((State.MAIL, State.RCPT))
WITHOUT_ENVELOPE = Setting(
    ALL_STAGES - ENVELOPE_STAGES, sum(NO_OPTION[stage] for stage in ENVELOPE_STAGES), 0x1FFFFF
)


@REPEATABLE
@given(
    settings_of_a_milter(),
    packet_lists,
    verdicts,
    st.sampled_from([None, 1, 3, 7, 1000]),
)
@example(WAITS, [*TO_DATA, macros("L"), HEADER, HEADER], [], None)
@example(WAITS, [*TO_DATA, packet("L", b"x"), HEADER], [], None)
@example(WAITS, [*TO_DATA, packet("L"), HEADER], [], None)
@example(WAITS, [*TO_DATA, HEADER[:3], HEADER], [], None)
@example(WITHOUT_ENVELOPE, [OFFER, CONNECT, HELO, DATA, HEADER], [], None)
@example(WAITS._replace(options=NO_REPLY_OPTION[State.DATA]), [*TO_DATA, HEADER, BODY], [], None)
def test_shortcuts_lead_where_the_long_way_does(
    setting: Setting,
    packets: list[bytes],
    answers: list[Verdict],
    step: int | None,
) -> None:
    """Packet by packet, as an MTA that waits for each answer sends them, or in other pieces."""
    pieces = [offer(options=setting.offered) if one == OFFER else one for one in packets]
    if step is not None:
        stream = b"".join(pieces)
        pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    long_way, shortcut = Owner(setting, answers), Shortcut(setting, answers)
    for piece in pieces:
        assert shortcut.feed(piece) == long_way.feed(piece)
        assert shortcut.session.state is long_way.session.state
        assert shortcut.session.packets_received == long_way.session.packets_received
        assert shortcut.session.buffered_bytes == long_way.session.buffered_bytes
        assert shortcut.session.ends_in_macros == long_way.session.ends_in_macros
    long_way.end()
    shortcut.end()
    assert shortcut.run == long_way.run


def in_message(max_payload_bytes: int = 1000) -> FilterSession:
    owner = Owner(WAITS, [])
    owner.session = FilterSession(max_payload_bytes)
    for one in TO_DATA:
        owner.feed(one)
    return owner.session


def test_on_the_shortcut_what_is_owed_comes_first() -> None:
    session = in_message()
    session.owe(Status.TEMPFAIL)
    assert session.receive(HEADER) is None
    assert session.data_to_send() == packet("t")


def test_on_the_shortcut_the_last_event_has_to_be_answered() -> None:
    session = in_message()
    session.receive(HEADER)
    with pytest.raises(LocalProtocolError, match="not been answered"):
        session.receive(HEADER)
    assert session.buffered_bytes == len(HEADER)
    session.go_on()
    assert isinstance(session.next_event(), Header)


def test_on_the_shortcut_events_that_wait_come_first() -> None:
    session = FilterSession()
    session.start(mask(ALL_STAGES))
    session.receive_data(MAIL)
    assert isinstance(session.next_event(), SessionStart)
    session.start(mask(ALL_STAGES))
    assert isinstance(session.next_event(), MessageStart)
    assert isinstance(session.receive(HEADER), Mail)


def test_on_the_shortcut_nothing_comes_after_the_end() -> None:
    session = in_message()
    session.receive_eof()
    assert isinstance(session.receive(HEADER), MessageAborted)


def test_on_the_shortcut_a_payload_has_its_limit() -> None:
    session = in_message(1000)
    assert session.receive(packet("L", b"n\0" + b"v" * 997 + b"\0")) == Header(b"n", b"v" * 997)
    session.go_on()
    with pytest.raises(RemoteProtocolError, match="announces 1001 bytes"):
        session.receive(packet("L", b"n\0" + b"v" * 998 + b"\0"))


@REPEATABLE
@given(settings_of_a_milter(), st.lists(st.binary(max_size=20), max_size=5), verdicts)
def test_any_bytes_are_events_or_a_broken_rule(
    setting: Setting, pieces: list[bytes], answers: list[Verdict]
) -> None:
    owner = Owner(setting, answers)
    owner.feed(offer(options=setting.offered))
    for piece in pieces:
        owner.feed(piece)
    owner.end()


@REPEATABLE
@given(
    settings_of_a_milter(),
    packet_lists,
    verdicts,
    st.sampled_from(["owe", "refuse"]),
    st.integers(0, 12),
)
def test_owing_and_refusing_never_answer_twice(
    setting: Setting, packets: list[bytes], answers: list[Verdict], what: str, when: int
) -> None:
    session = FilterSession()
    script = iter(answers)
    open_sessions = 0
    open_messages = 0
    for index, data in enumerate([*packets, None]):
        if index == when and what == "owe":
            session.owe(Status.TEMPFAIL)
        elif index == when:
            session.refuse_new_messages(b"421 4.3.2 bye")
        if data is None:
            session.receive_eof()
        else:
            session.receive_data(data)
        while True:
            try:
                event = session.next_event()
            except RemoteProtocolError:
                continue
            if event is None or isinstance(event, ConnectionEnd):
                break
            if isinstance(event, SessionStart):
                open_sessions += 1
                session.start(mask(setting.stages))
            elif isinstance(event, NegotiationOffer):
                session.agree(Request(0, setting.options))
            elif isinstance(event, MessageStart):
                open_messages += 1
            elif isinstance(event, MessageAborted):
                assert open_messages == 1
            elif isinstance(event, SessionEnd):
                open_sessions -= 1
            elif not isinstance(event, Ignored):
                status, text = next(script, Verdict(Status.CONTINUE))
                if status is Status.NOREPLY and session.may_answer():
                    status = Status.CONTINUE
                session.respond(status, text)
            open_messages = min(open_messages, 1) if session.message_is_open else 0
            assert open_sessions in (0, 1)
        sent = split_packets(session.data_to_send())
        assert len(sent) <= 1
        if isinstance(event, ConnectionEnd):
            break
    assert open_sessions == 0
