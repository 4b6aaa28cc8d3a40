"""What connections cost that do nothing: thousands of them, negotiated and then silent.

    python -m bench.idle --connections 10000

The MTA's ends are in this process, the server in another; the memory is that of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from bench.packets import Peer
from bench.process import Figures, MilterProcess, raise_descriptor_limit

__all__ = ["main", "without_connections"]

_MB = 1_000_000
_ASKED_MB = 60
_AT_A_TIME = 100
_SPARE_DESCRIPTORS = 100
_CLOSING_S = 20.0


async def measure(milter: MilterProcess, path: Path, count: int) -> list[tuple[str, Figures]]:
    """Open connections, close them, and do it once more; return the figures at each point."""
    # What the first connection ever brings with it is not the price of a connection.
    (await Peer.negotiated(str(path))).quit()
    figures = [("before", await without_connections(milter))]
    for _ in range(2):
        peers: list[Peer] = []
        while len(peers) < count:
            some = min(_AT_A_TIME, count - len(peers))
            peers += await asyncio.gather(*(Peer.negotiated(str(path)) for _ in range(some)))
        figures.append((f"{count:,} idle connections", milter.figures()))
        for peer in peers:
            peer.quit()
        figures.append(("after they have closed", await without_connections(milter)))
    return figures


async def without_connections(milter: MilterProcess) -> Figures:
    """Wait until the server has no connection, and return what it holds then."""
    deadline = time.monotonic() + _CLOSING_S
    # There is no event to wait for: it is another process.
    while milter.figures().connections and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    # What the last ones have left to be closed is closed when the loop has turned.
    return milter.figures()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.idle", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    limit = raise_descriptor_limit()
    count = options.connections
    if count > limit - _SPARE_DESCRIPTORS:
        parser.error(f"a process may have {limit} descriptors here: ulimit -n {count + 1000}")
    with tempfile.TemporaryDirectory(prefix="idle-") as directory:
        path = Path(directory) / "milter.sock"
        with MilterProcess.running(
            "bench.milters:Quiet", path, options.loop, max_connections=count
        ) as milter:
            figures = asyncio.run(measure(milter, path, count))
    idle = figures[0][1].rss_bytes
    worst = 0.0
    for name, now in figures:
        more = now.rss_bytes - idle
        worst = max(worst, more / _MB)
        print(
            f"{name:26} RSS {now.rss_bytes / _MB:6.1f} MB ({more / _MB:+6.1f}), "
            f"{now.connections:6} connections, {now.descriptors:6} descriptors, {now.tasks} tasks"
        )
    print(
        f"at most {worst:.1f} MB over the idle process, "
        f"{worst * 1000 / count:.2f} kB a connection; asked: {_ASKED_MB} MB for 10,000"
    )
    is_served = all(now.connections == count for _, now in figures[1::2])
    return 0 if is_served and worst <= _ASKED_MB * count / 10_000 else 1


if __name__ == "__main__":
    sys.exit(main())
