"""Refuse one recipient, count the others, and note their number in a header.

    python examples/recipient_counter.py [ADDRESS ...]    by default inet:9900, on loopback

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`counter', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/counter.sock`):

    run(RecipientCounter, "unix:/var/spool/postfix/milter/counter.sock",
        config=Config(unix_group="postfix"))
"""

import sys

from aiomilter import Actions, EomActions, Milter, Reply, Status, run

__all__ = ["RecipientCounter"]


class RecipientCounter(Milter):
    """Keeps something from one event of a message to the next."""

    # Without this, too, headers can be added where the MTA offers it. But then an MTA that does
    # not is found out when the first message has come to its end, not when it connects.
    actions = Actions.ADD_HEADER

    def begin_message(self) -> None:
        # An SMTP session can bring several messages, and this object serves all of them.
        # (The library itself keeps the addresses, in `self.recipients`.)
        self.recipient_count = 0

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        if recipient == "<nobody@example.org>":
            return Reply(550, "5.1.1", "no such user")  # refuses this recipient alone
        self.recipient_count += 1
        return None  # means Status.CONTINUE

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Recipient-Count", str(self.recipient_count))
        return Status.ACCEPT


if __name__ == "__main__":
    run(RecipientCounter, *(sys.argv[1:] or ["inet:9900"]))
