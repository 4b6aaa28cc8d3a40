"""The settings of a server."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from ipaddress import ip_network

from aiomilter.app.message.collector import CollectLimits
from aiomilter.errors import ConfigError
from aiomilter.session.status import Status
from aiomilter.spec import MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES_1M

__all__ = ["Config"]

_ON_ERROR = {
    "tempfail": Status.TEMPFAIL,
    "reject": Status.REJECT,
    "accept": Status.ACCEPT,
    "continue": Status.CONTINUE,
}
_OVERLOAD = ("tempfail", "close")
_LIMITS = CollectLimits()
_MOST_CONNECTIONS = 4096
_DESCRIPTORS_KEPT_FREE = 64


def _default_max_connections() -> int:
    try:
        import resource  # there is none on every system
    except ImportError:  # pragma: no cover  (not on any system the tests run on)
        return _MOST_CONNECTIONS
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(1, min(_MOST_CONNECTIONS, soft - _DESCRIPTORS_KEPT_FREE))


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a server; times in seconds.

    Raises `ConfigError` for a value that cannot work.

    Attributes:
        max_connections: How many connections are served at a time; an MTA opens one for each of
            its SMTP clients. Default: 4096, or 64 less than the process may have descriptors.
        max_connections_per_peer: How many of them one host may have, on TCP; 0 for no such limit.
        overload: What becomes of a connection above these limits. ``tempfail``: its MTA is told to
            answer its client with a temporary failure. ``close``: it is closed, and the MTA does
            what it is configured to do without a milter, which may be to let mail pass.
        allowed_networks: Who may connect on TCP, as ``192.0.2.0/24``; empty for everybody who
            reaches the address. An address other than the loopback is only listened on if there
            are some: whoever connects can claim to be an MTA, and any client at all.
        memory_budget: How many bytes all connections together may have sent without having been
            served; those that have sent some are not read from for a while above three quarters.
        max_packet_bytes: The largest payload that is let in, refused as soon as its length is
            known. Default: libmilter's 65,535. Before the negotiation it is 4,096.
        negotiation_timeout: From the connection to the end of the negotiation. Postfix and
            Sendmail begin at once.
        packet_timeout: From the first to the last byte of one packet, so that no one can hold
            a connection by sending a byte now and then.
        idle_timeout: Between two packets. Default: libmilter's 7,210 s, above the hour that
            an MTA waits for its client.
        write_timeout: How long the MTA may leave an answer unread.
        handler_timeout: The budget of a handler. Sendmail waits for 10 s, Postfix for 30.
        eom_timeout: The budget of `on_eom`. Sendmail gives 300 s in all.
        progress_interval: How often the MTA is told that `on_eom` is still at work.
        on_error: The verdict after a fault in a handler: ``Status.TEMPFAIL``, ``REJECT``,
            ``ACCEPT`` or ``CONTINUE``, or the same as text (``"tempfail"``). With the last two
            mail passes unfiltered, and the log says so.
        max_message_headers: How many headers a message may have that is gathered for `on_message`.
        max_message_header_bytes: How long they may be together.
        max_message_body_bytes: How large its body may be.
        spool_threshold: How much of a body is kept in memory; what is larger is in an unnamed
            temporary file. While memory is tight (``memory_budget``), all of it is.
        spool_directory: Where these files are made; None for the system's folder.
        on_limit: The verdict for a message that has more than may be gathered; the values are
            those of ``on_error``.
        stop_grace: How long a stopping server lets messages finish. systemd kills after 90 s.
        max_threads: How many plain ``def`` handlers run at a time.
        backlog: How many connections may wait to be accepted.
        unix_mode: The permissions of a unix socket. An MTA must be able to write to it.
        unix_group: The group that a unix socket is given, by name or number; None for the
            process's own. For Postfix usually ``postfix``.
        unix_owner: The user that a unix socket is given, by name or number; needs root.
    """

    max_connections: int = field(default_factory=_default_max_connections)
    max_connections_per_peer: int = 0
    overload: str = "tempfail"
    allowed_networks: tuple[str, ...] = ()
    memory_budget: int = 256 * 2**20
    max_packet_bytes: int = MAX_PAYLOAD_BYTES
    negotiation_timeout: float = 10.0
    packet_timeout: float = 30.0
    idle_timeout: float = 7210.0
    write_timeout: float = 30.0
    handler_timeout: float = 8.0
    eom_timeout: float = 240.0
    progress_interval: float = 5.0
    on_error: Status | str = Status.TEMPFAIL
    max_message_headers: int = _LIMITS.max_headers
    max_message_header_bytes: int = _LIMITS.max_header_bytes
    max_message_body_bytes: int = _LIMITS.max_body_bytes
    spool_threshold: int = _LIMITS.spool_threshold
    spool_directory: str | None = None
    on_limit: Status | str = Status.TEMPFAIL
    stop_grace: float = 30.0
    max_threads: int = 32
    backlog: int = 1024
    unix_mode: int = 0o660
    unix_group: str | int | None = None
    unix_owner: str | int | None = None

    def __post_init__(self) -> None:
        for setting in fields(self):
            value: object = getattr(self, setting.name)
            if setting.type == "float":
                self._check_time(setting.name, value)
            elif setting.type == "int" and (type(value) is not int or value < 0):
                raise ConfigError(f"{setting.name} is a non-negative integer, not {value!r}")
        for name in ("max_connections", "max_threads", "backlog", "memory_budget"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1")
        if not 1 <= self.max_packet_bytes <= MAX_PAYLOAD_BYTES_1M:
            raise ConfigError(
                f"max_packet_bytes is from 1 to {MAX_PAYLOAD_BYTES_1M}, not {self.max_packet_bytes}"
            )
        if self.overload not in _OVERLOAD:
            raise ConfigError(f"overload is one of {', '.join(_OVERLOAD)}; not {self.overload!r}")
        self._normalise_networks()
        if self.unix_mode > 0o777:
            raise ConfigError(f"unix_mode is at most 0o777, not {self.unix_mode:#o}")
        self._normalise_verdict("on_error")
        self._normalise_verdict("on_limit")
        if self.spool_directory is not None and not os.path.isdir(self.spool_directory):
            raise ConfigError(f"spool_directory is no folder: {self.spool_directory!r}")

    @property
    def error_status(self) -> Status:
        """`on_error` as a `Status`."""
        assert isinstance(self.on_error, Status)
        return self.on_error

    @property
    def limit_status(self) -> Status:
        """`on_limit` as a `Status`."""
        assert isinstance(self.on_limit, Status)
        return self.on_limit

    @property
    def message_limits(self) -> CollectLimits:
        """What a message may have that is gathered."""
        return CollectLimits(
            max_headers=self.max_message_headers,
            max_header_bytes=self.max_message_header_bytes,
            max_body_bytes=self.max_message_body_bytes,
            spool_threshold=self.spool_threshold,
            directory=self.spool_directory,
        )

    @staticmethod
    def _check_time(name: str, value: object) -> None:
        # Only the grace may be nothing: then messages in progress are cut off at once.
        least = 0.0 if name == "stop_grace" else math.nextafter(0, 1)
        if not isinstance(value, (int, float)) or not least <= value < math.inf:
            raise ConfigError(f"{name} is a number of seconds above 0, not {value!r}")

    def _normalise_networks(self) -> None:
        value: object = self.allowed_networks
        if type(value) not in (tuple, list):
            raise ConfigError(f"allowed_networks is a tuple of networks, not {value!r}")
        try:
            networks = tuple(str(ip_network(network)) for network in self.allowed_networks)
        except ValueError as error:
            raise ConfigError(f"allowed_networks: {error}; write it as 192.0.2.0/24") from None
        object.__setattr__(self, "allowed_networks", networks)

    def _normalise_verdict(self, name: str) -> None:
        value = getattr(self, name)
        status = _ON_ERROR.get(value.lower()) if isinstance(value, str) else value
        if status not in _ON_ERROR.values():
            raise ConfigError(f"{name} is one of {', '.join(_ON_ERROR)}; not {value!r}")
        object.__setattr__(self, name, status)
