from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from aiomilter.session.events import MessageAborted, SessionEnd
from aiomilter.session.macros import MacroStore
from aiomilter.session.status import Status
from aiomilter.spec import State
from aiomilter.wire.commands import EndOfMessage, Mail
from tests.packets import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    macros,
    packet,
)
from tests.session.driver import Answer, Driver, negotiated

SLOTS = "CHMRTNE"
ALL_SETS = b"".join(macros(letter, letter.lower().encode(), b"1") for letter in SLOTS)
"""In each slot one macro, named after it."""


def store_of(*payloads: bytes) -> MacroStore:
    store = MacroStore()
    for payload in payloads:
        store.store(payload)
    return store


def slots_seen(driver: Driver) -> str:
    visible = driver.session.macros.visible()
    return "".join(letter for letter in SLOTS if letter.lower().encode() in visible)


@pytest.mark.parametrize(
    ("payloads", "visible"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param([b"Cj\0mx\0i\0Q1\0"], {b"j": b"mx", b"i": b"Q1"}, id="pairs"),
        pytest.param([b"Cj\0\0"], {b"j": b""}, id="empty-value"),
        pytest.param([b"C\0a\0\0b\0"], {}, id="empty-name"),
        pytest.param([b"Cj\0mx\0tail"], {b"j": b"mx"}, id="unterminated-rest"),
        # A packet replaces all of its slot; one without any NUL replaces nothing.
        pytest.param([b"Cj\0a\0k\0b\0", b"Cj\0c\0"], {b"j": b"c"}, id="replaced"),
        pytest.param([b"Cj\0a\0", b"C"], {b"j": b"a"}, id="no-strings"),
        pytest.param([b"Cj\0a\0", b"Cjunk"], {b"j": b"a"}, id="no-nul"),
        pytest.param([b"Cj\0a\0", b"C\0"], {}, id="one-empty-string"),
        # The later slot wins, in the order of events: EOH is ahead of EOM.
        pytest.param([b"Ri\0late\0", b"Ci\0early\0"], {b"i": b"late"}, id="later-slot"),
        pytest.param([b"Ei\0eom\0", b"Ni\0eoh\0"], {b"i": b"eom"}, id="eom-over-eoh"),
        pytest.param([b"Ti\0data\0", b"Ni\0eoh\0"], {b"i": b"eoh"}, id="eoh-over-data"),
        pytest.param([b"Cj\0first\0j\0second\0"], {b"j": b"first"}, id="first-in-slot"),
        # Braces around one character say nothing; around more they are part of the name.
        pytest.param([b"C{j}\0mx\0"], {b"j": b"mx"}, id="braces-around-one"),
        pytest.param([b"Cj\0a\0", b"M{j}\0b\0"], {b"j": b"b"}, id="braces-over-none"),
        pytest.param([b"C{j}\0a\0j\0b\0"], {b"j": b"a"}, id="braces-first"),
        pytest.param([b"C{ab}\0x\0ab\0y\0"], {b"{ab}": b"x", b"ab": b"y"}, id="braces-around-more"),
        pytest.param([b"C{}\0x\0"], {b"{}": b"x"}, id="braces-around-none"),
        pytest.param([b"CJ\0a\0j\0b\0"], {b"J": b"a", b"j": b"b"}, id="case"),
        pytest.param([b"C j\0a\0"], {b" j": b"a"}, id="blank"),
        # A name without value hides the same name of earlier slots, and no other.
        pytest.param([b"Cj\0mx\0k\0x\0", b"Mj\0"], {b"k": b"x"}, id="odd-hides"),
        pytest.param([b"Cj\0mx\0", b"M{j}\0"], {}, id="odd-hides-with-braces"),
        pytest.param([b"Cj\0mx\0", b"Mi\0Q1\0k\0"], {b"j": b"mx", b"i": b"Q1"}, id="odd"),
        pytest.param([b"Mi\0Q1\0i\0"], {b"i": b"Q1"}, id="odd-behind-its-value"),
        pytest.param([b"Mj\0", b"Ej\0v\0"], {b"j": b"v"}, id="odd-under-a-later-slot"),
    ],
)
def test_visible_macros(payloads: list[bytes], visible: dict[bytes, bytes]) -> None:
    assert store_of(*payloads).visible() == visible


@pytest.mark.parametrize("letter", SLOTS)
def test_each_letter_has_a_slot_of_its_own(letter: str) -> None:
    store = MacroStore()
    assert store.store(letter.encode() + b"x\0y\0")
    assert store.visible() == {b"x": b"y"}


@pytest.mark.parametrize("letter", list("LBUAQOKDcx\0\xff"))
def test_macros_of_other_letters_are_ignored(letter: str) -> None:
    store = MacroStore()
    assert not store.store(letter.encode("latin-1") + b"x\0y\0")
    assert store.visible() == {}


