"""How far an MTA has come with a session and a message, when it goes stage by stage."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.conversation import Conversation
from aiomilter.app.mta.edits import join_bodies
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.outcome import Answer, Outcome, RecipientResult
from aiomilter.errors import LocalProtocolError
from aiomilter.session.status import Status
from aiomilter.spec import Options
from aiomilter.testing.calls import SENDER

__all__ = ["STAGES", "Progress", "Stage"]


class Stage(enum.IntEnum):
    """The stages of a session, in their order."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    HEADER = 5
    EOH = 6
    BODY = 7
    EOM = 8

    @property
    def command(self) -> str:
        """The name of the command."""
        return self.name.lower()


STAGES = tuple(Stage)

_REPEATABLE = (Stage.RCPT, Stage.HEADER, Stage.BODY)


@dataclass
class _Message:
    """What was said of the message in progress."""

    sender: Path = field(default_factory=lambda: Path(SENDER))
    paths: list[Path] = field(default_factory=list[Path])
    results: list[RecipientResult] = field(default_factory=list[RecipientResult])
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""
    verdict: tuple[str, Answer] | None = None


class Progress:
    """How far an SMTP session has come.

    Attributes:
        reached: The last stage, or None before CONNECT.
        last: The last command that was said.
        client: Who is connected.
        session_verdict: What was decided at CONNECT or HELO for all of the session, and where.
        message: The message in progress.
    """

    def __init__(self) -> None:
        self.reached: Stage | None = None
        self.last = ""
        self.client: Client | None = None
        self.session_verdict: tuple[str, Answer] | None = None
        self.message = _Message()

    @property
    def is_in_message(self) -> bool:
        """Whether a message has begun."""
        return self.reached is not None and self.reached >= Stage.MAIL

    def begin_message(self, sender: Path) -> None:
        """Begin a message."""
        self.message = _Message(sender)

    def end_message(self) -> None:
        """Be where another message may begin."""
        self.message = _Message()
        if self.is_in_message:
            self.reached = Stage.HELO

    def check_order(self, stage: Stage) -> None:
        """Refuse to go back within a message.

        Raises:
            LocalProtocolError: Another stage was reached already.
        """
        reached = self.reached
        if not self.is_in_message or reached is None or reached < stage:
            return
        if reached is not stage or stage not in _REPEATABLE:
            raise LocalProtocolError(
                f"{stage.command} does not follow {reached.command}: "
                f"begin another message with mail()"
            )

    def heed(self, stage: Stage, answer: Answer) -> None:
        """Take an answer for what it means to all that follows."""
        if stage is Stage.RCPT:
            self.message.results.append(RecipientResult(self.message.paths[-1], answer))
            if answer.is_refusal:
                return
        if answer.is_final:
            if stage <= Stage.HELO:
                self.session_verdict = stage.command, answer
            else:
                self.message.verdict = stage.command, answer

    def verdict(self, stage: Stage) -> tuple[str, Answer] | None:
        """Return the verdict that a stage need not be asked about any more, and where it fell."""
        message = self.message
        verdict = self.session_verdict or message.verdict
        answers = [result.answer for result in message.results]
        if not verdict and answers and stage >= Stage.DATA and all(a.is_refusal for a in answers):
            # Nobody is left to whom the message could go.
            return "rcpt", answers[-1]
        return verdict

    def outcome(self, conversation: Conversation, stage: str, answer: Answer) -> Outcome:
        """Return what has become of the message."""
        message = self.message
        refused = [result.recipient for result in message.results if result.answer.is_refusal]
        accepted = [path for path in message.paths if path not in refused]
        return Outcome(
            status=answer.status if answer.is_final else Status.ACCEPT,
            stage=stage,
            reply=answer.reply,
            edits=join_bodies(answer.edits),
            recipients=tuple(message.results),
            steps=tuple(conversation.steps),
            envelope=Envelope(message.sender, accepted),
            content=Content(message.headers, message.body),
            mta=conversation.mta,
            leading_space=bool(conversation.session.options & Options.LEADING_SPACE),
        )
