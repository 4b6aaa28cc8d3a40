"""The milters of one SMTP session, as an SMTP server consults them.

Rules of this file:

- Milters are consulted in the order in which they are given. What one changes in the content, the
  next one sees; what one refuses or discards, the next one is not asked about.
- A verdict at CONNECT or HELO, and the failure of a milter, hold for the rest of the SMTP session,
  as in Postfix; so does a refusal by 421.
- An ABORT goes to the milters that have not decided about a message that has come to its end.
- A refusal is what the server says to its client, lines parted by CRLF. The words are Postfix's
  where a milter has none of its own.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from aiomilter.aio.dial import dial
from aiomilter.aio.mta import MilterConnection, Timeouts
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.conversation import Conversation
from aiomilter.app.mta.delivery import Delivery
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Answer, Outcome
from aiomilter.app.reply import Reply
from aiomilter.errors import LocalProtocolError, MilterError
from aiomilter.session.status import Status
from aiomilter.spec import Options

__all__ = ["FAILURES", "NO_MESSAGE", "Message", "OnFailure", "Settings", "SmtpSession"]

_logger = logging.getLogger("aiomilter")

OnFailure: TypeAlias = Literal["tempfail", "accept", "reject"]
"""What becomes of mail when a milter cannot be consulted."""

_REFUSALS = {
    Status.REJECT: "550 5.7.1 Command rejected",
    Status.TEMPFAIL: "451 4.7.1 Service unavailable - try again later",
}
FAILURES: dict[str, Answer] = {
    "tempfail": Answer(Status.TEMPFAIL),
    "accept": Answer(Status.ACCEPT),
    "reject": Answer(Status.REJECT, Reply(550, "5.5.0", "Service unavailable")),
}
_NOT_SENDABLE = Answer(
    Status.REJECT, Reply(554, "5.6.0", "A header is too large, or has a NUL in it")
)
NO_MESSAGE = "503 5.5.1 Error: need MAIL command"

_Question: TypeAlias = Callable[[MilterConnection], Coroutine[Any, Any, Answer]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for all sessions.

    Attributes:
        addresses: Of the milters.
        mta: As which MTA to behave.
        failure: What is done as if a milter said so that has failed.
        timeouts: How long a milter may take.
        macros: Values that come ahead of all others.
    """

    addresses: tuple[str, ...]
    mta: Mta
    failure: Answer
    timeouts: Timeouts
    macros: dict[str, str]


@dataclass(slots=True)
class _Milter:
    """One milter in one SMTP session."""

    connection: MilterConnection
    conversation: Conversation

    @classmethod
    async def open(cls, address: str, settings: Settings) -> _Milter:
        wire = await dial(address, timeout_s=settings.timeouts.connect)
        conversation = Conversation(mta=settings.mta)
        connection = MilterConnection(wire, conversation, timeouts=settings.timeouts, name=address)
        await connection.negotiate()
        return cls(connection, conversation)


@dataclass(slots=True)
class Message:
    """A message in progress.

    Attributes:
        queue_id: The macro ``i``.
        undecided: The milters that are to be asked about it further.
        is_discarded: Whether the client hears that all is well, and nothing is delivered.
    """

    undecided: list[_Milter]
    queue_id: str = field(default_factory=lambda: secrets.token_hex(8).upper())
    is_discarded: bool = False


