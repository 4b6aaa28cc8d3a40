"""What a milter has made of a message."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.message import Message as EmailMessage
from pathlib import Path as FilePath

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery, deliver
from aiomilter.app.mta.edits import Edit, Quarantined
from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.reply import Reply
from aiomilter.session.status import Status

__all__ = ["Answer", "Outcome", "RecipientResult", "Step"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a milter says to one command.

    Attributes:
        status: CONTINUE also where nothing was asked or nothing is answered.
        reply: The words of a REJECT or TEMPFAIL, or None for the MTA's own.
        edits: What is to be changed; at the end of a message only.
        progress: How often the milter has told that it is still at work.
    """

    status: Status = Status.CONTINUE
    reply: Reply | None = None
    edits: tuple[Edit, ...] = ()
    progress: int = 0

    @property
    def is_refusal(self) -> bool:
        """Whether it refuses what was asked about, for now or for good."""
        return self.status in (Status.REJECT, Status.TEMPFAIL)

    @property
    def is_final(self) -> bool:
        """Whether the milter need not be asked further."""
        return self.status not in (Status.CONTINUE, Status.SKIP)

    def __str__(self) -> str:
        """Return it in one line."""
        return self.status.name if self.reply is None else f"{self.status.name} {self.reply}"


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what became of it.

    Attributes:
        stage: The command's name: ``connect``, ``helo``, ``mail``, ``rcpt``, ``data``,
            ``header``, ``eoh``, ``body``, ``eom`` or ``unknown``.
        argument: What it said, in one line.
        was_sent: Whether it was sent; not so if the milter does not want it.
        is_answered: Whether the milter has answered.
        answer: What it said; CONTINUE if it said nothing.
    """

    stage: str
    argument: str
    was_sent: bool
    is_answered: bool
    answer: Answer


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What a milter says to one recipient."""

    recipient: Path
    answer: Answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a milter has made of a message.

    Attributes:
        status: ACCEPT, REJECT, TEMPFAIL or DISCARD. A message none of whose recipients is left has
            the status of the last one.
        stage: Where that was decided, by the name of the command.
        reply: The words of a refusal, or None for the MTA's own.
        edits: What is to be changed, in the order in which the milter has asked for it; the pieces
            of a new body as one.
        recipients: What was said to each recipient that the milter was asked about.
        steps: All that was asked, in turn.
        envelope: That of the message, with the recipients that were not refused.
        content: The message itself.
        mta: As which MTA the milter was consulted.
        leading_space: Whether header values have the blank behind the colon in them.
    """

    status: Status
    stage: str
    reply: Reply | None = None
    edits: tuple[Edit, ...] = ()
    recipients: tuple[RecipientResult, ...] = ()
    steps: tuple[Step, ...] = field(default=(), repr=False)
    envelope: Envelope = field(default_factory=lambda: Envelope("<>", ()), repr=False)
    content: Content = field(default_factory=lambda: Content(()), repr=False)
    mta: Mta = field(default=Mta.POSTFIX, repr=False)
    leading_space: bool = field(default=False, repr=False)

    @property
    def is_accepted(self) -> bool:
        """Whether the message is delivered, or held."""
        return self.status is Status.ACCEPT

    @property
    def is_refused(self) -> bool:
        """Whether the client hears that the message is not taken, for now or for good."""
        return self.status in (Status.REJECT, Status.TEMPFAIL)

    @property
    def is_discarded(self) -> bool:
        """Whether the client hears that all is well, and nothing is delivered."""
        return self.status is Status.DISCARD

    @property
    def refused_recipients(self) -> tuple[str, ...]:
        """The addresses of the recipients that were refused, in angle brackets.

        For people and tests. Whom to deliver to is in `envelope`, which also tells two recipients
        of the same address apart.
        """
        return tuple(
            result.recipient.address for result in self.recipients if result.answer.is_refusal
        )

    @property
    def quarantine(self) -> str | None:
        """The reason for which the message is held, or None; also where the MTA drops it."""
        if not self.is_accepted:
            return None
        reasons = [edit.reason for edit in self.edits if isinstance(edit, Quarantined)]
        return reasons[-1] if reasons else None

    def apply(
        self, message: bytes | str | EmailMessage | FilePath | Content | None = None
    ) -> Delivery | None:
        """Return what the MTA delivers, or holds; None if it delivers nothing.

        Args:
            message: The message; None for the one that the milter was asked about.

        Raises:
            OSError: The message is a file that cannot be read.
        """
        if not self.is_accepted:
            return None
        content = self.content if message is None else Content.parse(message)
        return deliver(
            self.mta, self.envelope, content, self.edits, leading_space=self.leading_space
        )
