#!/usr/bin/env python3
"""Put the figures of docs/performance.md into the README, so that the two cannot differ.

tools/readme-figures.py            # writes the README anew
tools/readme-figures.py --check    # says whether it is as it should be
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["README", "readme_with_figures"]

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "performance.md"
WORKLOAD = "W1-50"
SHOWN = ("CPU µs/msg", "/floor", "/libmilter")
LEFT_OUT = ("python-libmilter", "aiomilter-uvloop-log")
"""What the page has beside the libraries of the README's table."""
_BLOCK = re.compile(r"<!-- figures -->\n.*?<!-- end -->", re.DOTALL)


def readme_with_figures(readme: str, page: str) -> str:
    """Return the README with the figures of the page."""
    section = page.partition(f"<!-- {WORKLOAD} -->\n")[2].partition("<!-- end -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    titles = rows[0]
    columns = [0, *(titles.index(title) for title in SHOWN)]
    lines = ["| | " + " | ".join(SHOWN) + " |", "| --- |" + " ---: |" * len(SHOWN)]
    lines += [
        "| " + " | ".join(row[column] for column in columns) + " |"
        for row in rows[2:]
        if row[0] not in LEFT_OUT
    ]
    command, _, how = re.findall(r"^(`.*`)(; )(.*)\.$", section, re.MULTILINE)[0]
    note = (
        f"One machine, one run ({how}; {command}); compare ratios, not microseconds. Large bodies, "
        "idle connections, handlers that wait: [performance](docs/performance.md)."
    )
    block = "\n".join(["<!-- figures -->", *lines, "", note, "<!-- end -->"])
    return _BLOCK.sub(lambda _: block, readme)


def main() -> None:
    """Write the README, or compare it."""
    old = README.read_text(encoding="utf-8")
    new = readme_with_figures(old, PAGE.read_text(encoding="utf-8"))
    if "--check" in sys.argv:
        sys.exit(0 if old == new else "the README is out of date: tools/readme-figures.py")
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
