"""A whole message: what a handler `on_message` is given, reads and changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from aiomilter.app.guards import encode_reason
from aiomilter.app.message.address import EnvelopeAddress
from aiomilter.app.message.body import Body
from aiomilter.app.message.email_limits import EmailLimits
from aiomilter.app.message.footer import footer_edit
from aiomilter.app.message.headers import Headers
from aiomilter.app.message.recipients import Recipients
from aiomilter.app.message.spool import CHUNK_BYTES
from aiomilter.app.socket_info import SocketInfo

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["Message"]

_NO_MACROS: Mapping[str, str] = {}
_EMAIL_LIMITS = EmailLimits()


class Message:
    """A message with its envelope. Change it like any object; the MTA is then asked to do the same.

    Attributes:
        recipients: The envelope recipients that were not refused: an ordered set with `add` and
            `discard`.
        headers: The headers, in order, without the MTA's own Received header.
        body: The body; in a temporary file if it is large.
        macros: What the MTA has told about session and message, by name.
        queue_id: The MTA's id of the message, or None.
        client: The address of the SMTP client; unknown if the MTA has not told it.
        hostname: The name of the SMTP client, or None.
        helo_name: What the client said at HELO or EHLO, or None.
    """

    __slots__ = (
        "_original_sender",
        "_quarantine_reason",
        "_sender",
        "body",
        "client",
        "headers",
        "helo_name",
        "hostname",
        "macros",
        "queue_id",
        "recipients",
    )

    def __init__(
        self,
        sender: EnvelopeAddress,
        recipients: Recipients,
        headers: Headers,
        body: Body,
        *,
        macros: Mapping[str, str] = _NO_MACROS,
        queue_id: str | None = None,
        client: SocketInfo | None = None,
        hostname: str | None = None,
        helo_name: str | None = None,
    ) -> None:
        """Put a message together from what has come; made by the library, and by tests."""
        self._sender = self._original_sender = sender
        self._quarantine_reason: str | None = None
        self.recipients = recipients
        self.headers = headers
        self.body = body
        self.macros = macros
        self.queue_id = queue_id
        self.client = SocketInfo("unknown") if client is None else client
        self.hostname = hostname
        self.helo_name = helo_name

    def __repr__(self) -> str:
        return (
            f"<Message {self.queue_id or '-'}: from {ascii(str(self._sender))[:80]}, "
            f"{len(self.recipients)} recipients, {len(self.headers)} headers, "
            f"{len(self.body)} bytes of body>"
        )

    # Envelope

    @property
    def sender(self) -> EnvelopeAddress:
        """The envelope sender, ``<>`` for bounces.

        May be assigned: text is another address with the parameters that the old one has; an
        `EnvelopeAddress` comes with its own. ``ValueError`` is raised for one with CR, LF or NUL.
        """
        return self._sender

    @sender.setter
    def sender(self, address: str | EnvelopeAddress) -> None:
        if isinstance(address, str):
            checked = EnvelopeAddress(address)
            address = EnvelopeAddress.received(checked.address, self._sender.params)
        self._sender = address

    @property
    def original_sender(self) -> EnvelopeAddress:
        """The envelope sender as it came."""
        return self._original_sender

    # Reading

    def as_bytes(self, *, edited: bool = False) -> bytes:
        """Return the message as the MTA has received it, byte for byte.

        That is what a DKIM signature covers. Headers have their folds and blanks, lines end in
        CRLF. Not in it is what the MTA does not show to milters: its own Received header, and
        blanks in front of a colon.

        Args:
            edited: Whether edits made so far are in it, as they will be in the mail.

        Raises:
            SpoolError: The body cannot be read, or the message is over.
        """
        return b"".join(self.iter_bytes(edited=edited))

    def iter_bytes(self, *, edited: bool = False, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield what `as_bytes` returns in pieces: first all headers, then those of the body.

        Args:
            edited: As for `as_bytes`.
            size: Of the pieces of the body.

        Raises:
            SpoolError: The body cannot be read, or the message is over.
        """
        headers = self.headers if edited else self.headers.original
        yield b"".join(header.raw for header in headers) + b"\r\n"
        yield from self.body.iter_chunks(size) if edited else self.body.iter_original(size)

    def to_email(self, *, limits: EmailLimits = _EMAIL_LIMITS) -> EmailMessage:
        """Return a copy for reading, made by the standard library's parser.

        What is changed in it does not get into the mail. The parser may take long for large or
        hostile messages; within the default limits that is a second at most, so an ``async def``
        handler that expects such messages had better do it in a thread.

        Args:
            limits: What the message may have at most.

        Raises:
            MessageLimitExceeded: It has more.
            SpoolError: The body cannot be read, or the message is over.
        """
        # Late, as `email` takes a while to import.
        from aiomilter.app.message.email_copy import copy_email

        return copy_email(list(self.headers), self.body, limits)

    # Changing

    def append_footer(self, text: str) -> bool:
        """Append a footer to the first text that people read, and return whether there is one.

        That is the message itself or, of a multipart message, its first part of type text/plain
        that is no attachment. Charset and transfer encoding of the part are used; where they
        cannot express the footer, the part becomes UTF-8. Nothing is done, and False returned, if
        there is no such part in the first mebibyte, if the message is signed or encrypted (S/MIME,
        PGP), or if it cannot be read. A DKIM signature does not keep it from being done, and does
        not hold any longer.

        Args:
            text: Lines in text; their ends may be LF.

        Raises:
            SpoolError: The body cannot be read or kept; the message is as it was.
        """
        edit = footer_edit(list(self.headers), self.body, text)
        if edit is None:
            return False
        self.body.replace(edit.pieces(self.body))
        for name, value in edit.headers:
            self.headers.replace(name, value)
        return True

    def quarantine(self, reason: str) -> None:
        """Have the MTA hold the message for an administrator; the last reason counts.

        Args:
            reason: For the administrator; not empty. Postfix does not keep it.

        Raises:
            ValueError: The reason is empty or has CR, LF or NUL in it.
        """
        encode_reason(reason)
        self._quarantine_reason = reason

    @property
    def quarantine_reason(self) -> str | None:
        """The reason of the quarantine, or None."""
        return self._quarantine_reason

    def forget_quarantine(self) -> None:
        """Take a quarantine back."""
        self._quarantine_reason = None

    def copy(self) -> Message:
        """Return the same message once more: changes of the one are none of the other.

        What came with it, and the bytes of the body, they have in common; closing one of them
        closes both.
        """
        new = Message(
            self._original_sender,
            self.recipients.copy(),
            self.headers.copy(),
            self.body.copy(),
            macros=self.macros,
            queue_id=self.queue_id,
            client=self.client,
            hostname=self.hostname,
            helo_name=self.helo_name,
        )
        new._sender, new._quarantine_reason = self._sender, self._quarantine_reason
        return new

    def close(self) -> None:
        """Forget the body, and close its files; done by the library when the message is over."""
        self.body.close()
