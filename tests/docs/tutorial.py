"""Runs the commands of the tutorial, whose output stands in docs/tutorial/.

    python -m tests.docs.tutorial      writes these files anew

Ports, times and ids differ from one run to the next; `steady` takes them out.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["OUTPUT", "PLAIN", "outputs", "steady"]

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "docs" / "tutorial"
EXAMPLES = ROOT / "examples" / "tutorial"
PATIENCE_S = 30
_WITHOUT = ("cacheprovider", "asyncio", "cov", "xdist", "timeout", "hypothesispytest", "anyio")
PLAIN = ("-c", os.devnull, "--rootdir", ".", *(f"-pno:{name}" for name in _WITHOUT))
"""Arguments of pytest: as it is where nothing but aiomilter and pytest is installed."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1", "COLUMNS": "100"}


def outputs(folder: Path) -> dict[str, str]:
    """Run all commands in a folder; return what they print, by the names of the files."""
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, folder)
    milter, proxy = _free_port(), _free_port()

    def as_written(text: str) -> str:
        return re.sub(rf"\b{proxy}\b", "9901", re.sub(rf"\b{milter}\b", "9900", text))

    found: dict[str, str] = {}
    with _running(folder, "run", "first_milter.py", "--listen", f"inet:{milter}") as run:
        found["check.txt"] = _output(folder, "check", f"inet:{milter}")
        between = ("--listen", f"inet:{proxy}", "--to", f"inet:{milter}")
        with _running(folder, "trace", *between) as trace:
            sender = ("--from", "joe@example.net")
            found["refused.txt"] = _output(folder, "check", f"inet:{proxy}", *sender)
    found["trace.txt"] = trace[0]
    found["log.txt"] = run[0]
    pytest = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *PLAIN],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    found["pytest.txt"] = "\n".join(
        line for line in pytest.stdout.splitlines() if "PASSED" in line or "passed" in line
    )
    return {name: as_written(text).strip() + "\n" for name, text in found.items()}


def steady(text: str) -> str:
    """Return an output without what differs from one run to the next."""
    text = re.sub(r"^\d{4}-\d\d-\d\d \S+", "TIME", text, flags=re.MULTILINE)
    text = re.sub(r"^ +\d+\.\d{3} ", "TIME ", text, flags=re.MULTILINE)
    # Which end hangs up first is chance.
    text = re.sub(r"^(TIME +\d+ )[<>]( eof)$", r"\1?\2", text, flags=re.MULTILINE)
    text = re.sub(r"\[[0-9a-f]+\.(\d+) ", r"[ID.\1 ", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "PEER", text)
    text = re.sub(r"(seconds=|in |Python |aiomilter |Postfix |at most )[\d.]+\w*", r"\1N", text)
    return re.sub(r", uvloop", "", text)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "aiomilter.cli", *arguments]


def _output(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        _command(*arguments),
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert run.returncode < 2, run.stderr
    return run.stdout


@contextmanager
def _running(folder: Path, *arguments: str) -> Iterator[list[str]]:
    """Run a command from the line "listening on" to Ctrl-C; the list then holds its output."""
    kept: list[str] = []
    with subprocess.Popen(
        _command(*arguments),
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert "listening on" in first, first + process.stdout.read()
            yield kept
            process.send_signal(signal.SIGINT)
            # Not `communicate`: it would not see what has been read ahead with the first line.
            kept.append(first + process.stdout.read())
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def main() -> None:
    """Write the files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in outputs(Path(folder)).items():
            (OUTPUT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
