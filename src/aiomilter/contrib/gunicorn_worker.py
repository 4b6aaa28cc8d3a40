"""One worker process: a server on sockets that it has inherited, under gunicorn's arbiter.

Rules of this file:

- SIGTERM lets messages in progress finish, however often it comes: a service manager may send it
  to all processes, and the arbiter does as well. SIGQUIT ends at once. SIGINT is the arbiter's
  alone: a terminal sends it to both.
- The sign of life comes from the event loop, so that a loop that is blocked gives none.
- What no further attempt can mend is told to the arbiter, which knows what to make of it.
- A worker ends when the process above it does, however that ended: the kernel closes its end of
  a pipe then. A thread watches it, for the loop may be blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from gunicorn.app.base import BaseApplication
from gunicorn.workers.base import Worker

from aiomilter.aio.config import Config
from aiomilter.aio.ledger import CrashLedger, WorkerNotes, WorkerState
from aiomilter.aio.monitor import LoopMonitor
from aiomilter.aio.runner import (
    cancel_what_is_left,  # pyright: ignore[reportPrivateUsage]  (runs a loop, as this does)
    new_event_loop,
    run_to_its_end,  # pyright: ignore[reportPrivateUsage]  (the same)
)
from aiomilter.aio.server import Lifespan, MilterFactory, Server
from aiomilter.app.handlers import handler_table
from aiomilter.app.milter import Milter
from aiomilter.app.observer import Observer
from aiomilter.app.text import describe_error
from aiomilter.contrib.gunicorn_guard import Guard
from aiomilter.contrib.gunicorn_log import ArbiterLog
from aiomilter.contrib.gunicorn_metrics import with_room_for_files
from aiomilter.errors import ConfigError
from aiomilter.session.status import Status

__all__ = ["STOP_SIGNALS", "MilterApplication", "MilterWorker", "Served", "WorkerSettings"]

_logger = logging.getLogger("aiomilter")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
"""What must not be lost between the fork and the moment a worker knows what to do with it."""

_MOST_WORKERS = 1000
"""Far more than there are processors: with a zero too many no memory would be left."""
_EXIT_FAILURE = 1
_ORPHAN_GRACE_S = 0.8
_ORPHAN_END_S = 1.5
"""How long a worker without the process above it may live; two seconds are promised."""
_HURRY_S = 2.5
_LAST_MOMENT_S = 1.0
_BEATS_PER_TIMEOUT = 4
_LONGEST_BEAT_S = 1.0
"""Well below the time after which a worker that gives no sign of life counts as not serving."""


class Served(NamedTuple):
    """What a worker serves, as its own process has loaded it."""

    factory: MilterFactory
    lifespan: Lifespan | None = None
    observers: Sequence[Observer] = ()


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How workers are run.

    Attributes:
        load: Loads what is served, in each worker anew.
        listen: Addresses.
        workers: How many.
        config: The settings of each worker's server.
        uvloop: Whether to use uvloop; None to use it if it is installed.
        worker_timeout: For how many seconds the event loop of a worker that serves may be blocked.
        start_timeout: How many seconds a worker's start may take: loading, and entering the
            lifespan.
        metrics: Host and port that serve the metrics of all workers and a health check, or None.
        crash_limit: After how many workers that it has ended a message gets ``crash_verdict``.
        crash_verdict: What that message gets in place of its handlers.
    """

    load: Callable[[], Served]
    listen: tuple[str, ...]
    workers: int
    config: Config
    uvloop: bool | None = None
    worker_timeout: float = 30.0
    start_timeout: float = 300.0
    metrics: tuple[str, int] | None = None
    crash_limit: int = 3
    crash_verdict: Status = Status.TEMPFAIL

    def __post_init__(self) -> None:
        for name in ("workers", "crash_limit"):
            value: object = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is a whole number from 1 on, not {value!r}")
        if self.workers > _MOST_WORKERS:
            raise ConfigError(f"workers are at most {_MOST_WORKERS}, not {self.workers}")
        for name in ("worker_timeout", "start_timeout"):
            seconds: float = getattr(self, name)
            if not seconds > 0:
                raise ConfigError(f"{name} is a number of seconds above 0, not {seconds!r}")