def test_version_changes_with_the_macros() -> None:
    store = MacroStore()
    steps: list[Callable[[], object]] = [
        lambda: store.store(b"Mi\0Q1\0"),
        lambda: store.clear_from(0),
        lambda: store.store(b"Mi\0Q1\0"),
        store.end_message,
        store.begin_message,
    ]
    seen = [(store.version, store.visible())]
    for step in steps:
        step()
        seen.append((store.version, store.visible()))
    for (version, visible), (next_version, next_visible) in itertools.pairwise(seen):
        if visible != next_visible:
            assert version != next_version


def test_ignored_macros_change_no_version() -> None:
    store = store_of(b"Cj\0mx\0")
    before = store.version
    assert not store.store(b"Cjunk")
    assert not store.store(b"Lj\0x\0")
    assert store.version == before


@pytest.mark.parametrize(
    ("before", "command", "kept"),
    [
        (b"", OFFER, ""),
        (OFFER, CONNECT, "C"),
        (OFFER + CONNECT, HELO, "CH"),
        (OFFER + CONNECT + HELO, MAIL, "CHM"),
        (OFFER + CONNECT + HELO + MAIL, RCPT, "CHMR"),
        (OFFER + CONNECT + HELO + MAIL + RCPT, DATA, SLOTS),
        (OFFER + CONNECT + HELO + MAIL + RCPT, HEADER, SLOTS),
        (OFFER + CONNECT + HELO + MAIL + RCPT, EOH, SLOTS),
        (OFFER + CONNECT + HELO + MAIL + RCPT, BODY, SLOTS),
        (OFFER + CONNECT + HELO + MAIL + RCPT, EOM, SLOTS),
        (OFFER + CONNECT + HELO + MAIL + RCPT, UNKNOWN, SLOTS),
        (OFFER + CONNECT + HELO + MAIL + RCPT, ABORT, SLOTS),
        # What is swallowed clears nothing.
        (OFFER + CONNECT, DATA, SLOTS),
        (OFFER + CONNECT, CONNECT, SLOTS),
        # The payload need not be good: it is the command that counts.
        (OFFER + CONNECT, packet("H", b"without NUL"), "CH"),
    ],
    ids=lambda value: repr(value[-12:]) if isinstance(value, bytes) else value,
)
def test_commands_clear_the_slots_behind_their_own(
    before: bytes, command: bytes, kept: str
) -> None:
    driver = Driver()
    driver.feed(before)
    driver.feed(ALL_SETS)
    assert slots_seen(driver) == SLOTS
    driver.feed(command)
    assert slots_seen(driver) == kept


def test_a_stage_without_handler_clears_slots_too() -> None:
    driver = negotiated({State.EOM}, then=CONNECT + HELO + ALL_SETS)
    driver.feed(MAIL)
    assert slots_seen(driver) == "CHM"
    driver.feed(ALL_SETS + RCPT)
    assert slots_seen(driver) == "CHMR"


def test_macros_may_come_before_anything_else() -> None:
    driver = Driver()
    assert driver.feed(macros("C", b"j", b"mx")) == []
    assert driver.take_events() == []
    assert driver.session.macros.visible() == {b"j": b"mx"}


def test_macros_without_a_letter_end_the_connection() -> None:
    driver = negotiated()
    assert "macro" in driver.fail(packet("D"))


def test_macros_are_there_for_the_command_behind_them() -> None:
    driver = negotiated(then=CONNECT + HELO)
    event = driver.feed_until_open(macros("M", b"i", b"Q1") + MAIL)
    assert event == Mail([b"<a@example.com>"])
    assert driver.session.macros.visible() == {b"i": b"Q1"}


# The MTA must say more at once: this is when the owner had better acknowledge what came.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (HELO, False),
        (macros("H", b"x", b"y"), True),
        (macros("H", b"x", b"y") + HELO[:3], True),
        (macros("H", b"x", b"y") + HELO, False),
        (HELO[:3], True),
        (macros("L"), True),
    ],
)
def test_macros_and_halves_of_packets_announce_more(data: bytes, expected: bool) -> None:
    driver = negotiated(then=CONNECT)
    driver.feed(data)
    session = driver.session
    assert (session.ends_in_macros or session.buffered_bytes > 0) == expected


# In libmilter a macro of one message, {auth_authen} say, is still there in the next one if the
# MTA sends no new set.
SHORT_MESSAGE = MAIL + RCPT + EOM


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(RCPT + EOM, id="eom"),
        pytest.param(ABORT, id="abort"),
        pytest.param(b"", id="mail-again"),
        pytest.param(HELO, id="helo"),
    ],
)
def test_macros_of_a_message_are_gone_in_the_next(end: bytes) -> None:
    first = macros("M", b"{auth_authen}", b"anne") + MAIL
    driver = negotiated(then=macros("C", b"j", b"mx") + CONNECT + HELO + first)
    assert driver.session.macros.visible() == {b"j": b"mx", b"{auth_authen}": b"anne"}
    driver.feed(end)
    driver.feed_until_open(MAIL)
    assert driver.session.macros.visible() == {b"j": b"mx"}


