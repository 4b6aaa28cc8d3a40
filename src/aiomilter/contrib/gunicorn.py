"""Several worker processes on the same sockets, kept alive by gunicorn's arbiter.

Needs ``pip install 'aiomilter[workers]'``. On the command line it is ``aiomilter run --workers N``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import cast

from aiomilter.aio.config import Config
from aiomilter.aio.listeners import Listener, open_listeners
from aiomilter.aio.metrics_http import parse_metrics_address
from aiomilter.aio.server import Lifespan, MilterFactory
from aiomilter.app.observer import Observer
from aiomilter.app.text import describe_error
from aiomilter.contrib.gunicorn_arbiter import HANDED_ON, MilterArbiter
from aiomilter.contrib.gunicorn_metrics import require_prometheus
from aiomilter.contrib.gunicorn_worker import MilterApplication, Served, WorkerSettings
from aiomilter.errors import ConfigError
from aiomilter.session.status import Status

__all__ = ["run_workers", "run_workers_with"]


def run_workers(
    milter: str,
    *listen: str,
    workers: int,
    config: Config | None = None,
    lifespan: str | None = None,
    uvloop: bool | None = None,
    worker_timeout: float = 30.0,
    start_timeout: float = 300.0,
    observers: str | None = None,
    metrics: str | None = None,
    crash_limit: int = 3,
    crash_verdict: Status = Status.TEMPFAIL,
) -> None:
    """Serve with several processes until SIGINT or SIGTERM; blocks, and does not return.

    Milter, lifespan and observers are names, as each worker imports them by itself: this process
    must not, so that after SIGHUP new workers find the new code. Set up logging before; workers
    inherit it.

    Example::

        from aiomilter.contrib.gunicorn import run_workers

        if __name__ == "__main__":
            logging.basicConfig(level=logging.INFO)
            run_workers("filters.greylist:Greylist", "unix:/run/my/milter.sock", workers=4)

    Args:
        milter: What makes the milter of a session, as ``package.module:name``.
        *listen: Addresses (see `aiomilter.aio.address`).
        workers: How many processes serve.
        config: The settings of each worker's server; connections and memory are counted by worker.
        lifespan: Entered by each worker ahead of serving, as ``package.module:name``.
        uvloop: Whether to use uvloop; None to use it if it is installed.
        worker_timeout: For how many seconds a worker's event loop may be blocked. Then the worker
            is killed, and its log shows where it was.
        start_timeout: How many seconds the start of a worker may take, during which its event loop
            may be blocked: loading, and entering the lifespan. Then the same happens.
        observers: Called by each worker for a sequence of observers, as ``package.module:name``.
        metrics: Where to serve the metrics of all workers, for Prometheus, and a health check, as
            ``host:port``. Do not import prometheus_client before, in this process.
        crash_limit: A message that has ended this many workers no longer reaches a handler.
        crash_verdict: What it gets instead.

    Raises:
        ConfigError: An address or a setting cannot work, or what is named cannot be loaded.
        SystemExit: The end: with 0 after a signal, and 1 if no worker could start.
    """

    def load() -> Served:
        return Served(
            cast("MilterFactory", _named(milter)),
            cast("Lifespan", _named(lifespan)) if lifespan else None,
            _observers(observers) if observers else (),
        )

    run_workers_with(
        WorkerSettings(
            load=load,
            listen=listen,
            workers=workers,
            config=config or Config(),
            uvloop=uvloop,
            worker_timeout=worker_timeout,
            start_timeout=start_timeout,
            metrics=None if metrics is None else parse_metrics_address(metrics),
            crash_limit=crash_limit,
            crash_verdict=crash_verdict,
        )
    )


def run_workers_with(settings: WorkerSettings) -> None:
    """Serve as `run_workers` does, with a loader of one's own.

    Raises:
        ConfigError: An address cannot be listened on, or what is to be served cannot be loaded.
        SystemExit: The end.
    """
    if settings.metrics is not None:
        require_prometheus()
    handed_on = _handed_on()
    listeners = handed_on or open_listeners(settings.listen, settings.config)
    owner = os.getpid()
    arbiter: MilterArbiter | None = None
    try:
        application = MilterApplication(settings)
        arbiter = MilterArbiter(application, listeners, is_successor=bool(handed_on))
        arbiter.run()
    finally:
        # Workers leave in another way, and never by mistake in this one.
        if os.getpid() == owner:
            if arbiter is not None:
                arbiter.close()
            for listener in listeners:
                listener.close()


def _handed_on() -> list[Listener]:
    """Return the listeners of the program that has started this one by SIGUSR2."""
    found: list[Listener] = []
    for number, label, owned in json.loads(os.environ.pop(HANDED_ON, "[]")):
        sock = socket.socket(fileno=number)
        sock.setblocking(False)
        sock.set_inheritable(False)
        found.append(Listener(sock, label, tuple(owned) if owned else None))
    return found


def _observers(text: str) -> tuple[Observer, ...]:
    make = _named(text)
    try:
        return tuple(cast("Callable[[], Iterable[Observer]]", make)())
    except (Exception, SystemExit) as error:  # whatever the function raises
        raise ConfigError(f"{text!r} makes no observers: {describe_error(error)}") from error


def _named(text: str) -> object:
    module, _, name = text.partition(":")
    try:
        found: object = import_module(module)
        for part in name.split("."):
            found = cast("object", getattr(found, part))
    except (Exception, SystemExit) as error:  # whatever the module raises
        problem = f"{text!r} cannot be loaded by {sys.executable}: {describe_error(error)}"
        raise ConfigError(problem) from error
    return found
