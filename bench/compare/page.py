"""Puts the results into docs/performance.md, so that the page and the figures cannot differ.

    python -m bench.compare.page            # writes the page anew
    python -m bench.compare.page --check    # says whether it is as it should be

Between ``<!-- NAME -->`` and ``<!-- end -->`` stands the table of the workload NAME, or of the
machine for ``machine``; the rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from bench.compare.programs import BENCH
from bench.compare.report import as_markdown
from bench.compare.results import Results

__all__ = ["PAGE", "RESULTS", "main", "page_with"]

PAGE = BENCH.parent / "docs" / "performance.md"
RESULTS = BENCH / "results" / "full.json"
_BLOCK = re.compile(r"^<!-- ([\w-]+) -->\n.*?^<!-- end -->\n", re.MULTILINE | re.DOTALL)
_MACHINE = (
    ("Date", "date"),
    ("Processor", "processor"),
    ("Cores", "cores"),
    ("Memory", "memory"),
    ("Virtual machine", "virtual"),
    ("Kernel", "kernel"),
    ("Python", "python"),
    ("C compiler", "compiler"),
    ("Load average at the beginning", "load_before"),
    ("Minutes that it took", "minutes"),
)


def page_with(results: Results, page: str) -> str:
    """Return a page with the tables of these results."""

    def block(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- {name} -->\n{_content(results, name)}\n<!-- end -->\n"

    return _BLOCK.sub(block, page)


def _content(results: Results, name: str) -> str:
    if name == "machine":
        return _machine(results)
    if name == "peers":
        return _peers(results)
    if name not in results.document["workloads"]:
        return "Not measured."
    entry = results.document["workloads"][name]
    rounds = max((len(peer["rounds"]) for peer in entry["peers"].values()), default=0)
    command = f"`python -m bench.compare --workload {name}`"
    how = f"{command}; " + ("a quick run" if entry["quick"] else f"medians of {rounds} rounds")
    if rounds < 2:
        how = f"{command}; " + ("a quick run" if entry["quick"] else "one round")
    return f"{as_markdown(results, name)}\n\n{how}."


def _machine(results: Results) -> str:
    facts = results.document["machine"]
    rows = [f"| {title} | {facts.get(name, '')} |" for title, name in _MACHINE]
    lines = ["| | |", "|---|---|", *rows]
    quick = [entry["quick"] for entry in results.document["workloads"].values()]
    if any(quick):
        which = "The figures" if all(quick) else "Where it says so, figures"
        lines += ["", f"**{which} are those of a quick run: one round, few messages.**"]
    return "\n".join(lines)


def _peers(results: Results) -> str:
    lines = ["| name | version | |", "|---|---|---|"]
    for name, facts in results.document["peers"].items():
        lines.append(f"| {name} | {facts['version']} | {facts['absent'] or facts['note']} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(prog="bench.compare.page", description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    wanted = page_with(Results.read(options.results), page)
    if options.check:
        return 0 if page == wanted else 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
