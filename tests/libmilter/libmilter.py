"""Runs sessions on the real libmilter, to compare with: the reference of differential tests.

The filter is ``planned_milter.c``, compiled when it is first needed and kept in memory only. It
runs each session in a process of its own, with libmilter's MTA inside the same process, so that a
session is one request and one answer here. How it is known, without waiting, that libmilter has
dealt with what it was sent is told in ``watch.h``.

Needs Linux, a C compiler, and Debian's libmilter: one that can listen on an open descriptor.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.libmilter.plan import (
    LibmilterError,
    Outcome,
    Plan,
    Send,
    parse_result,
    session_text,
)

__all__ = ["LibmilterHost", "Pending"]

_SOURCES = Path(__file__).resolve().parent
_COMPILE_LIMIT_S = 120.0
_SESSION_LIMIT_S = 10.0
"""A session takes a millisecond; what takes this long will never end."""
_GRACE_S = 10.0
"""What the answer may take beyond the limit that the session has itself."""


@functools.cache
def _program() -> int:
    """Return a descriptor of the compiled program, which has no name any more.

    Raises:
        LibmilterError: it cannot be compiled; the message names what is missing.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise LibmilterError("no C compiler: install gcc (Debian: apt-get install gcc libc6-dev)")
    with tempfile.TemporaryDirectory(prefix="planned-milter-") as folder:
        path = Path(folder, "planned_milter")
        # -rdynamic: the functions of watch.c are to be found by libmilter.
        command = [compiler, "-std=gnu11", "-O1", "-pthread", "-rdynamic"]
        command += [str(source) for source in sorted(_SOURCES.glob("*.c"))]
        done = subprocess.run(
            [*command, "-o", str(path), "-lmilter", "-ldl"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMPILE_LIMIT_S,
            check=False,
            # Error messages are looked into below.
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode:
            if "libmilter/mfapi.h" in done.stderr or "-lmilter" in done.stderr:
                raise LibmilterError(
                    "libmilter is missing: install its development files "
                    f"(Debian: apt-get install libmilter-dev)\n{done.stderr}"
                )
            raise LibmilterError(f"planned_milter.c cannot be compiled:\n{done.stderr}")
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


class Pending:
    """A session that has been submitted and runs by itself."""

    def __init__(self, host: LibmilterHost, plan: Plan, sends: Sequence[Send]) -> None:
        self._host = host
        self._plan = plan
        self._sends = sends
        self._data: bytes | None = None

    def outcome(self) -> Outcome:
        """Wait for the end of the session and return what came of it.

        Raises:
            LibmilterError: libmilter has crashed, has not come to an end, or refuses the plan.
        """
        self._collect()
        assert self._data is not None
        return parse_result(self._data, self._plan, self._sends)

    def _collect(self) -> None:
        if self._data is None:
            self._data = self._host._read_answer()


class LibmilterHost:
    """A program on libmilter that runs one session after the other.

    It is a context manager; not for several threads at a time, but any number of hosts may run
    side by side. Its processes end with it, also when this process is killed.
    """

    def __init__(self, *, limit_s: float = _SESSION_LIMIT_S) -> None:
        """Start the program, after compiling it if need be.

        Args:
            limit_s: seconds that a session may take before it counts as stalled.

        Raises:
            LibmilterError: it cannot be compiled; the message names what is missing.
        """
        program = _program()
        self._limit_s = limit_s
        self._pending: Pending | None = None
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    ["planned_milter"],
                    executable=f"/proc/self/fd/{program}",
                    pass_fds=(program,),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                )
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(limit_s + _GRACE_S)

    @property
    def pid(self) -> int:
        """The process id of the program; each session is a child of it."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the program, and the session that it may be in."""
        self._socket.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(
        self, plan: Plan, sends: Iterable[bytes], *, half_close: bool = True, paced: bool = False
    ) -> Outcome:
        """Run a session of one connection.

        Without a pace all is sent at once, and is there before libmilter looks for the first
        time; answers are ascribed to the send that libmilter had last read from. With a pace, a
        send goes out after libmilter has dealt with the one before and has given up waiting for
        more; it is how libmilter behaves with an MTA that waits for answers.

        Args:
            plan: what the filter does.
            sends: bytes from the MTA; they need not be whole packets.
            half_close: the MTA then closes its half, so that libmilter sees the end of its input.
                Adds a step to the outcome. Without it the session ends where libmilter is when it
                has dealt with all: no callbacks run because of the end.
            paced: see above.

        Raises:
            LibmilterError: libmilter has crashed, has not come to an end, or refuses the plan.
        """
        return self.submit(plan, sends, half_close=half_close, paced=paced).outcome()

    def submit(
        self, plan: Plan, sends: Iterable[bytes], *, half_close: bool = True, paced: bool = False
    ) -> Pending:
        """Begin a session as `run` does, and return at once.

        What is done until its outcome is asked for is done at the same time.
        """
        parts = [Send(data) for data in sends]
        if half_close:
            parts.append(Send(b"", end=True))
        return self._submit(plan, parts, paced=paced)

    def run_connections(self, plan: Plan, sends: Sequence[Send]) -> Outcome:
        """Run a session of several connections, one send at a time (see `run`, with a pace)."""
        return self._submit(plan, list(sends), paced=True).outcome()

    def _submit(self, plan: Plan, sends: Sequence[Send], *, paced: bool) -> Pending:
        text = session_text(plan, sends, paced=paced, limit_s=self._limit_s).encode()
        if self._pending is not None:
            # One answer at most is on its way: more could fill the socket in both directions.
            self._pending._collect()
        try:
            self._socket.sendall(struct.pack("=I", len(text)) + text)
        except OSError as error:
            raise self._failure() from error
        self._pending = Pending(self, plan, sends)
        return self._pending

    def _read_answer(self) -> bytes:
        (length,) = struct.unpack("=I", self._read_exactly(4))
        answer = self._read_exactly(length)
        self._pending = None
        return answer

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                chunk = self._socket.recv(size - len(data))
            except OSError as error:
                raise self._failure() from error
            if not chunk:
                raise self._failure()
            data += chunk
        return bytes(data)

    def _failure(self) -> LibmilterError:
        return LibmilterError(f"planned_milter is gone or hangs (status {self._process.poll()})")
