"""Who sends a message to whom, and which client brings it: what SMTP says around a message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from aiomilter.app.mta.kind import Mta
from aiomilter.app.text import encode_line, encode_text
from aiomilter.wire.commands import Connect

__all__ = ["Client", "Envelope", "Path"]


@dataclass(frozen=True, slots=True, init=False)
class Path:
    """An address of the envelope with its ESMTP parameters.

    Attributes:
        address: As in SMTP, in angle brackets; they are added where they are missing.
        params: As in SMTP, for example ``SIZE=1000``.
    """

    address: str
    params: tuple[str, ...]

    def __init__(self, address: str, *params: str) -> None:
        for text in (address, *params):
            encode_line(text, "an address or parameter of the envelope")
        bracketed = address if address.startswith("<") else f"<{address}>"
        object.__setattr__(self, "address", bracketed)
        object.__setattr__(self, "params", params)

    def __str__(self) -> str:
        return " ".join((self.address, *self.params))

    def to_wire(self) -> list[bytes]:
        """Return the address and the parameters as arguments of MAIL or RCPT."""
        return [encode_text(text, "the envelope") for text in (self.address, *self.params)]


@dataclass(frozen=True, slots=True, init=False)
class Envelope:
    """The envelope of a message.

    Attributes:
        sender: Of MAIL; ``<>`` is the null sender of bounces.
        recipients: Of RCPT, in their order.
    """

    sender: Path
    recipients: tuple[Path, ...]

    def __init__(self, sender: str | Path, recipients: str | Path | Iterable[str | Path]) -> None:
        """Take addresses as text, with or without angle brackets, or as a `Path`."""
        if isinstance(recipients, (str, Path)):
            recipients = (recipients,)
        object.__setattr__(self, "sender", _path(sender))
        object.__setattr__(self, "recipients", tuple(map(_path, recipients)))

    @property
    def recipient_addresses(self) -> tuple[str, ...]:
        """The addresses of the recipients alone."""
        return tuple(recipient.address for recipient in self.recipients)


@dataclass(frozen=True, slots=True)
class Client:
    """The SMTP client that brings a message.

    Attributes:
        hostname: Its name as the MTA has found it; without one, the address in brackets.
        address: An IPv4 or IPv6 address, the path of a unix socket, or None if it is not known.
        port: 0 for none.
        helo: What it says at HELO or EHLO.
    """

    hostname: str = "client.example.org"
    address: str | None = "192.0.2.1"
    port: int = 25025
    helo: str = "client.example.org"

    def __post_init__(self) -> None:
        if self.address is not None and not self.address.startswith("/"):
            try:
                ip_address(self.address)
            except ValueError:
                raise ValueError(
                    f"the client's address is an IP address or the path of a unix socket, not "
                    f"{ascii(self.address)[:80]}"
                ) from None
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"the client's port is from 0 to 65535, not {self.port}")
        for text in (self.hostname, self.helo, self.address or ""):
            encode_line(text, "a name of the client")

    @property
    def is_ipv6(self) -> bool:
        """Whether its address is one of IPv6."""
        address = self.address
        return (
            address is not None
            and not address.startswith("/")
            and isinstance(ip_address(address), IPv6Address)
        )

    def address_of(self, mta: Mta) -> str | None:
        """Return the address as an MTA writes it; Sendmail has its own form for IPv6."""
        if self.address is None or mta is Mta.POSTFIX or not self.is_ipv6:
            return self.address
        number, _, zone = self.address.partition("%")
        words = (f"{int(word, 16):x}" for word in IPv6Address(number).exploded.split(":"))
        return f"IPv6:{':'.join(words)}" + (f"%{zone}" if zone else "")

    def to_command(self, mta: Mta = Mta.POSTFIX) -> Connect:
        """Return the command that tells a milter of it."""
        hostname = encode_text(self.hostname, "the client's name")
        shown = self.address_of(mta)
        if shown is None:
            return Connect(hostname, b"U", 0, None)
        address = encode_text(shown, "the client's address")
        if shown.startswith("/"):
            return Connect(hostname, b"L", 0, address)
        return Connect(hostname, b"6" if self.is_ipv6 else b"4", self.port, address)


def _path(value: str | Path) -> Path:
    return Path(value) if isinstance(value, str) else value
