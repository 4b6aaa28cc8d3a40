"""What tests have processes do. It imports little, as each process imports it."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys

__all__ = [
    "Picky",
    "Wordy",
    "add",
    "count_calls",
    "crash",
    "default_of_program",
    "end_of_forked",
    "end_of_terminated",
    "fail",
    "fail_oddly",
    "fail_wordily",
    "fork_and_crash",
    "fork_and_return",
    "hang",
    "leave",
    "open_descriptors",
    "process_id",
    "return_lambda",
    "signal_and_hang",
    "signal_and_wait",
    "start_and_crash",
    "start_and_hang",
]

_calls = 0


class Picky(Exception):
    """Can be pickled, but not be put together again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("picky")


class Wordy(Exception):
    """Comes out of a pickle as another thing than an exception."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("words",)


def add(one: int, two: int) -> int:
    return one + two


def process_id() -> int:
    return os.getpid()


def count_calls() -> int:
    global _calls  # noqa: PLW0603  (that is what is tested)
    _calls += 1
    return _calls


def hang() -> bool:
    """Run for a very long time, without ever letting go of the interpreter's lock."""
    return re.fullmatch("(a+)+b", "a" * 64) is not None


def signal_and_hang(path: str) -> bool:
    """Open a named pipe, so that whoever waits there knows, then hang."""
    os.close(os.open(path, os.O_WRONLY))
    return hang()


def signal_and_wait(begun: str, go_on: str) -> int:
    """Open a named pipe, so that whoever waits there knows, then wait until another is opened."""
    os.close(os.open(begun, os.O_WRONLY))
    os.close(os.open(go_on, os.O_RDONLY))
    return os.getpid()


def _start() -> int:
    """Start a program that runs for a very long time."""
    program = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    program.returncode = 0  # it is left to itself
    return program.pid


def start_and_hang(pids: str) -> None:
    """Start a program, tell its number, and hang."""
    with open(pids, "w") as pipe:
        pipe.write(str(_start()))
    hang()


def start_and_crash(pids: str) -> None:
    with open(pids, "w") as pipe:
        pipe.write(str(_start()))
    crash()


def _fork() -> int:
    """Fork a process that waits for a very long time; return its number."""
    child = os.fork()
    if not child:
        while True:
            signal.pause()
    return child


def fork_and_crash(pids: str) -> None:
    with open(pids, "w") as pipe:
        pipe.write(str(_fork()))
    crash()


def fork_and_return() -> bool:
    """Return in two processes; what it returns is whether this is the first one."""
    return os.fork() > 0


def end_of_forked() -> int:
    """Return how the process that was forked before has ended."""
    return os.waitpid(-1, 0)[1]


def end_of_terminated() -> int:
    """Return the signal that has ended a forked process which was sent SIGTERM."""
    child = _fork()
    os.kill(child, signal.SIGTERM)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def default_of_program() -> str:
    """Return what a program makes of SIGTERM that a function starts."""
    script = "import signal; print(signal.getsignal(signal.SIGTERM).name)"
    return subprocess.check_output([sys.executable, "-c", script], text=True).strip()


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(3)


def fail(text: str) -> None:
    raise ValueError(text)


def fail_oddly() -> None:
    raise Picky(1, 2)


def fail_wordily() -> None:
    raise Wordy


def return_lambda() -> object:
    return lambda: None


def open_descriptors() -> list[str]:
    """Return what kind each open descriptor beyond the standard ones is."""
    kinds: list[str] = []
    for descriptor in range(3, 256):
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            continue
        kinds.append("socket" if stat.S_ISSOCK(mode) else "pipe" if stat.S_ISFIFO(mode) else "?")
    return kinds
