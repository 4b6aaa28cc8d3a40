"""What tests have processes do. It imports little, as each process imports it."""

from __future__ import annotations

import os
import re
import signal
import stat

__all__ = [
    "Picky",
    "add",
    "count_calls",
    "crash",
    "fail",
    "fail_oddly",
    "hang",
    "leave",
    "open_descriptors",
    "process_id",
    "return_lambda",
    "signal_and_hang",
]

_calls = 0


class Picky(Exception):
    """Can be pickled, but not be put together again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("picky")


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


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(3)


def fail(text: str) -> None:
    raise ValueError(text)


def fail_oddly() -> None:
    raise Picky(1, 2)


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
