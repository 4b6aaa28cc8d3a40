"""Several filters as one: each sees what those before it have made of a message.

    python examples/chained_filters.py [ADDRESS ...]    by default inet:9900, on loopback

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`filters', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/filters.sock`):

    run(filters, "unix:/var/spool/postfix/milter/filters.sock",
        config=Config(unix_group="postfix"))

The last one is on trial: the log says what it would do, and nothing comes of it.
"""

import sys

from aiomilter import EomActions, Message, Milter, Reply, chain, dry_run, run

__all__ = ["Gatekeeper", "NoMacros", "Tagger", "filters"]


class Gatekeeper(Milter):
    """Refuses mail for those who are gone, and notes what it knows of the others."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        if recipient.startswith("<former-"):
            return Reply(550, "5.1.1", "nobody of this name is here any more")
        return None

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Recipients", str(len(self.recipients)))


class Tagger(Milter):
    """Marks mail from elsewhere, whatever else was done to it."""

    async def on_message(self, message: Message) -> None:
        if message.sender.domain != "example.org":
            subject = message.headers.get_text("Subject")
            message.headers.replace("Subject", f"[external] {subject}")


class NoMacros(Milter):
    """Is new: it refuses documents that bring programs along."""

    async def on_message(self, message: Message) -> Reply | None:
        if b".docm" in message.body.read().lower():
            return Reply(550, "5.7.1", "documents with macros are not accepted")
        return None


filters = chain(Gatekeeper, Tagger, dry_run(NoMacros))


if __name__ == "__main__":
    run(filters, *(sys.argv[1:] or ["inet:9900"]))
