"""Collects a message while the MTA sends it, within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiomilter.app.message.address import EnvelopeAddress
from aiomilter.app.message.body import DEFAULT_SPOOL_THRESHOLD, Body
from aiomilter.app.message.header import Header
from aiomilter.app.message.headers import Headers
from aiomilter.app.message.message import Message
from aiomilter.app.message.recipients import Recipients
from aiomilter.app.socket_info import SocketInfo
from aiomilter.errors import MessageLimitExceeded

__all__ = ["CollectLimits", "MessageCollector"]

_NO_MACROS: Mapping[str, str] = {}
_BYTES_BESIDE_HEADER = 256
"""What a header takes in memory beside its name and its value."""


@dataclass(frozen=True, slots=True)
class CollectLimits:
    """What a message may have at most, to be collected.

    Attributes:
        max_headers: How many headers. Mail has some tens, of long threads some hundreds.
        max_header_bytes: All headers together. Sendmail takes 32 KiB, Postfix 100 KiB for one.
        max_body_bytes: The body. Ten times what Postfix takes from a client by default.
        spool_threshold: How much of the body is kept in memory.
        directory: Where temporary files are made; None for the system's folder.
    """

    max_headers: int = 10_000
    max_header_bytes: int = 1 << 20
    max_body_bytes: int = 100 << 20
    spool_threshold: int = DEFAULT_SPOOL_THRESHOLD
    directory: str | Path | None = None


class MessageCollector:
    """Collects one message. After an error of any call it is of no use but to be closed."""

    __slots__ = (
        "_body",
        "_header_bytes",
        "_headers",
        "_leading_space",
        "_limits",
        "_recipients",
        "_sender",
    )

    def __init__(self, limits: CollectLimits, *, leading_space: bool = True) -> None:
        """Begin a message.

        Args:
            limits: What it may have.
            leading_space: Whether the option LEADING_SPACE was agreed. If not, the MTA has taken
                one blank off each value, and nearly always there was one: it is put back.
        """
        self._limits = limits
        self._leading_space = leading_space
        self._sender = EnvelopeAddress.received("<>")
        self._recipients: list[EnvelopeAddress] = []
        self._headers: list[Header] = []
        self._header_bytes = 0
        self._body = Body(spool_threshold=limits.spool_threshold, directory=limits.directory)

    def mail(self, sender: str, params: Sequence[str]) -> None:
        """Take the envelope sender."""
        self._sender = EnvelopeAddress.received(sender, params)

    def rcpt(self, recipient: str, params: Sequence[str]) -> None:
        """Take a recipient that was not refused."""
        self._recipients.append(EnvelopeAddress.received(recipient, params))

    def header(self, raw_name: bytes, raw_value: bytes) -> int:
        """Take a header as the MTA sends it; return how much memory all of them take, about.

        Raises:
            MessageLimitExceeded: There are too many, or they are too long.
        """
        headers, limits = self._headers, self._limits
        self._header_bytes += len(raw_name) + len(raw_value)
        if len(headers) >= limits.max_headers:
            raise MessageLimitExceeded(f"more than {limits.max_headers} headers")
        if self._header_bytes > limits.max_header_bytes:
            raise MessageLimitExceeded(f"more than {limits.max_header_bytes} bytes of headers")
        headers.append(Header(raw_name, raw_value if self._leading_space else b" " + raw_value))
        return self._header_bytes + len(headers) * _BYTES_BESIDE_HEADER

    def goes_to_file(self, size: int) -> bool:
        """Whether `body` of so many bytes would touch the disk, and is a thing for a thread."""
        return self._body.goes_to_file(size)

    def body(self, chunk: bytes) -> None:
        """Take a piece of the body. It blocks only where `goes_to_file` says so.

        Raises:
            MessageLimitExceeded: The body is too large; what there was is gone.
            SpoolError: It cannot be kept; what there was is gone.
        """
        self.check_room(len(chunk))
        self._body.write(chunk)

    def check_room(self, size: int) -> None:
        """Check that the body may have so many more bytes.

        Raises:
            MessageLimitExceeded: It would be too large; what there was is gone.
        """
        if self._body.size + size > self._limits.max_body_bytes:
            self.close()
            raise MessageLimitExceeded(f"more than {self._limits.max_body_bytes} bytes of body")

    @property
    def bytes_in_memory(self) -> int:
        """How much memory the headers and what is not in a file of the body take, about."""
        body = 0 if self._body.is_spooled else self._body.size
        return self._header_bytes + len(self._headers) * _BYTES_BESIDE_HEADER + body

    def save_memory(self) -> None:
        """Keep the body in a file from its next piece on, whatever its size."""
        self._body.save_memory()

    def message(
        self,
        *,
        macros: Mapping[str, str] = _NO_MACROS,
        queue_id: str | None = None,
        client: SocketInfo | None = None,
        hostname: str | None = None,
        helo_name: str | None = None,
    ) -> Message:
        """Return the message, at its end; whoever gets it closes it."""
        return Message(
            self._sender,
            Recipients(self._recipients),
            Headers(self._headers),
            self._body,
            macros=macros,
            queue_id=queue_id,
            client=client,
            hostname=hostname,
            helo_name=helo_name,
        )

    def close(self) -> None:
        """Forget a message that does not come to its end. Calling it again does nothing."""
        self._body.close()
