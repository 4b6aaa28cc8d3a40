"""A program under a test's eyes: its lines of output as they come, and its end."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

__all__ = ["Watched"]

WAIT_S = 20
"""To start Python or to end takes much less, on busy cores too."""


class Watched:
    """A running process whose output is read all the time, so that it never waits for a reader."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.lines: list[str] = []
        self._process = process
        self._changed = asyncio.Condition()
        self._is_at_end = False

    @classmethod
    @asynccontextmanager
    async def started(cls, *command: str) -> AsyncIterator[Self]:
        """Start a program; at the end of the block it is killed if it still runs."""
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        watched = cls(process)
        reading = asyncio.ensure_future(watched._read())
        try:
            yield watched
        finally:
            if process.returncode is None:
                process.kill()
            await asyncio.wait_for(asyncio.gather(process.wait(), reading), WAIT_S)

    async def has_lines(self, count: int, timeout_s: float = WAIT_S) -> None:
        """Wait until there are that many lines of output.

        Raises:
            AssertionError: There are less, and it takes too long or the program is at its end.
        """
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: len(self.lines) >= count or self._is_at_end)
        except TimeoutError:
            pass
        assert len(self.lines) >= count, (count, len(self.lines), self.lines[-5:])

    async def ended(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end and return the exit status."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self._is_at_end)
        return await asyncio.wait_for(self._process.wait(), WAIT_S)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def cpu_s(self) -> float:
        """Return the processor time so far; the process must be running."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = fields[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._changed:
                self.lines.append(line.decode().rstrip("\n"))
                self._changed.notify_all()
        async with self._changed:
            self._is_at_end = True
            self._changed.notify_all()
