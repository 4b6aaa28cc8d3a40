"""A program on the C library libmilter, compiled when it is needed: the benchmark's filter."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.integration.peers.programs import find_program, folder, running

__all__ = ["running_libmilter"]

_SOURCE = Path(__file__).resolve().parents[3] / "bench" / "peers" / "libmilter_noop.c"


@contextlib.contextmanager
def running_libmilter(*arguments: str) -> Iterator[str]:
    """Compile the filter and run it; its address.

    Args:
        arguments: Those behind its address.
    """
    compiler = find_program("gcc", "gcc libc6-dev libmilter-dev")
    with folder() as path:
        program, socket = path / "libmilter_noop", path / "milter.sock"
        command = [compiler, "-O1", str(_SOURCE), "-o", str(program), "-lmilter", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (
            f"libmilter_noop.c cannot be compiled; is libmilter there "
            f"(Debian: apt-get install libmilter-dev)?\n{done.stderr}"
        )
        with running([str(program), f"local:{socket}", *arguments], socket):
            yield f"unix:{socket}"
