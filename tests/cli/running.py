"""`aiomilter run` as a process, for tests: its lines, its milter's answers, its end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.mta import HELO, OFFER, QUIT, Mta

__all__ = ["MILTER", "Running"]

WAIT_S = 20.0

MILTER = """\
from aiomilter import Milter, Reply

class Greeting(Milter):
    async def on_helo(self, hostname):
        return Reply(550, "5.7.1", "first")
"""
"""Says by its answer to HELO which version of it is running."""


class Running:
    """A running command; its stderr is read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    @classmethod
    @asynccontextmanager
    async def started(
        cls, folder: Path, *arguments: str, program: str | None = None
    ) -> AsyncIterator[Running]:
        """Run it, or another program, in a folder; whatever it has started is gone at the end."""
        command = [program] if program else ["-m", "aiomilter.cli", "run"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            *arguments,
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        running = cls(process)
        try:
            yield running
        finally:
            # SIGTERM ahead of SIGKILL, so that a reloader takes its child along.
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if process.returncode is not None:
                    break
                process.send_signal(number)
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=3)
            await process.communicate()

    async def until(self, text: str) -> str:
        """Wait for a line with this text; return it."""
        assert self.process.stderr is not None
        async with asyncio.timeout(WAIT_S):
            while True:
                line = (await self.process.stderr.readline()).decode()
                assert line, f"no {text!r}: {self.said}"
                self.said.append(line)
                if text in line:
                    return line

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal; that is a good end."""
        self.process.send_signal(number)
        await self.ended(0)

    async def ended(self, code: int) -> None:
        """Wait for its end."""
        async with asyncio.timeout(WAIT_S):
            assert await self.process.wait() == code, self.said

    @staticmethod
    async def answer(path: Path) -> bytes:
        """Return what the milter answers to HELO."""
        async with Mta.connected_to_path(str(path)) as mta:
            await mta.ask(OFFER)
            answer = await mta.ask(HELO)
            mta.send(QUIT)
            return answer
