"""``aiomilter run --reload``: the milter in a process of its own, replaced when a file changes.

Rules of this file:

- One process at a time: the next one starts when the last one has ended. That one is asked by
  SIGTERM, so that messages in progress finish; killed is only what has had its time.
- A process that ends by itself, as with an error in the code, has said why. The next change
  starts another one.
- SIGINT, SIGTERM and SIGHUP end both. The process is in a group of its own, so that Ctrl-C in a
  terminal reaches it once, by way of here, and does not count as two signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from watchfiles import (
    Change,
    PythonFilter,
    awatch,  # pyright: ignore[reportUnknownVariableType]  (names a type of trio)
)

from aiomilter.cli.console import CommandError, complain

__all__ = ["reload_on_change"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LAST_MOMENT_S = 5.0
"""How long a process may take to end after the grace."""


def reload_on_change(
    command: Sequence[str], folder: Path, config_file: Path | None, grace_s: float
) -> None:
    """Run a command, again after each change; return after a signal.

    Args:
        command: Program and arguments.
        folder: Where a change of a Python file counts.
        config_file: Another file whose changes count.
        grace_s: How long the command may take for messages in progress.

    Raises:
        CommandError: The files cannot be watched.
    """
    asyncio.run(_Reloader(command, folder, config_file, grace_s + _LAST_MOMENT_S).run())


class _Reloader:
    """Watches files and a process."""

    def __init__(
        self, command: Sequence[str], folder: Path, config_file: Path | None, patience_s: float
    ) -> None:
        self._command = command
        self._folder = folder
        self._config_file = config_file
        self._patience_s = patience_s
        self._process: Process | None = None
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop)
        watching = [asyncio.ensure_future(self._watch(self._folder, recursive=True))]
        config_folder = self._config_file and self._config_file.absolute().parent
        if config_folder and not config_folder.is_relative_to(self._folder):
            # Not the file itself: an editor may put another one in its place.
            watching.append(asyncio.ensure_future(self._watch(config_folder, recursive=False)))
        # From here on they watch: no change is lost after the first process has read a file.
        await asyncio.sleep(0)
        complain(f"watching {self._folder}")
        try:
            while not self._stopped.is_set():
                self._changed.clear()
                await self._run_until_change(watching)
        finally:
            for watch in watching:
                watch.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _run_until_change(self, watching: Sequence[asyncio.Future[None]]) -> None:
        """Run a process until it is to be replaced, or for good."""
        # Compiled files would not notice a second change within a second.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        # A socket that was inherited (fd:3) is handed on.
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command, env=environment, close_fds=False, process_group=0
        )
        news = [asyncio.ensure_future(event.wait()) for event in (self._changed, self._stopped)]
        ended = asyncio.ensure_future(process.wait())
        try:
            await _first_of(ended, *news, *watching)
            if ended.done() and not self._changed.is_set() and not self._stopped.is_set():
                complain(
                    f"the milter has ended with exit code {ended.result()}; the next change of a "
                    f"file starts it again"
                )
                await _first_of(*news, *watching)
        finally:
            for event in news:
                event.cancel()
            await self._end(process, ended)

    async def _watch(self, folder: Path, *, recursive: bool) -> None:
        is_python = PythonFilter()
        config_files: set[str] = set()
        if self._config_file is not None:
            config_files = {str(self._config_file.absolute()), str(self._config_file.resolve())}

        def matters(change: Change, path: str) -> bool:
            return path in config_files or (recursive and is_python(change, path))

        changes = awatch(
            folder, watch_filter=matters, recursive=recursive, ignore_permission_denied=True
        )
        try:
            async for found in changes:
                complain(f"changed: {_listed(path for _change, path in found)}")
                self._changed.set()
        except (OSError, RuntimeError) as error:  # of the system, and of watchfiles
            raise CommandError(f"cannot watch {folder} for --reload: {error}") from error

    async def _end(self, process: Process, ended: asyncio.Future[int]) -> None:
        """End a process, in an orderly way if it lets us."""
        self._ask_to_end(process)
        await asyncio.wait([ended], timeout=self._patience_s)
        if not ended.done():
            complain("the milter does not end; killing it")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await ended

    def _stop(self) -> None:
        if self._stopped.is_set() and self._process is not None:
            # The second signal is to reach the process: for it, too, it is the second one.
            self._ask_to_end(self._process)
        self._stopped.set()

    @staticmethod
    def _ask_to_end(process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait until one is done, and raise its error if it failed."""
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(sorted(os.path.relpath(path) for path in paths))
