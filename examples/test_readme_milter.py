# pyright: basic
from readme_milter import Gatekeeper


def test_a_closed_mailbox_is_refused(milter_tester):
    result = milter_tester(Gatekeeper).send(
        b"Subject: hello\r\n\r\nHow are you?\r\n",
        recipients=["anna@example.org", "info@example.org"],
    )
    result.assert_recipient_refused("info@example.org", 550)
    result.assert_header_changed("Subject", "[external] hello")
