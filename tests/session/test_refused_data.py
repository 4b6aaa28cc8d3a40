"""What follows a refusal at DATA, and other words that are not meant for a message (D34 to D36)."""

from __future__ import annotations

import pytest

from aiomilter.session.events import Event, MessageAborted, MessageStart
from aiomilter.session.status import Status
from aiomilter.spec import State
from aiomilter.wire.commands import Data, Mail, Rcpt, Unknown
from tests.packets import (
    ABORT,
    CONNECT,
    DATA,
    ENVELOPE,
    HELO,
    MAIL,
    RCPT,
    UNKNOWN,
    macros,
)
from tests.session.driver import ALL_STAGES, Answer, Driver, kinds, negotiated

REFUSED = b"y550 5.7.1 no\0"
WITHOUT_MAIL = ALL_STAGES - {State.MAIL}
MACROS_OF_MAIL = macros("M", b"i", b"Q2")
NO_REPLY_RCPT = 0x8000


def refused(
    stages: frozenset[State] = ALL_STAGES, then: bytes = ENVELOPE, options: int = 0
) -> Driver:
    """A session whose message was refused at DATA; the next one would pass."""
    answers: dict[type[Event], list[Answer]] = {
        Data: [Answer(Status.REJECT, b"550 5.7.1 no"), Answer(Status.CONTINUE)]
    }
    driver = negotiated(stages, answers, options=options, then=CONNECT + HELO)
    driver.feed(then + DATA if not then.endswith(DATA) else then)
    driver.take_events()
    return driver


def test_what_follows_is_refused_and_shown_to_nobody() -> None:
    driver = refused()
    assert driver.feed(DATA + RCPT + macros("T", b"i", b"Q1") + DATA) == [REFUSED] * 3
    assert kinds(driver.events) == []
    assert not driver.session.is_in_transaction


def test_no_answer_goes_out_where_none_was_agreed_on() -> None:
    assert refused(options=NO_REPLY_RCPT).feed(RCPT + DATA) == [REFUSED]


@pytest.mark.parametrize("end", [ABORT, b"", ABORT + HELO], ids=["abort", "mail", "helo"])
def test_the_next_message_is_asked_about(end: bytes) -> None:
    driver = refused()
    assert driver.feed(end + MAIL + RCPT + DATA)[-3:] == [b"c"] * 3
    assert kinds(driver.events)[-4:] == ["MessageStart", "Mail", "Rcpt", "Data"]


def test_behind_an_abort_nothing_is_refused() -> None:
    driver = refused()
    # Out of order, and so swallowed as in libmilter.
    assert driver.feed(ABORT + DATA) == []


def test_without_mail_the_refusal_lasts_until_another_message_is_told_of() -> None:
    driver = refused(WITHOUT_MAIL, MACROS_OF_MAIL + RCPT)
    assert driver.feed(RCPT + DATA) == [REFUSED] * 2
    assert driver.feed(MACROS_OF_MAIL + RCPT + DATA) == [b"c"] * 2
    assert kinds(driver.events) == ["MessageStart", "Rcpt", "Data"]


def test_without_mail_and_its_macros_another_message_cannot_be_told_from_this_one() -> None:
    driver = refused(WITHOUT_MAIL, RCPT)
    assert driver.feed(RCPT + DATA) == [b"c"] * 2


@pytest.mark.parametrize("status", [Status.DISCARD, Status.ACCEPT])
def test_only_a_refusal_is_given_again(status: Status) -> None:
    driver = negotiated(answers={Data: Answer(status)}, then=CONNECT + HELO + ENVELOPE + DATA)
    assert driver.feed(DATA + RCPT) == []


def test_macros_of_mail_end_a_message_only_where_mail_is_not_wanted() -> None:
    driver = negotiated(then=CONNECT + HELO + MAIL + RCPT)
    driver.feed(MACROS_OF_MAIL)
    assert driver.events == []
    driver = negotiated(WITHOUT_MAIL, then=CONNECT + HELO + RCPT)
    driver.feed(macros("R", b"i", b"Q1"))
    assert driver.events == []
    driver.feed(MACROS_OF_MAIL + RCPT)
    assert [type(event) for event in driver.events] == [MessageAborted, MessageStart, Rcpt]


@pytest.mark.parametrize("stages", [ALL_STAGES, WITHOUT_MAIL], ids=["all", "without mail"])
@pytest.mark.parametrize("status", [Status.ACCEPT, Status.DISCARD])
def test_no_verdict_on_a_message_that_cannot_be_known(
    status: Status, stages: frozenset[State]
) -> None:
    driver = negotiated(stages, {Unknown: Answer(status)}, then=CONNECT + HELO)
    assert driver.feed(UNKNOWN) == [b"c"]
    knows = stages is ALL_STAGES
    verdict = b"a" if status is Status.ACCEPT else b"d"
    assert driver.feed((MAIL if knows else b"") + RCPT + UNKNOWN)[-1] == (
        verdict if knows else b"c"
    )


def test_an_owed_verdict_is_kept_for_a_message() -> None:
    driver = negotiated(then=CONNECT + HELO)
    driver.session.owe(Status.ACCEPT)
    assert driver.feed(UNKNOWN + UNKNOWN + MAIL) == [b"c", b"c", b"a"]
    assert Mail not in [type(event) for event in driver.events]
