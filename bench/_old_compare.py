"""Compare the cost of one message on aiomilter, on libmilter and on a bare epoll loop.

Each milter does the same: a handler at every stage, one header added at the end of the message.
One round starts every milter once, afresh, one after the other; so a change in the machine's speed
during the run meets all of them alike. The milter has one core and the load generator another.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "src"

FLOOR = "floor"
LIBMILTER = "libmilter"

# Messages of the run that nobody measures: imports, first connections, the specialising
# interpreter's first passes over the code.
WARM_UP_MESSAGES = 200
START_LIMIT_S = 15.0
STOP_LIMIT_S = 3.0


@dataclass
class Contender:
    """One milter to measure.

    Attributes:
        name: How the table calls it.
        command: Program and arguments; `{address}` stands for the address to listen on.
        absent: Why it cannot run here; empty if it can.
    """

    name: str
    command: list[str]
    absent: str = ""


@dataclass
class Figures:
    """What the rounds of one contender gave, one entry a round.

    Attributes:
        cpu_us: CPU time of the milter process, all its threads, in microseconds a message.
        messages_per_s: Throughput as the load generator saw it.
        p50_ms: Median latency of a message, from its first packet to its verdict.
        p99_ms: The same, 99th percentile.
        replies_per_message: How often the generator waited for an answer.
        generator_busy: Share of the time in which the generator was not waiting, 0 to 1.
        faults: What went wrong, one text a failed round.
    """

    cpu_us: list[float] = field(default_factory=list)
    messages_per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    replies_per_message: list[float] = field(default_factory=list)
    generator_busy: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class BenchError(Exception):
    """A round that gave no figures; the text says why."""


def compile_program(source: Path, target: Path, *libraries: str) -> str:
    """Compile one C program.

    Args:
        source: The file to compile.
        target: The program to write.
        *libraries: Linker options.

    Returns:
        Why there is no program, in one line; empty if there is one.
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        return "gcc is not installed"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), str(source), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    return "does not compile: " + (errors or ["gcc gave no reason"])[0]


def find_contenders(binaries: Path) -> list[Contender]:
    """Compile the C milters and look up what the Python ones need."""
    floor = binaries / "floor"
    libmilter = binaries / "libmilter_noop"
    no_floor = compile_program(HERE / "peers/floor.c", floor)
    no_libmilter = compile_program(
        HERE / "peers/libmilter_noop.c", libmilter, "-lmilter", "-lpthread"
    )
    if "mfapi.h" in no_libmilter:
        no_libmilter = "libmilter's headers are not installed (Debian: libmilter-dev)"

    python = [sys.executable, str(HERE / "peers/aiomilter_noop.py"), "{address}"]
    no_aiomilter = why_unusable("aiomilter")
    no_uvloop = no_aiomilter or why_unusable("uvloop")
    quiet = ["no-reply"]
    return [
        Contender(FLOOR, [str(floor), "{address}"], no_floor),
        Contender(LIBMILTER, [str(libmilter), "{address}"], no_libmilter),
        Contender("aiomilter-asyncio", python, no_aiomilter),
        Contender("aiomilter-uvloop", [*python, "--uvloop"], no_uvloop),
        Contender(f"{FLOOR}-noreply", [str(floor), "{address}", *quiet], no_floor),
        Contender(f"{LIBMILTER}-noreply", [str(libmilter), "{address}", *quiet], no_libmilter),
        Contender("aiomilter-asyncio-noreply", [*python, "--no-reply"], no_aiomilter),
        Contender("aiomilter-uvloop-noreply", [*python, "--no-reply", "--uvloop"], no_uvloop),
    ]


def why_unusable(module: str) -> str:
    """Say why a Python module cannot be used; empty if it can be found."""
    found = importlib.util.find_spec(module) is not None
    return "" if found else f"Python module {module} is not installed"