class MilterApplication(BaseApplication):
    """What the arbiter and its workers have in common.

    Attributes:
        milter_settings: How workers are run.
        ledger: The messages that end workers.
        lifeline: The two ends of a pipe; the arbiter alone keeps the one that writes open.
        clean_up: Called by workers that the arbiter has left behind.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.milter_settings = settings
        self.ledger = CrashLedger(settings.crash_limit)
        self.lifeline = os.pipe()
        self.clean_up: Callable[[], None] = lambda: None
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn up: no HTTP, nothing from its own files or command line."""
        settings: dict[str, object] = {
            "workers": self.milter_settings.workers,
            "worker_class": MilterWorker,
            "logger_class": ArbiterLog,
            "proc_name": "aiomilter",
            "control_socket_disable": True,
        }
        if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK):  # noqa: S108  (not a file)
            # Signs of life are times of a file, and a disk that is busy must not delay them.
            settings["worker_tmp_dir"] = "/dev/shm"  # noqa: S108  (gunicorn makes it safely)
        for name, value in settings.items():
            self.cfg.set(name, value)


class MilterWorker(Worker):
    """A worker process; before the fork, what the arbiter keeps of it.

    Attributes:
        notes: What it tells the arbiter, also after its death.
        generation: Counts reloads.
        spawned_at: When it was made, of the monotonic clock.
        is_slow: Whether it was said that its start takes long.
        leave_by: When it must have ended, once it was asked to; None before.
        aborted_at: When it was made to show where it is and to end; None before.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.notes = WorkerNotes()
        self.generation = 0
        self.spawned_at = time.monotonic()
        self.is_slow = False
        self.leave_by: float | None = None
        self.aborted_at: float | None = None
        application = self.app
        assert isinstance(application, MilterApplication)
        self._application = application
        self._settings = application.milter_settings
        self._served: Served | None = None
        self._orphaned: Callable[[], None] | None = None
        self._is_orphaned = False

    @property
    def is_leaving(self) -> bool:
        """Whether it was asked to end."""
        return self.leave_by is not None

    def init_process(self) -> None:
        """Begin, in the new process; returns when it has ended."""
        reading, writing = self._application.lifeline
        os.close(writing)
        threading.Thread(target=self._watch_lifeline, args=(reading,), daemon=True).start()
        try:
            super().init_process()
            if self._is_orphaned:
                self._application.clean_up()
        except ConfigError as error:
            self.notes.problem = str(error)
            # As if all were well: the process above knows, and says what is to be said.
            sys.exit(0)
        except SystemExit:
            raise
        except BaseException as error:
            # gunicorn would write its text to stderr as it is, beside the log.
            what = describe_error(error)
            _logger.critical("worker %d has failed: %s", os.getpid(), what, exc_info=error)
            sys.exit(_EXIT_FAILURE)

    def notify(self) -> None:
        """Give a sign of life."""
        self.notes.beat = time.monotonic()

    def init_signals(self) -> None:
        """Take signals until the event loop does."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGWINCH):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(Exception):  # stderr may be none that it can write to
            # Shows where a loop is blocked, when SIGABRT ends it, and what code in C died of.
            faulthandler.enable()
        # Without the core file that it makes by default: nothing has gone wrong.
        signal.signal(signal.SIGQUIT, lambda _number, _frame: os._exit(0))
        signal.signal(signal.SIGUSR1, self.handle_usr1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def load_wsgi(self) -> None:
        """Load what is served."""
        self._served = self._settings.load()

    def run(self) -> None:
        """Serve until a signal asks for the end."""
        loop = new_event_loop(self._settings.uvloop)
        asyncio.set_event_loop(loop)
        try:
            run_to_its_end(loop, self._serve())
        finally:
            try:
                cancel_what_is_left(loop, _LAST_MOMENT_S)
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                asyncio.set_event_loop(None)
                loop.close()
        self.notes.state = WorkerState.ENDED

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        server = self._make_server()
        stop, hurry = asyncio.Event(), asyncio.Event()

        def on_quit() -> None:
            stop.set()
            hurry.set()

        def on_orphaned() -> None:
            _logger.error("worker %d: the process above is gone; ending", os.getpid())
            stop.set()
            loop.call_later(_ORPHAN_GRACE_S, hurry.set)

        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGQUIT, on_quit)
        self._orphaned = lambda: cast("None", loop.call_soon_threadsafe(on_orphaned))
        monitor = LoopMonitor(
            beat=self.notify,
            beat_period=min(self._settings.worker_timeout / _BEATS_PER_TIMEOUT, _LONGEST_BEAT_S),
            on_lag=server.observers.loop_lagged,
        )
        monitor.start()
        try:
            starting = asyncio.ensure_future(server.start())
            await _first_of(starting, stop)
            if starting.done():
                starting.result()
                # Ahead of the state: from then on it counts, and the lifespan may have blocked.
                self.notify()
                self.notes.state = WorkerState.SERVING
                await stop.wait()
            else:
                starting.cancel()
            await _stop(server, hurry)
        finally:
            monitor.stop()
            for number in (signal.SIGTERM, signal.SIGQUIT):
                loop.remove_signal_handler(number)
                # The end has begun; its last steps are not to be cut off.
                signal.signal(number, signal.SIG_IGN)

    def _make_server(self) -> Server:
        assert self._served is not None
        factory, lifespan, observers = self._served
        config = self._settings.config
        if self._settings.metrics is not None:
            observers = (*_metrics_observers(), *observers)
        # For what it says about a class; the server itself sees no class, but a function.
        Server(factory, *self.sockets, config=config, lifespan=lifespan)
        guard = Guard(self.notes, self._application.ledger, self._settings.crash_verdict)
        return Server(
            guard.watched(factory),
            *self.sockets,
            config=config,
            lifespan=lambda: _tried(factory, lifespan),
            observers=(guard, *observers),
        )

    def _watch_lifeline(self, reading: int) -> None:
        with contextlib.suppress(OSError):
            os.read(reading, 1)
        self._is_orphaned = True
        if self._orphaned is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the end is near
                self._orphaned()
            time.sleep(_ORPHAN_END_S)
        self._application.clean_up()
        os._exit(1)


