"""Measure what handlers that wait cost the other sessions.

There are two servers, each in a process of its own and with sessions that go on with their own
messages, a little apart, as real ones do. One of the servers has others besides, whose handlers
wait all the while. The latency of both is measured in turns, and the 99th percentiles of each two
turns are compared, so that what else the machine has to do meets both alike.

    python bench/isolation.py [--waiting 100] [--busy 500] [--rounds 15] [--seconds 2]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import struct
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "src"

SERVER = """
import asyncio, sys
from aiomilter import Config, Milter, Status, serve

class Waiting(Milter):
    async def on_mail(self, sender, params): ...
    async def on_rcpt(self, recipient, params):
        if recipient == "<slow@example.org>":
            await asyncio.sleep(float(sys.argv[2]))
    async def on_header(self, name, value): ...
    async def on_eom(self, actions):
        actions.add_header("X-Seen", "yes")
        return Status.ACCEPT

asyncio.run(serve(Waiting, sys.argv[1], config=Config(handler_timeout=900, stop_grace=0.1)))
"""

WAIT_S = 600
START_LIMIT_S = 15.0
ANSWER_LIMIT_S = WAIT_S + 10.0


def packet(letter: bytes, payload: bytes = b"") -> bytes:
    """Return a packet."""
    return struct.pack(">I", 1 + len(payload)) + letter + payload


OFFER = packet(b"O", struct.pack(">III", 6, 0x1FF, 0x1FFFFF))
MAIL = packet(b"M", b"<alice@example.org>\0")
RCPT = packet(b"R", b"<bob@example.org>\0")
SLOW = packet(b"R", b"<slow@example.org>\0")
HEADER = packet(b"L", b"Subject\0hello\0")
EOM = packet(b"E")


class Session:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, command: bytes) -> bytes:
        """Send a command and return the letter of its answer."""
        self.writer.write(command)
        return await self.answer()

    async def answer(self) -> bytes:
        """Return the letter of the next answer."""
        async with asyncio.timeout(ANSWER_LIMIT_S):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            return (await self.reader.readexactly(length))[:1]

    async def message(self) -> float:
        """Have a message filtered; return the seconds that it took."""
        began = asyncio.get_running_loop().time()
        for command in (MAIL, RCPT, HEADER, HEADER, HEADER):
            if await self.ask(command) != b"c":
                sys.exit("the milter did not say CONTINUE")
        if await self.ask(EOM) != b"h" or await self.answer() != b"a":
            sys.exit("the milter did not accept the message with an edit")
        return asyncio.get_running_loop().time() - began


@contextlib.asynccontextmanager
async def sessions(path: str, count: int) -> AsyncIterator[list[Session]]:
    """Open connections and negotiate."""
    opened: list[Session] = []
    try:
        for _ in range(count):
            opened.append(Session(*await asyncio.open_unix_connection(path)))
            if await opened[-1].ask(OFFER) != b"O":
                sys.exit("the milter did not negotiate")
        yield opened
    finally:
        for session in opened:
            session.writer.transport.abort()


async def measure(busy: list[Session], seconds: float, pause_s: float) -> list[float]:
    """Let all busy sessions filter messages; return the latencies of those messages."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def go_on(session: Session, found: list[float]) -> None:
        await asyncio.sleep(random.uniform(0, pause_s))
        while loop.time() < end:
            found.append(await session.message())
            await asyncio.sleep(random.uniform(0.5, 1.5) * pause_s)

    found: list[float] = []
    async with asyncio.TaskGroup() as group:
        for session in busy:
            group.create_task(go_on(session, found))
    return found


def p99_ms(times_s: list[float]) -> float:
    """Return the 99th percentile, in milliseconds."""
    return statistics.quantiles(times_s, n=100)[98] * 1e3


async def compare(alone: str, beside: str, options: argparse.Namespace) -> float:
    """Print what was measured; return by how much the 99th percentile is up, in milliseconds."""
    results: tuple[list[list[float]], list[list[float]]] = [], []
    async with (
        sessions(alone, options.busy) as busy_alone,
        sessions(beside, options.busy) as busy_beside,
        sessions(beside, options.waiting) as waiting,
    ):
        for busy in (busy_alone, busy_beside):
            await measure(busy, 1, options.pause)
        answers = [asyncio.create_task(wait_for_slow(session)) for session in waiting]
        for number in range(options.rounds):
            # Each is the first of the two by turns.
            for which in (number % 2, 1 - number % 2):
                busy = (busy_alone, busy_beside)[which]
                results[which].append(await measure(busy, options.seconds, options.pause))
        if any(answer.done() for answer in answers):
            sys.exit("a handler that should wait has answered")
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
    p99s_ms = [[p99_ms(round_) for round_ in result] for result in results]
    names = ("alone", f"beside {options.waiting} that wait")
    for name, result, p99 in zip(names, results, p99s_ms, strict=True):
        times = [time for round_ in result for time in round_]
        print(
            f"{options.busy} sessions {name}: p50 {statistics.median(times) * 1e3:.2f} ms; "
            f"p99 of a round {statistics.median(p99):.2f} ms "
            f"(from {min(p99):.2f} to {max(p99):.2f}); {len(times)} messages"
        )
    pairs = zip(p99s_ms[0], p99s_ms[1], strict=True)
    return float(statistics.median([beside_ms - alone_ms for alone_ms, beside_ms in pairs]))


async def wait_for_slow(session: Session) -> None:
    """Ask about the recipient whose handler waits."""
    await session.ask(MAIL)
    await session.ask(SLOW)


async def until_listening(path: str) -> None:
    """Wait for a server."""
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(path)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


@contextlib.asynccontextmanager
async def server(path: str) -> AsyncIterator[None]:
    """Run a server."""
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, path, str(WAIT_S), env=environment
    )
    try:
        async with asyncio.timeout(START_LIMIT_S):
            await until_listening(path)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def main() -> int:
    """Run the comparison; the exit status says whether the promise was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--waiting", type=int, default=100, help="handlers that wait")
    parser.add_argument("--busy", type=int, default=500, help="sessions that go on")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2, help="of each round")
    parser.add_argument(
        "--pause", type=float, default=2, help="seconds between two messages of a session"
    )
    parser.add_argument("--limit", type=float, default=10, help="ms that are allowed")
    options = parser.parse_args()
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        paths = [f"{folder}/{name}.sock" for name in ("alone", "beside")]
        for path in paths:
            await stack.enter_async_context(server(path))
        rise = await compare(paths[0], paths[1], options)
    print(f"p99, median of all rounds: {rise:+.2f} ms; allowed: {options.limit:g} ms")
    return 0 if rise < options.limit else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
