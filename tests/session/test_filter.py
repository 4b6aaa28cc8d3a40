"""Whole dialogues, malformed packets, and every way in which a connection ends."""

from __future__ import annotations

import pytest

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
from aiomilter.session.negotiation import NegotiationOffer
from aiomilter.session.status import Status
from aiomilter.spec import State
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
    MESSAGE,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    macros,
    packet,
)
from tests.session.driver import ALL_STAGES, Answer, Driver, kinds, mask, negotiated

START = CONNECT + HELO
ENVELOPE = START + MAIL + RCPT
NEGOTIATED = b"O\0\0\0\x06\0\0\x01\xff\0\0\0\0"

SESSION = (
    OFFER
    + macros("C", b"j", b"mx.example")
    + CONNECT
    + HELO
    + MESSAGE
    + macros("M", b"i", b"Q2")
    + MAIL
    + RCPT
    + RCPT
    + DATA
    + HEADER
    + HEADER
    + EOH
    + BODY
    + BODY
    + EOM_WITH_TAIL
    + ABORT
    + MAIL
    + ABORT
    + UNKNOWN
    + QUIT
)
SESSION_EVENTS: list[Event] = [
    SessionStart(),
    NegotiationOffer(6, 0x1FF, 0x1FFFFF),
    Connect(b"host.example", b"4", 25, b"192.0.2.1"),
    Helo(b"client.example"),
    MessageStart(),
    Mail([b"<a@example.com>"]),
    Rcpt([b"<b@example.com>"]),
    Data(),
    Header(b"Subject", b"test"),
    EndOfHeaders(),
    Body(b"body\r\n"),
    EndOfMessage(),
    MessageStart(),
    Mail([b"<a@example.com>"]),
    Rcpt([b"<b@example.com>"]),
    Rcpt([b"<b@example.com>"]),
    Data(),
    Header(b"Subject", b"test"),
    Header(b"Subject", b"test"),
    EndOfHeaders(),
    Body(b"body\r\n"),
    Body(b"body\r\n"),
    Body(b"tail"),
    EndOfMessage(),
    # The ABORT of Postfix behind a finished message is nothing to report, the next one is.
    MessageStart(),
    Mail([b"<a@example.com>"]),
    MessageAborted(),
    Unknown(b"XYZZ"),
    SessionEnd(),
    ConnectionEnd(),
]
SESSION_REPLIES = [NEGOTIATED] + [b"c"] * 21


def test_dialogue_pipelined() -> None:
    driver = Driver()
    assert driver.feed(SESSION) == SESSION_REPLIES
    assert driver.events == SESSION_EVENTS
    # Macros count as packets, and each packet counts once.
    assert driver.session.packets_received == 27


def test_dialogue_byte_by_byte() -> None:
    driver = Driver()
    replies: list[bytes] = []
    for byte in SESSION:
        replies += driver.feed(bytes((byte,)))
    assert driver.events == SESSION_EVENTS
    assert replies == SESSION_REPLIES
    assert driver.session.packets_received == 27


@pytest.mark.parametrize("size", [2, 3, 5, 7, 11, 64])
def test_dialogue_in_pieces(size: int) -> None:
    driver = Driver()
    replies: list[bytes] = []
    for start in range(0, len(SESSION), size):
        replies += driver.feed(SESSION[start : start + size])
    assert (driver.events, replies) == (SESSION_EVENTS, SESSION_REPLIES)


def test_dialogue_of_observers_has_one_answer_a_message() -> None:
    # All stages without replies, as one that only looks on asks for.
    driver = Driver(options=0xFF080)
    assert driver.feed(OFFER + START + MESSAGE + MESSAGE) == [
        b"O\0\0\0\x06\0\0\x01\xff\0\x0f\xf0\x80",
        b"c",
        b"c",
    ]
    assert kinds(driver.events).count("EndOfMessage") == 2


