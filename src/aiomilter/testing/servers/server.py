"""What the real mail servers have in common, as a test sees them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiomilter.app.mta.kind import Mta

__all__ = ["HeldMessage", "MailServer", "find_log_line"]

_LOOK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """A message that a milter had quarantined.

    Attributes:
        queue_id: The server's id of it.
        sender: The envelope sender without brackets.
        recipients: The envelope recipients without brackets, sorted.
        reason: What the milter said; None where the server does not keep it (Postfix).
    """

    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    reason: str | None


class MailServer(Protocol):
    """A running mail server on the loopback, with one milter, and a sink behind it.

    Attributes:
        kind: Which one it is.
        directory: Everything it writes is here; its daemons can reach sockets in it.
        milter_address: Where its milter has to listen.
    """

    kind: Mta
    directory: Path
    milter_address: str

    @property
    def version(self) -> str:
        """What the server calls its version, such as ``3.7.11``."""
        ...

    @property
    def smtp_port(self) -> int:
        """The loopback port on which it takes mail."""
        ...

    def log_text(self) -> str:
        """Return the whole log so far, empty before the first line."""
        ...

    async def settle(self, timeout_s: float = 10) -> None:
        """Wait until the queue holds nothing but quarantined messages.

        Raises:
            TimeoutError: Something is still there; the text says what.
        """
        ...

    async def held(self) -> list[HeldMessage]:
        """Return the messages in quarantine, oldest first."""
        ...

    async def release(self, queue_id: str) -> None:
        """Take a message out of quarantine and have it delivered now."""
        ...

    async def submit(self, content: bytes, sender: str, recipients: Iterable[str]) -> None:
        """Hand in a message as a program on the same machine does.

        Args:
            content: The message with LF line ends.
            sender: The envelope sender without brackets.
            recipients: The envelope recipients without brackets.

        Raises:
            RuntimeError: The program that takes local mail failed.
        """
        ...

    def stop(self) -> None:
        """End all processes, remove the directory. Calling it again does nothing."""
        ...


async def find_log_line(server: MailServer, pattern: str, timeout_s: float = 10) -> str:
    """Wait until a line of the log matches a regular expression, and return it.

    Raises:
        TimeoutError: There is none in time.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            text = await asyncio.to_thread(server.log_text)
            if found := re.search(f"^.*(?:{pattern}).*$", text, re.MULTILINE):
                return found[0]
            # A daemon writes the log some time after the SMTP reply, and a file that grows
            # wakes nobody: so look again soon.
            await asyncio.sleep(_LOOK_AGAIN_S)
