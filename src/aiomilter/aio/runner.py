"""Running a milter as a program of its own.

Rules of this file:

- The first SIGTERM or SIGINT loses nothing: see `aiomilter.aio.server`. The second one ends within
  a second, whatever handlers do. Both count from the first moment of the start to the last one
  of the end.
- What was begun is ended: also a start that is cut short by a signal has the lifespan end in
  order, and neither socket, path nor task stays behind.
- The end is bounded by what the service manager was told.
- SIGHUP never ends the program: a terminal that closes, or a habit from other daemons, must not
  cut sessions off.
- systemd is told the truth: ready when connections are served, alive while the loop turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import platform
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiomilter._version import __version__
from aiomilter.aio.config import Config
from aiomilter.aio.executor import DaemonExecutor
from aiomilter.aio.metrics_http import MetricsServer
from aiomilter.aio.monitor import LoopMonitor
from aiomilter.aio.notify import Notifier, watchdog_period
from aiomilter.aio.reloads import Reload, Reloads
from aiomilter.aio.server import Lifespan, MilterFactory, Server
from aiomilter.app.observer import Observer
from aiomilter.app.text import describe_error
from aiomilter.errors import ConfigError

__all__ = [
    "FailedError",
    "cancel_what_is_left",
    "new_event_loop",
    "run",
    "run_to_its_end",
    "run_until_signal",
]

_logger = logging.getLogger("aiomilter")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HURRY_S = 0.4
"""How long stopping may take after the second signal."""
_LAST_MOMENT_S = 1.0
"""How long tasks that are left over at the end may take to heed their cancellation."""
_HURRIED_MOMENT_S = 0.1
"""The same after the second signal: together with `_HURRY_S` well below a second."""
_BEYOND_GRACE_S = 10.0
"""What stopping may take beyond the grace: the last answers, and the end of the lifespan."""
_SPARE_S = 3.0
"""How much of that is left for what then has not ended, and for the log to say so."""
_RELOAD_TIMEOUT_S = 60.0
"""A list is read in seconds; who waits for a database any longer waits for one that is gone."""


class FailedError(Exception):
    """Start or stop has failed, and the log says why."""


def run(
    milter_factory: MilterFactory,
    *listen: str | socket.socket,
    config: Config | None = None,
    lifespan: Lifespan | None = None,
    uvloop: bool | None = None,
    log_level: int | str | None = logging.INFO,
    reload: Reload | None = None,
    reload_timeout: float = _RELOAD_TIMEOUT_S,
    observers: Sequence[Observer] = (),
    metrics: MetricsServer | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then stop in an orderly way; blocks.

    The first of these signals lets messages in progress finish for the configured grace, a second
    one ends within a second; both also while the start is under way. SIGHUP calls ``reload``.
    systemd is told of start, stop, reload and, for its watchdog, that the event loop turns. A
    milter class, address or setting that cannot work ends the program with one line on stderr and
    the exit code 1, and so does a lifespan that fails, with a record in the log. `serve` and
    `Server` raise an exception instead.

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
        reload_timeout: After how many seconds a reload is cancelled that has not ended.
        observers: Who is told what happens, such as metrics.
        metrics: Served from the first moment of the start to the end of the lifespan; its health
            check fails except while connections are accepted.

    Raises:
        SystemExit: The milter class, an address or a setting cannot work, or the lifespan failed.
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
            reload_timeout=reload_timeout,
            observers=observers,
            metrics=metrics,
        )
    except ConfigError as error:
        sys.exit(f"aiomilter: {error}")
    except FailedError:
        sys.exit(1)


def run_until_signal(
    milter_factory: MilterFactory,
    *listen: str | socket.socket,
    config: Config | None = None,
    lifespan: Lifespan | None = None,
    uvloop: bool | None = None,
    reload: Reload | None = None,
    reload_timeout: float = _RELOAD_TIMEOUT_S,
    observers: Sequence[Observer] = (),
    metrics: MetricsServer | None = None,
) -> None:
    """Serve as `run` does, for programs that set up logging and show errors by themselves.

    The arguments are those of `run`.

    Raises:
        ConfigError: The milter class, an address or a setting cannot work.
        FailedError: The lifespan has failed; that is in the log.
    """
    if not 0 < reload_timeout < math.inf:
        raise ConfigError(f"reload_timeout is a number of seconds above 0, not {reload_timeout!r}")
    loop = new_event_loop(uvloop)
    asyncio.set_event_loop(loop)
    program: _Program | None = None
    try:
        server = Server(
            milter_factory, *listen, config=config, lifespan=lifespan, observers=observers
        )
        where = ", ".join(
            place if isinstance(place, str) else "a socket that was handed in" for place in listen
        )
        program = _Program(server, where, reload, reload_timeout, metrics)
        run_to_its_end(loop, program.serve())
    finally:
        try:
            hurried = program is not None and program.is_hurried
            cancel_what_is_left(loop, _HURRIED_MOMENT_S if hurried else _LAST_MOMENT_S)
        finally:
            # Last of all: another signal must not kill a program that is about to end well.
            loop.run_until_complete(_forget_signals(loop))
            asyncio.set_event_loop(None)
            loop.close()


def new_event_loop(uvloop: bool | None) -> asyncio.AbstractEventLoop:
    """Return an event loop; its ``to_thread`` does not keep the process from ending.

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
            return _prepared(new_uvloop())
    return _prepared(asyncio.new_event_loop())


