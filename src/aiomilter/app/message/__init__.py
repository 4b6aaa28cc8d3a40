"""Whole messages: envelope, headers and body as collections, and the edits that they come down to.

A message is changed like any other object; what the MTA has to do is computed afterwards::

    from aiomilter import Message, Milter

    class Tagger(Milter):
        async def on_message(self, message: Message) -> None:
            subject = message.headers.get_text("Subject")
            message.headers.replace("Subject", f"[external] {subject}")
            message.recipients.add("<archive@example.org>")
            message.append_footer("Checked by example.org.")

Nothing in this package does any I/O but one part: `Body` writes large bodies into a temporary file
and reads them from there (see its docstring for which calls may block).
"""

from __future__ import annotations

from aiomilter.app.message.header import Header
from aiomilter.app.message.headers import Headers

__all__ = ["Header", "Headers"]
