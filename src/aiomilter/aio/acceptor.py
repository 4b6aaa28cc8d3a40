"""Taking connections from a listening socket, also when there is no descriptor for another one.

Rules of this file:

- The loop is ours: asyncio's calls its exception handler once for every place in the backlog when
  descriptors run out, and again a second later for each of those, which costs thousands of records
  and a whole processor. Here accepting pauses, with one record, and goes on by itself. Who waits
  in the backlog is served then.
- Whether a connection is let in is somebody else's decision: the `Admission`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable
from contextvars import copy_context

from aiomilter.aio.listeners import Listener
from aiomilter.aio.transport import SocketTransport

__all__ = ["Acceptor", "MakeProtocol"]

_logger = logging.getLogger("aiomilter")

_AT_A_TIME = 64
"""How many connections are taken before anything else has its turn."""
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Between two attempts without success; each is twice as long as the one before."""
_LOGGED_EVERY_S = 10.0

MakeProtocol = Callable[[socket.socket, str], asyncio.BaseProtocol | None]
"""Returns what serves a connection on a listener with that label, or None to close it.

A protocol that reads to a buffer of its own has a `SocketTransport`, on asyncio's own loop; any
other the transport of the loop."""


class Acceptor:
    """Accepts connections until it is closed."""

    def __init__(
        self,
        listener: Listener,
        make_protocol: MakeProtocol,
        on_failure: Callable[[asyncio.BaseProtocol], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Begin to accept.

        Args:
            listener: Where MTAs connect; it stays the caller's.
            make_protocol: Decides on each connection.
            on_failure: Told of a protocol that never gets a transport.
            loop: The event loop that runs.
        """
        self._listener = listener
        self._make_protocol = make_protocol
        self._on_failure = on_failure
        self._loop = loop
        self._context = copy_context()
        self._tasks: set[asyncio.Task[object]] = set()
        self._pause_s = _SHORTEST_PAUSE_S
        self._resuming: asyncio.TimerHandle | None = None
        self._logged_at = float("-inf")
        self._is_closed = False
        loop.add_reader(listener.sock, self._accept_some)

    def close(self, *, drain: bool = False) -> None:
        """Accept nothing more. The socket stays open: who closes it is its owner.

        Args:
            drain: Whether to take those first who have connected already and wait.
        """
        if drain and self._resuming is None:
            while self._accept_some():
                pass
        self._is_closed = True
        if self._resuming is not None:
            self._resuming.cancel()
        else:
            self._loop.remove_reader(self._listener.sock)

    def _accept_some(self) -> bool:
        """Accept; return whether there may be more."""
        for _ in range(_AT_A_TIME):
            try:
                sock, _address = self._listener.sock.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionAbortedError:
                # It was gone before we looked.
                continue
            except OSError as error:
                # Nearly always EMFILE or ENFILE, ENOBUFS or ENOMEM.
                self._pause(error)
                return False
            self._pause_s = _SHORTEST_PAUSE_S
            self._admit(sock)
        return True

    def _admit(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            protocol = self._make_protocol(sock, self._listener.label)
        except OSError:
            # It is gone, so that not even its address can be had.
            protocol = None
        except BaseException:
            sock.close()
            raise
        if protocol is None:
            sock.close()
            return
        loop = self._loop
        if isinstance(protocol, asyncio.BufferedProtocol) and isinstance(
            loop, asyncio.SelectorEventLoop
        ):
            try:
                SocketTransport(sock, protocol, loop, self._context)
            except Exception as error:  # noqa: BLE001  (it is logged)
                self._note_failure(protocol, sock, error)
            return
        task = self._loop.create_task(self._connect(protocol, sock))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._note_connected, protocol, sock))

    def _note_connected(
        self, protocol: asyncio.BaseProtocol, sock: socket.socket, task: asyncio.Task[object]
    ) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None or task.cancelled():
            self._note_failure(protocol, sock, error)

    def _note_failure(
        self, protocol: asyncio.BaseProtocol, sock: socket.socket, error: BaseException | None
    ) -> None:
        # There is no transport: whoever counts on the protocol has to hear of its end.
        sock.close()
        self._on_failure(protocol)
        if error is not None:
            _logger.warning("a connection on %s came to nothing: %s", self._listener.label, error)

    async def _connect(self, protocol: asyncio.BaseProtocol, sock: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: protocol, sock)

    def _pause(self, error: OSError) -> None:
        self._loop.remove_reader(self._listener.sock)
        self._resuming = self._loop.call_later(self._pause_s, self._resume)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        now = self._loop.time()
        if now - self._logged_at >= _LOGGED_EVERY_S:
            self._logged_at = now
            _logger.warning(
                "cannot take new connections on %s for now: %s; those that are open go on",
                self._listener.label,
                error.strerror,
            )

    def _resume(self) -> None:
        self._resuming = None
        if not self._is_closed:
            self._loop.add_reader(self._listener.sock, self._accept_some)
            self._accept_some()
