"""A milter that never fails, whatever a mail server says."""

# <test>
from hypothesis import given, settings

from aiomilter.testing import Call, MilterTester
from aiomilter.testing.strategies import sessions
from examples.recipient_counter import RecipientCounter


@settings(max_examples=20, deadline=None)
@given(session=sessions())
def test_the_counter_never_fails(session: list[Call]) -> None:
    with MilterTester(RecipientCounter) as tester:
        tester.play(session)
