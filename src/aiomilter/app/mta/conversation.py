"""Consulting a milter about messages, command by command, without input and output.

Every method that says something is a generator, whoever does the reading and writing::

    steps = conversation.mail(sender)
    for must_read in steps:
        ...                     # write session.data_to_send(); if must_read, read some and feed it
    # what it has come to is the generator's result

Rules of this file:

- What the milter does not want is not sent, what it does not answer is not waited for, and after
  SKIP no more of the same kind is sent in this message.
- A refusal of a recipient means that recipient, but for 421, after which the MTA hangs up. Any
  other verdict but CONTINUE and SKIP ends the message; at CONNECT and HELO it ends the session for
  the milter, and holds for all its messages.
- As Postfix does, ABORT follows every message, also one that got through, and comes once more at
  the end of a session that had a HELO. Sendmail sends one only where a message is given up that the
  milter has not yet decided.
- Macros go ahead of a command also if the milter does not want it, but not so after SKIP, and in
  Postfix not so for headers, their end, and the body.
- DISCARD before a message has no meaning: Postfix goes on, and so does Sendmail after HELO. After
  CONNECT Sendmail does without the milter for the rest of the session.
- To Sendmail SKIP at a header means that no body is sent, and before the content it means ACCEPT.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TypeVar

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.edits import Edit, edit_of, join_bodies
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.macros import MacroSource
from aiomilter.app.mta.outcome import Answer, Outcome, RecipientResult, Step
from aiomilter.app.reply import Reply
from aiomilter.app.text import encode_line, encode_text, printable
from aiomilter.errors import LocalProtocolError
from aiomilter.session.mta import MtaSession, Offer
from aiomilter.session.status import Status
from aiomilter.spec import COMMAND_BY_LETTER, Options
from aiomilter.wire import commands, replies

__all__ = ["Conversation", "Steps"]

_T = TypeVar("_T")

Steps = Generator[bool, None, _T]
"""Yields whenever its driver has to write, and, if what it yields is true, to read as well."""

_FLUSH_BYTES = 65_536
_QUIT_NC_SINCE = 6
_HANGS_UP = 421
_CONTENT = b"LNB"
_GOES_ON = Answer()
_STATUSES: dict[type[replies.MilterReply], Status] = {
    replies.Continue: Status.CONTINUE,
    replies.Accept: Status.ACCEPT,
    replies.Reject: Status.REJECT,
    replies.TempFail: Status.TEMPFAIL,
    replies.Discard: Status.DISCARD,
    replies.Skip: Status.SKIP,
}
_SHUTDOWN = Reply(421, "4.3.0", "the milter has shut down the session")


class Conversation:
    """One connection to a milter, as an MTA uses it.

    Attributes:
        session: The protocol below it.
        mta: As which MTA it behaves.
        steps: What was said about the message in progress, or the last one.
    """

    def __init__(
        self,
        offer: Offer | None = None,
        *,
        mta: Mta = Mta.POSTFIX,
        macros: Mapping[str, str] | None = None,
    ) -> None:
        """Begin with a connection that has just been opened.

        Args:
            offer: What is offered; None for all there is.
            mta: As which MTA to behave.
            macros: Values by name, that come ahead of those that are made up.
        """
        self.session = MtaSession(offer, is_strict=mta is Mta.SENDMAIL)
        self.mta = mta
        self.steps: list[Step] = []
        self._given = dict(macros or {})
        self._macros = MacroSource(mta)
        self._macros.give(self._given)
        self._skipped: set[bytes] = set()
        self._client: Client | None = None
        self._greeted = False
        # What CONNECT or HELO has decided for the whole session, and where.
        self._decision: tuple[str, Answer] | None = None
        self._message_is_open = False
        self._messages = 0
        # The letter of the last command, if it was answered with CONTINUE.
        self._last = b""

    # The connection and the session

    def negotiate(self) -> Steps[None]:
        """Agree with the milter."""
        self.session.send_offer()
        yield from self._next_reply()

    def connect(self, client: Client | None = None) -> Steps[Answer]:
        """Tell of the client."""
        client = client or Client()
        command = client.to_command(self.mta)
        self._client = client
        self._decision = None
        self._greeted = False
        self._skipped.clear()
        self.steps.clear()
        self._macros.begin_session(client)
        shown = f"{client.hostname} [{client.address or 'unknown'}]:{client.port}"
        answer = yield from self._ask(command, shown)
        if answer.status is Status.DISCARD:
            answer = _GOES_ON if self.mta is Mta.POSTFIX else Answer(Status.ACCEPT)
        return self._decide_session("connect", answer)

    def helo(self, name: str | None = None) -> Steps[Answer]:
        """Tell what the client says at HELO or EHLO."""
        name = name if name is not None or self._client is None else self._client.helo
        command = commands.Helo(encode_line(name or "", "HELO"))
        self._greeted = True
        if self._decision is not None and self._decision[0] == "helo":
            self._decision = None
        answer = yield from self._ask(command, name or "")
        if answer.status is Status.DISCARD:
            answer = _GOES_ON
        return self._decide_session("helo", answer)

    def unknown(self, command: str) -> Steps[Answer]:
        """Tell of an SMTP command that the MTA does not know."""
        return (yield from self._ask(commands.Unknown(encode_line(command, "a command")), command))

    @property
    def heeds_quit_nc(self) -> bool:
        """Whether the milter takes QUIT_NC at this point.

        libmilter ignores it unless it comes right behind the end of a message or an unknown command
        that were answered with CONTINUE, or an ABORT if unknown commands are none of the milter's
        business; and then it has no answer to the next CONNECT.
        """
        if self.session.agreed.version < _QUIT_NC_SINCE:
            return False
        return self._last in (b"E", b"U" if self.session.is_wanted(b"U") else b"A")

    def is_other(self, client: Client | None) -> bool:
        """Return whether a client is another one than that of the session."""
        return self._client is not None and client is not None and client != self._client

    def again(self) -> Conversation:
        """Return a conversation as this one was at its beginning, for another connection."""
        other = Conversation(self.session.offer, mta=self.mta, macros=self._given)
        other._messages = self._messages
        return other

    def give_macros(self, macros: Mapping[str, str]) -> None:
        """Take values by name that come ahead of those that are made up, from now on."""
        self._given = dict(macros)
        self._macros.give(self._given)

    def new_session(self) -> Steps[None]:
        """End the SMTP session, and keep the connection for another one.

        Raises:
            LocalProtocolError: The milter would ignore that; see `heeds_quit_nc`.
        """
        if not self.heeds_quit_nc:
            raise LocalProtocolError(
                "a milter heeds QUIT_NC only in version 6, right behind the end of a message that "
                "it has let pass: open another connection"
            )
        self.session.send(commands.QuitNewConnection())
        self._forget_session()
        yield False

    def quit(self) -> Steps[None]:
        """Say goodbye."""
        if self.mta is Mta.POSTFIX and self._greeted:
            self.session.send(commands.Abort())
        self.session.send(commands.Quit())
        self._forget_session()
        yield False

    # The message

    def mail(self, sender: str | Path) -> Steps[Answer]:
        """Begin a message with its sender."""
        path = sender if isinstance(sender, Path) else Path(sender)
        self._messages += 1
        if any(step.stage == "mail" for step in self.steps):
            self.steps.clear()
        self._skipped.clear()
        self._macros.begin_message(path, f"4aio{self._messages:08X}")
        self._message_is_open = True
        return (yield from self._ask(commands.Mail(path.to_wire()), str(path)))

    def rcpt(self, recipient: str | Path) -> Steps[Answer]:
        """Ask about a recipient."""
        path = recipient if isinstance(recipient, Path) else Path(recipient)
        self._macros.begin_recipient(path)
        answer = yield from self._ask(commands.Rcpt(path.to_wire()), str(path))
        if not answer.is_refusal:
            self._macros.name_queue_file()
        return answer

    def data(self) -> Steps[Answer]:
        """Tell that the client has said DATA."""
        self._macros.end_recipients()
        return (yield from self._ask(commands.Data(), ""))

    def header(self, name: str, value: str) -> Steps[Answer]:
        """Tell of a header.

        Args:
            name: As the client has written it.
            value: All behind the colon, the blank in front included, as in `Content`.
        """
        if not self.session.options & Options.LEADING_SPACE:
            value = value.removeprefix(" ")
        encoded = encode_line(name, "the name of a header")
        command = commands.Header(encoded, encode_text(value, "a header"))
        return (yield from self._ask(command, f"{name}: {value.strip()}"))

    def end_of_headers(self) -> Steps[Answer]:
        """Tell that there are no more headers."""
        return (yield from self._ask(commands.EndOfHeaders(), ""))

    def body(self, data: bytes) -> Steps[Answer]:
        """Tell of the body, or a part of it, in as many pieces as it takes.

        The first answer that is not CONTINUE is the answer to all of it.
        """
        size = self.session.max_payload_bytes
        answer = _GOES_ON
        for start in range(0, len(data), size):
            chunk = data[start : start + size]
            answer = yield from self._ask(commands.Body(chunk), f"{len(chunk):,} bytes")
            if answer.status is not Status.CONTINUE:
                break
        return answer

    def end_of_message(self) -> Steps[Answer]:
        """Ask for the verdict, and for the edits."""
        answer = yield from self._ask(commands.EndOfMessage(), "")
        self._message_is_open = False
        return answer

    def abort(self) -> Steps[None]:
        """Give up the message, or tell that nothing more comes of it."""
        self.session.send(commands.Abort())
        self._message_is_open = False
        self._last = b"A"
        yield False

    # All of it

    def send(
        self,
        envelope: Envelope,
        content: Content,
        client: Client | None = None,
        macros: Mapping[str, str] | None = None,
    ) -> Steps[Outcome]:
        """Consult the milter about a message.

        Args:
            envelope: Who sends it to whom.
            content: The message.
            client: The client that brings it; None for the one before, or one that is made up.
                Another client begins another SMTP session on the same connection.
            macros: Values by name for this message.

        Raises:
            LocalProtocolError: Another client is to come in on a connection that cannot have
                another session, or a header is too long for a packet. The milter has been told to
                give up the message.
            ValueError: A text of the message has no bytes. Likewise. Or there is no recipient.
        """
        if not envelope.recipients:
            raise ValueError("a message has at least one recipient")
        if self._message_is_open:
            yield from self.abort()
        self.steps.clear()
        self._macros.give({**self._given, **(macros or {})})
        results: list[RecipientResult] = []
        try:
            stage, answer = yield from self._open_session(client)
            if not answer.is_final:
                stage, answer = yield from self._consult(envelope, content, results)
                yield from self._end_message(answer)
        except (LocalProtocolError, ValueError):
            if self._message_is_open:
                yield from self.abort()
            raise
        finally:
            self._macros.give(self._given)
        refused = {at for at, result in enumerate(results) if result.answer.is_refusal}
        accepted = [path for at, path in enumerate(envelope.recipients) if at not in refused]
        status = answer.status if answer.is_final else Status.ACCEPT
        return Outcome(
            status=status,
            stage=stage,
            reply=answer.reply,
            edits=join_bodies(answer.edits),
            recipients=tuple(results),
            steps=tuple(self.steps),
            envelope=Envelope(envelope.sender, accepted),
            content=content,
            mta=self.mta,
            leading_space=bool(self.session.options & Options.LEADING_SPACE),
        )

    def _open_session(self, client: Client | None) -> Steps[tuple[str, Answer]]:
        if self.is_other(client):
            yield from self.new_session()
        if self._client is None:
            yield from self.connect(client)
        if not self._greeted and self._decision is None:
            yield from self.helo()
        return self._decision or ("helo", _GOES_ON)

    def _consult(
        self, envelope: Envelope, content: Content, results: list[RecipientResult]
    ) -> Steps[tuple[str, Answer]]:
        """Ask about a message until it is decided; return where, and the answer."""
        answer = yield from self.mail(envelope.sender)
        if answer.is_final:
            return "mail", answer
        for recipient in envelope.recipients:
            answer = yield from self.rcpt(recipient)
            results.append(RecipientResult(recipient, answer))
            if answer.is_final and not _is_about_one_recipient(answer):
                return "rcpt", answer
        if results and all(result.answer.is_refusal for result in results):
            return "rcpt", results[-1].answer
        for stage, steps in (
            ("data", self.data()),
            ("header", self._headers(content)),
            ("eoh", self.end_of_headers()),
            ("body", self.body(content.body)),
        ):
            answer = yield from steps
            if answer.is_final:
                return stage, answer
        return "eom", (yield from self.end_of_message())

    def _headers(self, content: Content) -> Steps[Answer]:
        answer = _GOES_ON
        for name, value in content.headers:
            answer = yield from self.header(name, value)
            if answer.is_final:
                break
        return answer

    def _end_message(self, answer: Answer) -> Steps[None]:
        # After the end of a message nothing is open; a refused recipient decides nothing.
        is_undecided = self._message_is_open and (
            self.steps[-1].stage == "rcpt" and answer.is_refusal
        )
        self._message_is_open = False
        if self.mta is Mta.POSTFIX or is_undecided:
            yield from self.abort()

    # Below

    def _ask(self, command: commands.Command, argument: str) -> Steps[Answer]:
        """Send a command with its macros; return the answer."""
        session, letter = self.session, command.LETTER
        macros = self._macros_ahead_of(letter)
        if macros is not None:
            session.send(macros)
        was_sent = letter not in self._skipped and session.send(command)
        is_answered = session.is_awaiting
        answer = _GOES_ON
        if is_answered:
            answer = yield from self._answer()
        elif session.unsent_bytes > _FLUSH_BYTES:
            yield False
        if was_sent:
            self._last = letter if answer.status is Status.CONTINUE else b""
        stage = COMMAND_BY_LETTER[letter[0]].name
        self.steps.append(Step(stage, printable(argument), was_sent, is_answered, answer))
        return self._heed_skip(letter, answer)

    def _macros_ahead_of(self, letter: bytes) -> commands.Macro | None:
        session = self.session
        if letter in self._skipped or not session.is_known(letter):
            return None
        if self.mta is Mta.POSTFIX and letter in _CONTENT and not session.is_wanted(letter):
            return None
        return self._macros.packet(letter, session.agreed)

    def _answer(self) -> Steps[Answer]:
        edits: list[Edit] = []
        progress = 0
        while True:
            reply = yield from self._next_reply()
            match reply:
                case replies.Progress():
                    progress += 1
                case replies.ReplyCode(text):
                    words = Reply.from_wire(text)
                    status = Status.REJECT if words.is_permanent else Status.TEMPFAIL
                    return Answer(status, words, tuple(edits), progress)
                case replies.Shutdown():
                    return Answer(Status.TEMPFAIL, _SHUTDOWN, tuple(edits), progress)
                case _ if type(reply) in _STATUSES:
                    return Answer(_STATUSES[type(reply)], None, tuple(edits), progress)
                case _:
                    edits.append(edit_of(reply))

    def _next_reply(self) -> Steps[replies.MilterReply]:
        while (reply := self.session.next_reply()) is None:
            yield True
        return reply

    def _heed_skip(self, letter: bytes, answer: Answer) -> Answer:
        if answer.status is not Status.SKIP:
            return answer
        if self.mta is Mta.POSTFIX or letter == b"B":
            self._skipped.add(letter)
            return answer
        if letter in b"LN":
            self._skipped.add(b"B")
            return _GOES_ON
        return Answer(Status.ACCEPT)

    def _decide_session(self, stage: str, answer: Answer) -> Answer:
        if answer.is_final:
            self._decision = stage, answer
        return answer

    def _forget_session(self) -> None:
        self._client = None
        self._greeted = False
        self._decision = None
        self._message_is_open = False
        self._last = b""


def _is_about_one_recipient(answer: Answer) -> bool:
    is_end = answer.reply is not None and answer.reply.code == _HANGS_UP
    return answer.is_refusal and not is_end