def test_dialogue_with_edits_and_a_verdict_in_words() -> None:
    edits = packet("h", b"X-A\0v\0") + packet("q", b"why\0")
    answer = Answer(Status.TEMPFAIL, b"451 4.7.1 later", edits)
    driver = negotiated(answers={EndOfMessage: answer}, then=START)
    assert driver.feed(MESSAGE)[-3:] == [b"hX-A\0v\0", b"qwhy\0", b"y451 4.7.1 later\0"]


def test_dialogue_without_handlers_is_continue_throughout() -> None:
    driver = Driver(())
    replies = driver.feed(OFFER + START + MESSAGE + UNKNOWN + MESSAGE)
    assert replies[1:] == [b"c"] * 17
    # The milter still learns when a message begins; nobody is asked for a verdict.
    assert kinds(driver.events) == [
        "SessionStart",
        "NegotiationOffer",
        "MessageStart",
        "MessageStart",
    ]


def test_payload_of_a_stage_without_handler_is_not_looked_at() -> None:
    driver = negotiated({State.EOM})
    stream = packet("C", b"?") + packet("H", b"?") + packet("M", b"?") + packet("R", b"?")
    assert driver.feed(stream + packet("L", b"?") + packet("U", b"?")) == [b"c"] * 6


def test_commands_that_nobody_handles_still_need_their_payload() -> None:
    driver = negotiated({State.EOM})
    assert "connect" in driver.fail(packet("C"))


# Malformed payloads


@pytest.mark.parametrize(
    ("before", "malformed"),
    [
        pytest.param(b"", packet("C"), id="connect-empty"),
        pytest.param(b"", packet("C", b"host"), id="connect-without-nul"),
        pytest.param(b"", packet("C", b"h\0X\0\x19a\0"), id="connect-of-no-family"),
        pytest.param(CONNECT, packet("H"), id="helo-empty"),
        pytest.param(START, packet("M"), id="mail-empty"),
        pytest.param(START, packet("M", b"<a>"), id="mail-without-nul"),
        pytest.param(START, packet("U"), id="unknown-empty"),
        pytest.param(START, packet("D"), id="macros-empty"),
        pytest.param(START, packet("c"), id="no-command"),
        pytest.param(START, packet("\0", b"x"), id="nul"),
        pytest.param(START, packet("\xff"), id="eight-bit"),
        pytest.param(START, b"GET / HTTP/1.1\r\n", id="http"),
        pytest.param(START, b"\x7f\xff\xff\xff", id="oversize"),
    ],
)
def test_broken_rule_outside_of_a_message_ends_the_session(before: bytes, malformed: bytes) -> None:
    # libmilter runs abort for a malformed MAIL, though no message has begun.
    driver = negotiated(then=before)
    driver.fail(malformed)
    assert driver.events == [SessionEnd(), ConnectionEnd()]


@pytest.mark.parametrize(
    ("before", "malformed"),
    [
        pytest.param(b"", packet("R"), id="rcpt-empty"),
        pytest.param(b"", packet("R", b"<b>"), id="rcpt-without-nul"),
        pytest.param(RCPT, packet("L"), id="header-empty"),
        pytest.param(RCPT, packet("L", b"X\0"), id="header-without-value"),
        pytest.param(RCPT, packet("L", b"\0v\0"), id="header-without-name"),
        pytest.param(RCPT, packet("B"), id="body-empty"),
        pytest.param(RCPT, packet("U"), id="unknown-empty"),
        pytest.param(RCPT, packet("D"), id="macros-empty"),
        pytest.param(RCPT, packet("!"), id="no-command"),
        # libmilter runs abort twice here.
        pytest.param(RCPT, packet("M"), id="mail-empty"),
        pytest.param(RCPT, packet("H"), id="helo-empty"),
    ],
)
def test_broken_rule_inside_a_message_aborts_it_once(before: bytes, malformed: bytes) -> None:
    driver = negotiated(then=START + MAIL + before)
    driver.fail(malformed + EOM)
    assert driver.events == [MessageAborted(), SessionEnd(), ConnectionEnd()]


