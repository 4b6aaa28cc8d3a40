"""An HTTP server for a scraper and a health check: GET and HEAD of two paths, and nothing else.

Rules of this file:

- It runs in the event loop that serves mail, so that a loop that is blocked fails the health
  check. What is slow, the making of the metrics, runs in a thread.
- One request a connection; size, time and number of connections are bounded. One too many takes the
  place of the oldest: who holds connections open must not make a health check fail. Without
  descriptors accepting pauses, as for connections of MTAs.
- It holds up no end: its threads are daemons, and what is in progress is cut off.
- There is no encryption and no password: it belongs on the loopback or an inner network.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeAlias, cast

from aiomilter.aio.acceptor import Acceptor
from aiomilter.aio.listeners import Listener
from aiomilter.aio.threads import WorkerThreads
from aiomilter.app.text import describe_error
from aiomilter.errors import ConfigError

__all__ = ["MetricsServer", "Render", "parse_metrics_address"]

_logger = logging.getLogger("aiomilter")

Render: TypeAlias = Callable[[str], tuple[bytes, str]]
"""Takes the value of the request's ``Accept``; returns the metrics and their media type."""

_MAX_HEAD_BYTES = 8192
_MAX_CONNECTIONS = 16
"""A scraper and a health check need two."""
_TIMEOUT_S = 5.0
_THREADS = 2
_BACKLOG = 64
_TEXT = "text/plain; charset=utf-8"


class MetricsServer:
    """Serves ``/metrics`` and ``/healthz``; an asynchronous context manager."""

    def __init__(
        self,
        render: Render,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        is_healthy: Callable[[], bool] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            render: Makes the metrics; called in a thread.
            host: A name or an address to listen on.
            port: 0 for any that is free.
            is_healthy: Whether ``/healthz`` answers 200, else 503 (as when the server stops);
                None for always. Must not block.
            timeout_s: How long one request may take, the reading of the answer included.
        """
        self._render = render
        self._host = host
        self._port = port
        self._conditions = [] if is_healthy is None else [is_healthy]
        self._timeout_s = timeout_s
        self._acceptors: list[Acceptor] = []
        self._sockets: list[socket.socket] = []
        self._threads = WorkerThreads(_THREADS)
        self._protocols: set[asyncio.BaseProtocol] = set()
        # The oldest first.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._has_failed = False

    @property
    def port(self) -> int:
        """The port that is listened on; 0 while it is not open."""
        if not self._sockets:
            return 0
        port: int = self._sockets[0].getsockname()[1]
        return port

    def require(self, condition: Callable[[], bool]) -> None:
        """Have ``/healthz`` answer 503 also while a condition does not hold.

        Args:
            condition: Must not block.
        """
        self._conditions.append(condition)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
                self._sockets.append(_bound(family, address))
        except OSError as error:
            self._close_sockets()
            raise ConfigError(
                f"the metrics cannot be served on {self._shown_host}:{self._port}: {error.strerror}"
            ) from error
        self._threads = WorkerThreads(_THREADS)
        label = f"http://{self._shown_host}:{self.port}/metrics"
        for sock in self._sockets:
            listener = Listener(sock, label)
            self._acceptors.append(
                Acceptor(listener, self._make_protocol, self._protocols.discard, loop)
            )
        _logger.info("metrics on %s", label)

    async def stop(self) -> None:
        """Close everything at once."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        self._close_sockets()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.close()

    @property
    def _shown_host(self) -> str:
        return f"[{self._host}]" if ":" in self._host else self._host

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def _make_protocol(self, sock: socket.socket, label: str) -> asyncio.BaseProtocol | None:
        del sock, label
        if len(self._tasks) >= _MAX_CONNECTIONS:
            self._end_oldest()
        elif len(self._protocols) >= _MAX_CONNECTIONS:
            return None
        reader = asyncio.StreamReader(limit=_MAX_HEAD_BYTES)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._serve(reader, writer)
            finally:
                self._protocols.discard(protocol)

        protocol = asyncio.StreamReaderProtocol(reader, serve)
        self._protocols.add(protocol)
        return protocol

    def _end_oldest(self) -> None:
        task = next(iter(self._tasks))
        del self._tasks[task]
        task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self._acceptors:
            # It was accepted in the moment of the end.
            writer.transport.abort()
            return
        self._tasks[task] = None
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Cancelled only here and by `stop`; asyncio would log it as a fault of this task.
            pass
        finally:
            self._tasks.pop(task, None)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        line, *fields = head.decode("latin-1").split("\r\n")
        parts = line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        method, target, _version = parts
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, more="Allow: GET, HEAD\r\n")
        with_body = method == "GET"
        match target.partition("?")[0]:
            case "/metrics":
                return await self._answer_metrics(_accepted(fields), with_body)
            case "/healthz":
                is_healthy = all(condition() for condition in self._conditions)
                status = HTTPStatus.OK if is_healthy else HTTPStatus.SERVICE_UNAVAILABLE
                return _response(status, with_body=with_body)
            case _:
                return _response(HTTPStatus.NOT_FOUND, with_body=with_body)

    async def _answer_metrics(self, accept: str, with_body: bool) -> bytes:
        try:
            made = await self._threads.run(functools.partial(self._render, accept))
            body, media_type = cast("tuple[bytes, str]", made)
        except Exception as error:
            # Once: a scraper comes again and again.
            if not self._has_failed:
                self._has_failed = True
                reason = describe_error(error)
                _logger.exception("the metrics could not be made, logged once: %s", reason)
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, with_body=with_body)
        return _response(HTTPStatus.OK, body, media_type, with_body=with_body)


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # For IPv4 there is a socket of its own, if it was asked for.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def parse_metrics_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``[::1]:port`` or ``port`` (on the loopback).

    Raises:
        ConfigError: It is none of these.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = port = ""
    with contextlib.suppress(ValueError):
        if port.isascii() and 0 <= int(port) <= 65_535:
            return host or "127.0.0.1", int(port)
    raise ConfigError(f"a metrics address is HOST:PORT, such as 127.0.0.1:9464, not {text!r}")


def _accepted(fields: list[str]) -> str:
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() == "accept":
            return value.strip()
    return ""


def _response(
    status: HTTPStatus,
    body: bytes | None = None,
    media_type: str = _TEXT,
    *,
    more: str = "",
    with_body: bool = True,
) -> bytes:
    if body is None:
        body = f"{status.phrase}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\n"
        f"Connection: close\r\n{more}\r\n"
    )
    return head.encode("latin-1") + (body if with_body else b"")
