"""A milter in a process of its own, and what it and the kernel tell of that process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

from aiomilter import Config, Milter, Server

__all__ = ["Figures", "MilterProcess", "raise_descriptor_limit"]

_STOP_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a process holds at one moment.

    Attributes:
        rss_bytes: Memory that is resident.
        tasks: Tasks of the event loop.
        threads: Threads of Python.
        descriptors: Open file descriptors.
        objects: Objects that the garbage collector knows, after a collection.
        connections: Connections that the server has.
    """

    rss_bytes: int
    tasks: int
    threads: int
    descriptors: int
    objects: int
    connections: int


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may have; return how many."""
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class MilterProcess:
    """The parent's view of a process that runs a milter."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(
        cls, milter: str, path: Path, loop: str = "asyncio", **settings: object
    ) -> Iterator[MilterProcess]:
        """Run a milter until the block ends.

        Args:
            milter: As ``bench.milters:Soak``.
            path: The unix socket to listen on.
            loop: ``asyncio`` or ``uvloop``.
            **settings: For the `Config`.
        """
        process = subprocess.Popen(
            (
                *(sys.executable, "-m", "bench.process", milter, str(path), loop),
                json.dumps(settings),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            running = cls(process)
            running._line()
            yield running
        finally:
            # At the end of its input it stops.
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def cpu_s(self) -> float:
        """Return the CPU time of the process, in all its threads."""
        # The kernel's encoding of "CPU clock of that process" (clock_getcpuclockid(3)).
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def peak_rss_bytes(self) -> int:
        """Return how much memory was resident at most, since it started."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def figures(self) -> Figures:
        """Ask for what the process holds."""
        assert self._process.stdin is not None
        self._process.stdin.write("figures\n")
        self._process.stdin.flush()
        return Figures(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the milter's process has ended: {self._process.wait()}")
        return line


class _FormatAndDrop(logging.Handler):
    """Does with records all that a log costs, but for keeping them."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def _figures_here(server: Server) -> Figures:
    gc.collect()
    statm = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return Figures(
        rss_bytes=int(statm[1]) * os.sysconf("SC_PAGE_SIZE"),
        tasks=len(asyncio.all_tasks()),
        threads=threading.active_count(),
        descriptors=len(os.listdir("/proc/self/fd")),
        objects=len(gc.get_objects()),
        connections=server.connections,
    )


async def _serve(factory: Callable[[], Milter], path: str, config: Config) -> None:
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    async with Server(factory, f"unix:{path}", config=config) as server:

        def answer() -> None:
            if not sys.stdin.readline():
                loop.remove_reader(sys.stdin)
                is_over.set()
                return
            print(json.dumps(asdict(_figures_here(server))), flush=True)

        loop.add_reader(sys.stdin, answer)
        print("ready", flush=True)
        await is_over.wait()


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("milter", help="module:class")
    parser.add_argument("path", help="the unix socket")
    parser.add_argument("loop", choices=("asyncio", "uvloop"))
    parser.add_argument("settings", help="of the server, in JSON")
    options = parser.parse_args()
    # Ctrl-C is for the parent, which then closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_descriptor_limit()
    logger = logging.getLogger("aiomilter")
    logger.addHandler(_FormatAndDrop())
    logger.propagate = False
    logger.setLevel(logging.INFO)
    module, _, name = options.milter.partition(":")
    factory = cast("Callable[[], Milter]", getattr(importlib.import_module(module), name))
    settings: dict[str, Any] = json.loads(options.settings)
    make_loop = uvloop.new_event_loop if options.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(_serve(factory, options.path, Config(stop_grace=0, **settings)))


if __name__ == "__main__":
    main()
