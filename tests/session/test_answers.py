"""Which reply a verdict becomes, and where it leads."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from aiomilter.errors import LocalProtocolError
from aiomilter.session.events import Event, Ignored, MessageAborted, MessageStart
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
    OFFER,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    offer,
    packet,
)
from tests.session.driver import (
    ALL_STAGES,
    NO_REPLY_OPTION,
    SKIP_OPTION,
    Answer,
    Driver,
    kinds,
    negotiated,
)

START = CONNECT + HELO
ENVELOPE = START + MAIL + RCPT
REFUSALS = (Status.REJECT, Status.TEMPFAIL, Status.DISCARD)
LETTERS = {
    Status.CONTINUE: b"c",
    Status.REJECT: b"r",
    Status.TEMPFAIL: b"t",
    Status.DISCARD: b"d",
    Status.ACCEPT: b"a",
}


class Stage(NamedTuple):
    id: str
    before: bytes
    packet: bytes
    event: type[Event]
    state: State
    """Behind it, when the milter says CONTINUE."""
    refused: State
    """Behind it, when the milter refuses or discards."""


STAGES = (
    Stage("connect", b"", CONNECT, Connect, State.CONNECT, State.HELO),
    Stage("helo", CONNECT, HELO, Helo, State.HELO, State.HELO),
    Stage("mail", START, MAIL, Mail, State.MAIL, State.HELO),
    # A refusal is of this recipient, or of this command: what is around it goes on.
    Stage("rcpt", START + MAIL, RCPT, Rcpt, State.RCPT, State.RCPT),
    Stage("data", ENVELOPE, DATA, Data, State.DATA, State.HELO),
    Stage("header", ENVELOPE, HEADER, Header, State.HEADER, State.HELO),
    Stage("eoh", ENVELOPE, EOH, EndOfHeaders, State.EOH, State.HELO),
    Stage("body", ENVELOPE, BODY, Body, State.BODY, State.HELO),
    Stage("eom", ENVELOPE, EOM, EndOfMessage, State.EOM, State.HELO),
    Stage("unknown", START, UNKNOWN, Unknown, State.UNKNOWN, State.UNKNOWN),
    Stage("unknown-in-message", ENVELOPE, UNKNOWN, Unknown, State.RCPT, State.RCPT),
)
NO_REPLY_STAGES = tuple(stage for stage in STAGES if stage.id != "eom")


def stage_id(stage: Stage) -> str:
    return stage.id


def no_reply_bit(stage: Stage) -> int:
    state = State.UNKNOWN if stage.event is Unknown else stage.state
    return NO_REPLY_OPTION[state]


@pytest.mark.parametrize("status", LETTERS, ids=lambda status: str(status.name))
@pytest.mark.parametrize("stage", STAGES, ids=stage_id)
def test_verdict(stage: Stage, status: Status) -> None:
    driver = negotiated(answers={stage.event: Answer(status)}, then=stage.before)
    # ACCEPT and DISCARD are verdicts on a message, and there is none.
    says_nothing = stage.id == "unknown" and status in (Status.ACCEPT, Status.DISCARD)
    assert driver.feed(stage.packet) == [b"c" if says_nothing else LETTERS[status]]
    assert not driver.session.is_unanswered
    if status is Status.CONTINUE:
        expected = stage.state
    elif status is Status.ACCEPT:
        expected = State.HELO
    else:
        expected = stage.refused
    assert driver.session.state is expected
    in_message = State.MAIL <= expected < State.EOM
    assert driver.session.message_is_open == in_message
    # A verdict is no abort.
    assert MessageAborted() not in driver.events


@pytest.mark.parametrize("status", [Status.REJECT, Status.TEMPFAIL])
@pytest.mark.parametrize("stage", STAGES, ids=stage_id)
def test_verdict_in_the_words_of_the_milter(stage: Stage, status: Status) -> None:
    answers = {stage.event: Answer(status, b"550 5.7.1 no thanks")}
    driver = negotiated(answers=answers, then=stage.before)
    assert driver.feed(stage.packet) == [b"y550 5.7.1 no thanks\0"]
    assert driver.session.state is stage.refused


@pytest.mark.parametrize("stage", STAGES, ids=stage_id)
def test_words_belong_to_one_event(stage: Stage) -> None:
    # In libmilter they are kept until some verdict of their class uses them.
    answers: dict[type[Event], list[Answer]] = {
        stage.event: [Answer(Status.TEMPFAIL, b"451 later"), Answer(Status.TEMPFAIL)]
    }
    driver = negotiated(answers=answers)
    driver.feed(stage.before)
    assert driver.feed(stage.packet) == [b"y451 later\0"]
    driver.feed(stage.before[len(CONNECT) :] if stage.event is not Helo else b"")
    if stage.event is not Connect:
        assert driver.feed(stage.packet) == [b"t"]


@pytest.mark.parametrize("status", REFUSALS)
def test_rcpt_refused_leaves_the_other_recipients(status: Status) -> None:
    verdicts = [Answer(status), Answer(Status.CONTINUE)]
    driver = negotiated(answers={Rcpt: verdicts}, then=START + MAIL)
    replies = driver.feed(RCPT + RCPT + DATA + HEADER + EOH + EOM)
    assert replies == [LETTERS[status], b"c", b"c", b"c", b"c", b"c"]


@pytest.mark.parametrize("status", [*REFUSALS, Status.ACCEPT])
def test_behind_a_verdict_on_mail_the_rest_of_the_message_is_swallowed(status: Status) -> None:
    driver = negotiated(answers={Mail: [Answer(status), Answer(Status.CONTINUE)]}, then=START)
    assert driver.feed(MAIL) == [LETTERS[status]]
    driver.take_events()
    # The MTA does not read answers to these.
    assert driver.feed(RCPT + DATA + HEADER + EOH + BODY + EOM) == []
    assert kinds(driver.take_events()) == ["Ignored"] * 6
    assert driver.feed(MAIL) == [b"c"]
    assert driver.events == [MessageStart(), Mail([b"<a@example.com>"])]


def test_refused_client_is_still_served() -> None:
    # It is the MTA that sends no more.
    driver = negotiated(answers={Connect: Answer(Status.REJECT)})
    assert driver.feed(CONNECT + HELO + MAIL) == [b"r", b"c", b"c"]
    assert driver.feed(CONNECT) == []


def test_edits_leave_with_the_verdict_in_one_piece() -> None:
    edits = b"\0\0\0\x07hX-A\0v\0" + b"\0\0\0\x04bnew"
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM)
    waiting = [bool(driver.session.outgoing)]
    driver.session.respond(Status.ACCEPT, None, edits)
    waiting.append(bool(driver.session.outgoing))
    assert driver.session.data_to_send() == edits + b"\0\0\0\x01a"
    waiting.append(bool(driver.session.outgoing))
    assert driver.session.data_to_send() == b""
    assert waiting == [False, True, False]


# SKIP: no more events of this kind in this message. libmilter sends it wherever the milter says
# it, agreed or not; Sendmail then accepts at MAIL and RCPT and loses the body at a header.


@pytest.mark.parametrize("stage", STAGES, ids=stage_id)
def test_skip_goes_on(stage: Stage) -> None:
    driver = negotiated(
        answers={stage.event: Answer(Status.SKIP)}, options=SKIP_OPTION, then=stage.before
    )
    assert driver.feed(stage.packet) == [b"s" if stage.id == "body" else b"c"]
    assert driver.session.state is stage.state


def test_skip_is_not_sent_to_an_mta_that_does_not_know_it() -> None:
    driver = negotiated(answers={Body: Answer(Status.SKIP)}, then=ENVELOPE)
    assert driver.feed(BODY) == [b"c"]


def test_skip_is_not_sent_without_a_negotiation() -> None:
    driver = Driver(answers={Body: Answer(Status.SKIP)})
    assert driver.feed(HELO + MAIL + RCPT + BODY) == [b"c"] * 4


@pytest.mark.parametrize("options", [0, SKIP_OPTION])
def test_a_skipped_body_is_not_reported_again(options: int) -> None:
    driver = negotiated(
        answers={Body: [Answer(Status.SKIP)]}, options=options, then=ENVELOPE + BODY
    )
    driver.take_events()
    # Also a last piece that comes with the end of the message.
    assert driver.feed(BODY + BODY + EOM_WITH_TAIL) == [b"c", b"c", b"c"]
    assert driver.events == [EndOfMessage()]


def test_skipped_recipients_and_headers_are_not_reported_again() -> None:
    answers: dict[type[Event], list[Answer]] = {
        Rcpt: [Answer(Status.SKIP)],
        Header: [Answer(Status.SKIP)],
        Unknown: [Answer(Status.SKIP)],
    }
    driver = negotiated(answers=answers, then=START)
    stream = MAIL + RCPT + RCPT + UNKNOWN + UNKNOWN + HEADER + HEADER + EOH + EOM
    assert driver.feed(stream) == [b"c"] * 9
    assert kinds(driver.events) == [
        "MessageStart",
        "Mail",
        "Rcpt",
        "Unknown",
        "Header",
        "EndOfHeaders",
        "EndOfMessage",
    ]


@pytest.mark.parametrize("end", [EOM, ABORT, b""], ids=["eom", "abort", "mail-again"])
def test_skip_lasts_for_one_message(end: bytes) -> None:
    skip = Answer(Status.SKIP)
    driver = negotiated(answers={Rcpt: skip}, then=START + MAIL + RCPT + RCPT + end)
    driver.feed(MAIL + RCPT + RCPT)
    assert kinds(driver.events).count("Rcpt") == 1


def test_skip_outside_of_a_message_means_continue() -> None:
    skip = Answer(Status.SKIP)
    driver = negotiated(answers={Unknown: skip, Helo: skip}, then=CONNECT)
    assert driver.feed(HELO + UNKNOWN + HELO + UNKNOWN) == [b"c"] * 4
    assert kinds(driver.events) == ["Helo", "Unknown", "Helo", "Unknown"]


# The last piece of a body that comes with the end of the message.


def test_tail_is_body_and_then_the_message_ends_with_one_answer() -> None:
    driver = negotiated(then=ENVELOPE)
    assert driver.feed(EOM_WITH_TAIL) == [b"c"]
    assert driver.events == [Body(b"tail"), EndOfMessage()]
    assert not driver.session.message_is_open


@pytest.mark.parametrize("status", [*REFUSALS, Status.ACCEPT])
def test_verdict_on_the_tail_is_sent_once_and_is_that_on_the_message(status: Status) -> None:
    # libmilter sends it twice.
    driver = negotiated(answers={Body: Answer(status)}, then=ENVELOPE)
    assert driver.feed(EOM_WITH_TAIL) == [LETTERS[status]]
    assert driver.events == [Body(b"tail")]
    assert driver.session.state is State.HELO
    assert not driver.session.message_is_open


def test_words_on_the_tail_are_sent_once() -> None:
    driver = negotiated(answers={Body: Answer(Status.REJECT, b"550 no")}, then=ENVELOPE)
    assert driver.feed(EOM_WITH_TAIL) == [b"y550 no\0"]


def test_skip_on_the_tail_is_not_sent() -> None:
    driver = negotiated(answers={Body: Answer(Status.SKIP)}, options=SKIP_OPTION, then=ENVELOPE)
    assert driver.feed(EOM_WITH_TAIL) == [b"c"]
    assert driver.events == [Body(b"tail"), EndOfMessage()]


@pytest.mark.parametrize("options", [0, 0x80000], ids=["replies", "no-reply-body"])
def test_the_tail_takes_a_verdict_even_if_the_body_does_not(options: int) -> None:
    driver = negotiated(options=options, then=ENVELOPE)
    driver.feed_until_open(EOM_WITH_TAIL)
    assert driver.session.may_answer()
    with pytest.raises(LocalProtocolError):
        driver.session.respond(Status.NOREPLY)
    driver.session.respond(Status.REJECT)
    assert driver.run() == [b"r"]


def test_tail_is_ignored_without_a_handler_for_the_body() -> None:
    driver = negotiated(ALL_STAGES - {State.BODY}, then=ENVELOPE + EOH)
    assert driver.feed(EOM_WITH_TAIL) == [b"c"]
    assert driver.events == [EndOfMessage()]


def test_tail_without_a_handler_for_the_end_is_answered_once() -> None:
    driver = negotiated(ALL_STAGES - {State.EOM}, then=ENVELOPE)
    assert driver.feed(EOM_WITH_TAIL) == [b"c"]
    assert driver.events == [Body(b"tail")]
    assert not driver.session.message_is_open


# Stages without replies


@pytest.mark.parametrize("status", [*LETTERS, Status.NOREPLY, Status.SKIP])
@pytest.mark.parametrize("is_offered", [True, False], ids=["offered", "faked"])
@pytest.mark.parametrize("stage", NO_REPLY_STAGES, ids=stage_id)
def test_no_verdict_counts_in_a_stage_without_replies(
    stage: Stage, is_offered: bool, status: Status
) -> None:
    # libmilter sends nothing either, but swallows the rest of the message: the MTA hangs.
    bit = no_reply_bit(stage)
    offered = OFFER if is_offered else offer(options=0x1FFFFF & ~bit)
    driver = negotiated(
        answers={stage.event: Answer(status, b"550 no")},
        options=bit | SKIP_OPTION,
        offered=offered,
        then=stage.before,
    )
    # An MTA that does not know of it waits for an answer, and gets one.
    assert driver.feed(stage.packet) == ([] if is_offered else [b"c"])
    assert driver.session.state is stage.state
    assert not driver.session.is_unanswered
    in_message = State.MAIL <= stage.state < State.EOM
    assert driver.session.message_is_open == in_message


@pytest.mark.parametrize("is_offered", [True, False], ids=["offered", "faked"])
@pytest.mark.parametrize("stage", NO_REPLY_STAGES, ids=stage_id)
def test_a_stage_without_replies_and_without_handler_is_not_answered_either(
    stage: Stage, is_offered: bool
) -> None:
    bit = no_reply_bit(stage)
    offered = OFFER if is_offered else offer(options=0x1FFFFF & ~bit)
    state = State.UNKNOWN if stage.event is Unknown else stage.state
    driver = negotiated(ALL_STAGES - {state}, options=bit, offered=offered, then=stage.before)
    assert driver.feed(stage.packet) == ([] if is_offered else [b"c"])


@pytest.mark.parametrize("stage", STAGES, ids=stage_id)
def test_no_reply_where_the_mta_waits_is_refused(stage: Stage) -> None:
    driver = negotiated(then=stage.before)
    driver.feed_until_open(stage.packet)
    assert driver.session.may_answer()
    with pytest.raises(LocalProtocolError, match="would wait"):
        driver.session.respond(Status.NOREPLY)
    assert driver.session.data_to_send() == b""
    driver.session.respond(Status.CONTINUE)
    assert driver.run() == [b"c"]


@pytest.mark.parametrize("stage", NO_REPLY_STAGES, ids=stage_id)
def test_a_stage_without_replies_takes_no_verdict(stage: Stage) -> None:
    driver = negotiated(options=no_reply_bit(stage), then=stage.before)
    driver.feed_until_open(stage.packet)
    assert not driver.session.may_answer()
    driver.session.respond(Status.NOREPLY)
    assert driver.run() == []


def test_the_message_behind_a_dropped_verdict_goes_on() -> None:
    driver = negotiated(answers={Header: Answer(Status.REJECT)}, options=0x80, then=ENVELOPE + DATA)
    assert driver.feed(HEADER + HEADER + EOH + EOM) == [b"c", b"c"]
    assert driver.events[-1] == EndOfMessage()


# Progress


def test_progress_goes_ahead_of_the_verdict() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM)
    driver.session.send_progress()
    assert driver.session.data_to_send() == b"\0\0\0\x01p"
    driver.session.send_progress()
    driver.session.respond(Status.TEMPFAIL)
    assert driver.run() == [b"p", b"t"]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.id != "eom"], ids=stage_id)
def test_progress_is_for_the_end_of_a_message(stage: Stage) -> None:
    driver = negotiated(then=stage.before)
    driver.feed_until_open(stage.packet)
    with pytest.raises(LocalProtocolError, match="progress"):
        driver.session.send_progress()
    assert not driver.session.outgoing


def test_progress_needs_an_open_event() -> None:
    driver = negotiated(then=ENVELOPE + EOM)
    with pytest.raises(LocalProtocolError, match="progress"):
        driver.session.send_progress()


# Verdicts that are owed: a fault in a stage without replies


def test_owed_verdict_is_given_at_the_next_event_that_takes_one() -> None:
    driver = negotiated(options=0x80, then=ENVELOPE + DATA)
    driver.feed(HEADER)
    driver.session.owe(Status.TEMPFAIL)
    driver.take_events()
    assert driver.feed(HEADER) == []
    assert driver.feed(EOH) == [b"t"]
    # A message that is lost is shown to the milter no more.
    assert driver.events == []
    assert driver.session.state is State.HELO
    assert not driver.session.message_is_open
    # It is given once.
    assert driver.feed(MAIL) == [b"c"]


def test_owed_verdict_has_words() -> None:
    driver = negotiated(options=0x80, then=ENVELOPE + HEADER)
    driver.session.owe(Status.REJECT, b"550 5.7.1 no")
    assert driver.feed(EOH) == [b"y550 5.7.1 no\0"]


@pytest.mark.parametrize("stages", [ALL_STAGES, ALL_STAGES - {State.EOM}])
@pytest.mark.parametrize("last", [EOM, EOM_WITH_TAIL])
def test_owed_verdict_is_given_at_the_end_at_the_latest(
    stages: frozenset[State], last: bytes
) -> None:
    no_reply = 0x80 | 0x40000 | 0x80000
    driver = negotiated(stages, options=no_reply, then=ENVELOPE + HEADER)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(EOH + BODY) == []
    driver.take_events()
    assert driver.feed(last) == [b"t"]
    assert driver.events == []
    assert not driver.session.message_is_open


def test_owed_verdict_is_not_settled_by_a_recipient_or_an_unknown_command() -> None:
    driver = negotiated(options=0x4000, then=START + MAIL)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(UNKNOWN + RCPT + RCPT) == [b"t", b"t", b"t"]
    assert driver.events == []
    assert driver.session.message_is_open
    assert driver.feed(DATA) == [b"t"]
    assert driver.session.state is State.HELO


def test_owed_accept_at_a_recipient_ends_the_message() -> None:
    driver = negotiated(options=0x4000, then=START + MAIL)
    driver.session.owe(Status.ACCEPT)
    assert driver.feed(RCPT) == [b"a"]
    assert driver.session.state is State.HELO
    # And settled: the next one is asked for.
    assert driver.feed(MAIL + RCPT) == [b"c"]


def test_owed_verdict_ahead_of_a_message_is_given_on_its_sender() -> None:
    driver = negotiated(options=0x2000, then=CONNECT + HELO)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(MAIL) == [b"t"]
    # The milter never hears of a message that is over before it began.
    assert driver.events == []
    assert driver.feed(MAIL) == [b"c"]


def test_owed_verdict_outside_of_a_message_is_given_once() -> None:
    driver = negotiated(options=0x1000, then=CONNECT)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(HELO + HELO) == [b"t", b"c"]
    assert driver.events == [Helo(b"client.example")]


def test_owed_verdict_on_a_message_that_begins_with_a_recipient() -> None:
    # Without MAIL there is nothing to refuse but the recipient, and the message has begun.
    stages = ALL_STAGES - {State.MAIL}
    driver = negotiated(stages, options=0x2000, then=CONNECT + HELO)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(RCPT) == [b"t"]
    assert driver.events == [MessageStart()]
    assert driver.feed(DATA) == [b"t"]
    assert not driver.session.message_is_open


def test_owed_verdict_on_a_message_that_begins_with_its_end() -> None:
    driver = negotiated({State.EOM}, then=CONNECT)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(EOM) == [b"t"]
    assert driver.events == []


def test_owed_verdict_hides_what_nobody_answers_from_an_mta_that_waits() -> None:
    # The MTA does not know of stages without replies, and is answered on behalf of the milter.
    driver = negotiated(options=0x80, offered=offer(options=0x1FFF7F), then=ENVELOPE + HEADER)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(HEADER + HEADER) == [b"c", b"c"]
    assert driver.events == []
    assert driver.feed(EOH) == [b"t"]


def test_owed_verdict_lets_a_message_begin_that_it_cannot_refuse_yet() -> None:
    driver = negotiated(options=0x2000 | 0x4000, then=CONNECT + HELO)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(MAIL) == []
    assert driver.events == [MessageStart()]
    assert driver.feed(ABORT) == []
    assert driver.events == [MessageStart(), MessageAborted()]


@pytest.mark.parametrize("end", [ABORT, b""], ids=["abort", "mail-again"])
def test_owed_verdict_dies_with_its_message(end: bytes) -> None:
    driver = negotiated(options=0x80, then=ENVELOPE + HEADER)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(end + MAIL + RCPT) == [b"c", b"c"]


def test_owed_continue_is_settled_with_the_message() -> None:
    driver = negotiated(options=0x80, then=ENVELOPE + HEADER)
    driver.session.owe(Status.CONTINUE)
    assert driver.feed(EOH + EOM) == [b"c", b"c"]
    assert driver.events == []
    assert driver.feed(MAIL) == [b"c"]
    assert kinds(driver.events) == ["MessageStart", "Mail"]


def test_owed_verdict_of_one_session_is_nothing_to_the_next() -> None:
    driver = negotiated(options=0x20000, then=START + UNKNOWN)
    driver.session.owe(Status.TEMPFAIL)
    assert driver.feed(QUIT_NC + CONNECT) == [b"c"]


# Refusing while the server is being stopped


REFUSAL = b"421 4.3.2 shutting down"
REFUSED = [b"y" + REFUSAL + b"\0"]


@pytest.mark.parametrize(
    ("before", "command"),
    [
        pytest.param(b"", CONNECT, id="connect"),
        pytest.param(CONNECT, HELO, id="helo"),
        pytest.param(START, MAIL, id="mail"),
        pytest.param(START, UNKNOWN, id="unknown"),
        pytest.param(START + UNKNOWN, RCPT, id="rcpt"),
        pytest.param(START + UNKNOWN, DATA, id="data"),
        pytest.param(START + UNKNOWN, BODY, id="body"),
    ],
)
def test_a_draining_session_refuses_what_is_outside_of_a_message(
    before: bytes, command: bytes
) -> None:
    driver = negotiated(then=before)
    driver.session.refuse_new_messages(REFUSAL)
    assert driver.feed(command) == REFUSED
    assert driver.events == []
    assert not driver.session.message_is_open
    # And once more: it is for good.
    assert driver.feed(MAIL) == REFUSED


def test_a_draining_session_refuses_a_message_that_begins_with_its_end() -> None:
    driver = negotiated({State.EOM}, then=CONNECT)
    driver.session.refuse_new_messages(REFUSAL)
    assert driver.feed(EOM) == REFUSED
    assert driver.events == []


def test_a_draining_session_finishes_its_message() -> None:
    driver = negotiated(then=START + MAIL)
    driver.session.refuse_new_messages(REFUSAL)
    assert driver.feed(RCPT + DATA + HEADER + EOH + BODY + EOM) == [b"c"] * 6
    assert driver.events[-1] == EndOfMessage()
    assert driver.feed(MAIL) == REFUSED


def test_a_draining_session_swallows_what_follows_a_refused_sender() -> None:
    driver = negotiated(then=START)
    driver.session.refuse_new_messages(REFUSAL)
    assert driver.feed(MAIL + RCPT + DATA + EOM) == REFUSED
    assert kinds(driver.events) == ["Ignored"] * 3


def test_a_draining_session_aborts_nothing_that_was_not_begun() -> None:
    driver = negotiated(then=START + UNKNOWN)
    driver.session.refuse_new_messages(REFUSAL)
    assert driver.feed(RCPT + MAIL) == REFUSED * 2
    assert driver.feed(UNKNOWN + RCPT + OFFER) == REFUSED * 2
    assert driver.events == [Ignored("negotiate", State.RCPT, "it is out of order")]


def test_a_draining_session_says_nothing_where_nobody_waits() -> None:
    driver = negotiated(options=0x2000, then=CONNECT)
    driver.session.refuse_new_messages(REFUSAL)
    assert driver.feed(HELO) == []
    assert driver.feed(MAIL) == REFUSED


def test_a_draining_session_leaves_the_open_event_its_verdict() -> None:
    driver = negotiated(then=CONNECT)
    driver.feed_until_open(HELO)
    driver.session.refuse_new_messages(REFUSAL)
    driver.session.respond(Status.CONTINUE)
    assert driver.run() == [b"c"]


# What the owner must not do


def test_answer_without_an_event() -> None:
    driver = negotiated()
    with pytest.raises(LocalProtocolError, match="no event"):
        driver.session.respond(Status.CONTINUE)


def test_second_answer_to_an_event() -> None:
    driver = negotiated()
    driver.feed_until_open(CONNECT)
    driver.session.respond(Status.CONTINUE)
    with pytest.raises(LocalProtocolError, match="no event"):
        driver.session.respond(Status.CONTINUE)
    assert driver.session.data_to_send() == b"\0\0\0\x01c"


def test_next_event_before_the_answer() -> None:
    driver = negotiated()
    driver.feed_until_open(CONNECT)
    with pytest.raises(LocalProtocolError, match="not been answered"):
        driver.session.next_event()
    driver.session.respond(Status.CONTINUE)
    assert driver.session.next_event() is None


def test_answer_to_an_event_that_needs_none() -> None:
    driver = negotiated(then=START)
    driver.session.receive_data(MAIL)
    assert driver.session.next_event() == MessageStart()
    with pytest.raises(LocalProtocolError, match="no event"):
        driver.session.respond(Status.CONTINUE)
    assert driver.session.data_to_send() == b""
    assert driver.session.next_event() == Mail([b"<a@example.com>"])
    driver.session.respond(Status.CONTINUE)
    assert driver.run() == [b"c"]


def test_second_answer_to_the_tail_is_none_to_the_end() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM_WITH_TAIL)
    driver.session.respond(Status.CONTINUE)
    with pytest.raises(LocalProtocolError, match="no event"):
        driver.session.respond(Status.CONTINUE)
    assert driver.session.next_event() == EndOfMessage()


@pytest.mark.parametrize("stage", STAGES, ids=stage_id)
def test_all_options_is_no_verdict(stage: Stage) -> None:
    driver = negotiated(then=stage.before)
    driver.feed_until_open(stage.packet)
    with pytest.raises(LocalProtocolError):
        driver.session.respond(Status.ALL_OPTS)
    driver.session.respond(Status.CONTINUE)
    assert driver.run() == [b"c"]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.id != "eom"], ids=stage_id)
def test_edits_are_for_the_end_of_a_message(stage: Stage) -> None:
    driver = negotiated(then=stage.before)
    driver.feed_until_open(stage.packet)
    with pytest.raises(LocalProtocolError, match="edits"):
        driver.session.respond(Status.CONTINUE, edits=packet("q", b"why\0"))
    driver.session.respond(Status.CONTINUE)
    assert driver.run() == [b"c"]


def test_edits_do_not_go_with_the_tail() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM_WITH_TAIL)
    with pytest.raises(LocalProtocolError, match="edits"):
        driver.session.respond(Status.REJECT, edits=packet("q", b"why\0"))
    driver.session.respond(Status.REJECT)
    assert driver.run() == [b"r"]


def test_an_answer_that_cannot_be_sent_leaves_the_event_open() -> None:
    driver = negotiated(then=ENVELOPE)
    driver.feed_until_open(EOM)
    with pytest.raises(LocalProtocolError, match="NUL"):
        driver.session.respond(Status.REJECT, b"550 a\0b", packet("q", b"why\0"))
    assert driver.session.data_to_send() == b""
    driver.session.respond(Status.REJECT)
    assert driver.run() == [b"r"]
