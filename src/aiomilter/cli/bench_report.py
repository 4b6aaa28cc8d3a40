"""What a load has shown, for a person and for scripts."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aiomilter.app.text import printable
from aiomilter.cli.latency import PERCENTILES, Latencies, format_time
from aiomilter.cli.load import Plan, Result

__all__ = ["print_result", "result_as_json"]

_BAR = 40
_NAME_WIDTH, _TIME_WIDTH = 10, 8
_BESIDE_THE_BAR = 20
"""The columns that a line of the histogram has for the time and the count."""
_COLUMNS = (*(f"p{percent}" for percent in PERCENTILES), "max")
_VERDICT_STYLES = {"ACCEPT": "green", "TEMPFAIL": "yellow", "REJECT": "red", "DISCARD": "red"}


def print_result(console: Console, result: Result) -> None:
    """Print rate, verdicts, errors, latencies and a histogram."""
    console.print(Text.assemble((f"{_rate(result):,.0f} messages/s", "bold"), _amounts(result)))
    for verdict, count in result.verdicts.most_common():
        style = _VERDICT_STYLES.get(verdict, "")
        console.print(Text.assemble("  ", (f"{verdict:<9}", style), f"{count:>9,}"))
    if result.hang_ups:
        text = f"{result.hang_ups:>9,}  connections closed, as the milter said 421"
        console.print(Text.assemble("  ", ("hung up  ", "yellow"), text))
    if result.failed:
        console.print(Text.assemble("  ", ("failed   ", "bold red"), f"{result.failed:>9,}"))
        for error, count in result.errors.most_common():
            console.print(Text(f"    {count:,} × {printable(error)}", "red"))
    if result.has_given_up:
        console.print(Text("Given up early: the milter failed again and again.", "bold red"))
    elif result.is_interrupted:
        console.print(Text("Ended early, from the keyboard.", "yellow"))
    console.print(_table(result, console.width))
    _print_histogram(console, result.whole)


def result_as_json(plan: Plan, result: Result, exit_code: int) -> str:
    """Return everything as one object; times are in seconds."""
    document: dict[str, Any] = {
        "format": "aiomilter-bench",
        "version": 1,
        "address": plan.question.address,
        "connections": plan.connections,
        "connections_opened": result.connections,
        "hang_ups": result.hang_ups,
        "messages": result.messages,
        "failed": result.failed,
        "elapsed_s": result.elapsed_s,
        "messages_per_s": _rate(result),
        "verdicts": dict(result.verdicts),
        "errors": dict(result.errors),
        "interrupted": result.is_interrupted,
        "given_up": result.has_given_up,
        "message": _times(result.whole),
        "stages": {name: _times(times) for name, times in result.stages.items() if len(times)},
        "histogram": [
            {"below_s": bucket.below_s, "count": bucket.count}
            for bucket in result.whole.histogram()
        ],
        "exit_code": exit_code,
    }
    return json.dumps(document, indent=2)


def _rate(result: Result) -> float:
    return result.messages / result.elapsed_s if result.elapsed_s else 0.0


def _amounts(result: Result) -> str:
    plural = "" if result.connections == 1 else "s"
    return (
        f"  ({result.messages:,} in {result.elapsed_s:.2f} s, "
        f"{result.connections:,} connection{plural} opened)"
    )


def _times(times: Latencies) -> dict[str, float]:
    return {"count": len(times), **times.summary()}


def _table(result: Result, width: int) -> Table:
    """Return the latencies, with as many columns as there is room for."""
    counts = [len(times) for times in (result.whole, *result.stages.values())]
    table = Table(box=None, pad_edge=False, header_style="bold")
    count_width = _widest(counts)
    # Each column is followed by a space.
    room = (width - _NAME_WIDTH - count_width - 2) // (_TIME_WIDTH + 1)
    columns = _COLUMNS[: max(1, room)]
    table.add_column("latency", no_wrap=True, min_width=_NAME_WIDTH)
    table.add_column("count", justify="right", no_wrap=True, min_width=count_width)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=_TIME_WIDTH)
    for name, times in {"message": result.whole, **result.stages}.items():
        summary = times.summary()
        if summary:
            cells = [format_time(summary[column]) for column in columns]
            style = "bold" if times is result.whole else ""
            table.add_row(name, f"{len(times):,}", *cells, style=style)
    return table


def _widest(counts: list[int]) -> int:
    return max(len("count"), *(len(f"{count:,}") for count in counts))


def _print_histogram(console: Console, times: Latencies) -> None:
    buckets = times.histogram()
    width = max(1, min(_BAR, console.width - _BESIDE_THE_BAR))
    most = max((bucket.count for bucket in buckets), default=0)
    for bucket in buckets:
        bar = "█" * round(bucket.count / most * width) or ("▏" if bucket.count else "")
        console.print(
            Text.assemble(
                f"< {format_time(bucket.below_s):>7} ",
                (f"{bar:<{width}}", "cyan"),
                f" {bucket.count:>9,}",
            )
        )
