"""What has become of a message, as a caller asks for it."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from aiomilter import Reply, Status
from aiomilter.app.mta.edits import HeaderAdded, Quarantined
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Answer, Outcome
from tests.app.mta.scripted import CONTENT, Talk, agreement
from tests.packets import packet


@pytest.mark.parametrize(
    ("status", "is_final", "is_refusal"),
    [
        (Status.CONTINUE, False, False),
        (Status.SKIP, False, False),
        (Status.ACCEPT, True, False),
        (Status.DISCARD, True, False),
        (Status.REJECT, True, True),
        (Status.TEMPFAIL, True, True),
    ],
)
def test_an_answer(status: Status, is_final: bool, is_refusal: bool) -> None:
    answer = Answer(status)
    assert (answer.is_final, answer.is_refusal) == (is_final, is_refusal)
    assert str(answer) == status.name


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(550, "5.7.1", "100% no"), "REJECT 550 5.7.1 100% no"),
        (Reply(550, "5.7.1", "a", "b"), "REJECT 550-5.7.1 a / 550 5.7.1 b"),
        (Reply(550, None, "\udcff"), "REJECT 550 \ufffd"),
    ],
)
def test_an_answer_is_shown_in_one_line(reply: Reply, text: str) -> None:
    assert str(Answer(Status.REJECT, reply)) == text


@pytest.mark.parametrize(
    ("status", "accepted", "refused", "discarded"),
    [
        (Status.ACCEPT, True, False, False),
        (Status.REJECT, False, True, False),
        (Status.TEMPFAIL, False, True, False),
        (Status.DISCARD, False, False, True),
    ],
)
def test_an_outcome_is_one_of_three(
    status: Status, accepted: bool, refused: bool, discarded: bool
) -> None:
    outcome = Outcome(status, "eom")
    assert (outcome.is_accepted, outcome.is_refused, outcome.is_discarded) == (
        accepted,
        refused,
        discarded,
    )
    assert (outcome.apply() is not None) == accepted


def test_the_reason_of_a_quarantine_is_the_last_one() -> None:
    assert Outcome(Status.ACCEPT, "eom").quarantine is None
    assert Outcome(Status.ACCEPT, "eom", edits=(HeaderAdded("A", "b"),)).quarantine is None
    edits = (Quarantined("one"), HeaderAdded("A", "b"), Quarantined("two"))
    assert Outcome(Status.ACCEPT, "eom", edits=edits).quarantine == "two"


def test_an_outcome_knows_what_it_is_about() -> None:
    talk = Talk({"E": packet("q", b"held\0") + packet("c")}, mta=Mta.SENDMAIL)
    outcome = talk.send()
    assert (outcome.content, outcome.mta, outcome.leading_space) == (CONTENT, Mta.SENDMAIL, False)
    assert outcome.quarantine == "held"
    assert Talk(agreed=agreement(0x100000)).send().leading_space


def test_a_delivery_has_no_refused_recipients() -> None:
    delivery = Talk({"R": packet("r")}).send().apply()
    assert delivery is not None
    assert delivery.envelope.recipient_addresses == ("<c@example.org>",)


@pytest.mark.parametrize("wire", [packet("r"), packet("t"), packet("d")])
def test_nothing_is_delivered_of_a_message_that_is_not_accepted(wire: bytes) -> None:
    assert Talk({"E": packet("h", b"A\0b\0") + wire}).send().apply() is None


def test_the_outcome_of_one_message_can_be_applied_to_another(tmp_path: FilePath) -> None:
    path = tmp_path / "message.eml"
    path.write_bytes(b"Subject: other\n\nother body\n")
    outcome = Talk().send()
    delivery = outcome.apply(path)
    assert delivery is not None
    assert delivery.content.body == b"other body\r\n"
    same = outcome.apply()
    assert same is not None
    assert same.content.body == CONTENT.body
    with pytest.raises(OSError, match="nowhere"):
        outcome.apply(tmp_path / "nowhere")


def test_an_outcome_is_short_to_look_at() -> None:
    outcome = Talk({"E": packet("y", b"550 5.7.1 no\0")}).send()
    assert repr(outcome).startswith("Outcome(status=<Status.REJECT")
    assert "steps" not in repr(outcome)
    assert len(repr(outcome)) < 1000
