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
from random import Random

from aiomilter.spec import COMMAND_BY_LETTER
from tests.libmilter.aiomilter_side import Run, run_with_trace
from tests.libmilter.compare import DifferenceError, compare, compare_in_all
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import Plan, Send
from tests.libmilter.sessions import CALLBACK_OF, THEMES, TRIPLES, Triple, cut, draw_session

__all__ = ["main"]

_BATCH = 250
"""Sessions of each theme that are one piece of work."""

_CUT_ANYWHERE = 0.1
"""The share of sessions that libmilter also gets at once, or in pieces that are no packets."""


@dataclass(slots=True)
class _Batch:
    """What a piece of work has come to."""

    sessions: int = 0
    steps: int = 0
    in_pieces: int = 0
    deviations: Counter[str] = field(default_factory=Counter[str])
    triples: set[Triple] = field(default_factory=set[Triple])
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
                plan, packets = draw_session(random, theme)
                pending = host.submit(plan, packets, paced=True)
                sends = [*map(Send, packets), Send(b"", end=True)]
                run = run_with_trace(plan, sends)
                try:
                    comparison = compare(plan, sends, run, pending.outcome().steps)
                    if comparison.is_plain and random.random() < _CUT_ANYWHERE:
                        _compare_in_pieces(host, random, plan, packets)
                        batch.in_pieces += 1
                except DifferenceError as error:
                    batch.failure = f"{own_seed}: {error}"
                    return batch
                batch.sessions += 1
                batch.steps += comparison.steps
                batch.deviations.update(comparison.deviations)
                batch.triples |= _triples(plan, sends[: comparison.steps], run)
    return batch


def _compare_in_pieces(
    host: LibmilterHost, random: Random, plan: Plan, packets: list[bytes]
) -> None:
    pieces = cut(random, packets)
    pending = host.submit(plan, pieces, paced=random.random() < 0.5)
    run = run_with_trace(plan, [*map(Send, pieces), Send(b"", end=True)])
    compare_in_all(run.outcomes, pending.outcome().steps)


def _triples(plan: Plan, sends: list[Send], run: Run) -> set[Triple]:
    found: set[Triple] = set()
    for number, send in enumerate(sends):
        if len(send.data) < 5 or send.data[4] not in COMMAND_BY_LETTER:
            continue
        letter = chr(send.data[4])
        callback = CALLBACK_OF.get(letter)
        events = [event for event in run.outcomes[number].events if event.callback == callback]
        result = events[0].result if events else None
        found.add((run.before[number].state, letter, result))
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
            total.in_pieces += batch.in_pieces
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
    missing = set(TRIPLES) - total.triples
    print(f"{total.sessions:,} sessions with {total.steps:,} steps compared, 0 differences")
    print(f"{total.in_pieces:,} of them also at once, or cut anywhere")
    found = ", ".join(f"{name} {count:,}" for name, count in sorted(total.deviations.items()))
    print(f"deviations met: {found}")
    print(f"triples (state, command, result): {len(TRIPLES) - len(missing)} of {len(TRIPLES)}")
    for state, letter, result in sorted(missing, key=repr)[:20]:
        print(f"  not covered: {state.name}, {COMMAND_BY_LETTER[ord(letter)].name}, {result}")


if __name__ == "__main__":
    sys.exit(main())
