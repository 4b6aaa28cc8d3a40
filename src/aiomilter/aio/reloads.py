"""What SIGHUP does: a reload, one at a time, and none for ever.

Rules of this file:

- However often the signal comes during a reload, there is one more after it.
- A reload that hangs is cancelled after a while. Otherwise it would keep all later ones from
  happening, and the service manager would show the program as reloading until somebody looks.
- A fault in a reload changes nothing: users' code never ends the program.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiomilter.aio.notify import Notifier
from aiomilter.app.text import describe_error

__all__ = ["Reload", "Reloads"]

_logger = logging.getLogger("aiomilter")

Reload: TypeAlias = Callable[[], Awaitable[object] | object]
"""What SIGHUP calls, on the event loop: a plain function, which must not block, or a coroutine
function."""

_CANCEL_GRACE_S = 1.0
"""How long a reload that is cancelled may take to end before it is left to itself."""
_SPARE_S = 5.0
"""What the service manager is told beyond the limit."""


class Reloads:
    """Calls what reloads, one call at a time."""

    def __init__(self, reload: Reload | None, notifier: Notifier, limit_s: float) -> None:
        """Prepare; it begins with `open`.

        Args:
            reload: What is called; None if there is nothing to reload.
            notifier: Tells the service manager.
            limit_s: How long one reload may take.
        """
        self._reload = reload
        self._notifier = notifier
        self._limit_s = limit_s
        self._status = ""
        self._is_open = False
        self._is_wanted = False
        self._began_at = 0.0
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
        if self._is_open and self._task is not None:
            _logger.warning(
                "SIGHUP: the reload before has been running for %.1f s, and is cancelled after "
                "%g s; there is one more when it has ended",
                asyncio.get_running_loop().time() - self._began_at,
                self._limit_s,
            )
        self._is_wanted = True
        self._begin()

    def _begin(self) -> None:
        if self._is_open and self._is_wanted and self._task is None:
            self._began_at = asyncio.get_running_loop().time()
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                self._began_at = asyncio.get_running_loop().time()
                self._notifier.reloading(self._limit_s + _SPARE_S)
                await self._reload_once()
                if self._is_open:
                    self._notifier.ready(self._status)
        finally:
            self._task = None

    async def _reload_once(self) -> None:
        _logger.info("SIGHUP: reloading")
        # In a task of its own, which can be left behind.
        calling = asyncio.ensure_future(self._call())
        try:
            await asyncio.wait([calling], timeout=self._limit_s)
            if not calling.done():
                await self._give_up(calling)
                return
        finally:
            calling.cancel()
        error = calling.result()
        if error is None:
            took_s = asyncio.get_running_loop().time() - self._began_at
            _logger.info("reloaded in %.1f s", took_s)
        else:
            _logger.error(
                "the reload has failed, all stays as it was: %s",
                describe_error(error),
                exc_info=error,
            )

    async def _give_up(self, calling: asyncio.Task[BaseException | None]) -> None:
        calling.cancel()
        await asyncio.wait([calling], timeout=_CANCEL_GRACE_S)
        _logger.error(
            "the reload has not ended within %g s and was cancelled%s",
            self._limit_s,
            "" if calling.done() else "; it goes on all the same, and is left to itself",
        )

    async def _call(self) -> BaseException | None:
        """Call what reloads; return what it raises."""
        assert self._reload is not None
        try:
            # Users' code: whatever it raises, also SystemExit, must not end the program.
            result = self._reload()
            if inspect.isawaitable(result):
                await result
        except BaseException as error:  # noqa: BLE001  (it is handed on as a value)
            return error
        return None
