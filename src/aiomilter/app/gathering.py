"""Gathers the messages of a session, for `on_message`: between events and `aiomilter.app.message`.

Rules of this file:

- What is gathered is gone, and its file closed, as soon as the message is over, however it ends.
- Nothing here blocks but `write_body` and `make_edits`, where `goes_to_file` and
  `Message.body` say so.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

from aiomilter.app.actions import EomActions
from aiomilter.app.facts import Facts
from aiomilter.app.message.body import Body
from aiomilter.app.message.collector import CollectLimits, MessageCollector
from aiomilter.app.message.diff import Plan, plan_difference, plan_edits
from aiomilter.app.message.message import Message
from aiomilter.app.mta.kind import detect_mta
from aiomilter.app.text import decode_text
from aiomilter.errors import MessageLimitExceeded
from aiomilter.session.events import Event
from aiomilter.wire.commands import Mail, Rcpt

__all__ = ["Gathering", "MessageNeeds"]


class MessageNeeds(enum.Enum):
    """How much of a message `on_message` wants to see."""

    HEADERS = "the envelope and the headers; the MTA does not send the body"
    BODY = "all of it"


class Gathering:
    """The messages of one session, one after the other.

    Attributes:
        collector: What has come of the message in hand, or None.
    """

    __slots__ = ("_forks", "_leading_space", "_limits", "collector")

    def __init__(self, limits: CollectLimits, *, leading_space: bool) -> None:
        """Begin without a message.

        Args:
            limits: What a message may have.
            leading_space: Whether the option LEADING_SPACE was agreed.
        """
        self._limits = limits
        self._leading_space = leading_space
        self.collector: MessageCollector | None = None
        # Their bodies: a handler may have put anything else in the place of one.
        self._forks: list[Body] = []

    @property
    def bytes_in_memory(self) -> int:
        """How much of the message is kept in memory now, about."""
        return 0 if self.collector is None else self.collector.bytes_in_memory

    def begin(self) -> None:
        """Begin a message."""
        self.end()
        self.collector = MessageCollector(self._limits, leading_space=self._leading_space)

    def end(self) -> None:
        """Forget the message in hand."""
        collector, self.collector = self.collector, None
        if collector is not None:
            collector.close()
        forks, self._forks = self._forks, []
        for body in forks:
            body.close()

    def fork(self, message: Message) -> Message:
        """Return a message once more, for changes of its own; it lasts as long as the first."""
        fork = message.copy()
        self._forks.append(fork.body)
        return fork

    def compare(self, base: Message, message: Message) -> Plan:
        """Return the edits that lead from one fork of a message to another.

        Raises:
            SpoolError: A body cannot be read.
        """
        mta = detect_mta(message.macros)
        return plan_difference(base, message, mta, leading_space=self._leading_space)

    def take(self, event: Event) -> None:
        """Take the sender, or a recipient that was not refused."""
        collector = self.collector
        if collector is None:
            return
        match event:
            case Mail(arguments):
                address, *params = map(decode_text, arguments)
                collector.mail(address, params)
            case Rcpt(arguments):
                address, *params = map(decode_text, arguments)
                collector.rcpt(address, params)
            case _:
                # CONNECT and HELO are facts of the session.
                pass

    def check_room(self, size: int) -> None:
        """Check that so many more bytes of a body may be gathered.

        Raises:
            MessageLimitExceeded: They may not.
        """
        if self.collector is not None:
            self.collector.check_room(size)

    def goes_to_file(self, size: int) -> bool:
        """Whether so many more bytes of a body touch the disk, and are a thing for a thread."""
        return self.collector is not None and self.collector.goes_to_file(size)

    def body_writer(self) -> Callable[[bytes], None]:
        """Return what writes to the message in hand, and to no other.

        Raises:
            MessageLimitExceeded: There is none: it was more than may be gathered.
        """
        if self.collector is None:
            raise MessageLimitExceeded("the message was given up before")
        return self.collector.body

    def write_body(self, chunk: bytes) -> None:
        """Take a piece of the body.

        Raises:
            MessageLimitExceeded: It has become more than may be gathered.
            SpoolError: It cannot be kept.
        """
        if self.collector is not None:
            self.collector.body(chunk)

    def save_memory(self) -> None:
        """Keep the body in a file from its next piece on."""
        if self.collector is not None:
            self.collector.save_memory()

    def message(self, facts: Facts) -> Message:
        """Return the message, at its end.

        Raises:
            MessageLimitExceeded: There is none: it was more than may be gathered.
        """
        if self.collector is None:
            raise MessageLimitExceeded("the message was given up before")
        return self.collector.message(
            macros=facts.macros,
            queue_id=facts.queue_id,
            client=facts.client,
            hostname=facts.hostname,
            helo_name=facts.helo_name,
        )

    def make_edits(
        self, message: Message, actions: EomActions, log: logging.LoggerAdapter[logging.Logger]
    ) -> None:
        """Make the edits that a message needs, all of them or none.

        Raises:
            ActionNotNegotiated: The MTA has not agreed to one of them.
            SpoolError: A body cannot be read.
        """
        mta = detect_mta(message.macros)
        plan = plan_edits(message, mta, leading_space=self._leading_space)
        plan.apply(actions)
        for loss in plan.losses:
            log.warning("%s", loss)
