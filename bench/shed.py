"""What those who are in notice of connections that are shed above the limit.

    python -m bench.shed --rounds 15

Server, those who are in and those who are not have a process each. The limit is 100 connections,
and 100 are open and have messages filtered all the time. In every other round 200 more clients
connect again and again, are told to come back later or closed at once, and go. The 99th percentiles
of two rounds that follow one another are compared, so that what else the machine has to do meets
both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.errands import Wrong, in_lockstep
from bench.packets import CONNECT, CONTINUE, HELO, OFFER, QUIT, Gone, Peer, packet
from bench.process import MilterProcess

__all__ = ["main"]

_INSIDE = 100
_PAUSE_S = 0.5
"""Between two messages of a session: a load that leaves the processor time."""
_BEFORE_S = 1.0
"""Those who are not let in come half of that before a round, and go half of it after."""
_AGREED_BYTES = 17
_TEMPFAIL = packet(b"t")
_AGAIN_S = 0.5
"""When a client that was shed comes again; an MTA waits for minutes."""


async def filtering(peer: Peer, until: float, times_s: list[float]) -> None:
    """Have messages filtered until it is time, and note how long each takes."""
    await asyncio.sleep(random.uniform(0, _PAUSE_S))
    while time.monotonic() < until:
        began = time.monotonic()
        await in_lockstep(peer)
        times_s.append(time.monotonic() - began)
        await asyncio.sleep(random.uniform(0.5, 1.5) * _PAUSE_S)


async def knocking(path: str, until: float, counts: Counter[str]) -> None:
    """Connect again and again until it is time."""
    await asyncio.sleep(random.uniform(0, _AGAIN_S))
    while time.monotonic() < until:
        peer = await Peer.connected(path)
        try:
            await peer.ask(OFFER, _AGREED_BYTES)
            answer = await peer.ask(CONNECT, len(_TEMPFAIL))
            counts["told to come back" if answer == _TEMPFAIL else "let in"] += 1
            peer.transport.write(QUIT)
        except Gone:
            counts["closed at once"] += 1
        peer.hang_up()
        await asyncio.sleep(random.uniform(0.5, 1.5) * _AGAIN_S)


async def knock(path: str, outside: int, seconds: float) -> Counter[str]:
    """Be those who are not let in; return what became of their connections."""
    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(outside):
            group.create_task(knocking(path, until, counts))
    return counts


async def one_round(inside: list[Peer], seconds: float) -> list[float]:
    """Return how long the messages of those who are in have taken."""
    until = time.monotonic() + seconds
    times_s: list[float] = []
    async with asyncio.TaskGroup() as group:
        for peer in inside:
            group.create_task(filtering(peer, until, times_s))
    return times_s


async def one_loud_round(
    inside: list[Peer], path: str, options: argparse.Namespace, counts: Counter[str]
) -> list[float]:
    """Return the same, while others are shed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.shed", "--knock", path, "--outside", str(options.outside)),
        *("--seconds", str(options.seconds + _BEFORE_S)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    await asyncio.sleep(_BEFORE_S / 2)
    times_s = await one_round(inside, options.seconds)
    counts.update(json.loads((await process.communicate())[0]))
    return times_s


def p99_ms(times_s: list[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    return statistics.quantiles(times_s, n=100)[98] * 1e3


async def compare(path: str, options: argparse.Namespace) -> tuple[list[list[float]], Counter[str]]:
    """Return the 99th percentiles of quiet rounds and of the others, and what became of whom."""
    counts: Counter[str] = Counter()
    inside = [await Peer.negotiated(path) for _ in range(_INSIDE)]
    for peer in inside:
        if await peer.ask(CONNECT + HELO, 2 * len(CONTINUE)) != 2 * CONTINUE:
            raise Wrong("CONNECT and HELO")
    await one_round(inside, 1)
    found: list[list[float]] = [[], []]
    for number in range(options.rounds):
        # Each kind is the first of the two by turns.
        for is_loud in (number % 2, 1 - number % 2):
            if is_loud:
                times_s = await one_loud_round(inside, path, options, counts)
            else:
                times_s = await one_round(inside, options.seconds)
            found[is_loud].append(p99_ms(times_s))
    for peer in inside:
        peer.quit()
    return found, counts


def main() -> int:
    """Run and print; the exit status says whether the limit was kept."""
    parser = argparse.ArgumentParser(prog="bench.shed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2, help="of each round")
    parser.add_argument("--outside", type=int, default=200, help="clients above the limit")
    parser.add_argument("--limit", type=float, default=10, help="ms that are allowed")
    parser.add_argument("--knock", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.knock:
        print("ready", flush=True)
        print(json.dumps(asyncio.run(knock(options.knock, options.outside, options.seconds))))
        return 0
    rises: list[float] = []
    for style in ("tempfail", "close"):
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="shed-"))
            path = Path(directory) / "milter.sock"
            milter = MilterProcess.running(
                "bench.milters:Quiet", path, max_connections=_INSIDE, overload=style
            )
            stack.enter_context(milter)
            (quiet, loud), counts = asyncio.run(compare(str(path), options))
        pairs = zip(quiet, loud, strict=True)
        rises.append(statistics.median(one - other for other, one in pairs))
        print(
            f"overload={style}: p99 of {_INSIDE} sessions {statistics.median(quiet):.2f} ms alone, "
            f"{statistics.median(loud):.2f} ms while others are shed, {rises[-1]:+.2f} ms; "
            + ", ".join(f"{count:,} {name}" for name, count in counts.items())
        )
    return 0 if max(rises) < options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