@pytest.mark.parametrize("letter", "OCRTLNBEK")
def test_a_command_out_of_order_is_swallowed_with_any_payload(letter: str) -> None:
    # Its order is looked at first: an empty payload that would end the connection does not.
    driver = negotiated(then=START)
    assert driver.feed(packet(letter)) == []
    assert kinds(driver.events) == ["Ignored"]
    assert driver.feed(HELO) == [b"c"]


def test_helo_without_nul_is_not_answered_and_the_connection_goes_on() -> None:
    driver = negotiated(then=CONNECT)
    assert driver.feed(packet("H", b"abc")) == []
    assert driver.events == [Ignored("helo", State.HELO, "it does not end in NUL")]
    assert driver.session.state is State.HELO
    assert driver.feed(HELO) == [b"c"]


def test_helo_without_nul_aborts_the_message_like_any_other() -> None:
    driver = negotiated(then=START + MAIL)
    assert driver.feed(packet("H", b"abc")) == []
    assert kinds(driver.events) == ["MessageAborted", "Ignored"]


def test_payload_behind_commands_without_one_is_ignored() -> None:
    driver = negotiated(then=ENVELOPE)
    assert driver.feed(packet("T", b"x") + packet("N", b"x") + EOM) == [b"c", b"c", b"c"]
    assert driver.feed(MAIL + packet("A", b"x")) == [b"c"]
    assert driver.events[-1] == MessageAborted()


def test_unknown_without_nul_is_taken_whole() -> None:
    driver = negotiated(then=CONNECT)
    assert driver.feed(packet("U", b"XYZZ")) == [b"c"]
    assert driver.events == [Unknown(b"XYZZ")]


# Unknown SMTP commands inside a message: libmilter may leave the rest of it unanswered.


@pytest.mark.parametrize(
    "before", [b"", RCPT, RCPT + DATA, RCPT + HEADER, RCPT + EOH, RCPT + EOH + BODY]
)
@pytest.mark.parametrize(
    "status", [Status.CONTINUE, Status.REJECT, Status.TEMPFAIL, Status.DISCARD]
)
def test_unknown_command_leaves_the_message_where_it_was(before: bytes, status: Status) -> None:
    driver = negotiated(answers={Unknown: Answer(status)}, then=START + MAIL + before)
    state = driver.session.state
    assert len(driver.feed(UNKNOWN)) == 1
    assert driver.events == [Unknown(b"XYZZ")]
    assert driver.session.state is state
    assert driver.session.message_is_open


def test_message_goes_on_after_an_unknown_command() -> None:
    # DATA is not sent to this one: what follows RCPT and U is a header, which libmilter swallows.
    driver = negotiated(ALL_STAGES - {State.DATA}, then=ENVELOPE)
    assert driver.feed(UNKNOWN + HEADER + EOH + BODY + EOM) == [b"c"] * 5
    assert driver.events[-1] == EndOfMessage()


def test_unknown_command_that_is_accepted_ends_the_message() -> None:
    driver = negotiated(answers={Unknown: Answer(Status.ACCEPT)}, then=ENVELOPE)
    assert driver.feed(UNKNOWN) == [b"a"]
    assert not driver.session.message_is_open
    assert driver.session.state is State.HELO


# Aborts: once, and for a message in progress only.


@pytest.mark.parametrize("command", [MAIL, HELO, ABORT, OFFER, CONNECT, QUIT_NC, QUIT])
def test_message_in_progress_is_aborted_once(command: bytes) -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed(command)
    assert driver.events.pop(0) == MessageAborted()
    assert MessageAborted() not in driver.events


@pytest.mark.parametrize("stages", [ALL_STAGES, {State.EOM}, ALL_STAGES - {State.UNKNOWN}])
def test_abort_without_a_message_is_nothing(stages: set[State]) -> None:
    # Without a handler for MAIL libmilter runs abort here, and again.
    driver = negotiated(stages, then=START)
    assert driver.feed(ABORT + ABORT + MAIL + RCPT + EOM + ABORT + ABORT) == [b"c"] * 3
    assert MessageAborted() not in driver.events
    assert driver.feed(MAIL + ABORT + ABORT) == [b"c"]
    assert kinds(driver.events).count("MessageAborted") == 1


