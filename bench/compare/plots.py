"""The plots of the documentation, drawn from the results; needs matplotlib.

    python -m bench.compare.plots bench/results/full.json

Runs in the environment of `bench/make-env.sh`. What was not measured is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare.results import Results
from bench.compare.workloads import CONNECTION_COUNTS, SIZES_KIB

__all__ = ["main"]

_IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
_OWN, _OTHER, _LIMIT = "#1f6fb4", "#9aa5b1", "#2e8b57"
_SHAPES = ("o", "s", "^", "D", "v")
_MAIN = ("floor", "libmilter", "pymilter", "aiomilter-asyncio", "aiomilter-uvloop")
_WIDTH = 8.0


def _colour(peer: str) -> str:
    if peer == "floor":
        return _LIMIT
    return _OWN if peer.startswith(("aiomilter", "on_message")) else _OTHER


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _save(figure: Figure, name: str) -> None:
    figure.savefig(_IMAGES / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    print(f"drew docs/images/{name}.svg")


def _bars(results: Results, name: str, figure: str, panels: tuple[tuple[str, str], ...]) -> None:
    """Draw a panel for each workload, a bar for each peer."""
    shown = [(w, title) for w, title in panels if w in results.document["workloads"]]
    if not shown:
        return
    image = Figure(figsize=(_WIDTH, 2.7 * len(shown)), layout="constrained")
    for axes, (workload, title) in zip(
        image.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True
    ):
        _bar_panel(axes, results, workload, figure)
        axes.set_title(title, loc="left", fontsize=11)
    _save(image, name)


def _bar_panel(axes: Axes, results: Results, workload: str, figure: str) -> None:
    found = [
        (peer, value)
        for peer in results.peers_of(workload)
        if (value := results.median(workload, peer, figure)) is not None
    ]
    names = [peer for peer, _ in found]
    values = [value for _, value in found]
    bars = axes.barh(names, values, color=[_colour(peer) for peer in names])
    for bar, value in zip(bars, values, strict=True):
        middle = bar.get_y() + bar.get_height() / 2
        axes.text(bar.get_width(), middle, f" {_short(value)}", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _growth(
    results: Results,
    name: str,
    figure: str,
    points: tuple[tuple[str, float], ...],
    labels: tuple[str, str],
) -> None:
    """Draw a line for each peer over a series of workloads, on logarithmic scales."""
    image = Figure(figsize=(_WIDTH, 3.6), layout="constrained")
    axes = image.subplots()
    drawn = False
    for peer, shape in zip(_MAIN, _SHAPES, strict=True):
        line = [
            (x, value)
            for workload, x in points
            if (value := results.median(workload, peer, figure)) is not None
        ]
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), marker=shape, color=_colour(peer), label=peer)
            drawn = True
    if not drawn:
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(visible=True, which="major", color="#dddddd")
    axes.legend(frameon=False)
    _save(image, name)


def main() -> int:
    """Draw all plots."""
    parser = argparse.ArgumentParser(prog="bench.compare.plots", description=__doc__)
    parser.add_argument("results", type=Path)
    results = Results.read(parser.parse_args().results)
    mpl.rcParams["svg.hashsalt"] = "aiomilter"  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["font.family"] = "sans-serif"
    cpu = (
        ("W1-50", "W1: every stage answered; CPU µs a message, 50 connections, TCP"),
        ("W3", "W3: observers only; CPU µs a message, 50 connections, TCP"),
        ("W5", "W5: whole message collected, one header changed; CPU µs a message"),
    )
    _bars(results, "performance-cpu", "cpu_us", cpu)
    idle = (("W4-10000", "10,000 idle connections: kB a connection (PSS)"),)
    _bars(results, "performance-idle", "pss_kb", idle)
    stall = (
        ("stall", "ms a message, macros and command in one write"),
        ("stall-split", "ms a message, macros and command in two writes"),
    )
    _bars(results, "performance-stall", "p50_ms", stall)
    _growth(
        results,
        "performance-connections",
        "cpu_us",
        tuple((f"connections-{count}", float(count)) for count in CONNECTION_COUNTS),
        ("connections", "CPU µs a message"),
    )
    _growth(
        results,
        "performance-size",
        "cpu_us",
        tuple((f"size-{size}", float(size)) for size in SIZES_KIB),
        ("body in KiB", "CPU µs a message"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
