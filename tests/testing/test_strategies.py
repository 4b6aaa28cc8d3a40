from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomilter import Actions, Milter, Options
from aiomilter.testing import Call, Content, Envelope, MilterTester, Offer
from aiomilter.testing.strategies import clients, contents, envelopes, messages, offers, sessions
from examples.recipient_counter import RecipientCounter

RARE: dict[str, Callable[[Content], bool]] = {
    "folded": lambda one: any("\n" in value for _, value in one.headers),
    "8-bit": lambda one: any(not value.isascii() for _, value in one.headers),
    "empty header": lambda one: any(not value for _, value in one.headers),
    "doubled": lambda one: len({name for name, _ in one.headers}) < len(one.headers),
    "no headers": lambda one: not one.headers,
    "no body": lambda one: not one.body,
    "dots": lambda one: one.body.startswith(b"."),
    "no end of line": lambda one: bool(one.body) and not one.body.endswith(b"\r\n"),
    "large": lambda one: len(one.body) > 65_535,
}


_Drawn = TypeVar("_Drawn")


def draw_many(strategy: st.SearchStrategy[_Drawn]) -> list[_Drawn]:
    """Return the same examples every time."""
    drawn: list[_Drawn] = []

    @settings(max_examples=300, database=None, derandomize=True, deadline=None)
    @given(strategy)
    def draw(one: _Drawn) -> None:
        drawn.append(one)

    draw()
    return drawn


@pytest.mark.unmeasured
def test_contents_have_what_is_rare() -> None:
    drawn = draw_many(contents())
    assert [name for name, holds in RARE.items() if not any(map(holds, drawn))] == []


@pytest.mark.unmeasured
def test_envelopes_clients_and_offers_differ() -> None:
    drawn = draw_many(st.tuples(envelopes(), clients(), offers()))
    assert any(envelope.sender.address == "<>" for envelope, _, _ in drawn)
    assert any(len(envelope.recipients) > 2 for envelope, _, _ in drawn)
    assert any(envelope.sender.params for envelope, _, _ in drawn)
    assert {client.is_ipv6 for _, client, _ in drawn} == {True, False}
    assert any(client.address is None for _, client, _ in drawn)
    assert {offer.version for _, _, offer in drawn} == {2, 3, 4, 5, 6}
    assert any(not offer.options & Options.SKIP for _, _, offer in drawn)


@settings(max_examples=60, deadline=None)
@given(message=messages())
def test_messages_are_legal(message: tuple[Envelope, Content]) -> None:
    envelope, content = message
    with MilterTester(Milter) as tester:
        result = tester.send(content, sender=envelope.sender, recipients=envelope.recipients)
        result.assert_unchanged()


@pytest.mark.unmeasured
@settings(max_examples=60, deadline=None)
@given(session=sessions(), offer=offers())
def test_sessions_can_be_played(session: list[Call], offer: Offer) -> None:
    offer = replace(offer, actions=offer.actions | Actions.ADD_HEADER)
    with MilterTester(RecipientCounter, offer=offer) as tester:
        results = tester.play(session)
    assert len(results) == len(session)
    # None of these calls ends a session and gives something.
    ends = {"quit", "disconnect", "new_session", "abort"}
    assert all(
        (result is None) == (call.method in ends)
        for call, result in zip(session, results, strict=True)
    )
