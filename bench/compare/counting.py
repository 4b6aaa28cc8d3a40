"""What a message costs in counts that no busy machine changes: system calls, instructions.

Each count is the difference between two runs that differ in the number of messages, so what it
costs to start and to end is not in it.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.compare.load import Load
from bench.compare.milter import running
from bench.compare.programs import BENCH, BenchError

__all__ = [
    "aiomilter_command",
    "change_command",
    "instructions_per_message",
    "syscalls_per_message",
]

_SLOWER = 6.0
"""How much more time a process that is watched gets to start and to end."""
_WRITTEN_S = 10.0
_POLL_S = 0.02
_NOT_COUNTED = ("total", "syscall", "exit", "exit_group")


def aiomilter_command(*, no_reply: bool, loop: str, python: str = sys.executable) -> list[str]:
    """Return the command of the benchmark's milter on aiomilter.

    Args:
        no_reply: Whether it only observes.
        loop: ``asyncio`` or ``uvloop``.
        python: The interpreter.
    """
    options = ["no-reply" if no_reply else "add", *(["--uvloop"] if loop == "uvloop" else [])]
    return [python, str(BENCH / "peers" / "aiomilter_noop.py"), "{address}", *options]


def change_command(how: str, *, loop: str, python: str = sys.executable) -> list[str]:
    """Return the command of a milter that collects a message and changes a header (W5).

    Args:
        how: ``change``, by handlers that answer; ``change-no-reply``, by handlers that observe;
            ``on_message``, by the library.
        loop: ``asyncio`` or ``uvloop``.
        python: The interpreter.
    """
    is_library = how == "on_message"
    program = "aiomilter_message.py" if is_library else "aiomilter_noop.py"
    words = [*([] if is_library else [how]), *(["--uvloop"] if loop == "uvloop" else [])]
    return [python, str(BENCH / "peers" / program), "{address}", *words]


def syscalls_per_message(
    command: Sequence[str],
    load: Load,
    *,
    options: Sequence[object] = ("-n", 1),
    transport: str = "tcp",
    messages: int = 50,
) -> dict[str, float]:
    """Count the system calls of a milter, by name, and all of them as ``total``.

    Args:
        command: Of the milter; see `running`.
        load: The generator.
        options: Of the generator, but for the number of messages.
        transport: ``tcp`` or ``unix``.
        messages: By how many the two runs differ.

    Raises:
        BenchError: There is no strace, or a run failed.
    """
    if shutil.which("strace") is None:
        raise BenchError("strace is not installed")
    counts = []
    for sent in (messages, 2 * messages):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            directory = Path(name)
            table = directory / "strace"
            # -D: the tracer is a grandchild, so that the milter itself gets our signals.
            strace = ["strace", "-D", "-f", "-qq", "-c", "-o", str(table)]
            with running(
                [*strace, *command], directory, transport=transport, limit_factor=_SLOWER
            ) as milter:
                load.send(milter.address, [*options, "-m", sent])
            counts.append(_strace_table(table))
    names = sorted({*counts[0], *counts[1]})
    each = {name: (counts[1].get(name, 0) - counts[0].get(name, 0)) / messages for name in names}
    each = {name: times for name, times in each.items() if times > 0}
    return {**each, "total": sum(each.values())}


def _strace_table(path: Path) -> dict[str, int]:
    """Read a table of strace, once its tracer has written it."""
    deadline = time.monotonic() + _WRITTEN_S
    while "total" not in (text := path.read_text(encoding="utf-8") if path.exists() else ""):
        if time.monotonic() > deadline:
            raise BenchError("strace wrote no table: tracing may be forbidden here")
        time.sleep(_POLL_S)
    # % time, seconds, usecs/call, calls, perhaps errors, syscall
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+)(?: +\d+)? +(\w+)$", text, re.MULTILINE)
    return {name: int(calls) for calls, name in rows if name not in _NOT_COUNTED}


def instructions_per_message(
    command: Sequence[str],
    load: Load,
    *,
    options: Sequence[object] = ("-n", 1),
    transport: str = "unix",
    messages: tuple[int, int] = (50, 250),
) -> float:
    """Count the instructions that a milter executes in user space, with valgrind's callgrind.

    Hardware counters would do it without making the milter slow, but virtual machines often have
    none. What the kernel does is not in it.

    Args:
        command: Of the milter; see `running`.
        load: The generator.
        options: Of the generator, but for the number of messages.
        transport: ``tcp`` or ``unix``.
        messages: Those of the two runs. The first ones of a process cost more: Python's
            interpreter then specialises its code.

    Raises:
        BenchError: There is no valgrind, or a run failed.
    """
    if shutil.which("valgrind") is None:
        raise BenchError("valgrind is not installed")
    counts = []
    for sent in messages:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            directory = Path(name)
            log = directory / "valgrind"
            valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
            valgrind += [f"--log-file={log}", "--error-limit=no"]
            with running(
                [*valgrind, *command], directory, transport=transport, limit_factor=_SLOWER
            ) as milter:
                load.send(milter.address, [*options, "-m", sent])
            collected = re.search(r"Collected : (\d+)", log.read_text(encoding="utf-8"))
            if collected is None:
                raise BenchError("valgrind printed no count")
            counts.append(int(collected[1]))
    return (counts[1] - counts[0]) / (messages[1] - messages[0])
