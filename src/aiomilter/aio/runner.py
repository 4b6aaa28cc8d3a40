"""Running a milter as a program of its own.

Rules of this file:

- The first SIGTERM or SIGINT loses nothing: see `aiomilter.aio.server`. The second one ends within
  a second, whatever handlers do.
- SIGHUP never ends the program: a terminal that closes, or a habit from other daemons, must not
  cut sessions off.
- systemd is told the truth: ready when connections are served, alive while the loop turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from aiomilter.aio.config import Config
from aiomilter.aio.monitor import LoopMonitor
from aiomilter.aio.notify import Notifier, watchdog_period
from aiomilter.aio.server import Lifespan, MilterFactory, Server
from aiomilter.app.observer import Observer
from aiomilter.app.text import describe_error
from aiomilter.errors import ConfigError

__all__ = [
    "Reload",
    "cancel_what_is_left",
    "new_event_loop",
    "run",
    "run_to_its_end",
    "run_until_signal",
]

_logger = logging.getLogger("aiomilter")

Reload: TypeAlias = Callable[[], Awaitable[object] | object]
"""What SIGHUP calls, on the event loop: a plain function, which must not block, or a coroutine
function."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HURRY_S = 0.4
"""How long stopping may take after the second signal."""
_LAST_MOMENT_S = 1.0
"""How long tasks that are left over at the end may take to heed their cancellation."""
_HURRIED_MOMENT_S = 0.1
"""The same after the second signal: together with `_HURRY_S` well below a second."""
_BEYOND_GRACE_S = 10.0
"""What stopping may take beyond the grace: the last answers, and the end of the lifespan."""


