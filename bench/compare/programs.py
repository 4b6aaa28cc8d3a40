"""C programs of the comparison, compiled when they are needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["BENCH", "BenchError", "compile_load", "compile_program"]

BENCH = Path(__file__).resolve().parents[1]
_LIMIT_S = 120


class BenchError(Exception):
    """Something gave no figures; the text says why, in one line."""


def compile_program(source: Path, target: Path, *libraries: str) -> Path:
    """Compile one C program.

    Args:
        source: The file to compile.
        target: The program to write.
        *libraries: Linker options.

    Returns:
        The program.

    Raises:
        BenchError: There is no compiler, or it found an error.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        raise BenchError("gcc is not installed")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), str(source), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        if "mfapi.h" in done.stderr:
            errors = ["libmilter's headers are not installed (Debian: libmilter-dev)"]
        raise BenchError((errors or ["gcc gave no reason"])[0])
    return target


def compile_load(directory: Path) -> Path:
    """Compile the load generator into a directory; see `compile_program`."""
    return compile_program(BENCH / "load" / "load.c", directory / "load", "-lm")
