"""Compares a great many sessions with libmilter: ``make fidelity``.

    python -m tests.libmilter.fidelity [--sessions N] [--seed TEXT] [--processes N]

Prints how many sessions were compared, which deviations were met how often, and how many of the
possible triples (state, command, result) were covered. A difference that is no deviation ends it
with the session's seed and the exit code 1.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from random import Random

from aiomilter.spec import COMMANDS, State
from tests.libmilter.aiomilter_side import Run, run_with_trace
from tests.libmilter.compare import DifferenceError, compare
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import Plan, Send
from tests.libmilter.sessions import THEMES, draw_packets, draw_plan

__all__ = ["main"]

_BATCH = 250
"""Sessions of each theme that are one piece of work."""

_RESULTS = (0, 1, 2, 3, 4, 7, 8)
_CALLBACKS = {"mail": "envfrom", "rcpt": "envrcpt"}
_NOT_REACHED = (State.QUIT,)
"""After QUIT there is nobody any more."""

_Triple = tuple[str, str, str]


def _possible() -> set[_Triple]:
    """Return all triples: each command in each state with each result its callback may have.

    ``none`` is the result of a command without a callback, or one that was swallowed.
    """
    found: set[_Triple] = set()
    for state, row in product(State, COMMANDS):
        if state in _NOT_REACHED:
            continue
        results = ["none"]
        if row.replies and row.name != "negotiate":
            results += [str(result) for result in _RESULTS]
        found |= {(state.name, row.name, result) for result in results}
    return found


@dataclass(slots=True)
class _Batch:
    """What a piece of work has come to."""

    sessions: int = 0
    steps: int = 0
    deviations: Counter[str] = field(default_factory=Counter[str])
    triples: set[_Triple] = field(default_factory=set[_Triple])
    failure: str | None = None


def _work(task: tuple[str, int]) -> _Batch:
    logging.disable(logging.CRITICAL)
    seed, first = task
    batch = _Batch()
    with LibmilterHost() as host:
        for number in range(first, first + _BATCH):
            for name, theme in THEMES.items():
                own_seed = f"{seed}/{name}/{number}"
                random = Random(own_seed)
                plan, packets = draw_plan(random, theme), draw_packets(random, theme)
                pending = host.submit(plan, packets, paced=True)
                sends = [*map(Send, packets), Send(b"", end=True)]
                run = run_with_trace(plan, sends)
                try:
                    comparison = compare(plan, sends, run, pending.outcome().steps)
                except DifferenceError as error:
                    batch.failure = f"{own_seed}: {error}"
                    return batch
                batch.sessions += 1
                batch.steps += comparison.steps
                batch.deviations.update(comparison.deviations)
                batch.triples |= _triples(plan, sends[: comparison.steps], run)
    return batch


def _triples(plan: Plan, sends: list[Send], run: Run) -> set[_Triple]:
    found: set[_Triple] = set()
    names = {row.letter: row.name for row in COMMANDS}
    for number, send in enumerate(sends):
        name = names.get(send.data[4:5])
        if name is None:
            continue
        callback = _CALLBACKS.get(name, name)
        results = [
            str(event.result)
            for event in run.outcomes[number].events
            if event.callback == callback and name not in ("negotiate", "abort")
        ]
        found.add((run.before[number].state.name, name, results[0] if results else "none"))
    return found


def main() -> int:
    """Run until all sessions are compared; return the exit code."""
    parser = argparse.ArgumentParser(description="Compare generated sessions with libmilter.")
    parser.add_argument("--sessions", type=int, default=200_000)
    parser.add_argument("--seed", default=None, help="any text; by default the time")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    seed = options.seed or str(int(time.time()))
    batches = -(-options.sessions // (_BATCH * len(THEMES)))
    print(f"seed {seed}: {batches * _BATCH * len(THEMES):,} sessions", flush=True)
    total = _Batch()
    began = time.monotonic()
    tasks = [(seed, number * _BATCH) for number in range(batches)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for done, batch in enumerate(pool.imap_unordered(_work, tasks), 1):
            total.sessions += batch.sessions
            total.steps += batch.steps
            total.deviations.update(batch.deviations)
            total.triples |= batch.triples
            if batch.failure is not None:
                print(f"a difference in {batch.failure}")
                return 1
            if done % 10 == 0 or done == batches:
                rate = total.sessions / (time.monotonic() - began)
                print(f"  {total.sessions:>9,} sessions, {rate:,.0f}/s", flush=True)
    _print_result(total)
    return 0


def _print_result(total: _Batch) -> None:
    possible = _possible()
    covered = total.triples & possible
    print(f"{total.sessions:,} sessions with {total.steps:,} steps compared, 0 differences")
    found = ", ".join(f"{name} {count:,}" for name, count in sorted(total.deviations.items()))
    print(f"deviations met: {found}")
    print(f"triples (state, command, result): {len(covered)} of {len(possible)}")
    missing = Counter((state, name) for state, name, _ in possible - covered)
    print(f"pairs (state, command) with something not covered: {len(missing)}")


if __name__ == "__main__":
    sys.exit(main())
