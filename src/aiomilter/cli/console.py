"""Where the commands write to, and how they end.

Rules of this file:

- What was asked for goes to stdout, everything else to stderr.
- An error is one line, ``aiomilter: ...``, a sentence that says what to do, and the exit code 2.
  It is an object if the log is one in JSON: whatever collects that is not to find anything else.
- What came from the wire or a file is shown through `printable`: no control character of it
  reaches the terminal, and none of it is taken for markup.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Coroutine, Generator
from typing import Any, TextIO, TypeVar

import click
from rich.console import Console

from aiomilter import logs
from aiomilter.app.text import printable
from aiomilter.errors import MilterError, RemoteProtocolError

__all__ = [
    "CommandError",
    "complain",
    "complain_of_a_bug",
    "complain_of_an_end",
    "errors_as_sentences",
    "quoted",
    "run_to_end",
    "silence_stdout",
    "speak_json",
    "stderr",
    "stdout",
    "stdout_error",
    "warnings_as_lines",
]

_T = TypeVar("_T")

_MOST_QUOTED = 80


class _Console(Console):
    """Tells its caller that nobody reads any more; rich alone would end the program with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


stdout = _Console(highlight=False, soft_wrap=True)
stderr = _Console(stderr=True, highlight=False, soft_wrap=True)


class CommandError(click.ClickException):
    """A command cannot do what it was asked for."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the one line."""
        _say(self.message, logging.ERROR, file)


_json = logs.JsonFormatter()
_speaks_json = False


def speak_json(wanted: bool) -> None:
    """Have all that goes to stderr in JSON from now on, or as text."""
    global _speaks_json  # noqa: PLW0603  (there is one stderr)
    _speaks_json = wanted


def _say(text: str, level: int, file: Any = None, *, with_exception: bool = False) -> None:
    if _speaks_json:
        record = logging.LogRecord(
            "aiomilter", level, "", 0, "%s", (text,), sys.exc_info() if with_exception else None
        )
        line = _json.format(record)
    else:
        line = f"aiomilter: {printable(text)}"
    click.echo(line, err=True, file=file)


def quoted(text: str) -> str:
    """Return a value for a sentence: printable, shortened, in quotes."""
    shown = printable(text)
    return f"'{shown}'" if len(shown) <= _MOST_QUOTED else f"'{shown[:_MOST_QUOTED]}...'"


def complain(text: str) -> None:
    """Write a line that is no error to stderr."""
    _say(text, logging.INFO)


def complain_of_an_end(text: str) -> None:
    """Write what a program was ended with, as by ``sys.exit("...")``, to stderr."""
    if _speaks_json:
        _say(text, logging.ERROR)
    else:
        sys.stderr.write(f"{text}\n")


def complain_of_a_bug() -> None:
    """Show the exception that is being handled, which nobody has foreseen."""
    with contextlib.suppress(OSError):
        if _speaks_json:
            text = "this is a fault of aiomilter itself; please report it"
            _say(text, logging.CRITICAL, with_exception=True)
            return
        traceback.print_exc()
        complain("this is a fault of aiomilter itself; please report it, with the lines above")


@contextlib.contextmanager
def warnings_as_lines() -> Generator[None]:
    """Have warnings in JSON, if that is what stderr is in, before logging is set up.

    It may be set up meanwhile by whoever else has to do with warnings.
    """
    if not _speaks_json:
        yield
        return

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del file, line
        _say(f"{filename}:{lineno}: {category.__name__}: {message}", logging.WARNING)

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = before


def stdout_error() -> OSError | None:
    """Return why stdout cannot be written to, or None if all has been written."""
    try:
        # A buffer that could not be written out is kept, so that an error comes again.
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stdout.flush()
    except OSError as error:
        return error
    return None


def silence_stdout() -> None:
    """Send what is still to be written to nowhere, so that the end of Python does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


@contextlib.contextmanager
def errors_as_sentences(where: str) -> Generator[None]:
    """Turn errors of the library into a `CommandError`.

    Args:
        where: The milter's address, to stand in front of what it did wrong.
    """
    try:
        yield
    except RemoteProtocolError as error:
        raise CommandError(f"{where} does not keep to the milter protocol: {error}") from error
    except MilterError as error:
        raise CommandError(str(error)) from error


def run_to_end(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's work; Ctrl-C ends it quietly, with the exit code that shells know."""
    try:
        return asyncio.run(coroutine)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
