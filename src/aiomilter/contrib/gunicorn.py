"""Several worker processes on the same sockets, kept alive by gunicorn's arbiter.

Needs ``pip install 'aiomilter[workers]'``. On the command line it is ``aiomilter run --workers N``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib import import_module
from typing import cast

from aiomilter.aio.config import Config
from aiomilter.aio.listeners import Listener, open_listeners
from aiomilter.aio.server import Lifespan, MilterFactory
from aiomilter.app.text import describe_error
from aiomilter.contrib.gunicorn_arbiter import HANDED_ON, MilterArbiter
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
    crash_limit: int = 3,
    crash_verdict: Status = Status.TEMPFAIL,
) -> None:
    """Serve with several processes until SIGINT or SIGTERM; blocks, and does not return.

    Milter and lifespan are names, as each worker imports them by itself: this process must not,
    so that after SIGHUP new workers find the new code. Set up logging before; workers inherit it.

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
        crash_limit: A message that has ended this many workers no longer reaches a handler.
        crash_verdict: What it gets instead.

    Raises:
        ConfigError: An address or a setting cannot work.
        SystemExit: The end: with 0 after a signal, and 1 if no worker could start.
    """

    def load() -> Served:
        return Served(
            cast("MilterFactory", _named(milter)),
            cast("Lifespan", _named(lifespan)) if lifespan else None,
        )

    run_workers_with(
        WorkerSettings(
            load=load,
            listen=listen,
            workers=workers,
            config=config or Config(),
            uvloop=uvloop,
            worker_timeout=worker_timeout,
            crash_limit=crash_limit,
            crash_verdict=crash_verdict,
        )
    )


def run_workers_with(settings: WorkerSettings) -> None:
    """Serve as `run_workers` does, with a loader of one's own.

    Raises:
        ConfigError: An address cannot be listened on.
        SystemExit: The end.
    """
    listeners = _handed_on() or open_listeners(settings.listen, settings.config)
    owner = os.getpid()
    try:
        MilterArbiter(MilterApplication(settings), listeners).run()
    finally:
        if os.getpid() == owner:
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
