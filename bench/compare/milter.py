"""A milter in a process of its own, and what the kernel tells of that process."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.compare.programs import BENCH, BenchError

__all__ = ["Memory", "RunningMilter", "family", "pinned_to", "raise_descriptor_limit", "running"]

_START_LIMIT_S = 20.0
_STOP_LIMIT_S = 5.0
_PROBE_S = 0.5
_POLL_S = 0.02
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """What a milter's processes hold, in bytes; a page that they share counts once in ``pss``."""

    rss: int
    pss: int
    peak_rss: int


@dataclass(frozen=True, slots=True)
class RunningMilter:
    """A milter that serves.

    Attributes:
        pid: The process that was started; it may have children.
        address: Where it listens, as libmilter writes addresses.
    """

    pid: int
    address: str

    def cpu_s(self) -> float:
        """Return the CPU time, user and system, of its processes in all their threads."""
        # The kernel's encoding of "CPU clock of that process" (clock_getcpuclockid(3)). It counts
        # nanoseconds, where /proc/PID/stat has ticks of 10 ms and /proc/PID/schedstat one thread.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in family(self.pid))

    def memory(self) -> Memory:
        """Return what its processes hold."""
        rss = pss = peak = 0
        for pid in family(self.pid):
            sizes = _sizes(f"/proc/{pid}/smaps_rollup")
            rss += sizes["Rss"]
            pss += sizes["Pss"]
            peak += _sizes(f"/proc/{pid}/status")["VmHWM"]
        return Memory(rss, pss, peak)

    def threads(self) -> int:
        """Return the number of threads of its processes."""
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in family(self.pid))


def family(pid: int) -> list[int]:
    """Return a process and those that descend from it."""
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii")
        except FileNotFoundError:
            continue  # the thread has ended meanwhile
        for child in children.split():
            found += family(int(child))
    return found


def _sizes(path: str) -> dict[str, int]:
    text = Path(path).read_text(encoding="ascii", errors="replace")
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(number) * _KIB for name, number in found}


@contextmanager
def pinned_to(core: int | None) -> Iterator[None]:
    """Bind this process, and thus each that it starts meanwhile, to one core; None for any."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_descriptor_limit() -> int:
    """Allow this process and its children as many descriptors as possible; return how many."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _choose_address(transport: str, directory: Path) -> str:
    if transport == "unix":
        path = directory / "milter.sock"
        path.unlink(missing_ok=True)
        return f"unix:{path}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"inet:{listener.getsockname()[1]}@127.0.0.1"


def _is_serving(address: str) -> bool:
    """Try one connection to the milter: QUIT, and wait a moment for the milter to close it.

    A connection that is merely closed would not do. To a Python milter the end of the stream is
    the one large buffer that it frees whole, upon which malloc takes the next ones from its heap
    and no longer from the kernel. No MTA does the milter that favour, so neither does this.
    """
    kind, _, rest = address.partition(":")
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    target = rest if kind == "unix" else ("127.0.0.1", int(rest.partition("@")[0]))
    with socket.socket(family) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(target)
            probe.sendall(b"\0\0\0\1Q")
        except OSError:
            return False
        try:
            return probe.recv(1) == b""
        except OSError:
            return True  # some wait for the MTA to close first


@contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    *,
    transport: str = "tcp",
    core: int | None = None,
    limit_factor: float = 1,
) -> Iterator[RunningMilter]:
    """Run a milter while the block runs.

    Args:
        command: Program and arguments; `{address}` stands for the address to listen on.
        directory: For its socket and what it prints.
        transport: ``tcp`` or ``unix``.
        core: The core that it runs on; None for any.
        limit_factor: By how much it is slower than usual, for the time it may take to start.

    Yields:
        It, as soon as it accepts connections.

    Raises:
        BenchError: It ended, or did not listen within the time allowed.
    """
    address = _choose_address(transport, directory)
    # What a set or a dict does must not depend on the run.
    environment = {**os.environ, "PYTHONPATH": str(BENCH.parent / "src"), "PYTHONHASHSEED": "0"}
    printed = directory / "printed"
    with printed.open("wb") as output, pinned_to(core):
        process = subprocess.Popen(
            [part.replace("{address}", address) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=directory,
        )
    try:
        deadline = time.monotonic() + _START_LIMIT_S * limit_factor
        while not _is_serving(address):
            if process.poll() is not None or time.monotonic() > deadline:
                lines = printed.read_text(errors="replace").splitlines()
                raise BenchError("did not start: " + (lines or ["no output"])[-1])
            time.sleep(_POLL_S)
        yield RunningMilter(process.pid, address)
    finally:
        _stop(process, limit_factor)


def _stop(process: subprocess.Popen[bytes], limit_factor: float) -> None:
    """End a process: politely, and after the time allowed by force."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_LIMIT_S * limit_factor)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