def test_reset_inside_a_message_starts_the_next() -> None:
    driver = negotiated(then=START + MAIL)
    assert driver.feed(MAIL) == [b"c"]
    assert kinds(driver.events) == ["MessageAborted", "MessageStart", "Mail"]


# QUIT_NC: the next SMTP session on the same connection


def test_quit_nc_begins_another_session_without_another_offer() -> None:
    driver = negotiated(options=0x80, then=ENVELOPE + EOM)
    assert driver.feed(QUIT_NC) == []
    assert driver.events == [SessionEnd()]
    assert driver.session.state is State.QUIT_NC
    driver.take_events()
    replies = driver.feed(ENVELOPE + HEADER + EOH + EOM)
    # What was agreed is still so: no answer to a header.
    assert replies == [b"c"] * 6
    assert kinds(driver.events)[:3] == ["SessionStart", "Connect", "Helo"]
    assert driver.session.actions == 0x1FF
    assert driver.end() == [SessionEnd(), ConnectionEnd()]


@pytest.mark.parametrize("end", [b"", QUIT, macros("C", b"j", b"mx")])
def test_a_session_that_ended_does_not_end_again(end: bytes) -> None:
    driver = negotiated(then=ENVELOPE + EOM + QUIT_NC)
    driver.feed(end)
    driver.session.receive_eof()
    driver.run()
    assert set(kinds(driver.events)) == {"ConnectionEnd"}


def test_quit_nc_out_of_order_is_swallowed_and_the_connect_behind_it() -> None:
    driver = negotiated(then=START)
    assert driver.feed(QUIT_NC + CONNECT) == []
    assert kinds(driver.events) == ["Ignored", "Ignored"]


def test_quit_nc_behind_a_refused_message_is_swallowed() -> None:
    driver = negotiated(answers={EndOfMessage: Answer(Status.REJECT)}, then=ENVELOPE)
    assert driver.feed(EOM + QUIT_NC) == [b"r"]
    assert kinds(driver.events) == ["EndOfMessage", "Ignored"]


def test_a_later_session_may_have_other_handlers() -> None:
    driver = negotiated(then=ENVELOPE + EOM + QUIT_NC)
    driver.stages = frozenset({State.EOM})
    assert driver.feed(START + MAIL + RCPT + EOM) == [b"c"] * 5
    assert kinds(driver.events) == ["SessionStart", "MessageStart", "EndOfMessage"]


# The end of the connection


@pytest.mark.parametrize(
    ("before", "closing"),
    [
        pytest.param(START, [SessionEnd()], id="helo"),
        pytest.param(START + UNKNOWN, [SessionEnd()], id="unknown"),
        pytest.param(ENVELOPE, [MessageAborted(), SessionEnd()], id="rcpt"),
        # libmilter forgets the message here, and does not abort it.
        pytest.param(ENVELOPE + UNKNOWN, [MessageAborted(), SessionEnd()], id="unknown-in-rcpt"),
        pytest.param(ENVELOPE + EOM, [SessionEnd()], id="eom"),
        pytest.param(ENVELOPE + ABORT, [SessionEnd()], id="abort"),
    ],
)
@pytest.mark.parametrize("how", ["eof", "quit", "close"])
def test_closing_events(before: bytes, closing: list[Event], how: str) -> None:
    driver = negotiated(then=before)
    if how == "eof":
        driver.session.receive_eof()
    elif how == "close":
        driver.session.close()
    else:
        driver.session.receive_data(QUIT)
    assert driver.run() == []
    assert driver.events == [*closing, ConnectionEnd()]


def test_connection_without_a_session_just_ends() -> None:
    for stream in (b"", b"\0\0", macros("C", b"j", b"mx"), QUIT):
        driver = Driver()
        assert driver.feed(stream) == []
        driver.session.receive_eof()
        driver.run()
        assert set(kinds(driver.events)) == {"ConnectionEnd"}


