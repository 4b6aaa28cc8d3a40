"""The first test of the page: a message, and what becomes of it."""

# <test>
from aiomilter.testing.pytest_plugin import MakeMilterTester
from examples.recipient_counter import RecipientCounter


def test_nobody_is_refused_and_the_others_are_counted(milter_tester: MakeMilterTester) -> None:
    tester = milter_tester(RecipientCounter)
    result = tester.send(recipients=["nobody@example.org", "a@example.org", "b@example.org"])
    result.assert_accepted()
    result.assert_recipient_refused("nobody@example.org", code=550)
    result.assert_header_added("X-Recipient-Count", "2")
