"""What an MTA makes of a milter's answers: where a message ends, and with what."""

from __future__ import annotations

import pytest

from aiomilter import Reply, Status
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.edits import (
    BodyReplaced,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.app.mta.envelope import Envelope
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Answer
from aiomilter.errors import RemoteProtocolError
from tests.app.mta.scripted import CONTENT, ENVELOPE, Talk
from tests.packets import packet

BOTH = [Mta.POSTFIX, Mta.SENDMAIL]
LATER = Reply(451, "4.7.1", "later")


# Verdicts

VERDICTS = [
    (packet("a"), Status.ACCEPT, None),
    (packet("r"), Status.REJECT, None),
    (packet("t"), Status.TEMPFAIL, None),
    (packet("d"), Status.DISCARD, None),
    (packet("y", b"451 4.7.1 later\0"), Status.TEMPFAIL, LATER),
    (packet("y", b"550 5.7.1 no\0"), Status.REJECT, Reply(550, "5.7.1", "no")),
]
STAGES = [
    ("C", "connect", "C"),
    ("H", "helo", "CH"),
    ("M", "mail", "CHM"),
    ("T", "data", "CHMRRT"),
    ("L", "header", "CHMRRTL"),
    ("N", "eoh", "CHMRRTLLN"),
    ("B", "body", "CHMRRTLLNB"),
    ("E", "eom", "CHMRRTLLNBE"),
]


@pytest.mark.parametrize(("wire", "status", "reply"), VERDICTS)
@pytest.mark.parametrize(("letter", "stage", "letters"), STAGES)
@pytest.mark.parametrize("mta", BOTH)
def test_a_verdict_ends_the_message_where_it_falls(
    mta: Mta, letter: str, stage: str, letters: str, wire: bytes, status: Status, reply: object
) -> None:
    talk = Talk({letter: wire}, mta=mta)
    outcome = talk.send()
    if status is Status.DISCARD and letter in "CH":
        # It has no meaning there; Sendmail does without the milter after CONNECT.
        is_over = letter == "C" and mta is Mta.SENDMAIL
        assert (outcome.status, outcome.stage) == (Status.ACCEPT, "connect" if is_over else "eom")
        assert outcome.steps["CH".index(letter)].answer == Answer(Status.DISCARD)
        return
    assert (outcome.status, outcome.stage, outcome.reply) == (status, stage, reply)
    is_aborted = mta is Mta.POSTFIX and letter not in "CH"
    assert talk.letters == letters + "A" * is_aborted


@pytest.mark.parametrize(("wire", "status", "reply"), VERDICTS[:3])
@pytest.mark.parametrize("letter", "CH")
@pytest.mark.parametrize("mta", BOTH)
def test_a_verdict_on_the_session_holds_for_the_next_message(
    mta: Mta, letter: str, wire: bytes, status: Status, reply: object
) -> None:
    talk = Talk({letter: wire}, mta=mta)
    talk.send()
    before = list(talk.sent)
    outcome = talk.send()
    assert (outcome.status, outcome.steps) == (status, ())
    assert talk.sent == before


@pytest.mark.parametrize("mta", BOTH)
@pytest.mark.parametrize("letter", "MTLNBE")
def test_a_verdict_on_a_message_does_not_hold_for_the_next(mta: Mta, letter: str) -> None:
    talk = Talk({letter: packet("r")}, mta=mta)
    assert talk.send().status is Status.REJECT
    talk.sent.clear()
    outcome = talk.send()
    assert outcome.status is Status.ACCEPT
    assert talk.letters == ("MRRTLLNBEA" if mta is Mta.POSTFIX else "MRRTLLNBE")
    assert [step.stage for step in outcome.steps][:1] == ["mail"]


def test_the_queue_id_is_another_for_each_message() -> None:
    talk = Talk(mta=Mta.SENDMAIL)
    talk.send()
    talk.send()
    ids = [one for one in talk.macros if one[:2] == b"Mi"]
    assert [one[3:15] for one in ids] == [b"4aio00000001", b"4aio00000002"]


# Recipients


@pytest.mark.parametrize("mta", BOTH)
def test_a_refusal_of_a_recipient_leaves_the_others(mta: Mta) -> None:
    talk = Talk({"R": packet("y", b"451 4.7.1 later\0")}, mta=mta)
    outcome = talk.send()
    assert outcome.status is Status.ACCEPT
    assert outcome.refused_recipients == ("<b@example.org>",)
    assert outcome.envelope == Envelope("a@example.com", "c@example.org")
    assert [result.answer for result in outcome.recipients] == [
        Answer(Status.TEMPFAIL, LATER),
        Answer(),
    ]


def test_in_postfix_a_refused_recipient_makes_no_queue_id() -> None:
    talk = Talk({"R": packet("r")})
    talk.send()
    assert [one[:2] for one in talk.macros if one[:1] == b"R"] == [b"R{", b"R{"]
    assert b"Ti\x004aio00000001\0" in talk.macros


@pytest.mark.parametrize("mta", BOTH)
def test_a_message_without_recipients_left_is_given_up(mta: Mta) -> None:
    """Sendmail too: the milter has decided on recipients, not on the message."""
    talk = Talk({"R": [packet("r"), packet("t")]}, mta=mta)
    outcome = talk.send()
    assert (outcome.status, outcome.stage) == (Status.TEMPFAIL, "rcpt")
    assert outcome.envelope.recipients == ()
    assert talk.letters == "CHMRRA"


@pytest.mark.parametrize(
    ("wire", "status"), [(packet("a"), Status.ACCEPT), (packet("d"), Status.DISCARD)]
)
@pytest.mark.parametrize("mta", BOTH)
def test_another_verdict_at_a_recipient_is_on_the_message(
    mta: Mta, wire: bytes, status: Status
) -> None:
    talk = Talk({"R": wire}, mta=mta)
    outcome = talk.send()
    assert (outcome.status, outcome.stage) == (status, "rcpt")
    assert outcome.envelope == ENVELOPE
    # To Sendmail the message is decided: no ABORT.
    assert talk.letters == ("CHMRA" if mta is Mta.POSTFIX else "CHMR")


@pytest.mark.parametrize(
    ("wire", "words"),
    [(packet("y", b"421 4.7.9 closing\0"), "closing"), (packet("4"), "the milter has shut down")],
)
def test_after_421_at_a_recipient_nothing_more_is_asked(wire: bytes, words: str) -> None:
    talk = Talk({"R": wire})
    outcome = talk.send()
    assert (outcome.status, outcome.stage) == (Status.TEMPFAIL, "rcpt")
    assert outcome.reply is not None
    assert outcome.reply.code == 421
    assert outcome.reply.lines[0].startswith(words)
    assert talk.letters == "CHMRA"


def test_the_same_recipient_twice_may_be_refused_once() -> None:
    talk = Talk({"R": [packet("c"), packet("r")]})
    outcome = talk.send(envelope=Envelope("<>", ["b@example.org", "b@example.org"]))
    assert outcome.envelope.recipient_addresses == ("<b@example.org>",)


# SKIP


@pytest.mark.parametrize(
    ("letter", "letters"),
    [
        ("M", "CHMRRTLLNBE"),
        ("R", "CHMRTLLNBE"),
        ("T", "CHMRRTLLNBE"),
        ("L", "CHMRRTLNBE"),
        ("N", "CHMRRTLLNBE"),
        ("B", "CHMRRTLLNBE"),
        ("C", "CHMRRTLLNBE"),
        ("H", "CHMRRTLLNBE"),
    ],
)
def test_skip_in_postfix_means_no_more_of_the_kind(letter: str, letters: str) -> None:
    talk = Talk({letter: packet("s")})
    body = b"x" * 65_535 if letter != "B" else b"x" * 200_000
    outcome = talk.send(Content(CONTENT.headers, body))
    assert (outcome.status, outcome.stage) == (Status.ACCEPT, "eom")
    assert talk.letters == letters + "A"
    # Nor are there macros for what is left out.
    assert talk.all_letters == "".join(f"D{one}" for one in letters) + "A"
    assert talk.conversation.steps[0].stage == "connect"


def test_skip_at_a_piece_of_the_body_in_sendmail() -> None:
    talk = Talk({"B": packet("s")}, mta=Mta.SENDMAIL)
    talk.send(Content(CONTENT.headers, b"x" * 200_000))
    assert talk.letters == "CHMRRTLLNBE"


@pytest.mark.parametrize("letter", "LN")
def test_skip_at_a_header_in_sendmail_leaves_out_the_body(letter: str) -> None:
    talk = Talk({letter: packet("s")}, mta=Mta.SENDMAIL)
    assert talk.send().stage == "eom"
    assert talk.letters == "CHMRRTLLNE"


@pytest.mark.parametrize(
    ("letter", "stage", "letters"),
    [("M", "mail", "CHM"), ("R", "rcpt", "CHMR"), ("T", "data", "CHMRRT")],
)
def test_skip_before_the_content_is_accept_in_sendmail(
    letter: str, stage: str, letters: str
) -> None:
    talk = Talk({letter: packet("s")}, mta=Mta.SENDMAIL)
    outcome = talk.send()
    assert (outcome.status, outcome.stage) == (Status.ACCEPT, stage)
    assert talk.letters == letters
    # It is about the message: the next one is asked about.
    assert talk.send().stage == "eom"


@pytest.mark.parametrize(("letter", "stage"), [("C", "connect"), ("H", "helo")])
def test_skip_before_the_message_is_accept_of_the_session_in_sendmail(
    letter: str, stage: str
) -> None:
    talk = Talk({letter: packet("s")}, mta=Mta.SENDMAIL)
    assert [(one.status, one.stage) for one in (talk.send(), talk.send())] == [
        (Status.ACCEPT, stage)
    ] * 2


@pytest.mark.parametrize("mta", BOTH)
def test_skip_is_forgotten_with_the_message(mta: Mta) -> None:
    talk = Talk({"B": packet("s")}, mta=mta)
    for _ in range(2):
        talk.send(Content((), b"x" * 70_000))
    assert talk.letters.count("B") == 3


# Edits and progress

EDITS = [
    (packet("h", b"X-A\0v\0"), HeaderAdded("X-A", "v")),
    (packet("i", b"\0\0\0\x02X-I\0v\0"), HeaderInserted(2, "X-I", "v")),
    (packet("m", b"\0\0\0\x01Subject\0new\0"), HeaderChanged("Subject", 1, "new")),
    (packet("m", b"\0\0\0\x01Subject\0\0"), HeaderChanged("Subject", 1, None)),
    (packet("e", b"<n@x>\0"), SenderChanged("<n@x>", None)),
    (packet("e", b"<n@x>\0RET=FULL\0"), SenderChanged("<n@x>", "RET=FULL")),
    (packet("+", b"<r@x>\0"), RecipientAdded("<r@x>", None)),
    (packet("2", b"<r@x>\0"), RecipientAdded("<r@x>", None)),
    (packet("2", b"<r@x>\0\0"), RecipientAdded("<r@x>", "")),
    (packet("-", b"<b@example.org>\0"), RecipientDeleted("<b@example.org>")),
    (packet("b", b"body\r\n"), BodyReplaced(b"body\r\n")),
    (packet("b"), BodyReplaced(b"")),
    (packet("q", b"held\0"), Quarantined("held")),
]


@pytest.mark.parametrize(("wire", "edit"), EDITS)
@pytest.mark.parametrize("mta", BOTH)
def test_an_edit_comes_ahead_of_the_verdict(mta: Mta, wire: bytes, edit: object) -> None:
    talk = Talk({"E": wire + packet("a")}, mta=mta)
    outcome = talk.send()
    assert outcome.edits == (edit,)
    assert outcome.steps[-1].answer == Answer(Status.ACCEPT, None, outcome.edits)


def test_edits_stay_in_order_and_the_pieces_of_a_body_become_one() -> None:
    pieces = packet("b", b"one") + packet("b", b"two") + packet("b", b"one")
    wire = packet("h", b"A\x001\0") + pieces + packet("h", b"A\x001\0") + packet("c")
    expected = (HeaderAdded("A", "1"), BodyReplaced(b"onetwoone"), HeaderAdded("A", "1"))
    assert Talk({"E": wire}).send().edits == expected


def test_sendmail_takes_pieces_of_a_body_with_others_in_between() -> None:
    wire = packet("b", b"one") + packet("h", b"A\x001\0") + packet("b", b"two") + packet("c")
    assert Talk({"E": wire}, mta=Mta.SENDMAIL).send().edits == (
        BodyReplaced(b"onetwo"),
        HeaderAdded("A", "1"),
    )
    with pytest.raises(RemoteProtocolError) as caught:
        Talk({"E": wire}).send()
    assert caught.value.rule == "another edit stands between two pieces of a new body"


@pytest.mark.parametrize("mta", BOTH)
def test_progress_is_counted(mta: Mta) -> None:
    wire = packet("p") * 3 + packet("h", b"A\x001\0") + packet("p") + packet("r")
    talk = Talk({"E": [wire]}, mta=mta)
    outcome = talk.send()
    assert outcome.steps[-1].answer.progress == 4
    assert outcome.status is Status.REJECT


@pytest.mark.parametrize("letter", "CHMRTLNB")
def test_progress_before_the_end_is_for_postfix_alone(letter: str) -> None:
    script = {letter: packet("p") + packet("c")}
    outcome = Talk(script).send()
    assert [step.answer.progress for step in outcome.steps if step.answer.progress] == [1]
    with pytest.raises(RemoteProtocolError, match="progress is no reply to"):
        Talk(script, mta=Mta.SENDMAIL).send()


# Replies


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (b"550 5.7.1 100%% of %%s", Reply(550, "5.7.1", "100% of %s")),
        (b"550 5.7.1 100% of it", Reply(550, "5.7.1", "100 of it")),
        (b"550-5.7.1 a\r\n550 5.7.1 b", Reply(550, "5.7.1", "a", "b")),
        (b"451 later", Reply(451, None, "later")),
    ],
)
def test_the_words_of_a_refusal(text: bytes, reply: Reply) -> None:
    outcome = Talk({"E": packet("y", text + b"\0")}).send()
    assert outcome.reply == reply
    assert outcome.is_refused


@pytest.mark.parametrize("letter", "CM")
def test_shutdown_is_a_refusal_with_421_to_postfix_and_an_error_to_sendmail(letter: str) -> None:
    outcome = Talk({letter: packet("4")}).send()
    assert outcome.status is Status.TEMPFAIL
    assert outcome.reply == Reply(421, "4.3.0", "the milter has shut down the session")
    with pytest.raises(RemoteProtocolError, match="shutdown is no reply to"):
        Talk({letter: packet("4")}, mta=Mta.SENDMAIL).send()
