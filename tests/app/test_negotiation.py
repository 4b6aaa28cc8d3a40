"""The negotiation as a handler sees and changes it."""

from __future__ import annotations

import pytest

from aiomilter import Actions, MacroStage, Negotiation, Options
from aiomilter.session.negotiation import NegotiationOffer
from aiomilter.wire.replies import Negotiated


def negotiation(actions: int = 0x3F, options: int = 0x7F) -> Negotiation:
    return Negotiation(NegotiationOffer(6, actions, options), 0x01, 0x02, {})


def test_it_shows_what_is_offered_and_what_is_requested() -> None:
    shown = negotiation()
    assert shown.version == 6
    assert shown.offered_actions == Actions(0x3F)
    assert shown.actions == Actions.ADD_HEADER
    assert shown.options == Options.NO_HELO
    assert shown.macros == {}


def test_no_reply_is_always_on_offer() -> None:
    shown = negotiation(options=0x01).offered_options
    assert Options.NO_REPLY_BODY in shown
    assert Options.NO_REPLY_HEADER in shown
    assert Options.SKIP not in shown


def test_actions_that_nobody_knows_are_shown_as_libmilter_does() -> None:
    assert int(negotiation(actions=0xFFFFFFFF).offered_actions) == 0xFFFFFFFF


def test_the_request_is_what_the_handler_leaves() -> None:
    shown = negotiation()
    shown.actions |= Actions.QUARANTINE
    shown.options = Options.NO_BODY
    shown.request_macros(MacroStage.RCPT, "i", "{auth_authen}")
    shown.request_macros(MacroStage.EOM)
    request = shown.request()
    assert (request.actions, request.options) == (0x21, 0x10)
    assert request.macros == {3: b"i {auth_authen}", 5: b""}


@pytest.mark.parametrize("name", ["", "a b", "a\0", "a\n", " "])
def test_a_macro_name_that_would_be_several_is_refused(name: str) -> None:
    shown = negotiation()
    shown.request_macros(MacroStage.MAIL, name)
    with pytest.raises(ValueError, match="the name of a macro"):
        shown.request()


def test_as_many_macros_as_a_packet_takes_can_be_asked_for() -> None:
    shown = negotiation()
    shown.request_macros(MacroStage.MAIL, "i")
    # 65,535 without the three numbers, and two stages with a number and a NUL each.
    longest = "x" * (65_535 - 12 - 2 * 5 - 1)
    shown.request_macros(MacroStage.EOM, longest)
    request = shown.request()
    reply = Negotiated(6, request.actions, request.options, dict(request.macros)).encode()
    assert len(reply) == 4 + 1 + 65_535
    shown.request_macros(MacroStage.EOM, longest + "x")
    with pytest.raises(ValueError, match=r"65524 bytes of a packet, which has room for 65523"):
        shown.request()


def test_an_unknown_stage_is_refused() -> None:
    shown = negotiation()
    shown.macros[7] = ["i"]  # type: ignore[index]  # what an author without a type checker may do
    with pytest.raises(ValueError, match="7 is not a valid MacroStage"):
        shown.request()


def test_it_reads_well() -> None:
    assert "version=6" in repr(negotiation())
