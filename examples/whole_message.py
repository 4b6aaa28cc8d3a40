"""Tag the subject, add a recipient and append a footer: a whole message at once.

python examples/whole_message.py [ADDRESS ...]    by default inet:9900, on the loopback address
"""

import sys

from aiomilter import Milter, run
from aiomilter.app.message import Message

__all__ = ["Tagger"]


class Tagger(Milter):
    async def on_message(self, message: Message) -> None:
        subject = message.headers.get_text("Subject")
        if not subject.startswith("[external]"):
            message.headers.replace("Subject", f"[external] {subject}")
        message.recipients.add("<archive@example.org>")
        message.append_footer("-- \nThis message came from outside.")


if __name__ == "__main__":
    run(Tagger, *(sys.argv[1:] or ["inet:9900"]))
