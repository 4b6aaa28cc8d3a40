"""Thousands of connections that are all busy: what a message takes when everybody wants something.

    python -m bench.busy --connections 2000 --seconds 20

Each connection sends one message after the other, command by command, and compares every answer.
This process is the load, the server is another; where both share a core, times are longer.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.errands import Wrong, in_lockstep
from bench.packets import CONNECT, CONTINUE, HELO, Gone, Peer
from bench.process import MilterProcess, raise_descriptor_limit

__all__ = ["Load", "main", "percentile"]

_AT_A_TIME = 100


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Load:
    """Clients, each with one connection.

    Attributes:
        path: The milter's socket.
        taken_s: How long each message took.
        wrong: What was not as it should be.
    """

    path: str
    taken_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def connect(self, count: int) -> list[Peer]:
        """Open connections and say HELO on each."""
        peers: list[Peer] = []
        while len(peers) < count:
            some = min(_AT_A_TIME, count - len(peers))
            peers += await asyncio.gather(*(Peer.negotiated(self.path) for _ in range(some)))
        for peer in peers:
            if await peer.ask(CONNECT + HELO, 2 * len(CONTINUE)) != 2 * CONTINUE:
                self.wrong.append("CONNECT and HELO")
        return peers

    async def keep_busy(self, peers: list[Peer], seconds: float) -> None:
        """Send messages on all connections at once for a time."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._client(peer, until) for peer in peers))

    async def _client(self, peer: Peer, until: float) -> None:
        try:
            while (began := time.monotonic()) < until:
                await in_lockstep(peer)
                self.taken_s.append(time.monotonic() - began)
        except (Wrong, Gone) as error:
            self.wrong.append(str(error))


async def measure(path: Path, count: int, seconds: float) -> tuple[Load, float]:
    """Return what came of the load, and for how long it was on."""
    load = Load(str(path))
    peers = await load.connect(count)
    began = time.monotonic()
    await load.keep_busy(peers, seconds)
    took_s = time.monotonic() - began
    for peer in peers:
        peer.quit()
    return load, took_s


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.busy", description=__doc__)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="busy-") as directory:
        path = Path(directory) / "milter.sock"
        with MilterProcess.running("bench.milters:Quiet", path) as milter:
            load, took_s = asyncio.run(measure(path, options.connections, options.seconds))
            figures = milter.figures()
    p50, p99 = (percentile(load.taken_s, share) for share in (0.5, 0.99))
    print(
        f"{options.connections} busy connections: {len(load.taken_s):,} messages in "
        f"{took_s:.1f} s, {len(load.taken_s) / took_s:.0f}/s; "
        f"a message takes p50 {p50:.2f} s, p99 {p99:.2f} s; "
        f"RSS {figures.rss_bytes / 2**20:.1f} MiB; errors: {len(load.wrong)} {load.wrong[:3]}"
    )
    return 1 if load.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
