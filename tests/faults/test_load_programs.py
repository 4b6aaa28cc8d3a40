"""The load programs with little load: that they measure, and find nothing wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plot import line_plot, slope

ROOT = Path(__file__).resolve().parents[2]


def output_of(program: str, *options: str) -> str:
    """Run a program and return what it prints; its status may tell of a missed aim."""
    command = (sys.executable, "-m", f"bench.{program}", *options)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode in (0, 1), done.stderr[-1000:]
    assert "Traceback" not in done.stderr, done.stderr[-1000:]
    return done.stdout


def test_the_soak_meets_no_wrong_answer_and_leaves_nothing(tmp_path: Path) -> None:
    plot = tmp_path / "soak.svg"
    load = ("--messages", "1500", "--samples", "5", "--connections", "10", "--plot", str(plot))
    printed = output_of("soak", *load)
    assert "1,500 messages" in printed
    assert "wrong answers: 0" in printed, printed
    # The milter's process has its one task, and its threads, main and eight.
    for line in ("connections: from 0 to 0", "tasks: from 1 to 1", "threads: from 9 to 9"):
        assert line in printed, printed
    descriptors = re.search(r"descriptors: from (\d+) to (\d+)", printed)
    assert descriptors is not None
    assert descriptors[1] == descriptors[2], printed
    assert plot.read_text(encoding="utf-8").count("<polyline") == 1


def test_idle_connections_are_all_there_and_all_gone_again() -> None:
    printed = output_of("idle", "--connections", "200")
    lines = printed.splitlines()
    assert [re.search(r"(\d+) connections,", line)[1] for line in lines[:5]] == [  # type: ignore[index]  # a line without fails the test
        *("0", "200", "0", "200", "0")
    ], printed


def test_busy_connections_have_all_their_answers() -> None:
    printed = output_of("busy", "--connections", "50", "--seconds", "0.5")
    assert "errors: 0" in printed, printed


def test_the_slope_is_that_of_the_best_line() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([(0, 1), (1, 0), (2, 1), (3, 0)]) == pytest.approx(-0.2)


def test_a_plot_shows_its_points_from_left_to_right() -> None:
    svg = line_plot([(0, 1), (5, 2), (10, 1)], title="t", note="n", x_label="x", y_label="y")
    points = re.search(r'<polyline class="line" points="([^"]+)"', svg)
    assert points is not None
    across = [float(point.split(",")[0]) for point in points[1].split()]
    assert across == sorted(across)
    assert len(across) == 3


def test_tokens_of_one_message_are_seen_in_no_other() -> None:
    printed = output_of("tokens", "--sessions", "20", "--messages", "30")
    assert "20 sessions at a time, 30 messages each" in printed
    assert "wrong answers: 0" in printed, printed
