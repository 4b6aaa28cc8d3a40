"""Telling systemd how the program is doing: the protocol of sd_notify(3).

Rules of this file:

- A message is a datagram of lines ``NAME=VALUE`` to the socket that NOTIFY_SOCKET names: a path,
  or ``@`` and a name that is in no file system. Without it nothing is sent.
- Nothing here raises: that nobody listens must not end a program that serves.
- Nothing here blocks: what does not fit into systemd's queue is sent a little later, in order.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
import weakref
from collections import deque
from collections.abc import Mapping

__all__ = ["Notifier", "watchdog_period"]

_logger = logging.getLogger("aiomilter")

_RETRY_S = 0.05
_PASSING = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What may be over when it is tried once more."""
_MOST_WAITING = 32
"""Messages that are kept for systemd to come round; what is older is of no interest then."""


class Notifier:
    """Sends messages to the service manager, if there is one; to be used within an event loop."""

    def __init__(
        self, environ: Mapping[str, str] = os.environ, *, has_event_loop: bool = True
    ) -> None:
        """Look for the service manager.

        Args:
            environ: The environment of the program.
            has_event_loop: Whether it is used within an event loop; else what does not fit into
                systemd's queue is sent with the next message.
        """
        self._has_event_loop = has_event_loop
        self._where = _socket_name(environ.get("NOTIFY_SOCKET", ""))
        self._waiting: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self._sock: socket.socket | None = None
        if self._where is not None:
            # From the beginning, so that signs of life go out also when descriptors have run out.
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.setblocking(False)
            weakref.finalize(self, self._sock.close)
        self._retrying: asyncio.TimerHandle | None = None
        self._has_failed = False

    def ready(self, status: str) -> None:
        """Tell that connections are served, at the beginning or after a reload.

        Args:
            status: For ``systemctl status``.
        """
        self._send("READY=1", _status(status))

    def reloading(self, seconds: float) -> None:
        """Tell that a reload has begun; `ready` tells of its end.

        Args:
            seconds: How long it may take. systemd does not take it for failed before, even if
                TimeoutStartSec= is shorter.
        """
        # By sd_notify(3) in microseconds of CLOCK_MONOTONIC, which is this one on Linux.
        self._send(
            "RELOADING=1",
            f"MONOTONIC_USEC={time.monotonic_ns() // 1000}",
            _extension(seconds),
            _status("reloading"),
        )

    def stopping(self, seconds: float, status: str) -> None:
        """Tell that the end has begun.

        Args:
            seconds: How long it may take. systemd does not kill before, even if TimeoutStopSec=
                is shorter.
            status: For ``systemctl status``.
        """
        self._send("STOPPING=1", _extension(seconds), _status(status))

    def alive(self) -> None:
        """Tell that the event loop turns: the watchdog's sign of life."""
        self._send("WATCHDOG=1")

    def tell(self, lines: str) -> None:
        """Tell something else; the lines are sent as they are."""
        self._send(lines)

    def close(self) -> None:
        """Send nothing more."""
        self._waiting.clear()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None

    def _send(self, *lines: str) -> None:
        if self._where is None or self._sock is None:
            return
        message = "\n".join(lines).encode("utf-8", "replace")
        # One sign of life is as good as many, which would take the place of other news.
        if not self._waiting or self._waiting[-1] != message:
            self._waiting.append(message)
        if self._retrying is None:
            self._flush()

    def _flush(self) -> None:
        self._retrying = None
        assert self._sock is not None
        try:
            while self._waiting:
                # By its path each time: systemd makes its own socket anew when it is renewed.
                self._sock.sendto(self._waiting[0], self._where or "")
                self._waiting.popleft()
        except OSError as error:
            if error.errno in _PASSING:
                if not self._has_event_loop:
                    return
                self._retrying = asyncio.get_running_loop().call_later(_RETRY_S, self._flush)
                return
            self._give_up(error)
        except ValueError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._waiting.clear()
        if not self._has_failed:
            self._has_failed = True
            _logger.warning("cannot tell systemd by NOTIFY_SOCKET: %s", error)


def watchdog_period(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return how often the watchdog wants a sign of life, in seconds; None if there is none.

    That is half of the time after which systemd takes the program for stuck, as
    sd_watchdog_enabled(3) advises.

    Args:
        environ: The environment of the program.
    """
    limit = environ.get("WATCHDOG_USEC", "")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 20) or int(limit) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 2e6


def _socket_name(text: str) -> str | None:
    if text.startswith("@"):
        return f"\0{text[1:]}"
    # Other forms, such as vsock:, are for virtual machines.
    return text if text.startswith("/") else None


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"