async def _first_of(task: asyncio.Future[Any], event: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _stop(server: Server, hurry: asyncio.Event) -> None:
    stopping = asyncio.ensure_future(server.stop())
    await _first_of(stopping, hurry)
    if not stopping.done():
        server.hurry()
        await asyncio.wait([stopping], timeout=_HURRY_S)
    if stopping.done():
        stopping.result()


def _metrics_observers() -> tuple[Observer, ...]:
    # Late, as it needs prometheus_client.
    from aiomilter.contrib.prometheus import PrometheusObserver

    try:
        with with_room_for_files():
            return (PrometheusObserver(),)
    except OSError as error:
        _logger.error(
            "worker %d serves without metrics, for which there is no room or no folder: %s",
            *(os.getpid(), error.strerror),
        )
        return ()
    except ValueError as error:
        raise ConfigError(
            f"the metrics are there twice ({error}): leave out the PrometheusObserver of your own"
        ) from error


@contextlib.asynccontextmanager
async def _tried(factory: MilterFactory, lifespan: Lifespan | None) -> AsyncGenerator[None]:
    """Within the lifespan, which the factory may need, have a milter made before one is wanted."""
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(lifespan, AbstractAsyncContextManager):
            await stack.enter_async_context(
                lifespan  # pyright: ignore[reportUnknownArgumentType]  (it is a class's argument)
            )
        elif lifespan is not None:
            await stack.enter_async_context(lifespan())
        try:
            made = cast("object", factory())
        except (Exception, SystemExit) as error:  # whatever the factory raises
            raise ConfigError(f"no milter can be made: {describe_error(error)}") from error
        if not isinstance(made, Milter):
            raise ConfigError(f"what makes milters has made a {type(made).__name__}")
        handler_table(type(made))
        yield
