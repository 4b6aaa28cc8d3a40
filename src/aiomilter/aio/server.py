"""Servers: from listening sockets to connections, and their orderly end.

Rules of this file:

- Stopping loses nothing: no new connections, messages in progress may finish for the time of
  grace, whatever comes after them is answered with 421, which makes an MTA hang up and its
  client come back. Only then handlers are cut short, with a temporary failure.
- No signal handler, no global state: that is `aiomilter.aio.runner`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeAlias

from aiomilter.aio.acceptor import Acceptor
from aiomilter.aio.admission import Admission, Decision
from aiomilter.aio.config import Config
from aiomilter.aio.connection import Connection
from aiomilter.aio.listeners import Listener, open_listeners
from aiomilter.aio.shared import Shared
from aiomilter.aio.threads import WorkerThreads
from aiomilter.app.handlers import handler_table
from aiomilter.app.milter import Milter
from aiomilter.app.observer import Observer, Observers
from aiomilter.app.reply import Reply
from aiomilter.app.socket_info import SocketInfo
from aiomilter.errors import ConfigError
from aiomilter.session.status import Status

__all__ = ["Lifespan", "MilterFactory", "Server", "serve"]

_logger = logging.getLogger("aiomilter")

MilterFactory: TypeAlias = Callable[[], Milter]
"""Makes the milter of one session: a subclass of `Milter`, or any callable without arguments."""

Lifespan: TypeAlias = (
    AbstractAsyncContextManager[object] | Callable[[], AbstractAsyncContextManager[object]]
)
"""What is entered before the first connection and left after the last one."""

_SHUTTING_DOWN = Reply(421, "4.3.2", "the mail filter is shutting down").encode()
_IDLE_GRACE_S = 2.0
"""How long a connection without a message in progress may wait for its next command."""
_LOOK_EVERY_S = 0.25
"""How often a stopping server looks for such connections."""
_SHED_IDLE_S = 5.0
"""How long a connection above the limits may be idle."""
_LAST_MOMENT_S = 1.0
"""How long connections may take to end after the grace: for answers and hooks."""


class Server:
    """Serves milters on any number of addresses; an asynchronous context manager.

    Leaving the context stops it. It installs no signal handler and leaves the event loop alone.

    Example::

        async with Server(MyMilter, "inet:8890") as server:
            await something_else()

    Attributes:
        config: The settings.
    """

    def __init__(
        self,
        milter_factory: MilterFactory,
        *listen: str | socket.socket,
        config: Config | None = None,
        lifespan: Lifespan | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        """Prepare a server; nothing is opened yet.

        Args:
            milter_factory: Called once for each SMTP session.
            *listen: Addresses (see `aiomilter.aio.address`) and bound stream sockets.
            config: The settings; None for the defaults.
            lifespan: Entered ahead of listening, left after the last connection.
            observers: Who is told what happens, such as metrics.

        Raises:
            ConfigError: The milter class cannot work.
        """
        made_of: object = milter_factory
        while isinstance(made_of, functools.partial):
            made_of = made_of.func
        if isinstance(made_of, type) and made_of is not milter_factory:
            # The arguments of a partial are there; whether they fit shows with the first session.
            if issubclass(made_of, Milter):
                handler_table(made_of)
        elif isinstance(milter_factory, type):
            if not issubclass(milter_factory, Milter):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"{milter_factory.__qualname__} is no subclass of Milter")
            _check_milter_class(milter_factory)
        elif not callable(milter_factory):
            raise ConfigError(f"{milter_factory!r} does not make milters: it is not callable")
        if config is not None and not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"config is a Config, not {config!r}: write Config(...)")
        self.config = config or Config()
        self._factory = milter_factory
        self._listen = listen
        self._lifespan = lifespan
        self._exit_stack = AsyncExitStack()
        self._listeners: list[Listener] = []
        self._acceptors: list[Acceptor] = []
        # Keys only: in the order of their coming, and in half the room of a set.
        self._connections: dict[Connection, None] = {}
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._hurried = asyncio.Event()
        self._is_started = False
        self._is_stopped = False
        self._threads = WorkerThreads(self.config.max_threads)
        self._shared = Shared(self.config, self._threads, observers=observers)
        # Who was told to come back needs no more than a moment, and others may need the place.
        brief = min(self.config.idle_timeout, _SHED_IDLE_S)
        self._shared_when_shed = Shared(
            replace(self.config, idle_timeout=brief), self._threads, self._shared.session_ids
        )

    @property
    def observers(self) -> Observers:
        """All observers as one."""
        return self._shared.observation.observers

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets, in the order of the addresses; empty once stopped."""
        return tuple(listener.sock for listener in self._listeners)

    @property
    def connections(self) -> int:
        """The number of connections that are open."""
        return len(self._connections)

    @property
    def is_serving(self) -> bool:
        """Whether connections are accepted: the start is complete, and no stop has begun."""
        return self._is_started and not self._is_stopped

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
        """Enter the lifespan, open the sockets and accept connections.

        Raises:
            ConfigError: An address cannot be listened on, or the server was stopped meanwhile;
                nothing stays open.
        """
        if self._is_stopped or self._listeners:
            raise ConfigError("a server starts once: make another one")
        try:
            if self._lifespan is not None:
                await self._exit_stack.enter_async_context(_lifespan_of(self._lifespan))
            if self._is_stopped:
                raise ConfigError("the server was stopped before its start was complete")
            loop = asyncio.get_running_loop()
            self._admission = Admission(self.config, loop.time)
            self._listeners = open_listeners(self._listen, self.config)
            for listener in self._listeners:
                self._acceptors.append(
                    Acceptor(listener, self._make_protocol, self._note_failure, loop)
                )
                _logger.info("listening on %s", listener.description)
            self._is_started = True
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting, let messages in progress finish, and close everything.

        Connections without a message in progress are answered 421 at their next command, and
        closed after two seconds without one.

        Args:
            grace: How long messages may take to finish, in seconds; None for the configured
                time. With 0 running handlers are cut short at once.
        """
        for acceptor, listener in zip(self._acceptors, self._listeners, strict=False):
            listener.remove_path()
            # Whoever waits in the backlog of a socket that is about to be closed would be cut off;
            # of one that was handed in, the next program takes them.
            acceptor.close(drain=listener.is_own and not self._is_stopped)
        self._is_stopped = True
        for listener in self._listeners:
            listener.close()
        self._acceptors.clear()
        self._listeners.clear()
        grace = self.config.stop_grace if grace is None else grace
        for connection in self._connections:
            connection.refuse_new_messages(_SHUTTING_DOWN)
        try:
            await self._let_finish(grace)
        finally:
            # Also if nobody waits for it any more.
            if grace and self._connections:
                _logger.warning(
                    "the time for messages in progress is over: %d connections are cut short",
                    len(self._connections),
                )
            for connection in tuple(self._connections):
                connection.cut_short()
            self._hurried.clear()
            await self._wait_for_connections(_LAST_MOMENT_S)
            for connection in tuple(self._connections):
                connection.abort()
            await self._wait_for_connections(_LAST_MOMENT_S)
            self._threads.close()
            await self._exit_stack.aclose()

    async def _let_finish(self, grace: float) -> None:
        """Wait for messages in progress; end connections that have been idle for a while."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        idle_since: dict[Connection, float] = {}
        while self._connections and not self._hurried.is_set() and (now := loop.time()) < end:
            for connection in tuple(self._connections):
                if not connection.is_idle:
                    idle_since.pop(connection, None)
                elif now - idle_since.setdefault(connection, now) >= _IDLE_GRACE_S:
                    connection.cut_short()
            await self._wait_for_connections(min(_LOOK_EVERY_S, end - now))

    def hurry(self) -> None:
        """Shorten the grace of a `stop` that is under way to nothing."""
        self._hurried.set()

    async def _wait_for_connections(self, seconds: float) -> None:
        """Wait until all connections are over, but not longer than ``seconds``."""
        if not self._connections or seconds <= 0 or self._hurried.is_set():
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (self._all_done, self._hurried)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _make_protocol(self, sock: socket.socket, label: str) -> asyncio.BaseProtocol | None:
        if self._is_stopped:
            return None
        decision, host = self._admission.decide(sock)
        if decision is not Decision.SERVE:
            is_limit = decision is Decision.SHED or self._admission.is_allowed(host)
            self.observers.turned_away("limit" if is_limit else "network")
        if decision is Decision.CLOSE:
            return None
        is_shed = decision is Decision.SHED
        try:
            connection = Connection(
                _Overloaded if is_shed else self._factory,
                self._shared_when_shed if is_shed else self._shared,
                label,
                _Departure(self, decision, host),
            )
        except BaseException:
            self._admission.leave(decision, host)
            raise
        self._connections[connection] = None
        self._all_done.clear()
        return connection

    def _note_failure(self, protocol: asyncio.BaseProtocol) -> None:
        if isinstance(protocol, Connection) and protocol in self._connections:
            protocol.connection_failed()

    def forget(self, connection: Connection, decision: Decision, host: str) -> None:
        """Note that a connection is over; for `_Departure`."""
        self._admission.leave(decision, host)
        self._connections.pop(connection, None)
        if not self._connections:
            self._all_done.set()


