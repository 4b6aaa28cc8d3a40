"""Workers that are killed at random under load: `bench/kills.py`, in short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gunicorn")
pytest.importorskip("prometheus_client")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(90)
def test_p27_of_twenty_kills_each_ends_its_own_sessions_alone() -> None:
    options = ("--kills", "20", "--at-once", "4", "--workers", "8", "--clients", "12")
    done = subprocess.run(
        (sys.executable, "-m", "bench.kills", *options, "--every", "0.1", "--minutes", "1"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.startswith("20 workers killed, ")
    assert "before they knew theirs, others: 0\n" in done.stdout
