"""Who is let in, and what becomes of the others.

Rules of this file:

- A peer that is on none of the allowed networks is closed before a byte is read.
- A connection above a limit is *shed*, in the way that was configured: with ``tempfail`` its MTA
  gets a milter that answers every client with a temporary failure, so that no mail passes
  unfiltered; with ``close`` the MTA's own default action decides.
- Each reason has at most one line in the log every ten seconds, with how often it was met.
"""

from __future__ import annotations

import enum
import logging
import socket
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from aiomilter.aio.config import Config

__all__ = ["Admission", "Decision", "host_of"]

_logger = logging.getLogger("aiomilter")

_LOGGED_EVERY_S = 10.0
_SHED_AT_A_TIME = 32
"""How many are told to come back, above the limit; half of the descriptors that are kept free."""


class Decision(enum.Enum):
    """What becomes of a connection."""

    SERVE = enum.auto()
    SHED = enum.auto()
    CLOSE = enum.auto()


class Admission:
    """Decides on connections, and counts those that are open.

    Attributes:
        shed: How many connections were turned away for want of room, from the beginning on.
        refused: How many came from a host that is not allowed.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.shed = 0
        self.refused = 0
        self._config = config
        self._networks = [ip_network(network) for network in config.allowed_networks]
        self._clock = clock
        self._open = 0
        self._busy = 0
        self._by_peer: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}

    def decide(self, sock: socket.socket) -> tuple[Decision, str]:
        """Decide on a connection that was accepted.

        Returns:
            What becomes of it, and its host for `leave`: an IP address, or empty for a unix
            socket. Whoever is served or shed has to leave.

        Raises:
            OSError: It is gone already.
        """
        host = host_of(sock)
        if not self.is_allowed(host):
            self.refused += 1
            self._note("network", f"{host} is on none of the allowed networks")
            return Decision.CLOSE, host
        config = self._config
        if self._open >= config.max_connections:
            reason = f"{self._open} are open, the limit is {config.max_connections}"
        elif host and 0 < config.max_connections_per_peer <= self._by_peer[host]:
            reason = (
                f"{self._by_peer[host]} of {host} are open, the limit for one peer is "
                f"{config.max_connections_per_peer}"
            )
        else:
            self._open += 1
            if host:
                self._by_peer[host] += 1
            return Decision.SERVE, host
        self.shed += 1
        if config.overload == "tempfail" and self._busy < _SHED_AT_A_TIME:
            self._busy += 1
            self._note("tempfail", f"answered with a temporary failure: {reason}")
            return Decision.SHED, host
        self._note("close", f"closed at once: {reason}")
        return Decision.CLOSE, host

    def leave(self, decision: Decision, host: str) -> None:
        """Note that a connection is over."""
        if decision is Decision.SHED:
            self._busy -= 1
            return
        self._open -= 1
        if host:
            self._by_peer[host] -= 1
            if not self._by_peer[host]:
                del self._by_peer[host]

    def is_allowed(self, host: str) -> bool:
        """Tell whether a host may connect at all; empty for a unix socket."""
        if not host or not self._networks:
            return True
        address = ip_address(host)
        return any(address in network for network in self._networks)

    def _note(self, kind: str, reason: str) -> None:
        self._missed[kind] += 1
        now = self._clock()
        if now - self._logged_at.get(kind, float("-inf")) >= _LOGGED_EVERY_S:
            self._logged_at[kind] = now
            _logger.warning("turned away %d new connection(s), %s", self._missed.pop(kind), reason)


def host_of(sock: socket.socket) -> str:
    """Return the IP address of the other end, without an interface; empty on a unix socket.

    Raises:
        OSError: The connection is gone already.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    host: str = sock.getpeername()[0]
    # A link-local address comes with its interface.
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
