"""Work that keeps a processor busy, in processes that can be ended.

    python examples/processor_work.py [ADDRESS ...]    by default inet:9900, on loopback

Postfix, in main.cf:

    smtpd_milters = inet:127.0.0.1:9900

Sendmail, in sendmail.mc:

    INPUT_MAIL_FILTER(`shouting', `S=inet:9900@127.0.0.1, F=T')dnl

On a unix socket, for Postfix, whose processes are in the group postfix and usually see nothing
outside of /var/spool/postfix (so main.cf has `smtpd_milters = unix:milter/shouting.sock`):

    run(Shouting, "unix:/var/spool/postfix/milter/shouting.sock",
        lifespan=pool, config=Config(unix_group="postfix"))

Whoever sends mail chooses what a filter has to chew on. Here that is a regular expression which
some texts keep busy for years. In a thread it would hold up all mail; in a process it is ended.
"""

import re
import sys

from aiomilter import Message, Milter, ProcessCrashed, ProcessPool, Status, run

__all__ = ["Shouting", "has_shouting", "pool"]

# For each `!` too many ways to read the text: one that a filter had better not have.
_SHOUTING = re.compile(r"(?:[A-Z]+!*)+\?")


def has_shouting(text: str) -> bool:
    """Tell whether a text shouts. A plain function of a module: a process can find it."""
    return _SHOUTING.search(text) is not None


pool = ProcessPool()


class Shouting(Milter):
    """Marks mail that shouts in its subject."""

    async def on_message(self, message: Message) -> Status | None:
        subject = message.headers.get_text("Subject")
        try:
            is_loud = await pool.run(has_shouting, subject, time_limit=2)
        except (TimeoutError, ProcessCrashed):
            # What cannot be told in two seconds is not worth more of them.
            self.log.warning("no answer about the subject %a", subject[:80])
            return None
        if is_loud:
            message.headers.add("X-Shouting", "yes")
        return None


if __name__ == "__main__":
    run(Shouting, *(sys.argv[1:] or ["inet:9900"]), lifespan=pool)