def test_macros_of_a_refused_message_are_gone_in_the_next() -> None:
    verdicts = [Answer(Status.REJECT), Answer(Status.CONTINUE)]
    driver = negotiated(answers={Mail: verdicts}, then=CONNECT + HELO)
    assert driver.feed(macros("M", b"i", b"Q1") + MAIL + MAIL) == [b"r", b"c"]
    assert driver.session.macros.visible() == {}


def test_macros_of_a_mail_that_is_not_wanted_end_the_message_and_are_the_next_ones() -> None:
    # Sendmail says nothing else of a RSET to a milter that does not want MAIL.
    driver = negotiated(stages=(State.RCPT,), then=CONNECT + HELO)
    driver.feed(macros("M", b"i", b"Q1") + RCPT)
    assert driver.feed(macros("M", b"i", b"Q2")) == []
    assert isinstance(driver.events[-1], MessageAborted)
    driver.feed(RCPT)
    assert driver.session.macros.visible()[b"i"] == b"Q2"
    assert [type(event) for event in driver.events].count(MessageAborted) == 1


@pytest.mark.parametrize("value", [b"anne", b"bert"])
def test_macros_sent_again_are_those_of_the_new_message(value: bytes) -> None:
    first = macros("M", b"{auth_authen}", b"anne") + SHORT_MESSAGE
    driver = negotiated(then=CONNECT + HELO + first)
    driver.feed(macros("M", b"{auth_authen}", value) + MAIL)
    assert driver.session.macros.visible() == {b"{auth_authen}": value}


def test_macros_of_the_end_are_gone_for_a_milter_that_sees_the_end_alone() -> None:
    # It is sent neither MAIL nor RCPT, which would clear them.
    driver = negotiated({State.EOM}, then=CONNECT + macros("E", b"i", b"Q1") + EOM)
    assert driver.feed_until_open(EOM) == EndOfMessage()
    assert driver.session.macros.visible() == {}


def test_macros_of_a_message_are_seen_until_the_next_begins() -> None:
    driver = negotiated(then=CONNECT + HELO + macros("M", b"i", b"Q1") + SHORT_MESSAGE)
    assert driver.session.macros.visible() == {b"i": b"Q1"}
    driver.feed(UNKNOWN)
    assert driver.session.macros.visible() == {b"i": b"Q1"}


def test_macros_of_the_session_outlive_its_messages() -> None:
    sets = macros("C", b"j", b"mx") + CONNECT + macros("H", b"{tls_version}", b"x") + HELO
    driver = negotiated(then=sets + SHORT_MESSAGE * 2)
    assert driver.session.macros.visible() == {b"j": b"mx", b"{tls_version}": b"x"}


def test_macros_are_there_at_the_end_of_the_session() -> None:
    driver = negotiated(then=macros("C", b"j", b"mx") + CONNECT + HELO + SHORT_MESSAGE)
    driver.session.receive_data(QUIT)
    assert driver.session.next_event() == SessionEnd()
    assert driver.session.macros.visible() == {b"j": b"mx"}


def test_macros_of_a_session_are_there_at_its_end_though_another_may_follow() -> None:
    driver = negotiated(then=macros("C", b"j", b"mx") + CONNECT + HELO + SHORT_MESSAGE)
    # Each session has a store of its own: libmilter empties the one when close has run.
    of_the_first = driver.session.macros
    driver.session.receive_data(QUIT_NC)
    assert driver.session.next_event() == SessionEnd()
    assert of_the_first.visible() == {b"j": b"mx"}
    assert driver.session.macros.visible() == {}


def test_macros_are_gone_in_the_next_session_of_a_connection() -> None:
    driver = negotiated(then=macros("C", b"j", b"mx") + CONNECT + HELO + SHORT_MESSAGE)
    driver.feed(QUIT_NC + CONNECT)
    assert driver.session.macros.visible() == {}


def test_macros_ahead_of_the_next_session_are_kept() -> None:
    driver = negotiated(then=CONNECT + HELO + SHORT_MESSAGE)
    driver.feed(QUIT_NC + macros("C", b"j", b"mx") + CONNECT)
    assert driver.session.macros.visible() == {b"j": b"mx"}


def test_macros_of_a_message_that_gives_way_to_the_next_are_still_to_be_had() -> None:
    driver = negotiated(then=CONNECT + HELO + macros("M", b"i", b"Q1") + MAIL)
    store = driver.session.macros
    driver.session.receive_data(
        macros("M", b"i", b"Q2", b"{mail_addr}", b"a") + macros("M", b"i", b"Q3") + MAIL
    )
    assert driver.session.next_event() == MessageAborted()
    assert store.visible() == {b"i": b"Q3"}
    assert store.visible_in_ended_message() == {b"i": b"Q1"}


def test_macros_of_a_message_that_was_aborted_are_those_that_are_visible() -> None:
    driver = negotiated(then=CONNECT + HELO + macros("M", b"i", b"Q1") + MAIL)
    driver.session.receive_data(ABORT + macros("M", b"i", b"Q2") + MAIL)
    assert driver.session.next_event() == MessageAborted()
    assert driver.session.macros.visible_in_ended_message() == {b"i": b"Q1"}
