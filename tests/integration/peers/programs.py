"""Programs of other projects: found, started in a folder of their own, and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["find_program", "folder", "running"]

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_POLL_S = 0.02


def find_program(name: str, package: str) -> str:
    """Return the path of a program; fail with the name of its Debian package."""
    # Some distributions keep sbin off the PATH of ordinary users.
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")
    if found is None:
        pytest.fail(f"{name} is missing: install it (Debian: apt-get install {package})")
    return found


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for unix sockets; remove it."""
    with tempfile.TemporaryDirectory(prefix="peer-") as path:
        yield Path(path)


@contextlib.contextmanager
def running(command: list[str], socket: Path, *, patience_s: float = 10.0) -> Iterator[None]:
    """Run a milter in the foreground until it listens on its unix socket; end it, with children.

    Args:
        command: What to run.
        socket: Where it will listen; what it prints goes into a file beside.
        patience_s: How long it may take to start.
    """
    log = socket.with_name("output")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=socket.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait_for(socket, process, patience_s, log)
            yield
        finally:
            _end(process)


def _wait_for(socket: Path, process: subprocess.Popen[bytes], patience_s: float, log: Path) -> None:
    deadline = time.monotonic() + patience_s
    while not socket.is_socket():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{process.args!r} does not listen on {socket}:\n{log.read_text()}")
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that leads its own group, with its children; it has nothing to save.

    libmilter and rspamd take seconds to heed anything but SIGKILL.
    """
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
