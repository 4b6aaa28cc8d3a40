from __future__ import annotations

import pytest

from aiomilter.errors import LocalProtocolError, RemoteProtocolError
from aiomilter.session.events import ConnectionEnd, SessionEnd, SessionStart
from aiomilter.session.negotiation import (
    NegotiationOffer,
    Request,
    negotiate,
    options_without,
    read_offer,
)
from aiomilter.spec import State
from aiomilter.wire.commands import OfferOptions
from aiomilter.wire.replies import Negotiated
from tests.packets import CONNECT, HELO, MAIL, OFFER, offer, packet
from tests.session.driver import ALL_STAGES, NO_OPTION, Driver, kinds, mask, negotiated

ALL_NO_REPLY = 0x0FF080


@pytest.mark.parametrize(
    ("offered", "answered"),
    [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 6), (100, 6), (0x01000001, 6), (0x7FFFFFFF, 6)],
)
def test_the_lower_version_is_answered(offered: int, answered: int) -> None:
    assert read_offer(OfferOptions(offered, 1, 1)).version == answered


# Versions are signed numbers in libmilter: what begins at 0x80000000 is below zero.
@pytest.mark.parametrize("version", [0, 1, 0x80000000, 0xFFFFFFFF], ids=hex)
def test_version_below_2_is_refused(version: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"version {version},"):
        read_offer(OfferOptions(version, 0x1FF, 0x1FFFFF))


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6, 7])
def test_no_bit_depends_on_the_version(version: int) -> None:
    read = read_offer(OfferOptions(version, 0x1FF, 0x1FFFFF))
    assert (read.actions, read.options) == (0x1FF, 0x1FFFFF)


@pytest.mark.parametrize(
    ("offered", "read"), [(0, 0x0F), (1, 1), (0x1FF, 0x1FF), (0x80000000, 0x80000000)], ids=hex
)
def test_no_action_means_those_of_version_1(offered: int, read: int) -> None:
    assert read_offer(OfferOptions(6, offered, 1)).actions == read


@pytest.mark.parametrize(
    ("offered", "read"),
    [
        (0, 0x3F),
        (1, 1),
        (0x1FFFFF, 0x1FFFFF),
        # Sizes of data are taken out of the offer, after it has been seen not to be empty.
        (0x70000000, 0),
        (0x10000000, 0),
        (0x701FFFFF, 0x1FFFFF),
        (0x80000001, 0x80000001),
    ],
    ids=hex,
)
def test_no_option_means_those_of_version_1(offered: int, read: int) -> None:
    assert read_offer(OfferOptions(6, 1, offered)).options == read


@pytest.mark.parametrize("stage", NO_OPTION, ids=lambda stage: str(stage.name))
def test_stage_without_handler_is_asked_not_to_be_sent(stage: State) -> None:
    assert options_without(mask(ALL_STAGES - {stage})) == NO_OPTION[stage]
    assert options_without(mask({stage})) == 0x37F - NO_OPTION[stage]


def test_end_of_message_has_no_option() -> None:
    assert options_without(mask({State.EOM})) == 0x37F
    assert options_without(0) == 0x37F
    assert options_without(mask(ALL_STAGES)) == 0


# offered actions, offered options, requested actions, requested options -> options answered
@pytest.mark.parametrize(
    ("offered_actions", "offered_options", "actions", "options", "answered"),
    [
        pytest.param(0x1FF, 0x1FFFFF, 0x1FF, 0, 0, id="all-callbacks"),
        pytest.param(0x1FF, 0x1FFFFF, 0, 0x37F, 0x37F, id="no-callbacks"),
        pytest.param(0x1FF, 0x1FFFFF, 0x1FF, 0x1FFFFF, 0x1FFFFF, id="everything"),
        pytest.param(0x0F, 0x3F, 0x0F, 0x3F, 0x3F, id="version-1"),
        pytest.param(0x1FF, 0x3F, 0, 0x200, 0, id="no-data-not-offered"),
        pytest.param(0x1FF, 0x3F, 0, 0x100, 0, id="no-unknown-not-offered"),
        pytest.param(0x1FF, 0x3F, 0, 0x301, 1, id="no-data-and-no-unknown-not-offered"),
        pytest.param(0x1FF, 0x13F, 0, 0x301, 0x101, id="only-no-data-not-offered"),
        pytest.param(0x1FF, 0x3F, 0, ALL_NO_REPLY, 0, id="no-reply-never-offered"),
        pytest.param(0x1FF, 0xBF, 0, ALL_NO_REPLY, 0x80, id="one-no-reply-offered"),
        pytest.param(0x1FF, 0x0FF080, 0, ALL_NO_REPLY, ALL_NO_REPLY, id="no-reply-offered"),
        pytest.param(0x1FF, 0x1FFFFF, 0, 0x400, 0x400, id="skip"),
        pytest.param(0x80000001, 0x80000000, 0x80000001, 0x80000000, 0x80000000, id="bit-31"),
    ],
)
def test_what_is_offered_may_be_asked_for(
    offered_actions: int, offered_options: int, actions: int, options: int, answered: int
) -> None:
    agreement = negotiate(
        NegotiationOffer(6, offered_actions, offered_options), Request(actions, options)
    )
    assert agreement.reply == Negotiated(6, actions, answered)
    assert agreement.actions == actions
    # The milter's end keeps to all of it: what the MTA does not know of, it does by itself.
    assert agreement.options == options
    assert agreement.options_sent == answered


