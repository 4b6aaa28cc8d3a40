"""Tag the subject of mail from outside, send a copy to an archive, and append a footer.

    python examples/whole_message.py [ADDRESS ...]    by default inet:9900, on the loopback address

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`tagger', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/tagger.sock`):

    run(Tagger, "unix:/var/spool/postfix/milter/tagger.sock", config=Config(unix_group="postfix"))

The message is changed like any object; what the mail server has to do is found out afterwards.
"""

import sys

from aiomilter import Message, Milter, run

__all__ = ["Tagger"]


class Tagger(Milter):
    """Changes a header, the envelope and the text."""

    async def on_message(self, message: Message) -> None:
        subject = message.headers.get_text("Subject")
        if "[external]" not in subject:
            message.headers.replace("Subject", f"[external] {subject}".rstrip())
        message.recipients.add("<archive@example.org>")
        message.append_footer("-- \nThis message came from outside.")


if __name__ == "__main__":
    run(Tagger, *(sys.argv[1:] or ["inet:9900"]))