def _prepared(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    loop.set_default_executor(DaemonExecutor())
    return loop


async def _forget_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Let signals be what they were; within the loop, as uvloop does nothing outside."""
    for number in (*_STOP_SIGNALS, signal.SIGHUP):
        with contextlib.suppress(ValueError):
            loop.remove_signal_handler(number)


class _Program:
    """A server, the signals that end it, and the service manager that is told of it.

    Attributes:
        is_hurried: Whether a second signal has asked for the end.
    """

    def __init__(
        self,
        server: Server,
        where: str,
        reload: Reload | None,
        reload_timeout: float,
        metrics: MetricsServer | None,
    ) -> None:
        self.is_hurried = False
        self._server = server
        self._where = where
        self._metrics = metrics
        if metrics is not None:
            metrics.require(lambda: server.is_serving)
        self._notifier = Notifier()
        self._monitor = LoopMonitor(
            beat=self._notifier.alive,
            beat_period=watchdog_period(),
            on_lag=server.observers.loop_lagged,
        )
        self._reloads = Reloads(reload, self._notifier, reload_timeout)
        self._asked_to_stop = asyncio.Event()
        self._asked_again = asyncio.Event()
        # Of start and stop together.
        self._limit_s = server.config.stop_grace + _BEYOND_GRACE_S - _SPARE_S
        self._ends_at = 0.0

    async def serve(self) -> None:
        """Serve until a signal asks for the end, and then stop.

        The signals stay in place afterwards.
        """
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
            if self._metrics is not None:
                await self._metrics.stop()

    def _ask_to_stop(self, name: str) -> None:
        if self._asked_to_stop.is_set():
            _logger.info("%s again: stopping at once", name)
            self.is_hurried = True
            self._asked_again.set()
            return
        grace, connections = self._server.config.stop_grace, self._server.connections
        if self._server.is_serving:
            _logger.info(
                "%s: letting messages in progress finish, for up to %g s; %d connections are open",
                name,
                grace,
                connections,
            )
        else:
            _logger.info("%s: the start is given up", name)
        self._asked_to_stop.set()
        self._ends_at = asyncio.get_running_loop().time() + self._limit_s
        self._reloads.close()
        self._notifier.stopping(
            grace + _BEYOND_GRACE_S, f"stopping, with {connections} connections"
        )

    async def _serve_until_asked(self) -> None:
        starting = asyncio.ensure_future(_outcome(self._start()))
        await _first_of(starting, self._asked_to_stop)
        if not starting.done():
            starting.cancel()
            if not await self._has_ended(starting, hurry=starting.cancel):
                return
        self._check("start", starting.result())
        if not self._asked_to_stop.is_set():
            # Whoever waits for that may connect from now on.
            self._reloads.open(f"serving on {self._where}")
            self._monitor.start()
            _logger.info(
                "serving: aiomilter %s, Python %s, %s; at most %d connections",
                __version__,
                platform.python_version(),
                type(asyncio.get_running_loop()).__module__.partition(".")[0],
                self._server.config.max_connections,
            )
            await self._asked_to_stop.wait()

    async def _start(self) -> None:
        if self._metrics is not None:
            await self._metrics.start()
        await self._server.start()

    async def _stop(self) -> None:
        # Also after a start that has not ended: if it goes on, it finds that it is too late.
        stopping = asyncio.ensure_future(_outcome(self._server.stop()))
        if await self._has_ended(stopping, hurry=self._server.hurry):
            self._check("end", stopping.result())
            _logger.info("stopped")
        else:
            _logger.warning("stopped without waiting for what does not end")

    async def _has_ended(
        self, ending: asyncio.Task[BaseException | None], hurry: Callable[[], object]
    ) -> bool:
        """Wait until it has ended, as long as that may take; return whether it has."""
        left_s = max(0.0, self._ends_at - asyncio.get_running_loop().time())
        await _first_of(ending, self._asked_again, left_s)
        if not ending.done():
            if not self.is_hurried:
                _logger.warning(
                    "it has not ended within %g s: it is not waited for any longer", self._limit_s
                )
            hurry()
            await asyncio.wait([ending], timeout=_HURRY_S)
        return ending.done()

    def _check(self, what: str, error: BaseException | None) -> None:
        """Raise what a start or a stop has come to, if that is an error."""
        if error is None:
            return
        if isinstance(error, asyncio.CancelledError) and self._asked_to_stop.is_set():
            return
        if isinstance(error, ConfigError) or not isinstance(
            error, (Exception, asyncio.CancelledError)
        ):
            # SystemExit is what a lifespan may well mean.
            raise error
        _logger.critical("the %s has failed: %s", what, describe_error(error), exc_info=error)
        raise FailedError(f"the {what} has failed") from error


async def _outcome(coroutine: Coroutine[Any, Any, None]) -> BaseException | None:
    """Await a coroutine; return what it raises.

    As a value: asyncio would let SystemExit, which a lifespan may raise, end the loop at once.
    """
    try:
        await coroutine
    except BaseException as error:  # noqa: BLE001  (it is handed on)
        return error
    return None


async def _first_of(
    task: asyncio.Future[Any], event: asyncio.Event, limit_s: float | None = None
) -> None:
    """Wait until a task is done or an event is set, or for so many seconds."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([task, waiting], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


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
    """Cancel the tasks that handlers have left behind, and wait for them, but not for ever.

    So it is with asynchronous generators that nobody has read to their end.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    run_to_its_end(loop, _wait_for(tasks, patience))
    left = sorted(
        {
            str(getattr(task.get_coro(), "__qualname__", task.get_name()))
            for task in tasks
            if not task.done()
        }
    )
    if left:
        _logger.warning("left behind, as it does not let itself be cancelled: %s", ", ".join(left))
    closing = loop.create_task(loop.shutdown_asyncgens())
    run_to_its_end(loop, _wait_for({closing}, patience))


async def _wait_for(tasks: set[asyncio.Task[Any]], patience: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=patience)
