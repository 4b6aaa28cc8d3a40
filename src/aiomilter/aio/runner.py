"""Running a milter as a program of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Any

from aiomilter.aio.config import Config
from aiomilter.aio.server import Lifespan, MilterFactory, Server
from aiomilter.app.text import describe_error
from aiomilter.errors import ConfigError

__all__ = ["new_event_loop", "run", "run_until_signal"]

_logger = logging.getLogger("aiomilter")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HURRY_S = 2.5
"""How long stopping may take after the second signal."""
_LAST_MOMENT_S = 1.0
"""How long tasks that are left over at the end may take to heed their cancellation."""


def run(
    milter_factory: MilterFactory,
    *listen: str | socket.socket,
    config: Config | None = None,
    lifespan: Lifespan | None = None,
    uvloop: bool | None = None,
    log_level: int | str | None = logging.INFO,
) -> None:
    """Serve until SIGINT or SIGTERM, then stop in an orderly way; blocks.

    SIGHUP is ignored. The first of the others lets messages in progress finish for the
    configured grace, a second one ends at once. A milter class, address or setting that cannot
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

    Raises:
        SystemExit: The milter class, an address or a setting cannot work.
    """
    if log_level is not None and not logging.getLogger().hasHandlers():
        logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run_until_signal(milter_factory, *listen, config=config, lifespan=lifespan, uvloop=uvloop)
    except ConfigError as error:
        sys.exit(f"aiomilter: {error}")


def run_until_signal(
    milter_factory: MilterFactory,
    *listen: str | socket.socket,
    config: Config | None = None,
    lifespan: Lifespan | None = None,
    uvloop: bool | None = None,
) -> None:
    """Serve as `run` does, for programs that set up logging and show errors by themselves.

    The arguments are those of `run`.

    Raises:
        ConfigError: The milter class, an address or a setting cannot work.
    """
    loop = new_event_loop(uvloop)
    asyncio.set_event_loop(loop)
    try:
        _run_to_its_end(loop, _serve_until_signal(milter_factory, listen, config, lifespan))
    finally:
        try:
            _cancel_what_is_left(loop)
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


async def _serve_until_signal(
    milter_factory: MilterFactory,
    listen: tuple[str | socket.socket, ...],
    config: Config | None,
    lifespan: Lifespan | None,
) -> None:
    loop = asyncio.get_running_loop()
    server = Server(milter_factory, *listen, config=config, lifespan=lifespan)
    asked_to_stop = asyncio.Event()
    asked_again = asyncio.Event()

    def stop(name: str) -> None:
        if not asked_to_stop.is_set():
            _logger.info("%s: letting messages in progress finish", name)
            asked_to_stop.set()
        else:
            _logger.info("%s again: stopping at once", name)
            asked_again.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop, signal.Signals(number).name)
    # What a terminal that closes, or a habit from other daemons, sends must not cut sessions off.
    loop.add_signal_handler(signal.SIGHUP, _logger.info, "SIGHUP is ignored")
    stop_asked = asyncio.ensure_future(asked_to_stop.wait())
    stop_asked_again = asyncio.ensure_future(asked_again.wait())
    try:
        starting = asyncio.ensure_future(server.start())
        await asyncio.wait([starting, stop_asked], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stop_asked
        else:
            starting.cancel()
        stopping = asyncio.ensure_future(server.stop())
        await asyncio.wait([stopping, stop_asked_again], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            server.hurry()
            await asyncio.wait([stopping], timeout=_HURRY_S)
        if stopping.done():
            stopping.result()
            _logger.info("stopped")
        else:
            _logger.warning("stopped without waiting for what does not end")
    finally:
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)


def _run_to_its_end(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
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


def _cancel_what_is_left(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks that handlers have left behind, and wait for them, but not for ever."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_MOMENT_S))