@contextmanager
def pinned_to(core: int) -> Iterator[None]:
    """Bind this process, and thus every process that it starts meanwhile, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def choose_address(transport: str, directory: Path) -> str:
    """Choose an address that is free now: a port on the loopback or a path."""
    if transport == "unix":
        path = directory / "milter.sock"
        path.unlink(missing_ok=True)
        return f"unix:{path}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"inet:{listener.getsockname()[1]}@127.0.0.1"


def is_serving(address: str) -> bool:
    """Try one connection to the milter: QUIT, and wait until the milter closes it.

    A connection that is merely closed would not do. To a Python milter the end of the stream is
    the one large buffer that it frees whole, upon which malloc takes the next ones from its heap
    and no longer from the kernel. No MTA does the milter that favour, so neither does this.
    """
    kind, _, rest = address.partition(":")
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    target = rest if kind == "unix" else ("127.0.0.1", int(rest.partition("@")[0]))
    with socket.socket(family) as probe:
        probe.settimeout(STOP_LIMIT_S)
        try:
            probe.connect(target)
            probe.sendall(b"\0\0\0\1Q")
            return probe.recv(1) == b""
        except OSError:
            return False


@contextmanager
def running(contender: Contender, address: str, core: int) -> Iterator[int]:
    """Run a milter on one core while the block runs.

    Yields:
        Its process id, as soon as it accepts connections.

    Raises:
        BenchError: It ended, or did not listen within the time allowed.
    """
    command = [part.replace("{address}", address) for part in contender.command]
    paths = [str(SOURCES), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryFile() as output, pinned_to(core):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        try:
            deadline = time.monotonic() + START_LIMIT_S
            while not is_serving(address):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    lines = output.read().decode(errors="replace").splitlines()
                    raise BenchError("did not start: " + (lines or ["no output"])[-1])
                time.sleep(0.02)
            yield process.pid
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process: politely, and after the time allowed by force."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Read the CPU time that a process has used, in all its threads, dead ones included."""
    # The kernel's encoding of "CPU clock of that process" (clock_getcpuclockid(3)). It counts
    # nanoseconds, where /proc/PID/stat has ticks of 10 ms and /proc/PID/schedstat one thread.
    return time.clock_gettime((~pid << 3) | 2)


@dataclass(frozen=True)
class Load:
    """How the load generator is called."""

    program: Path
    core: int
    connections: int
    limit_s: int
    busy_poll: bool

    def send(self, address: str, messages: int) -> dict[str, float]:
        """Send messages to a milter.

        Returns:
            The numbers of the generator's report, that of the latencies as `p50` and `p99`.

        Raises:
            BenchError: It ran too long, or an answer was wrong.
        """
        command = [self.program, "-c", self.core, "-n", self.connections, "-m", messages]
        command += ["-t", self.limit_s, *(["-b"] if self.busy_poll else []), address]
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=self.limit_s + START_LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            raise BenchError((done.stderr.splitlines() or ["the generator gave no reason"])[0])
        report = json.loads(done.stdout)
        return {**report.pop("latency_ms"), **report}


def measure(contender: Contender, load: Load, address: str, core: int, messages: int) -> Figures:
    """Start one milter, measure one round, stop it."""
    figures = Figures()
    try:
        with running(contender, address, core) as pid:
            load.send(address, WARM_UP_MESSAGES)
            before = cpu_seconds(pid)
            report = load.send(address, messages)
            used = cpu_seconds(pid) - before
    except (BenchError, OSError, subprocess.TimeoutExpired) as fault:
        figures.faults.append(str(fault))
        return figures
    figures.cpu_us.append(used / messages * 1e6)
    figures.messages_per_s.append(report["messages_per_s"])
    figures.p50_ms.append(report["p50"])
    figures.p99_ms.append(report["p99"])
    figures.replies_per_message.append(report["replies_per_message"])
    figures.generator_busy.append(report["generator_busy"])
    return figures


def add_round(total: Figures, figures: Figures) -> None:
    """Append the figures of one round to those of the rounds before."""
    total.cpu_us += figures.cpu_us
    total.messages_per_s += figures.messages_per_s
    total.p50_ms += figures.p50_ms
    total.p99_ms += figures.p99_ms
    total.replies_per_message += figures.replies_per_message
    total.generator_busy += figures.generator_busy
    total.faults += figures.faults


def median(values: list[float]) -> float | None:
    """Take the median; None of no values."""
    return statistics.median(values) if values else None


def summarise(contenders: list[Contender], results: dict[str, Figures]) -> list[dict[str, object]]:
    """Build one row a contender: medians, and ratios to the floor and to libmilter."""
    floor = median(results[FLOOR].cpu_us)
    libmilter = median(results[LIBMILTER].cpu_us)
    rows: list[dict[str, object]] = []
    for contender in contenders:
        figures = results[contender.name]
        cpu = median(figures.cpu_us)
        rows.append(
            {
                "name": contender.name,
                "absent": contender.absent,
                "faults": figures.faults,
                "cpu_us_per_message": cpu,
                "cpu_us_by_round": figures.cpu_us,
                "ratio_to_floor": cpu / floor if cpu and floor else None,
                "ratio_to_libmilter": cpu / libmilter if cpu and libmilter else None,
                "messages_per_s": median(figures.messages_per_s),
                "p50_ms": median(figures.p50_ms),
                "p99_ms": median(figures.p99_ms),
                "replies_per_message": median(figures.replies_per_message),
                "generator_busy": median(figures.generator_busy),
            }
        )
    return rows


