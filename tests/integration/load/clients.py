"""SMTP clients that try each message until it is accepted, and a ledger of what they were told."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from aiomilter.testing.servers.smtp import SmtpClient, dot_stuffed

__all__ = ["Ledger", "Refusal", "send_all"]

WAIT_S = 30
RETRY_S = 0.05
"""How long a client waits after a refusal. For an MTA it is minutes."""

END_OF_CONTENT = "."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A temporary failure that a client was given.

    Attributes:
        recipient: Of the attempt, in brackets; no other attempt has it.
        command: What was refused, by the verb, or ``.`` for the end of the content.
        text: The reply with its code.
        outage: What had happened to the milter last.
    """

    recipient: str
    command: str
    text: str
    outage: str


class Ledger:
    """What the clients were told, attempt by attempt.

    Attributes:
        accepted: For each recipient of an accepted attempt the queue id.
        refused: The other attempts.
        outage: What has happened to the milter last.
    """

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}
        self.refused: list[Refusal] = []
        self.outage = "none"
        self._changed = asyncio.Condition()

    async def accept(self, recipient: str, queue_id: str) -> None:
        """Note that Postfix has taken a message, and so has to deliver it."""
        async with self._changed:
            self.accepted[recipient] = queue_id
            self._changed.notify_all()

    def refuse(self, recipient: str, command: str, text: str) -> None:
        """Note that Postfix has not taken a message, and so must not deliver it."""
        assert text.startswith("4"), (recipient, command, text)
        self.refused.append(Refusal(recipient, command, text, self.outage))

    async def has_accepted(self, count: int) -> None:
        """Wait for so many accepted messages."""
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(lambda: len(self.accepted) >= count)


async def send_all(
    port: int, messages: Iterable[str], content: bytes, ledger: Ledger, *, per_session: int
) -> None:
    """Send messages one after the other, each until it is accepted.

    After a refusal there is a new session, as after the set number of messages.

    Args:
        port: The SMTP port.
        messages: A name for each message, the beginning of the recipients of its attempts.
        content: What all of them contain.
        ledger: Where to note what the server says.
        per_session: How many messages to send at most in a session.
    """
    waiting = deque(messages)
    attempts = 0
    while waiting:
        async with SmtpClient.connect(port) as smtp:
            await smtp.ehlo()
            for _ in range(min(per_session, len(waiting))):
                attempts += 1
                recipient = f"<{waiting[0]}.{attempts}@dst.example>"
                if not await is_accepted(smtp, recipient, content, ledger):
                    break
                waiting.popleft()
            else:
                continue
        await asyncio.sleep(RETRY_S)


async def is_accepted(smtp: SmtpClient, recipient: str, content: bytes, ledger: Ledger) -> bool:
    """Send a message as far as the server lets us."""
    for line in ("MAIL FROM:<a@src.example>", f"RCPT TO:{recipient}", "DATA"):
        reply = await smtp.command(line)
        if reply.code >= 400:
            ledger.refuse(recipient, line[:4], f"{reply.code} {reply.text}")
            return False
    await smtp.send(dot_stuffed(content))
    reply = await smtp.reply()
    if reply.code >= 400:
        ledger.refuse(recipient, END_OF_CONTENT, f"{reply.code} {reply.text}")
        return False
    await ledger.accept(recipient, reply.queue_id)
    return True
