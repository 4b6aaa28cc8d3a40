"""Tables of the results, for a terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.compare.results import Results

__all__ = ["COLUMNS", "Column", "as_markdown", "as_text", "columns_of"]


@dataclass(frozen=True)
class Column:
    """One figure in a table.

    Attributes:
        title: Above it.
        figure: Its name in the results.
        form: How it is written.
    """

    title: str
    figure: str
    form: str = "{:,.1f}"


_MESSAGES = (
    Column("CPU µs/msg", "cpu_us", "{:,.0f}"),
    Column("/floor", "ratio_to_floor", "{:.2f}"),
    Column("/libmilter", "ratio_to_libmilter", "{:.2f}"),
    Column("msg/s", "messages_per_s", "{:,.0f}"),
    Column("p50 ms", "p50_ms", "{:,.2f}"),
    Column("p99 ms", "p99_ms", "{:,.2f}"),
    Column("p99.9 ms", "p999_ms", "{:,.2f}"),
    Column("peak MB", "peak_rss_mb", "{:,.0f}"),
    Column("load busy", "generator_busy", "{:.0%}"),
)
_IDLE = (
    Column("kB/conn RSS", "rss_kb", "{:,.2f}"),
    Column("kB/conn PSS", "pss_kb", "{:,.2f}"),
    Column("RSS MB", "total_rss_mb"),
    Column("PSS MB", "total_pss_mb"),
    Column("threads", "threads", "{:,.0f}"),
)
_WAITING = (
    Column("added p50 ms", "added_p50_ms", "{:,.2f}"),
    Column("added p99 ms", "added_p99_ms", "{:,.2f}"),
    Column("added p99.9 ms", "added_p999_ms", "{:,.2f}"),
    Column("CPU µs/msg", "cpu_us", "{:,.0f}"),
    Column("msg/s", "messages_per_s", "{:,.0f}"),
    Column("peak MB", "peak_rss_mb", "{:,.0f}"),
)
_COUNTS = (
    Column("system calls/msg", "syscalls", "{:,.1f}"),
    Column("instructions/msg", "instructions", "{:,.0f}"),
)
_WORKERS = (
    Column("msg/s, 1 worker", "messages_per_s_1", "{:,.0f}"),
    Column("msg/s, 2 workers", "messages_per_s_2", "{:,.0f}"),
    Column("ratio", "ratio", "{:.2f}"),
    Column("CPU µs/msg, 1", "cpu_us_1", "{:,.0f}"),
    Column("CPU µs/msg, 2", "cpu_us_2", "{:,.0f}"),
    Column("load busy, 2", "generator_busy_2", "{:.0%}"),
)
_STALL = (
    Column("ms a message", "p50_ms", "{:,.2f}"),
    Column("p99 ms", "p99_ms", "{:,.2f}"),
    Column("CPU µs/msg", "cpu_us", "{:,.0f}"),
)
_OBSERVERS = (
    *_MESSAGES[:2],
    Column("/floor of W1", "ratio_to_lockstep_floor", "{:.2f}"),
    *_MESSAGES[2:],
)
COLUMNS = {
    "W3": _OBSERVERS,
    "W4": _IDLE,
    "W6": _WAITING,
    "W7": _WORKERS,
    "counts": _COUNTS,
    "stall": _STALL,
    "sendmail": (
        Column("ms a message", "p50_ms", "{:,.2f}"),
        Column("without a milter", "without_ms", "{:,.2f}"),
        Column("added ms", "added_ms", "{:,.2f}"),
    ),
}
"""By the beginning of a workload's name; the others have those of messages under load."""


def columns_of(workload: str) -> Sequence[Column]:
    """Return the columns of a workload's table."""
    return COLUMNS.get(workload.partition("-")[0], _MESSAGES)


def _cells(results: Results, workload: str, peer: str) -> list[str]:
    cells = []
    for column in columns_of(workload):
        value = results.median(workload, peer, column.figure)
        cells.append("–" if value is None else column.form.format(value))
    cells.append(_spread(results, workload, peer))
    return cells


def _spread(results: Results, workload: str, peer: str) -> str:
    """Return the least and the most of the first column: how far rounds lie apart."""
    column = columns_of(workload)[0]
    values = results.values(workload, peer, column.figure)
    if len(values) < 2:
        return ""
    return f"{column.form.format(min(values))}..{column.form.format(max(values))}"


def _rows(results: Results, workload: str) -> list[tuple[str, list[str] | str]]:
    """Return the peers with their cells, or with the reason why there are none."""
    return [
        (peer, results.why_missing(workload, peer) or _cells(results, workload, peer))
        for peer in results.peers_of(workload)
    ]


def as_text(results: Results, workload: str) -> str:
    """Return a workload's table for a terminal."""
    entry = results.document["workloads"][workload]
    rows = _rows(results, workload)
    titles = [*(column.title for column in columns_of(workload)), "spread"]
    name_width = max(len(peer) for peer, _ in rows)
    widths = [
        max(len(title), *(len(cells[at]) for _, cells in rows if isinstance(cells, list)), 0)
        for at, title in enumerate(titles)
    ]
    lines = [f"{workload}: {entry['title']}"]
    head = [title.rjust(width) for title, width in zip(titles, widths, strict=True)]
    lines.append("  ".join([" " * name_width, *head]))
    for peer, cells in rows:
        if isinstance(cells, str):
            lines.append(f"{peer:<{name_width}}  {cells}")
        else:
            figures = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("  ".join([f"{peer:<{name_width}}", *figures]))
        faults = entry["peers"][peer]["faults"]
        if faults and isinstance(cells, list):
            lines.append(f"{'':<{name_width}}  {len(faults)} rounds failed: {faults[0]}")
    return "\n".join(lines)


def as_markdown(results: Results, workload: str) -> str:
    """Return a workload's table for the documentation; what is missing is listed below it."""
    titles = [*(column.title for column in columns_of(workload)), "spread"]
    lines = [
        "| | " + " | ".join(titles) + " |",
        "|---|" + "---:|" * len(titles),
    ]
    missing = []
    for peer, cells in _rows(results, workload):
        if isinstance(cells, str):
            missing.append(f"{peer} ({cells})")
        else:
            lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    if missing:
        lines += ["", "Absent: " + "; ".join(missing) + "."]
    return "\n".join(lines)