COLUMNS = [
    # title, key, format
    ("CPU us/msg", "cpu_us_per_message", "{:.1f}"),
    ("/floor", "ratio_to_floor", "{:.2f}"),
    ("/libmilter", "ratio_to_libmilter", "{:.2f}"),
    ("msg/s", "messages_per_s", "{:.0f}"),
    ("p50 ms", "p50_ms", "{:.2f}"),
    ("p99 ms", "p99_ms", "{:.2f}"),
    ("replies", "replies_per_message", "{:.0f}"),
    ("load busy", "generator_busy", "{:.0%}"),
]


def format_table(rows: list[dict[str, object]]) -> str:
    """Lay the rows out as text; an absent contender and a failed round say so."""
    width = max(len(str(row["name"])) for row in rows)
    lines = ["  ".join([" " * width, *(f"{title:>10}" for title, _, _ in COLUMNS), "spread"])]
    for row in rows:
        cells = [f"{row['name']!s:<{width}}"]
        by_round = row["cpu_us_by_round"]
        if row["absent"]:
            cells.append(f"absent: {row['absent']}")
        elif isinstance(by_round, list) and by_round:
            for _, key, form in COLUMNS:
                value = row[key]
                cells.append(f"{'-' if value is None else form.format(value):>10}")
            cells.append(f"{min(by_round):.0f}..{max(by_round):.0f}")
        lines.append("  ".join(cells))
        faults = row["faults"]
        if isinstance(faults, list) and faults:
            lines.append(f"{'':<{width}}  {len(faults)} rounds failed: {faults[0]}")
    return "\n".join(lines)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--connections", type=int, default=50, help="SMTP sessions at once (default 50)")
    add("--messages", type=int, default=4000, help="messages a round and milter (default 4000)")
    add("--rounds", type=int, default=7, help="rounds; the table has medians (default 7)")
    add("--transport", choices=["tcp", "unix"], default="tcp")
    add("--only", metavar="TEXT", help="only floor, libmilter and names that contain TEXT")
    add(
        "--extra",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more milter; {address} in COMMAND is replaced (repeatable)",
    )
    add("--busy-poll", action="store_true", help="the load generator never sleeps (see README.md)")
    add("--limit", type=int, default=60, metavar="S", help="seconds one load may take (default 60)")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    options = parser.parse_args(arguments)
    for name in ("connections", "messages", "rounds", "limit"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def choose_contenders(options: argparse.Namespace, binaries: Path) -> list[Contender]:
    """List what to measure: what there is, the extras, less what the user does not want."""
    contenders = find_contenders(binaries)
    for extra in options.extra:
        name, _, command = extra.partition("=")
        contenders.append(Contender(name, shlex.split(command)))
    return [
        c
        for c in contenders
        if options.only is None or options.only in c.name or c.name in (FLOOR, LIBMILTER)
    ]


def show_progress(text: str) -> None:
    """Overwrite the line of progress, if somebody is looking at it."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="\n" if not text else "", file=sys.stderr, flush=True)


def end_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind the stack, so that the milters end and the temporary directory goes."""
    del frame
    sys.exit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print its table; returns the exit status."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, end_on_sigterm)
    sys.path.insert(0, str(SOURCES))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        print("only one core: milter and load generator share it, throughput says little")

    with tempfile.TemporaryDirectory(prefix="aiomilter-bench-") as name:
        directory = Path(name)
        program = directory / "load"
        missing = compile_program(HERE / "load.c", program)
        if missing:
            print(f"no load generator: {missing}", file=sys.stderr)
            return 1
        load = Load(program, cores[-1], options.connections, options.limit, options.busy_poll)
        contenders = choose_contenders(options, directory)
        results = {contender.name: Figures() for contender in contenders}
        for number in range(1, options.rounds + 1):
            for contender in contenders:
                if contender.absent:
                    continue
                show_progress(f"round {number} of {options.rounds}: {contender.name}")
                address = choose_address(options.transport, directory)
                figures = measure(contender, load, address, cores[0], options.messages)
                add_round(results[contender.name], figures)
        show_progress("")

    rows = summarise(contenders, results)
    print(
        f"Python {platform.python_version()}, {options.transport}, {options.connections} "
        f"connections, {options.messages} messages, median of {options.rounds} rounds"
    )
    print(format_table(rows))
    if options.json is not None:
        settings = {key: str(value) for key, value in vars(options).items()}
        settings["python"] = platform.python_version()
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
