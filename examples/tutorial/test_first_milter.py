# pyright: basic
from first_milter import FirstMilter


def test_mail_gets_a_header(milter_tester):
    result = milter_tester(FirstMilter).send(sender="ann@example.com")
    result.assert_accepted()
    result.assert_header_added("X-First-Milter", "seen, from <ann@example.com>")


def test_example_net_is_refused(milter_tester):
    result = milter_tester(FirstMilter).send(sender="joe@example.net")
    result.assert_rejected(550, "no mail from example.net, please")