class SmtpSession:
    """The milters of one SMTP session.

    Attributes:
        refusal: What the client hears from now on whatever it says, or None.
        message: The message in progress, or None.
        auth_type: The mechanism by which the client has last tried to authenticate itself.
    """

    def __init__(self, settings: Settings) -> None:
        self.refusal: str | None = None
        self.message: Message | None = None
        self.auth_type = ""
        self._settings = settings
        self._milters: list[_Milter] = []
        self._has_begun = False

    async def greet(self, hostname: str, client: Client, macros: Mapping[str, str]) -> str | None:
        """Tell of the client's name; return the refusal, if it is refused."""
        await self.end_message()
        await self._begin(client, macros)
        for milter in self._milters.copy():
            self._give(milter, macros)
            await self._decide_session(milter, milter.connection.helo(hostname))
            if self.refusal is not None:
                break
        return await self._settle(self.refusal)

    async def begin_message(
        self, sender: Path, client: Client, macros: Mapping[str, str]
    ) -> str | None:
        """Tell of a message and its sender; return the refusal, if it is refused."""
        # aiosmtpd says nothing when it gives up a message that is too large.
        await self.end_message()
        await self._begin(client, macros)
        message = self.message = Message(self._milters.copy())
        for milter in self._milters:
            self._give(milter, {"i": message.queue_id, **macros})
        refusal = self.refusal or await self._ask_all(message, lambda milter: milter.mail(sender))
        if refusal is not None:
            await self.end_message()
        return await self._settle(refusal)

    async def ask_about_recipient(self, recipient: Path) -> str | None:
        """Return the refusal of a recipient, or None."""
        if self.message is None:
            return NO_MESSAGE
        refusal = await self._ask_all(self.message, lambda milter: milter.rcpt(recipient))
        return await self._settle(refusal)

    async def filter(self, envelope: Envelope, content: Content) -> Delivery | str | None:
        """Show the content of the message in progress, and end it.

        Returns:
            What is delivered, or the refusal, or None if the message is discarded.
        """
        message = self.message
        assert message is not None
        delivery = Delivery(envelope, content, None)
        result: Delivery | str | None = None if message.is_discarded else delivery
        while message.undecided and isinstance(result, Delivery):
            milter = message.undecided[0]
            answer = await self._ask(milter, _show(milter.connection, result.content))
            if answer is not _NOT_SENDABLE:
                _remove(milter, message.undecided)
            result = _result(answer, result, milter, self._settings.mta)
        await self.end_message()
        await self._settle(result if isinstance(result, str) else None)
        return result

    async def end_message(self) -> None:
        """End the message, by an ABORT for those milters that have not decided about it."""
        message, self.message = self.message, None
        if message is not None:
            await self._abort(message)

    async def close(self) -> None:
        """Say goodbye."""
        await self.end_message()
        while self._milters:
            # Removed last: whoever is cancelled here still disconnects from the rest.
            await self._leave(self._milters[0])

    def disconnect(self) -> None:
        """Close the connections without a word, as an MTA does that has lost its client."""
        for milter in self._milters:
            milter.connection.disconnect()

    async def _begin(self, client: Client, macros: Mapping[str, str]) -> None:
        """Connect to the milters, the first time."""
        addresses = () if self._has_begun else self._settings.addresses
        self._has_begun = True
        for address in addresses:
            try:
                milter = await _Milter.open(address, self._settings)
            except MilterError as error:
                self._note_failure(address, error)
            else:
                self._milters.append(milter)
                self._give(milter, macros)
                await self._decide_session(milter, milter.connection.connect(client))
            if self.refusal is not None:
                break

    async def _decide_session(self, milter: _Milter, question: Coroutine[Any, Any, Answer]) -> None:
        answer = await self._ask(milter, question)
        if answer.is_refusal:
            self.refusal = _words(answer)
        elif answer.status is Status.ACCEPT:
            await self._leave(milter)

    async def _leave(self, milter: _Milter) -> None:
        await milter.connection.close()
        _remove(milter, self._milters)

    async def _ask_all(self, message: Message, question: _Question) -> str | None:
        """Ask the milters that have not decided; return the first refusal."""
        for milter in message.undecided.copy():
            answer = await self._ask(milter, question(milter.connection))
            if answer.is_refusal:
                return _words(answer)
            if answer.is_final:
                _remove(milter, message.undecided)
            if answer.status is Status.DISCARD:
                message.is_discarded = True
                await self._abort(message)
                break
        return None

    async def _ask(self, milter: _Milter, question: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return await question
        except LocalProtocolError:
            return _NOT_SENDABLE
        except MilterError as error:
            self._drop(milter, error)
            return self._settings.failure

    async def _abort(self, message: Message) -> None:
        undecided, message.undecided = message.undecided, []
        for milter in undecided:
            try:
                await milter.connection.abort()
            except MilterError as error:
                self._drop(milter, error)

    async def _settle(self, refusal: str | None) -> str | None:
        """Leave the milters if a refusal is one of the session; return it."""
        if refusal is not None and refusal.startswith("421"):
            self.refusal = refusal
        if self.refusal is not None:
            await self.close()
        return refusal

    def _drop(self, milter: _Milter, error: MilterError) -> None:
        """Do without a milter that has failed."""
        milter.connection.disconnect()
        _remove(milter, self._milters)
        if self.message is not None:
            _remove(milter, self.message.undecided)
        self._note_failure(milter.connection.name, error)

    def _note_failure(self, address: str, error: MilterError) -> None:
        failure = self._settings.failure
        if failure.is_refusal:
            self.refusal = _words(failure)
        outcome = f"answered {self.refusal!r}" if self.refusal else "not filtered by it"
        _logger.warning(
            "milter %s: %s; the rest of the SMTP session is %s", address, error, outcome
        )

    def _give(self, milter: _Milter, macros: Mapping[str, str]) -> None:
        milter.conversation.give_macros({**macros, **self._settings.macros})


async def _show(milter: MilterConnection, content: Content) -> Answer:
    """Show a message to a milter until it decides; return what it says."""
    answer = await milter.data()
    for name, value in content.headers:
        if answer.is_final:
            break
        answer = await milter.header(name, value)
    for ask in (
        milter.end_of_headers,
        lambda: milter.body(content.body),
        milter.end_of_message,
    ):
        if answer.is_final:
            break
        answer = await ask()
    return answer


def _result(answer: Answer, before: Delivery, milter: _Milter, kind: Mta) -> Delivery | str | None:
    """Return what becomes of a message, after what the milters before have made of it."""
    if answer.is_refusal:
        return _words(answer)
    if answer.status is Status.DISCARD:
        return None
    outcome = Outcome(
        Status.ACCEPT,
        "eom",
        edits=answer.edits,
        envelope=before.envelope,
        content=before.content,
        mta=kind,
        leading_space=bool(milter.connection.agreed.options & Options.LEADING_SPACE),
    )
    after = outcome.apply()
    assert after is not None
    # Where the MTA does not keep the reason, the handler still may.
    reason = before.quarantine if outcome.quarantine is None else outcome.quarantine
    return Delivery(after.envelope, after.content, reason)


def _words(answer: Answer) -> str:
    """Return a refusal as SMTP says it; lines are parted by CRLF."""
    if answer.reply is None:
        return _REFUSALS[answer.status]
    return answer.reply.text


def _remove(milter: _Milter, milters: list[_Milter]) -> None:
    milters[:] = [other for other in milters if other is not milter]
