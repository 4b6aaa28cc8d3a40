"""A milter of a case in a process of its own: ``python -m`` this module CASE ADDRESS NOTES.

It writes a line when it listens, and ends in an orderly way when its standard input does. Whatever
happens to the process that has started it, it does not stay.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiomilter.aio.server import Server
from aiomilter.testing.servers.case import load_case
from aiomilter.testing.servers.notes import Notes
from aiomilter.testing.servers.script import Script

__all__ = ["LISTENING", "main"]

LISTENING = b"listening\n"


async def main(case: str, address: str, notes: str) -> None:
    """Serve until the standard input ends."""
    script = Script(load_case(Path(case)), Notes(Path(notes)).add)
    assert script.factory is not None
    loop = asyncio.get_running_loop()
    ended = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    async with Server(script.factory, address, config=script.config):
        sys.stdout.buffer.write(LISTENING)
        sys.stdout.buffer.flush()
        await ended.read()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
