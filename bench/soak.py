"""A soak: a million messages with faults of all kinds, and what the server holds meanwhile.

    python -m bench.soak --messages 1000000 --plot docs/images/soak.svg

The server has a process of its own. Every answer is compared with what it should be, and at every
hundredth of the way the server is asked for its memory, tasks, threads and descriptors while the
load stands still. The figures that count are the slope of the memory over the second half, in
bytes a message, and whether the others are the same at the end as at the beginning.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.errands import ERRANDS, NEEDS_ANOTHER, Wrong
from bench.packets import CONNECT, CONTINUE, HELO, Gone, Peer
from bench.plot import line_plot, slope
from bench.process import Figures, MilterProcess

__all__ = ["main"]

_MIB = 1024 * 1024
_MESSAGES_A_CONNECTION = 25
_ASKED_BYTES_A_MESSAGE = 2.0
_SETTLE_S, _LOOK_AGAIN_S = 10.0, 0.05
_FLAT = ("connections", "tasks", "threads", "descriptors")
MAX_THREADS = 8


@dataclass
class Soak:
    """A soak under way.

    Attributes:
        path: The milter's socket.
        done: How many messages of each kind were sent.
        wrong: What was not as it should be; the first few.
        connections: How many were opened.
    """

    path: str
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    connections: int = 0

    async def run(self, count: int, clients: int, seed: int) -> None:
        """Send ``count`` messages over so many connections at a time."""
        shares = [count // clients + (number < count % clients) for number in range(clients)]
        async with asyncio.TaskGroup() as group:
            for number, share in enumerate(shares):
                group.create_task(self._client(share, random.Random(seed * 1000 + number)))

    async def start_all_threads(self) -> None:
        """Keep all threads busy at once: they are started as they are needed, and then stay."""
        peers = [await self._connection() for _ in range(2 * MAX_THREADS)]
        choice = random.Random(0)
        hanging = ERRANDS["thread that hangs"]
        await asyncio.gather(*(hanging.run(peer, choice) for peer in peers))

    async def _client(self, count: int, choice: random.Random) -> None:
        kinds, weights = list(ERRANDS), [errand.weight for errand in ERRANDS.values()]
        peer: Peer | None = None
        left = 0
        for kind in choice.choices(kinds, weights, k=count):
            try:
                if peer is None or left == 0:
                    if peer is not None:
                        peer.quit()
                    peer, left = await self._connection(), _MESSAGES_A_CONNECTION
                left -= 1
                await ERRANDS[kind].run(peer, choice)
            except (Wrong, Gone) as error:
                self.wrong.append(f"{kind}: {error}")
                if peer is not None:
                    peer.hang_up()
                peer = None
            self.done[kind] += 1
            if kind in NEEDS_ANOTHER:
                peer = None
        if peer is not None:
            peer.quit()

    async def _connection(self) -> Peer:
        peer = await Peer.negotiated(self.path)
        if await peer.ask(CONNECT + HELO, 2 * len(CONTINUE)) != 2 * CONTINUE:
            raise Wrong("CONNECT and HELO")
        self.connections += 1
        return peer


async def settled(milter: MilterProcess) -> Figures:
    """Return what the server holds once all connections of a part have ended."""
    deadline = time.monotonic() + _SETTLE_S
    # There is no event to wait for: it is another process.
    while milter.figures().connections and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_AGAIN_S)
    # What the last ones have left to be closed is closed when the loop has turned.
    return milter.figures()


async def soak(
    milter: MilterProcess, path: Path, options: argparse.Namespace
) -> tuple[Soak, list[tuple[int, Figures]]]:
    """Send all messages; return what came of them and the samples, by messages sent."""
    run = Soak(str(path))
    samples: list[tuple[int, Figures]] = []
    await run.start_all_threads()
    columns = (
        TextColumn("{task.description}"),
        *(BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[memory]}")),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("messages", total=options.messages, memory="")
        for part in range(options.samples):
            until = options.messages * (part + 1) // options.samples
            await run.run(until - run.done.total(), options.connections, part)
            figures = await settled(milter)
            samples.append((run.done.total(), figures))
            memory = f"{figures.rss_bytes / _MIB:.1f} MiB, {len(run.wrong)} wrong"
            progress.update(bar, completed=run.done.total(), memory=memory)
            if options.seconds and time.monotonic() - options.began > options.seconds:
                break
    return run, samples


def report(run: Soak, samples: list[tuple[int, Figures]], plot: Path | None, seconds: float) -> int:
    """Print the figures and write the plot; return the exit status."""
    growth = slope([(sent, now.rss_bytes) for sent, now in samples[len(samples) // 2 :]])
    # Up to here the allocator's arenas fill, and the interpreter specialises its code.
    later = samples[len(samples) // 10 :]
    (_, early), (count, last) = later[0], later[-1]
    note = f"second half: {growth:+.2f} bytes a message"
    print(
        f"{count:,} messages, {run.connections:,} connections, {seconds:.0f} s, "
        f"{count / seconds:.0f}/s"
    )
    print(", ".join(f"{kind} {number:,}" for kind, number in run.done.most_common()))
    print(f"wrong answers: {len(run.wrong)} {run.wrong[:5]}")
    print(
        f"memory: {early.rss_bytes / _MIB:.1f} MiB after a tenth, "
        f"{last.rss_bytes / _MIB:.1f} MiB at the end; {note}"
    )
    is_flat = True
    for name in (*_FLAT, "objects"):
        values = [getattr(now, name) for _, now in later]
        is_flat = is_flat and (name not in _FLAT or min(values) == max(values))
        print(f"{name}: from {min(values)} to {max(values)}, {values[-1]} at the end")
    if plot is not None:
        points = [(float(sent), now.rss_bytes / _MIB) for sent, now in samples]
        title = f"Memory of the server over {count:,} messages with faults"
        picture = line_plot(points, title=title, note=note, x_label="messages", y_label="RSS, MiB")
        plot.write_text(picture, encoding="utf-8")
        print(f"plot: {plot}")
    return 0 if is_flat and not run.wrong and growth <= _ASKED_BYTES_A_MESSAGE else 1


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=40, help="at a time")
    parser.add_argument("--seconds", type=float, default=0, help="end after that, at the latest")
    parser.add_argument("--samples", type=int, default=100, help="how often to look")
    parser.add_argument("--plot", type=Path, help="where to write the picture")
    options = parser.parse_args()
    if options.samples < 4 or options.messages < options.samples * options.connections:
        parser.error("at least 4 samples, and a message for each connection between two of them")
    options.began = began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        path = Path(directory) / "milter.sock"
        with MilterProcess.running(
            "bench.milters:Soak", path, write_timeout=2.0, max_threads=MAX_THREADS
        ) as milter:
            run, samples = asyncio.run(soak(milter, path, options))
    return report(run, samples, options.plot, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
