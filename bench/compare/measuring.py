"""How one round of a workload is run with one peer, and what it gives."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bench.compare.counting import instructions_per_message, syscalls_per_message
from bench.compare.load import Load
from bench.compare.milter import RunningMilter, family, running
from bench.compare.peers import Peer, Work
from bench.compare.programs import BENCH, BenchError

__all__ = [
    "Bench",
    "Figures",
    "Workload",
    "measure_counts",
    "measure_idle",
    "measure_messages",
    "measure_waiting",
    "measure_workers",
]

Figures: TypeAlias = dict[str, float]
"""What one round gave, by the names of `report.COLUMNS`."""

_WAIT_MS = 20.0
_WARM_UP_MESSAGES = 100
_MOST_MESSAGES = 50_000


@dataclass(frozen=True)
class Bench:
    """The machine as the measurement uses it.

    Attributes:
        load: The generator, on its core.
        core: Of the milter; None for any.
        quick: Whether two minutes have to do.
    """

    load: Load
    core: int | None
    quick: bool


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    Attributes:
        name: For the command line, the tables and the plots.
        title: What it is, in a line.
        measure: Runs one round with one peer.
        work: What the peer has to do.
        transport: ``tcp`` or ``unix``.
        options: Of the load generator.
        seconds: How long a round is to take, about; the slower the peer, the fewer messages.
        rounds: How many rounds; the peers take turns.
        messages: Exactly how many messages, or 0 to be guided by the time.
        peers: Names of those that take part; empty for all.
        in_quick: Whether it is part of the quick run.
        note: What the reader of its table should know.
    """

    name: str
    title: str
    measure: Callable[[Workload, Peer, Bench], Figures]
    work: Work = "add"
    transport: str = "tcp"
    options: tuple[object, ...] = ("-n", 50)
    seconds: float = 1.5
    rounds: int = 3
    messages: int = 0
    peers: tuple[str, ...] = ()
    in_quick: bool = True
    note: str = ""

    def takes(self, peer: Peer) -> bool:
        """Return whether a peer has a place in its table."""
        if self.peers and peer.name not in self.peers:
            return False
        return self.work in peer.works or bool(peer.works and not peer.is_variant)

    def refusal(self, peer: Peer) -> str:
        """Say why a peer cannot do it; empty if it can."""
        if peer.absent:
            return peer.absent
        if self.work not in peer.works:
            return f"cannot do this ({peer.note})"
        if self.transport not in peer.transports:
            return f"has no {self.transport} sockets"
        if "-n" in self.options and _connections(self.options) > peer.most_connections:
            return f"so many are too much for it: {peer.note}"
        return ""


def measure_messages(workload: Workload, peer: Peer, bench: Bench) -> Figures:
    """Messages under load: CPU time, throughput, latency, memory."""
    options = (*peer.load_options, *workload.options)
    seconds = workload.seconds / 4 if bench.quick else workload.seconds
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        running(
            peer.works[workload.work], Path(name), transport=workload.transport, core=bench.core
        ) as milter,
    ):
        messages = workload.messages // (2 if bench.quick else 1)
        # Nobody measures these: imports, the interpreter's first passes over the code.
        few = min(_WARM_UP_MESSAGES, messages or _WARM_UP_MESSAGES)
        warm_up = (*options, "-n", min(50, _connections(options)), "-m", few)
        report = bench.load.send(milter.address, warm_up)
        if not messages:
            messages = int(report["messages_per_s"] * seconds)
            messages = max(_WARM_UP_MESSAGES, min(messages, _MOST_MESSAGES))
        with bench.load.connected(milter.address, (*options, "-m", messages)) as run:
            before = milter.cpu_s()
            report = run.send()
            used = milter.cpu_s() - before
            peak = milter.memory().peak_rss
    return {
        "cpu_us": used / messages * 1e6,
        "messages_per_s": report["messages_per_s"],
        "p50_ms": report["p50_ms"],
        "p99_ms": report["p99_ms"],
        "p999_ms": report["p999_ms"],
        "peak_rss_mb": peak / 1e6,
        "generator_busy": report["generator_busy"],
        "replies": report["replies_per_message"],
        "messages": messages,
    }


