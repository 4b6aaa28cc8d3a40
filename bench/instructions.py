"""Count the instructions that a message costs aiomilter: a figure for a machine that is not quiet.

    python -m bench.instructions
    python -m bench.instructions --python /opt/python3.13/bin/python3 --workload W3

The benchmark's message in lockstep over one connection (W1), with observers only (W3), and
collected with one header changed (W5: by handlers that answer, by handlers that observe, by
`on_message`),
on both event loops. Counted in user space, by valgrind; it takes a minute or two. Two runs differ
by less than one in a hundred; by how much, `--rounds` shows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench.compare.counting import aiomilter_command, change_command, instructions_per_message
from bench.compare.load import Load
from bench.compare.programs import BenchError, compile_load

__all__ = ["main"]

_LIMIT_S = 120


def _commands(workload: str, loop: str, python: str) -> dict[str, list[str]]:
    if workload != "W5":
        command = aiomilter_command(no_reply=workload == "W3", loop=loop, python=python)
        return {workload: command}
    return {
        f"W5 {how}": change_command(how, loop=loop, python=python)
        for how in ("change", "change-no-reply", "on_message")
    }


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(prog="bench.instructions", description=__doc__)
    parser.add_argument("--workload", choices=("W1", "W3", "W5"), action="append")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), action="append")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to measure")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="instructions-") as directory:
        try:
            load = Load(compile_load(Path(directory)), limit_s=_LIMIT_S)
            for workload in options.workload or ("W1", "W3"):
                for loop in options.loop or ("asyncio", "uvloop"):
                    for label, command in _commands(workload, loop, options.python).items():
                        arguments = ("-n", 1, "-e") if workload == "W5" else ("-n", 1)
                        rounds = [
                            instructions_per_message(command, load, options=arguments)
                            for _ in range(options.rounds)
                        ]
                        print(
                            f"{label:18} {loop:8} {statistics.median(rounds):11,.0f} instructions "
                            f"a message ({min(rounds):,.0f} to {max(rounds):,.0f})",
                            flush=True,
                        )
        except BenchError as error:
            print(f"bench.instructions: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
