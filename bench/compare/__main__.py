"""Compare aiomilter with what somebody would take instead, on one machine, in one run.

    python -m bench.compare                                # all of it: half an hour
    python -m bench.compare --quick                        # two minutes
    python -m bench.compare --workload W1-50 --workload W3 --peer aiomilter-uvloop --rounds 15

The milter has one core and the load generator another. In each round of a workload all peers take
their turn, so a change in the machine's speed during the run meets all of them alike. What is not
installed is listed as absent; `make bench` installs what it can.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.compare import page
from bench.compare.load import Load
from bench.compare.machine import describe_machine
from bench.compare.measuring import Bench, Workload
from bench.compare.milter import raise_descriptor_limit
from bench.compare.peers import FLOOR, LIBMILTER, PEERS_PYTHON, Peer, find_peers
from bench.compare.programs import BENCH, BenchError, compile_load
from bench.compare.report import as_text
from bench.compare.results import Results
from bench.compare.workloads import WORKLOADS

__all__ = ["main"]

_LATEST = page.RESULTS.with_name("latest.json")


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(
        prog="bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer workloads and messages, one round")
    add(
        "--workload",
        action="append",
        metavar="NAME",
        help=f"only this one, or all that begin so (repeatable): {', '.join(names)}",
    )
    add("--peer", action="append", metavar="NAME", help="only this, floor and libmilter")
    add(
        "--extra",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more milter that adds the header; {address} in COMMAND is replaced",
    )
    add("--rounds", type=int, help="instead of each workload's own number")
    add("--busy-poll", action="store_true", help="the load generator never sleeps (see README.md)")
    add("--json", type=Path, metavar="FILE", help="where to (default: in bench/results)")
    add("--no-page", action="store_true", help="leave the documentation as it is")
    options = parser.parse_args(arguments)
    for wanted in options.workload or ():
        if not any(name.startswith(wanted) for name in names):
            parser.error(f"no workload begins with {wanted}")
    return options


def _choose(options: argparse.Namespace) -> list[Workload]:
    chosen = [
        workload
        for workload in WORKLOADS
        if (not options.workload and (workload.in_quick or not options.quick))
        or any(workload.name.startswith(name) for name in options.workload or ())
    ]
    rounds = options.rounds or (1 if options.quick else 0)
    return [replace(workload, rounds=rounds) if rounds else workload for workload in chosen]


def _choose_peers(options: argparse.Namespace, directory: Path) -> list[Peer]:
    peers = find_peers(directory)
    for extra in options.extra:
        name, _, command = extra.partition("=")
        peers.append(Peer(name, "", {"add": tuple(shlex.split(command))}))
    if options.peer:
        wanted = {*options.peer, FLOOR, LIBMILTER}
        peers = [peer for peer in peers if peer.name in wanted]
    return peers


def _measure(workload: Workload, peers: list[Peer], bench: Bench, results: Results) -> None:
    """Run all rounds of one workload; the peers take turns."""
    results.begin(workload, quick=bench.quick)
    able: list[Peer] = []
    for peer in peers:
        if not workload.takes(peer):
            continue
        if why := workload.refusal(peer):
            results.note_absence(workload.name, peer.name, why)
        else:
            able.append(peer)
            results.note_absence(workload.name, peer.name, "")
    for number in range(1, workload.rounds + 1):
        for peer in able:
            _show_progress(f"{workload.name}, round {number} of {workload.rounds}: {peer.name}")
            try:
                figures = workload.measure(workload, peer, bench)
            except (BenchError, OSError, subprocess.TimeoutExpired) as fault:
                results.add_fault(workload.name, peer.name, str(fault))
            else:
                results.add(workload.name, peer.name, figures)
    _show_progress("")


def _show_progress(text: str) -> None:
    """Overwrite the line of progress, if somebody is looking at it."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="\r" if not text else "", file=sys.stderr, flush=True)


def _end_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind the stack, so that the milters end and the temporary directories go."""
    del frame
    sys.exit(128 + number)


def _draw(path: Path) -> None:
    """Draw the plots; that needs matplotlib, which only the peers' environment has."""
    if not PEERS_PYTHON.exists():
        print("no plots: bench/make-env.sh has not been run", file=sys.stderr)
        return
    subprocess.run(
        [PEERS_PYTHON, "-m", "bench.compare.plots", str(path)],
        cwd=BENCH.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(BENCH.parent), "src"))},
        check=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print its tables; returns the exit status."""
    options = _parse_arguments(arguments)
    signal.signal(signal.SIGTERM, _end_on_sigterm)
    began = time.monotonic()
    raise_descriptor_limit()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        print("only one core: milter and load generator share it, throughput says little")
    results = Results()
    results.document["machine"] = describe_machine()
    is_whole = not (options.quick or options.workload or options.peer or options.extra)
    path = options.json or (page.RESULTS if is_whole else _LATEST)
    with tempfile.TemporaryDirectory(prefix="aiomilter-bench-") as name:
        directory = Path(name)
        try:
            load = Load(
                compile_load(directory), cores[-1], options=("-b",) if options.busy_poll else ()
            )
        except BenchError as error:
            print(f"no load generator: {error}", file=sys.stderr)
            return 1
        peers = _choose_peers(options, directory)
        for peer in peers:
            results.note_peer(peer)
        for workload in _choose(options):
            core = cores[0] if len(cores) > 1 else None
            _measure(workload, peers, Bench(load, core, options.quick), results)
            print(as_text(results, workload.name), end="\n\n", flush=True)
            # A run that is cut short leaves what it has measured.
            results.write(options.json or _LATEST)
    minutes = (time.monotonic() - began) / 60
    results.document["machine"]["minutes"] = f"{minutes:.1f}"
    results.write(path)
    print(f"{minutes:.1f} minutes; figures in {path}")
    if is_whole and not options.no_page:
        _draw(path)
        page.main(["--results", str(path)])
    faults = [
        entry["faults"]
        for workload in results.document["workloads"].values()
        for entry in workload["peers"].values()
    ]
    return 1 if any(faults) else 0


if __name__ == "__main__":
    sys.exit(main())
