"""The base class of all milters."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import ClassVar, TypeAlias

from aiomilter.app.actions import EomActions
from aiomilter.app.facts import Facts, SessionLog, fact
from aiomilter.app.gathering import MessageNeeds
from aiomilter.app.macros import Macros
from aiomilter.app.message.message import Message
from aiomilter.app.negotiation import Negotiation
from aiomilter.app.reply import Reply
from aiomilter.app.socket_info import SocketInfo
from aiomilter.session.status import Status
from aiomilter.spec import Actions

__all__ = ["Milter", "Verdict"]

Verdict: TypeAlias = Status | Reply | None
"""What a handler returns; None means `Status.CONTINUE`."""

_Answer: TypeAlias = Verdict | Awaitable[Verdict]


class Milter:
    """One SMTP session, as a mail filter sees it. Subclass it and override handlers.

    The library makes one object for each connection of the MTA. Only handlers that the class
    overrides are called, and the MTA is asked not to send the other events at all. An
    ``async def`` handler runs in the event loop; a plain ``def`` handler runs in a thread, so
    that it may block. The handlers of one object never run at the same time; only `on_abort` and
    `on_close` do not wait for one that was cut short and is still at work.

    A handler returns a `Status`, a `Reply`, or None to go on. Whatever else happens in it (any
    exception, a wrong result, a budget that runs out) costs one verdict, by default a
    temporary failure, and never the connection.

    What an event brings is text, decoded as UTF-8 with ``surrogateescape``: it never fails to
    decode, and encoded the same way gives the same bytes. Bodies are bytes.

    A subclass may have an ``__init__`` of its own and need not call this one's; the facts below
    are there from `on_negotiate` on.
    """

    actions: ClassVar[Actions | None] = None
    """What the milter must be able to do to a message. An MTA that lacks one of them is refused.
    None takes all that the MTA offers; then an edit that it did not offer raises
    `ActionNotNegotiated`."""

    message_needs: ClassVar[MessageNeeds] = MessageNeeds.BODY
    """How much of a message `on_message` wants. With ``MessageNeeds.HEADERS`` the MTA does not
    even send the body."""

    _facts: Facts

    # Facts

    @fact
    def hostname(self) -> str | None:
        """The name of the SMTP client, or its address in brackets, as the MTA found it.

        None without a handler `on_connect` or `on_message`: the MTA then does not tell it.
        """
        return self._facts.hostname

    @fact
    def client(self) -> SocketInfo:
        """The address of the SMTP client; unknown without `on_connect` or `on_message`."""
        return self._facts.client

    @fact
    def helo_name(self) -> str | None:
        """What the client said at HELO or EHLO; None without `on_helo` or `on_message`."""
        return self._facts.helo_name

    @fact
    def sender(self) -> str | None:
        """The envelope sender of the message, as the client sent it, usually in brackets.

        None before MAIL, and without a handler `on_mail` or `on_message`.
        """
        return self._facts.sender

    @fact
    def recipients(self) -> tuple[str, ...]:
        """The envelope recipients of the message that were not refused by this milter.

        Empty without a handler `on_rcpt` or `on_message`.
        """
        return tuple(self._facts.recipients)

    @fact
    def macros(self) -> Macros:
        """What the MTA tells about session and message, by name; always up to date."""
        return self._facts.macros

    @fact
    def queue_id(self) -> str | None:
        """The MTA's id of the message, or None as long as it has none.

        Postfix has one from the first accepted recipient on, Sendmail from MAIL on.
        """
        return self._facts.queue_id

    @fact
    def listener(self) -> str:
        """The address of this server that the MTA has connected to, as it was configured."""
        return self._facts.listener

    @fact
    def session_id(self) -> str:
        """This session's id in the logs."""
        return self._facts.session_id

    @fact
    def log(self) -> SessionLog:
        """A logger whose lines carry session id and queue id; its name is ``aiomilter.milter``."""
        facts = self._facts
        if facts.log is None:
            facts.log = SessionLog(logging.getLogger("aiomilter.milter"), facts)
        return facts.log

    # Handlers

    def on_negotiate(self, negotiation: Negotiation) -> _Answer:
        """The MTA has connected and says what it can do (xxfi_negotiate).

        Change ``negotiation.actions``, ``.options`` and ``.macros`` as needed.

        Returns:
            CONTINUE (or None) to request what ``negotiation`` says; ALL_OPTS to request all
            actions offered and the default options. Any other status closes the connection,
            as it does in libmilter.
        """

    def on_connect(self, hostname: str, client: SocketInfo) -> _Answer:
        """An SMTP client has connected (xxfi_connect).

        Args:
            hostname: The client's name, or its address in brackets.
            client: Its address.
        """

    def on_helo(self, hostname: str) -> _Answer:
        """The client said HELO or EHLO, possibly for the second time (xxfi_helo).

        Args:
            hostname: The name that it gave; anything at all.
        """

    def begin_message(self) -> None:
        """A new message begins: the place to set up what is kept for one message.

        Called ahead of the message's first event. A plain method that must not block.
        """

    def on_mail(self, sender: str, params: list[str]) -> _Answer:
        """The envelope sender (xxfi_envfrom).

        Args:
            sender: The address as sent, usually in brackets; ``<>`` is the null sender. Mail
                that Postfix takes in other than by SMTP has no brackets.
            params: The ESMTP parameters as sent, such as ``SIZE=1000``.
        """

    def on_rcpt(self, recipient: str, params: list[str]) -> _Answer:
        """One envelope recipient (xxfi_envrcpt).

        REJECT, TEMPFAIL and a `Reply` refuse this recipient alone; ACCEPT lets the whole
        message pass.

        Args:
            recipient: The address as sent, usually in brackets.
            params: The ESMTP parameters as sent, such as ``NOTIFY=NEVER``.
        """

    def on_data(self) -> _Answer:
        """The client is about to send the message (xxfi_data)."""

    def on_header(self, name: str, value: str) -> _Answer:
        r"""One header (xxfi_header).

        Args:
            name: As in the message.
            value: Lines are separated by ``\n``, their blanks kept. The blank behind the colon
                is not part of it, unless the handler is declared with `leading_space`.
        """

    def on_eoh(self) -> _Answer:
        """All headers have been seen (xxfi_eoh)."""

    def on_body(self, chunk: bytes) -> _Answer:
        """A piece of the body (xxfi_body); not called for an empty one.

        Args:
            chunk: 1 to 65,535 bytes, cut anywhere; lines end in CRLF.
        """

    def on_eom(self, actions: EomActions) -> _Answer:
        """The message has ended: the place for edits and for the verdict (xxfi_eom).

        Args:
            actions: The edits; they leave when the handler has returned, or not at all.
        """

    def on_message(self, message: Message) -> _Answer:
        """A whole message, in place of `on_header`, `on_eoh`, `on_body` and `on_eom`.

        It is called at the end of the message, which the library has gathered meanwhile without
        keeping the MTA waiting. What is changed in ``message`` is changed at the MTA when the
        handler has returned, by the fewest edits; with a verdict other than CONTINUE and ACCEPT,
        or after a fault, nothing is. The other handlers, such as `on_rcpt`, may decide before.

        A plain ``def`` runs in a thread, so that reading a large body blocks nobody.

        Args:
            message: The message; of no use when the handler has returned.
        """

    def on_abort(self) -> object:
        """The message in progress is over without a verdict (xxfi_abort); the result is ignored.

        Called once, and only for a message that has begun: not after a verdict.
        """

    def on_close(self) -> object:
        """The session is over (xxfi_close), however it ended; the result is ignored.

        Called exactly once.
        """

    def on_unknown(self, command: str) -> _Answer:
        """The client sent an SMTP command that the MTA does not know (xxfi_unknown).

        Args:
            command: From Sendmail the whole line, from Postfix its first word.
        """
