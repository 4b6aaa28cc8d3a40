"""The command line, ``aiomilter``: run milters, and question any milter in any language.

It is the extra ``cli`` of the package: click reads the arguments, rich draws what is shown.

Rules of this file:

- The exit code 1 is an answer ("refused", "not the same"), so nothing unforeseen ends with it.
- What the encoding of the terminal lacks is escaped, never an error.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable

__all__ = ["main"]

_WRONG, _INTERRUPTED, _NOBODY_READS = 2, 130, 141
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF)
"""Of a file of their own the commands say so themselves; what is left is stdout."""


def main() -> None:
    """Run the command line; the entry point ``aiomilter``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        import click  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import rich  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        sys.stderr.write("aiomilter: the command line is an extra: pip install 'aiomilter[cli]'\n")
        sys.exit(_WRONG)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    sys.exit(_exit_code(_call))


def _call() -> None:
    from aiomilter.cli.commands import aiomilter

    aiomilter(standalone_mode=False)


def _exit_code(call: Callable[[], None]) -> int:
    """Call; return the exit code of whatever that has come to, having said what is wrong."""
    import click

    from aiomilter.cli.console import (
        complain,
        complain_of_a_bug,
        complain_of_an_end,
        silence_stdout,
        stdout_error,
    )

    try:
        code, unwritten = _code_of(call, complain_of_an_end), stdout_error()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001  (Python would end with 1)
        if not (isinstance(error, OSError) and error.errno in _CANNOT_WRITE):
            complain_of_a_bug()
            return _WRONG
        code, unwritten = _WRONG, error
    if unwritten is None:
        return code
    silence_stdout()
    if unwritten.errno == errno.EPIPE:
        return _NOBODY_READS
    complain(f"cannot write to stdout: {unwritten.strerror}")
    return _WRONG


def _code_of(call: Callable[[], None], complain_of_an_end: Callable[[str], None]) -> int:
    try:
        call()
    except SystemExit as end:
        if isinstance(end.code, int):
            return end.code
        if end.code is not None:
            complain_of_an_end(str(end.code))
            return _WRONG
    return 0
