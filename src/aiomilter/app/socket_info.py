"""The address of the SMTP client, as the MTA tells it.

Rules of this file:

- An IPv4 address is read as C's ``inet_aton`` reads it, since libmilter does: short forms, hex
  and octal parts, anything behind a blank.
- An IPv6 address may carry the prefix ``IPv6:``, with which Sendmail sends it.
- Text that is no address is kept and the client counts as unknown: libmilter closes the
  connection, but Postfix really sends the family ``4`` with the address ``unknown``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from aiomilter.app.text import decode_text
from aiomilter.errors import escape
from aiomilter.spec import MAX_UNIX_PATH_BYTES
from aiomilter.wire.commands import Connect

__all__ = ["SocketInfo"]

# Digits enough for 32 bits; leading zeros are legal and may be many.
_ATON_PART = re.compile(r"0[xX]0*([0-9a-fA-F]{1,8})|0+([0-7]{0,11})|([1-9][0-9]{0,9})")
_ATON_END = re.compile(r"[ \t\n\v\f\r]")


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """Where the SMTP client is.

    Attributes:
        family: ``inet``, ``inet6``, ``unix`` or ``unknown``.
        ip: The address, or None for other families than ``inet`` and ``inet6``.
        port: The client's port; 0 if unknown.
        path: The path of a unix socket, or None.
        raw: The address as the MTA sent it; empty if it sent none.
    """

    family: str
    ip: IPv4Address | IPv6Address | None = None
    port: int = 0
    path: str | None = None
    raw: str = ""

    def __str__(self) -> str:
        """Return the address in one line, as ``192.0.2.1:25`` or ``[2001:db8::1]:25``."""
        if self.ip is not None:
            host = f"[{self.ip}]" if self.family == "inet6" else str(self.ip)
            return f"{host}:{self.port}" if self.port else host
        if self.path is not None:
            return f"unix:{escape(self.path, len(self.path))[1:-1]}"
        return f"unknown ({escape(self.raw)})" if self.raw else "unknown"

    def is_in(self, *networks: str) -> bool:
        """Return whether the client is in one of the networks.

        A client without an IP address is in none. An IPv4 address mapped into IPv6 counts as
        both.

        Args:
            *networks: In CIDR notation, as ``192.0.2.0/24`` or ``2001:db8::/32``.

        Raises:
            ValueError: One of them is no network.
        """
        parsed = [ip_network(network) for network in networks]
        if self.ip is None:
            return False
        candidates: list[IPv4Address | IPv6Address] = [self.ip]
        if isinstance(self.ip, IPv6Address) and self.ip.ipv4_mapped is not None:
            candidates.append(self.ip.ipv4_mapped)
        return any(ip in network for ip in candidates for network in parsed)

    @classmethod
    def from_connect(cls, command: Connect) -> SocketInfo:
        """Return what a CONNECT says; never raises."""
        if command.address is None:
            return cls("unknown")
        raw = decode_text(command.address)
        if command.family == b"L" and len(command.address) <= MAX_UNIX_PATH_BYTES:
            return cls("unix", path=raw, raw=raw)
        if command.family == b"4":
            ipv4 = _parse_ipv4(raw)
            if ipv4 is not None:
                return cls("inet", ipv4, command.port, raw=raw)
        if command.family == b"6":
            ipv6 = _parse_ipv6(raw)
            if ipv6 is not None:
                return cls("inet6", ipv6, command.port, raw=raw)
        return cls("unknown", port=command.port, raw=raw)


def _parse_ipv4(text: str) -> IPv4Address | None:
    """Read an address by the rules of ``inet_aton``: one to four parts, the last one fills up."""
    numbers: list[int] = []
    for part in _ATON_END.split(text, maxsplit=1)[0].split("."):
        match = _ATON_PART.fullmatch(part)
        if match is None:
            return None
        hexadecimal, octal, decimal = match.groups()
        if hexadecimal is not None:
            numbers.append(int(hexadecimal, 16))
        else:
            numbers.append(int(octal or "0", 8) if decimal is None else int(decimal))
    if len(numbers) > 4:
        return None
    *leading, last = numbers
    if any(number > 0xFF for number in leading) or last >= 1 << 8 * (5 - len(numbers)):
        return None
    value = last
    for position, number in enumerate(leading):
        value |= number << 8 * (3 - position)
    return IPv4Address(value)


def _parse_ipv6(text: str) -> IPv6Address | None:
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    if "%" in text:
        return None
    try:
        return IPv6Address(text)
    except ValueError:
        return None