@pytest.mark.parametrize("end", range(len(SESSION)))
def test_stream_may_end_anywhere(end: int) -> None:
    driver = Driver()
    driver.feed(SESSION[:end])
    before = len(driver.events)
    assert driver.events == SESSION_EVENTS[:before]
    is_open = driver.session.message_is_open
    starts = driver.events.count(SessionStart())
    assert driver.end() == (
        [MessageAborted()] * is_open + [SessionEnd()] * starts + [ConnectionEnd()]
    )


def test_what_came_before_the_end_of_the_stream_is_served() -> None:
    driver = negotiated()
    driver.session.receive_data(ENVELOPE + EOM)
    driver.session.receive_eof()
    assert driver.session.has_eof
    assert driver.run() == [b"c"] * 5
    assert driver.events[-2:] == [SessionEnd(), ConnectionEnd()]


def test_end_of_the_stream_leaves_an_open_event_its_answer() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM)
    driver.session.receive_eof()
    with pytest.raises(LocalProtocolError):
        driver.session.next_event()
    driver.session.respond(Status.ACCEPT)
    assert driver.run() == [b"a"]
    assert kinds(driver.events)[-2:] == ["SessionEnd", "ConnectionEnd"]


def test_nothing_behind_quit_is_served() -> None:
    driver = negotiated(then=START)
    assert driver.feed(QUIT + MAIL + OFFER) == []
    assert driver.events == [SessionEnd(), ConnectionEnd()]
    assert driver.session.buffered_bytes == 0


@pytest.mark.parametrize("how", ["quit", "eof", "close", "broken-rule"])
def test_nothing_is_served_after_the_end(how: str) -> None:
    driver = negotiated(then=START)
    if how == "quit":
        driver.feed(QUIT)
    elif how == "eof":
        driver.end()
    elif how == "close":
        driver.session.close()
        driver.run()
    else:
        driver.fail(packet("!"))
    driver.take_events()
    # A read may have been under way.
    assert driver.feed(MAIL) == []
    assert driver.events == [ConnectionEnd()]


@pytest.mark.parametrize("how", ["quit", "close", "broken-rule"])
def test_nothing_is_served_that_comes_while_the_session_is_being_closed(how: str) -> None:
    driver = negotiated(then=START)
    if how == "close":
        driver.session.close()
    else:
        driver.session.receive_data(QUIT if how == "quit" else packet("!"))
    if how == "broken-rule":
        with pytest.raises(RemoteProtocolError):
            driver.session.next_event()
    assert driver.session.next_event() == SessionEnd()
    # The owner may take its time over this event, and the MTA goes on sending.
    assert driver.feed(HELO + MAIL) == []
    assert driver.events == [ConnectionEnd()]


def test_end_is_repeated_for_who_asks_again() -> None:
    session = FilterSession()
    session.close()
    assert [session.next_event(), session.next_event()] == [ConnectionEnd(), ConnectionEnd()]


def test_closing_twice_is_closing_once() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.session.close()
    driver.session.close()
    driver.run()
    driver.session.close()
    driver.run()
    assert kinds(driver.events) == [
        "MessageAborted",
        "SessionEnd",
        "ConnectionEnd",
        "ConnectionEnd",
    ]


def test_closing_drops_the_open_event_and_all_input() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM + MAIL)
    driver.take_events()
    driver.session.close()
    assert not driver.session.is_unanswered
    with pytest.raises(LocalProtocolError, match="no event"):
        driver.session.respond(Status.CONTINUE)
    assert driver.run() == []
    assert driver.events == [MessageAborted(), SessionEnd(), ConnectionEnd()]


def test_closing_drops_an_open_offer() -> None:
    driver = Driver()
    driver.session.receive_data(OFFER)
    assert driver.session.next_event() == SessionStart()
    driver.session.start(mask(ALL_STAGES))
    driver.session.next_event()
    driver.session.close()
    with pytest.raises(LocalProtocolError, match="no offer"):
        driver.session.agree(driver.request)
    assert driver.run() == []
    assert driver.events == [SessionEnd(), ConnectionEnd()]


