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
and reads them from there (its docstrings say which calls may block).
"""

from __future__ import annotations

from aiomilter.app.message.address import EnvelopeAddress
from aiomilter.app.message.address_list import MailAddress, parse_addresses
from aiomilter.app.message.body import Body
from aiomilter.app.message.collector import CollectLimits, MessageCollector
from aiomilter.app.message.diff import EditTarget, Plan, plan_edits
from aiomilter.app.message.email_limits import EmailLimits
from aiomilter.app.message.header import Header
from aiomilter.app.message.headers import Headers
from aiomilter.app.message.message import Message
from aiomilter.app.message.params import OriginalRecipient, Params
from aiomilter.app.message.recipients import Recipients

__all__ = [
    "Body",
    "CollectLimits",
    "EditTarget",
    "EmailLimits",
    "EnvelopeAddress",
    "Header",
    "Headers",
    "MailAddress",
    "Message",
    "MessageCollector",
    "OriginalRecipient",
    "Params",
    "Plan",
    "Recipients",
    "parse_addresses",
    "plan_edits",
]