def run(
    milter_factory: MilterFactory,
    *listen: str | socket.socket,
    config: Config | None = None,
    lifespan: Lifespan | None = None,
    uvloop: bool | None = None,
    log_level: int | str | None = logging.INFO,
    reload: Reload | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Serve until SIGINT or SIGTERM, then stop in an orderly way; blocks.

    The first of these signals lets messages in progress finish for the configured grace, a second
    one ends within a second. SIGHUP calls ``reload``. systemd is told of start, stop, reload and,
    for its watchdog, that the event loop turns. A milter class, address or setting that cannot
    work ends the program with one line on stderr and the exit code 1; `serve` and `Server` raise
    `ConfigError` instead.

    Args:
        milter_factory: Called once for each SMTP session.
        *listen: Addresses (see `aiomilter.aio.address`) and bound stream sockets.
        config: The settings; None for the defaults.
        lifespan: Entered ahead of listening, left after the last connection.
        uvloop: Whether to use uvloop; None to use it if it is installed.
        log_level: If nothing has set up logging yet, log to stderr from this level on; None to
            leave logging alone.
        reload: Called at SIGHUP, one call at a time; a fault in it is logged and changes nothing.
            None to ignore the signal.
        observers: Who is told what happens, such as metrics.

    Raises:
        SystemExit: The milter class, an address or a setting cannot work.
    """
    if log_level is not None and not logging.getLogger().hasHandlers():
        logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run_until_signal(
            milter_factory,
            *listen,
            config=config,
            lifespan=lifespan,
            uvloop=uvloop,
            reload=reload,
            observers=observers,
        )
    except ConfigError as error:
        sys.exit(f"aiomilter: {error}")


def run_until_signal(
    milter_factory: MilterFactory,
    *listen: str | socket.socket,
    config: Config | None = None,
    lifespan: Lifespan | None = None,
    uvloop: bool | None = None,
    reload: Reload | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Serve as `run` does, for programs that set up logging and show errors by themselves.

    The arguments are those of `run`.

    Raises:
        ConfigError: The milter class, an address or a setting cannot work.
    """
    loop = new_event_loop(uvloop)
    asyncio.set_event_loop(loop)
    program: _Program | None = None
    try:
        program = _Program(milter_factory, listen, config, lifespan, reload, observers)
        run_to_its_end(loop, program.serve())
    finally:
        try:
            hurried = program is not None and program.is_hurried
            cancel_what_is_left(loop, _HURRIED_MOMENT_S if hurried else _LAST_MOMENT_S)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def new_event_loop(uvloop: bool | None) -> asyncio.AbstractEventLoop:
    """Return an event loop.

    Args:
        uvloop: Whether it is uvloop's; None for that if it is installed.

    Raises:
        ConfigError: uvloop is asked for and not installed.
    """
    if uvloop is not False:
        try:
            from uvloop import new_event_loop as new_uvloop
        except ImportError:
            if uvloop:
                raise ConfigError(
                    "uvloop is not installed: pip install 'aiomilter[uvloop]'"
                ) from None
        else:
            return new_uvloop()
    return asyncio.new_event_loop()


class _Program:
    """A server, the signals that end it, and the service manager that is told of it.

    Attributes:
        is_hurried: Whether a second signal has asked for the end.
    """

    def __init__(
        self,
        milter_factory: MilterFactory,
        listen: tuple[str | socket.socket, ...],
        config: Config | None,
        lifespan: Lifespan | None,
        reload: Reload | None,
        observers: Sequence[Observer],
    ) -> None:
        self.is_hurried = False
        self._where = ", ".join(
            place if isinstance(place, str) else "a socket that was handed in" for place in listen
        )
        self._server = Server(
            milter_factory, *listen, config=config, lifespan=lifespan, observers=observers
        )
        self._notifier = Notifier()
        self._monitor = LoopMonitor(
            beat=self._notifier.alive,
            beat_period=watchdog_period(),
            on_lag=self._server.observers.loop_lagged,
        )
        self._reloads = _Reloads(reload, self._notifier)
        self._asked_to_stop = asyncio.Event()
        self._asked_again = asyncio.Event()

    async def serve(self) -> None:
        """Serve until a signal asks for the end, and then stop."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._ask_to_stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._reloads.ask)
        try:
            await self._serve_until_asked()
            await self._stop()
        finally:
            self._reloads.close()
            self._monitor.stop()
            self._notifier.close()
            for number in (*_STOP_SIGNALS, signal.SIGHUP):
                with contextlib.suppress(ValueError):
                    loop.remove_signal_handler(number)

    def _ask_to_stop(self, name: str) -> None:
        if self._asked_to_stop.is_set():
            _logger.info("%s again: stopping at once", name)
            self.is_hurried = True
            self._asked_again.set()
            return
        _logger.info("%s: letting messages in progress finish", name)
        self._asked_to_stop.set()
        self._reloads.close()
        self._notifier.stopping(
            self._server.config.stop_grace + _BEYOND_GRACE_S,
            f"stopping, with {self._server.connections} connections",
        )

    async def _serve_until_asked(self) -> None:
        starting = asyncio.ensure_future(self._server.start())
        await _first_of(starting, self._asked_to_stop)
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        if not self._asked_to_stop.is_set():
            # Whoever waits for that may connect from now on.
            self._reloads.open(f"serving on {self._where}")
            self._monitor.start()
            await self._asked_to_stop.wait()

    async def _stop(self) -> None:
        stopping = asyncio.ensure_future(self._server.stop())
        await _first_of(stopping, self._asked_again)
        if not stopping.done():
            self._server.hurry()
            await asyncio.wait([stopping], timeout=_HURRY_S)
        if stopping.done():
            stopping.result()
            _logger.info("stopped")
        else:
            _logger.warning("stopped without waiting for what does not end")


async def _first_of(task: asyncio.Future[Any], event: asyncio.Event) -> None:
    """Wait until a task is done or an event is set."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


class _Reloads:
    """Calls what reloads, one call at a time."""

    def __init__(self, reload: Reload | None, notifier: Notifier) -> None:
        self._reload = reload
        self._notifier = notifier
        self._status = ""
        self._is_open = False
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None

    def open(self, status: str) -> None:
        """Tell that the program serves, and reload from now on; also what was asked for before."""
        self._status = status
        self._is_open = True
        self._notifier.ready(status)
        self._begin()

    def close(self) -> None:
        """Reload no more; a reload that is under way is cancelled."""
        self._is_open = self._is_wanted = False
        if self._task is not None:
            self._task.cancel()

    def ask(self) -> None:
        """Reload now, or once more after the reload that is under way."""
        if self._reload is None:
            _logger.info("SIGHUP is ignored: there is nothing to reload")
            return
        self._is_wanted = True
        self._begin()

    def _begin(self) -> None:
        if self._is_open and self._is_wanted and self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                self._notifier.reloading()
                await self._reload_once()
                if self._is_open:
                    self._notifier.ready(self._status)
        finally:
            self._task = None

    async def _reload_once(self) -> None:
        assert self._reload is not None
        _logger.info("SIGHUP: reloading")
        try:
            # Users' code: whatever it raises, also SystemExit, must not end the program.
            result = self._reload()
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and not self._is_open:
                raise
            _logger.error(
                "the reload has failed, all stays as it was: %s",
                describe_error(error),
                exc_info=error,
            )
        else:
            _logger.info("reloaded")


def run_to_its_end(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine, whatever the tasks of handlers do.

    A task that ends in SystemExit or KeyboardInterrupt takes the event loop with it: asyncio lets
    both through. The signals are handled, so that here they can only be a handler's.
    """
    main = loop.create_task(coroutine)
    while not main.done():
        try:
            loop.run_until_complete(main)
        except (SystemExit, KeyboardInterrupt) as error:
            if main.done():
                raise
            _logger.error(
                "a task of a handler raised %s; it would end the program, which goes on",
                describe_error(error),
                exc_info=error,
            )
    main.result()


def cancel_what_is_left(loop: asyncio.AbstractEventLoop, patience: float) -> None:
    """Cancel the tasks that handlers have left behind, and wait for them, but not for ever."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=patience))