class _Departure:
    """What a connection calls when it is over: a `functools.partial` in a third of its memory."""

    __slots__ = ("_decision", "_host", "_server")

    def __init__(self, server: Server, decision: Decision, host: str) -> None:
        self._server = server
        self._decision = decision
        self._host = host

    def __call__(self, connection: Connection) -> None:
        self._server.forget(connection, self._decision, self._host)


class _Overloaded(Milter):
    """What a connection above the limits gets."""

    async def on_connect(self, hostname: str, client: SocketInfo) -> Status:
        return Status.TEMPFAIL


def _check_milter_class(milter: type[Milter]) -> None:
    table = handler_table(milter)
    try:
        inspect.signature(milter).bind()
    except TypeError as error:
        raise ConfigError(
            f"{milter.__qualname__}() cannot be called without arguments ({error}): pass "
            f"functools.partial({milter.__qualname__}, ...) or another factory"
        ) from None
    if not table.by_name:
        _logger.info("%s has no handler: all mail passes", milter.__qualname__)


def _lifespan_of(lifespan: Lifespan) -> AbstractAsyncContextManager[object]:
    # Not by callable(): what @asynccontextmanager makes is both.
    if isinstance(lifespan, AbstractAsyncContextManager):
        return lifespan  # pyright: ignore[reportUnknownVariableType]  (it is a class's argument)
    return lifespan()


async def serve(
    milter_factory: MilterFactory,
    *listen: str | socket.socket,
    config: Config | None = None,
    shutdown: Awaitable[object] | None = None,
    lifespan: Lifespan | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Serve until ``shutdown`` is done, then stop in an orderly way; for programs of one's own.

    No signal handler is installed. If this coroutine is cancelled, the server stops as well.

    Args:
        milter_factory: Called once for each SMTP session.
        *listen: Addresses (see `aiomilter.aio.address`) and bound stream sockets.
        config: The settings; None for the defaults.
        shutdown: Anything that can be awaited; None to serve until cancelled.
        lifespan: Entered ahead of listening, left after the last connection.
        observers: Who is told what happens, such as metrics.

    Raises:
        ConfigError: The milter class or an address cannot work.
    """
    async with Server(
        milter_factory, *listen, config=config, lifespan=lifespan, observers=observers
    ):
        if shutdown is None:
            shutdown = asyncio.get_running_loop().create_future()
        await shutdown