@pytest.mark.parametrize(
    ("offered_actions", "offered_options", "actions", "options", "named"),
    [
        pytest.param(0x0F, 0x3F, 0x11, 0, "actions.*: CHANGE_HEADER$", id="action"),
        pytest.param(
            0x0F, 0x3F, 0x60, 0, "actions.*: QUARANTINE, CHANGE_SENDER$", id="two-actions"
        ),
        pytest.param(0x1FF, 0x3F, 0x400, 0, "actions.*: 0x400$", id="action-of-no-version"),
        pytest.param(0x1FF, 0x3F, 0, 0x40, "options.*: NO_EOH$", id="no-eoh"),
        # Giving way on DATA and unknown commands does not help where more is missing.
        pytest.param(0x1FF, 0x3F, 0, 0x340, "options.*: NO_EOH$", id="no-eoh-and-no-data"),
        pytest.param(0x1FF, 0x37F, 0, 0x400, "options.*: SKIP$", id="skip"),
        pytest.param(
            0x1FF, 0x37F, 0, 0x800, "options.*: REJECTED_RECIPIENTS$", id="rejected-recipients"
        ),
        pytest.param(0x1FF, 0x37F, 0, 0x100000, "options.*: LEADING_SPACE$", id="leading-space"),
        pytest.param(0x1FF, 0, 0, 0x1, "options.*: NO_CONNECT$", id="nothing-offered"),
        pytest.param(0x1FF, 0x1FFFFF, 0, 0x10000000, "DATA_SIZE_256K$", id="data-size"),
        pytest.param(0x1FF, 0x1FFFFF, 0, 0x80000400, "options.*: 0x80000000$", id="bit-31"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    offered_actions: int, offered_options: int, actions: int, options: int, named: str
) -> None:
    with pytest.raises(RemoteProtocolError, match=named):
        negotiate(NegotiationOffer(6, offered_actions, offered_options), Request(actions, options))


def test_macro_requests_are_sent_whatever_is_offered() -> None:
    request = Request(0, 0, {6: b"i", 0: b"j", 1: b""})
    agreement = negotiate(NegotiationOffer(2, 0x0F, 0x3F), request)
    assert agreement.reply.encode() == packet(
        "O",
        b"\0\0\0\x02\0\0\0\0\0\0\0\0" + b"\0\0\0\0j\0" + b"\0\0\0\x01\0" + b"\0\0\0\x06i\0",
    )


def test_the_milter_sees_the_offer_and_the_mta_the_answer() -> None:
    driver = Driver()
    session = driver.session
    assert not session.has_negotiated
    session.receive_data(OFFER)
    assert session.next_event() == SessionStart()
    session.start(mask(ALL_STAGES))
    assert session.next_event() == NegotiationOffer(6, 0x1FF, 0x1FFFFF)
    with pytest.raises(LocalProtocolError, match="not been answered"):
        session.next_event()
    assert session.data_to_send() == b""
    agreement = session.agree(Request(0x1FF, 0))
    assert agreement.actions == 0x1FF
    assert session.actions == 0x1FF
    assert session.data_to_send() == b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0"
    assert session.next_event() is None
    assert driver.session.state is State.NEGOTIATION
    assert driver.session.has_negotiated


def test_a_milter_without_handlers_asks_for_nothing() -> None:
    driver = Driver(())
    assert driver.feed(OFFER) == [b"O\0\0\0\x06\0\0\x01\xff\0\0\x03\x7f"]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(packet("O"), id="empty"),
        pytest.param(packet("O", b"\0" * 11), id="11-bytes"),
        pytest.param(offer(version=1), id="version-1"),
        pytest.param(offer(version=0x80000000), id="negative-version"),
    ],
)
def test_a_broken_offer_ends_the_connection_without_an_answer(broken: bytes) -> None:
    driver = Driver()
    driver.fail(broken)
    assert driver.events == [SessionStart(), SessionEnd(), ConnectionEnd()]