def _connections(options: tuple[object, ...]) -> int:
    """Return how many connections these options of the generator open."""
    value = options[options.index("-n") + 1]
    assert isinstance(value, int)
    return value


def measure_waiting(workload: Workload, peer: Peer, bench: Bench) -> Figures:
    """Like `measure_messages`, and what was added to the time that the handler waits."""
    figures = measure_messages(workload, peer, bench)
    for name in ("p50", "p99", "p999"):
        figures[f"added_{name}_ms"] = figures.pop(f"{name}_ms") - _WAIT_MS
    return figures


def measure_idle(workload: Workload, peer: Peer, bench: Bench) -> Figures:
    """Connections that have negotiated and said HELO, and then nothing."""
    count = _connections(workload.options)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        running(
            peer.works[workload.work], Path(name), transport=workload.transport, core=bench.core
        ) as milter,
    ):
        # What the first connections ever bring with them is not the price of a connection.
        bench.load.send(milter.address, (*workload.options, "-n", 10, "-m", 0))
        before = milter.memory()
        with bench.load.connected(milter.address, (*workload.options, "-m", 0)) as run:
            run.send()
            now, threads = milter.memory(), milter.threads()
    return {
        "rss_kb": (now.rss - before.rss) / count / 1000,
        "pss_kb": (now.pss - before.pss) / count / 1000,
        "total_rss_mb": now.rss / 1e6,
        "total_pss_mb": now.pss / 1e6,
        "threads": threads,
    }


def measure_counts(workload: Workload, peer: Peer, bench: Bench) -> Figures:
    """System calls and instructions of a message, in lockstep on one connection."""
    command = peer.works[workload.work]
    options = (*peer.load_options, *workload.options)
    messages = 20 if bench.quick else 50
    calls = syscalls_per_message(command, bench.load, options=options, messages=messages)
    figures = {"syscalls": calls["total"]}
    if not bench.quick:
        figures["instructions"] = instructions_per_message(
            command, bench.load, options=options, transport=workload.transport
        )
    return figures


_MILTERS = {"add": "AnsweringMilter", "compute": "ComputingMilter"}
"""What `aiomilter run` is to serve, by the work."""


def measure_workers(workload: Workload, peer: Peer, bench: Bench) -> Figures:
    """`aiomilter run` with one and with two workers, on all cores, the generator too."""
    milter = _MILTERS[workload.work]
    del peer
    load = Load(bench.load.program, None, bench.load.limit_s)
    figures: Figures = {}
    throughput = [
        _throughput_of(workers, milter, workload, load, quick=bench.quick, into=figures)
        for workers in (1, 2)
    ]
    figures["ratio"] = throughput[1] / throughput[0]
    return figures


def _throughput_of(
    workers: int, milter_class: str, workload: Workload, load: Load, *, quick: bool, into: Figures
) -> float:
    command = [sys.executable, "-m", "aiomilter.cli", "run"]
    command += [f"{BENCH}/peers/aiomilter_noop.py:{milter_class}", "--listen", "{address}"]
    command += ["--workers", str(workers), "--log-level", "warning"]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        running(command, Path(name), transport=workload.transport) as milter,
    ):
        _check_workers(milter, workers)
        load.send(milter.address, (*workload.options, "-m", _WARM_UP_MESSAGES))
        messages = 1000 if quick else 8000
        with load.connected(milter.address, (*workload.options, "-m", messages)) as run:
            before = milter.cpu_s()
            report = run.send()
            used = milter.cpu_s() - before
    into[f"messages_per_s_{workers}"] = report["messages_per_s"]
    into[f"cpu_us_{workers}"] = used / messages * 1e6
    into[f"generator_busy_{workers}"] = report["generator_busy"]
    return float(report["messages_per_s"])


def _check_workers(milter: RunningMilter, workers: int) -> None:
    if workers > 1 and len(family(milter.pid)) <= workers:
        raise BenchError(f"{workers} workers did not start")
