"""A chain of two delivers what two milters of an MTA deliver, one after the other."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomilter import EomActions, Message, Milter, chain
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery
from aiomilter.app.mta.envelope import Envelope
from aiomilter.mta import Mta
from aiomilter.testing import MilterTester
from tests.app.message.edits import NAMES, edit_randomly, random_headers

KEPT = "<kept@dst.example>"
ADDRESSES = [f"<{name}@dst.example>" for name in "abcd"]


class Whole(Milter):
    """Edits whole messages at random."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    async def on_message(self, message: Message) -> None:
        random = Random(self.seed)
        edit_randomly(random, message.headers)
        for _ in range(random.randrange(3)):
            address = random.choice(ADDRESSES)
            if random.random() < 0.5:
                message.recipients.add(address)
            else:
                message.recipients.discard(address)
        if random.random() < 0.3:
            message.sender = random.choice(ADDRESSES)
        if random.random() < 0.5:
            message.body.replace(message.body.read() + b"line %d\n" % random.randrange(9))


class Pieces(Milter):
    """Edits at random what it was shown piece by piece."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.names: list[str] = []
        self.body = b""

    async def on_header(self, name: str, value: str) -> None:
        self.names.append(name)

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    async def on_eom(self, actions: EomActions) -> None:
        random = Random(self.seed)
        for _ in range(random.randrange(6)):
            name = random.choice([*NAMES, *self.names])
            value = random.choice(("1", "two\n\tlines", f"p{random.random()}"))
            index = random.randrange(1, 5)
            match random.randrange(7):
                case 0:
                    actions.add_header(name, value)
                case 1:
                    actions.insert_header(random.choice((1, index, 40)), name, value)
                case 2:
                    actions.change_header(name, index, value)
                case 3:
                    actions.change_header(name, index, None)
                case 4:
                    actions.add_recipient(random.choice(ADDRESSES))
                case 5:
                    actions.delete_recipient(random.choice(ADDRESSES))
                case _:
                    actions.change_sender(random.choice(ADDRESSES))
        if random.random() < 0.5:
            for piece in (self.body, b"piece %d\r" % random.randrange(9), b"\nno end"):
                actions.replace_body(piece)


def deliver(factory: object, mta: Mta, content: Content, envelope: Envelope) -> Delivery:
    assert callable(factory)
    with MilterTester(factory, mta=mta) as tester:
        result = tester.send(content, sender=envelope.sender, recipients=envelope.recipients)
    assert result.delivery is not None
    return result.delivery


@pytest.mark.parametrize("mta", list(Mta))
@pytest.mark.parametrize("first", [Whole, Pieces])
@pytest.mark.parametrize("second", [Whole, Pieces])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_edits_add_up(
    mta: Mta, first: type[Whole | Pieces], second: type[Whole | Pieces], seed: int
) -> None:
    random = Random(seed)
    content = Content([(name, f" {value}") for name, value in random_headers(random)], b"body\r\n")
    envelope = Envelope("<src@src.example>", [KEPT, *random.sample(ADDRESSES, 2)])
    together = deliver(chain(lambda: first(seed), lambda: second(seed + 1)), mta, content, envelope)
    between = deliver(lambda: first(seed), mta, content, envelope)
    in_turn = deliver(lambda: second(seed + 1), mta, between.content, between.envelope)
    assert together.content == in_turn.content
    assert together.envelope.sender == in_turn.envelope.sender
    assert set(together.envelope.recipients) == set(in_turn.envelope.recipients)