def test_a_refused_offer_ends_the_connection_without_an_answer() -> None:
    driver = Driver(actions=0x10)
    assert "CHANGE_HEADER" in driver.fail(offer(actions=0x0F) + CONNECT)
    assert kinds(driver.events) == [
        "SessionStart",
        "NegotiationOffer",
        "SessionEnd",
        "ConnectionEnd",
    ]
    assert driver.session.actions == 0


def test_a_second_offer_is_swallowed_and_the_connect_behind_it() -> None:
    driver = negotiated()
    assert driver.feed(OFFER + CONNECT) == []
    assert kinds(driver.events) == ["Ignored", "Ignored"]
    assert driver.session.state is State.HELO
    assert driver.feed(HELO) == [b"c"]


def test_an_offer_inside_a_message_aborts_it() -> None:
    driver = negotiated(then=CONNECT + HELO + MAIL)
    assert driver.feed(OFFER) == []
    assert kinds(driver.events) == ["MessageAborted", "Ignored"]


def test_without_an_offer_helo_is_served_and_nothing_was_agreed() -> None:
    driver = Driver()
    assert driver.feed(HELO + MAIL) == [b"c", b"c"]
    assert kinds(driver.events) == ["SessionStart", "Helo", "MessageStart", "Mail"]
    assert driver.session.actions == 0


def test_without_an_offer_connect_is_swallowed_and_a_late_offer_too() -> None:
    driver = Driver()
    assert driver.feed(CONNECT + OFFER) == []
    assert kinds(driver.events) == ["SessionStart", "Ignored", "Ignored"]


def test_payload_is_small_until_the_two_ends_have_agreed() -> None:
    driver = Driver()
    driver.session.receive_data((4_098).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match="limit of 4096"):
        driver.session.next_event()

    driver = negotiated()
    driver.session.receive_data((65_536).to_bytes(4, "big"))
    assert driver.session.next_event() is None
    driver.session.discard_input()
    driver.session.receive_data((65_537).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match="limit of 65535"):
        driver.session.next_event()


@pytest.mark.parametrize("limit", [100, 1_048_575])
def test_the_owner_may_set_the_limit(limit: int) -> None:
    driver = Driver(max_payload_bytes=limit)
    driver.feed(OFFER)
    driver.session.receive_data((limit + 2).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match=f"limit of {limit}"):
        driver.session.next_event()


def test_a_low_limit_holds_before_the_negotiation_too() -> None:
    driver = Driver(max_payload_bytes=12)
    driver.session.receive_data(b"\0\0\0\x0e")
    with pytest.raises(RemoteProtocolError, match="limit of 12"):
        driver.session.next_event()


def test_agreeing_without_an_offer_is_refused() -> None:
    driver = negotiated()
    with pytest.raises(LocalProtocolError, match="no offer"):
        driver.session.agree(Request(0, 0))


def test_a_request_that_cannot_be_sent_leaves_the_offer_open() -> None:
    driver = Driver()
    driver.session.receive_data(OFFER)
    assert driver.session.next_event() == SessionStart()
    driver.session.start(mask(ALL_STAGES))
    assert isinstance(driver.session.next_event(), NegotiationOffer)
    with pytest.raises(LocalProtocolError, match="NUL"):
        driver.session.agree(Request(0, 0, {0: b"j\0i"}))
    assert driver.session.data_to_send() == b""
    driver.session.agree(Request(0, 0))
    assert driver.session.data_to_send() == b"\0\0\0\x0dO\0\0\0\x06\0\0\0\0\0\0\0\0"


# libmilter keeps the stages that may be stepped over for the whole process: one connection
# changes what all others are allowed.
def test_what_one_connection_agrees_on_is_nothing_to_another() -> None:
    lax = negotiated({State.EOM}, then=CONNECT + HELO + MAIL)
    assert lax.feed(packet("E")) == [b"c"]
    strict = negotiated(then=CONNECT + HELO + MAIL)
    assert strict.feed(packet("E")) == []
    assert kinds(strict.events) == ["MessageAborted", "Ignored"]


def test_a_stage_that_was_unwanted_before_the_negotiation_may_still_be_stepped_over() -> None:
    # The request may ask for a stage that has no handler: it is answered all the same.
    driver = Driver(ALL_STAGES - {State.RCPT})
    driver.request = Request(0, 0)
    assert driver.feed(OFFER + CONNECT + HELO + MAIL + packet("T")) == [
        b"O\0\0\0\x06\0\0\0\0\0\0\0\0",
        b"c",
        b"c",
        b"c",
        b"c",
    ]
    assert "MessageAborted" not in kinds(driver.events)