def test_closing_drops_events_that_were_not_fetched() -> None:
    driver = negotiated(then=START)
    driver.session.receive_data(MAIL)
    assert driver.session.next_event() == MessageStart()
    driver.session.close()
    assert driver.run() == []
    assert driver.events == [MessageAborted(), SessionEnd(), ConnectionEnd()]


def test_closing_drops_the_end_behind_the_tail() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM_WITH_TAIL)
    driver.take_events()
    driver.session.close()
    assert driver.run() == []
    assert driver.events == [MessageAborted(), SessionEnd(), ConnectionEnd()]


def test_replies_given_before_a_broken_rule_are_still_sent() -> None:
    driver = negotiated(then=CONNECT)
    driver.session.receive_data(HELO + packet("!"))
    assert driver.feed_until_open(b"") == Helo(b"client.example")
    driver.session.respond(Status.CONTINUE)
    with pytest.raises(RemoteProtocolError):
        driver.session.next_event()
    assert driver.session.data_to_send() == b"\0\0\0\x01c"


# What the owner may ask


def test_discarded_input_is_never_served() -> None:
    driver = negotiated(then=CONNECT)
    driver.session.receive_data(HELO + MAIL)
    assert driver.session.buffered_bytes == len(HELO + MAIL)
    driver.session.discard_input()
    assert driver.session.buffered_bytes == 0
    assert driver.feed(UNKNOWN) == [b"c"]


def test_discarding_includes_a_command_that_was_put_back() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.session.receive_data(MAIL)
    assert driver.session.next_event() == MessageAborted()
    driver.session.discard_input()
    assert driver.session.next_event() is None


def test_an_event_is_unanswered_from_when_it_was_fetched() -> None:
    driver = negotiated(then=START)
    driver.session.receive_data(MAIL)
    seen = [driver.session.is_unanswered]
    assert driver.session.next_event() == MessageStart()
    seen.append(driver.session.is_unanswered)
    assert driver.session.next_event() == Mail([b"<a@example.com>"])
    seen.append(driver.session.is_unanswered)
    driver.session.respond(Status.CONTINUE)
    seen.append(driver.session.is_unanswered)
    assert seen == [False, False, True, False]


def test_a_message_that_begins_late_begins_all_the_same() -> None:
    # Nothing but the body is wanted: the first event of a message is its first piece.
    driver = negotiated({State.BODY}, then=START)
    assert driver.feed(MAIL + RCPT + BODY + EOM) == [b"c"] * 4
    assert driver.events == [MessageStart(), Body(b"body\r\n")]


@pytest.mark.parametrize("before", [b"", MAIL, MAIL + RCPT], ids=["", "mail", "rcpt"])
def test_the_tail_may_be_all_that_a_milter_sees(before: bytes) -> None:
    driver = negotiated({State.BODY, State.EOM}, then=CONNECT)
    assert driver.feed(before + EOM_WITH_TAIL)[-1:] == [b"c"]
    assert driver.events == [MessageStart(), Body(b"tail"), EndOfMessage()]
    assert not driver.session.message_is_open


def test_a_verdict_on_the_tail_of_a_message_that_just_began() -> None:
    driver = negotiated({State.BODY}, {Body: Answer(Status.REJECT)}, then=CONNECT)
    assert driver.feed(EOM_WITH_TAIL) == [b"r"]
    assert driver.events == [MessageStart(), Body(b"tail")]
    assert not driver.session.message_is_open


def test_a_message_of_nothing_but_its_end() -> None:
    driver = negotiated({State.EOM}, then=CONNECT)
    assert driver.feed(EOM) == [b"c"]
    assert driver.events == [MessageStart(), EndOfMessage()]


def test_a_message_of_nothing_but_an_end_that_nobody_handles() -> None:
    driver = negotiated((), then=CONNECT)
    assert driver.feed(EOM + EOM) == [b"c", b"c"]
    assert driver.events == []
