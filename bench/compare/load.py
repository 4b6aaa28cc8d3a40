"""The load generator (``load/load.c``) as a process that is told when to begin."""

from __future__ import annotations

import json
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.compare.programs import BenchError

__all__ = ["Load", "LoadRun", "Report"]

_BEYOND_S = 15.0
"""How much longer than its own limit the generator may take before it is killed."""

Report = dict[str, Any]
"""What the generator printed; the keys are in ``load.c``."""


class LoadRun:
    """One run of the generator, whose connections are open."""

    def __init__(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        self._process = process
        self._limit_s = limit_s

    def send(self) -> Report:
        """Have the messages sent.

        Raises:
            BenchError: An answer was wrong, or it took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and what it printed says why
        report: Report = json.loads(self.line())
        return report

    def line(self) -> bytes:
        """Return the next line of the generator's output; raises like `send`."""
        assert self._process.stdout is not None
        if not _is_readable(self._process.stdout, self._limit_s + _BEYOND_S):
            raise BenchError("the load generator does not answer")
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            words = self._process.stderr.read().decode(errors="replace").splitlines()
            raise BenchError((words or ["the load generator gave no reason"])[0])
        return line


@dataclass(frozen=True)
class Load:
    """How the generator is called.

    Attributes:
        program: The compiled generator.
        core: The core that it runs on, or None for any.
        limit_s: How long the messages of one run may take.
        options: For every run.
    """

    program: Path
    core: int | None = None
    limit_s: int = 60
    options: tuple[str, ...] = ()

    @contextmanager
    def connected(self, address: str, options: Sequence[object]) -> Iterator[LoadRun]:
        """Open the connections; at the end of the block they say QUIT, if nothing was wrong.

        Args:
            address: Of the milter.
            options: Of ``load.c``.

        Raises:
            BenchError: The opening was answered wrongly, or something after the messages.
        """
        command = [self.program, "-t", self.limit_s, *self.options, *options]
        command += [] if self.core is None else ["-c", self.core]
        with subprocess.Popen(
            [*map(str, command), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        ) as process:
            try:
                run = LoadRun(process, self.limit_s)
                run.line()
                yield run
                _end(process, self.limit_s + _BEYOND_S)
            except BaseException:
                process.kill()
                raise

    def send(self, address: str, options: Sequence[object]) -> Report:
        """Open connections, send messages and close; raises like `connected`."""
        with self.connected(address, options) as run:
            return run.send()


def _end(process: subprocess.Popen[bytes], limit_s: float) -> None:
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.close()
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise BenchError("the connections do not end") from None
    if status:
        words = process.stderr.read().decode(errors="replace").splitlines()
        raise BenchError((words or ["the load generator gave no reason"])[0])


def _is_readable(stream: IO[bytes], limit_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        deadline = time.monotonic() + limit_s
        return bool(selector.select(deadline - time.monotonic()))
