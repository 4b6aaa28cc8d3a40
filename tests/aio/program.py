"""A milter that runs as a program of its own, for the tests of this folder."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["Program"]

PROGRAM = """
import asyncio, contextlib, logging, sys, threading, time
from aiomilter import Config, Milter, Status, run

def say(word):
    print(word, flush=True)

class Program(Milter):
    async def on_helo(self, hostname):
        if "block" in sys.argv:
            say("blocking")
            sys.stdin.readline()
            say("free")
        if "to-thread" in sys.argv:
            say("in a thread")
            await asyncio.to_thread(time.sleep, 60)

    async def on_mail(self, sender, params):
        say("mail")

    def on_rcpt(self, recipient, params):
        if recipient == "<hang>":
            say("hanging")
            time.sleep(60)

    async def on_eom(self, actions):
        say("eom")
        while True:
            try:
                await asyncio.sleep(0.3 if "slow" in sys.argv else 60)
                break
            except asyncio.CancelledError:
                if "stubborn" not in sys.argv:
                    raise
        return Status.ACCEPT

    async def on_close(self):
        say("close")
        if "left" in sys.argv:
            asyncio.ensure_future(left_behind())

async def left_behind():
    try:
        await asyncio.sleep(60)
    finally:
        say("cut")

@contextlib.asynccontextmanager
async def lifespan():
    if "slow-start" in sys.argv:
        say("entering")
        await asyncio.sleep(60)
    yield
    if "slow-end" in sys.argv:
        say("leaving")
        await asyncio.sleep(60)
    say("left")

async def reload():
    say("reloading")
    if (await asyncio.to_thread(sys.stdin.readline)) == "fail\\n":
        raise SystemExit("reload")
    say("reloaded")

class Saying(logging.Handler):
    def emit(self, record):
        if "listening" in record.getMessage():
            say("listening")
        elif "again" in record.getMessage():
            say("again")
        elif "finish" in record.getMessage():
            say("stopping")

logging.basicConfig(level=logging.INFO, handlers=[Saying()])
run(
    Program,
    sys.argv[1],
    config=Config(stop_grace=10),
    lifespan=lifespan,
    reload=reload if "reload" in sys.argv else None,
    uvloop={"uvloop": True, "asyncio": False, "either": None}[sys.argv[2]],
)
say("end")
"""


class Program:
    """A running program, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, path: str) -> None:
        self.process = process
        self.path = path

    @classmethod
    @asynccontextmanager
    async def started(
        cls,
        path: Path | str,
        *arguments: str,
        environ: dict[str, str] | None = None,
        held: socket.socket | None = None,
    ) -> AsyncIterator[Program]:
        """Start it; what does not end by itself is killed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            f"unix:{path}" if isinstance(path, Path) else path,
            *arguments,
            pass_fds=(held.fileno(),) if held is not None else (),
            env=os.environ | (environ or {}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        program = cls(process, str(path))
        try:
            yield program
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def tell(self, line: str) -> None:
        """Give it a line that it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def until(self, word: str) -> None:
        """Wait until it has said a word."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while (line := await self.process.stdout.readline()) != f"{word}\n".encode():
                assert line, (await self._errors()).decode()

    async def ended(self) -> float:
        """Wait for a good end; return how long that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(20):
            code = await self.process.wait()
        assert code == 0, (await self._errors()).decode()
        assert await self._errors() == b""
        return loop.time() - began

    async def _errors(self) -> bytes:
        assert self.process.stderr is not None
        return await self.process.stderr.read()
