"""Commands one by one."""

# <test>
from aiomilter.testing.pytest_plugin import MakeMilterTester
from examples.recipient_counter import RecipientCounter


def test_one_recipient_after_the_other(milter_tester: MakeMilterTester) -> None:
    tester = milter_tester(RecipientCounter)
    tester.rcpt("nobody@example.org").assert_rejected(550, "no such user")
    tester.rcpt("somebody@example.org").assert_continued()
    tester.end_of_message().assert_header_added("X-Recipient-Count", "1")
