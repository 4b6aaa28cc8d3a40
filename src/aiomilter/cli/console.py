"""Where the commands write to, and how they end.

Rules of this file:

- What was asked for goes to stdout, everything else to stderr.
- An error is one line, ``aiomilter: ...``, a sentence that says what to do, and the exit code 2.
- What came from the wire or a file is shown through `printable`: no control character of it
  reaches the terminal, and none of it is taken for markup.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import click
from rich.console import Console

from aiomilter.app.text import printable
from aiomilter.errors import MilterError, RemoteProtocolError

__all__ = [
    "CommandError",
    "complain",
    "complain_of_a_bug",
    "errors_as_sentences",
    "quoted",
    "run_to_end",
    "silence_stdout",
    "stderr",
    "stdout",
    "stdout_error",
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
        click.echo(f"aiomilter: {printable(self.message)}", err=True, file=file)


def quoted(text: str) -> str:
    """Return a value for a sentence: printable, shortened, in quotes."""
    shown = printable(text)
    return f"'{shown}'" if len(shown) <= _MOST_QUOTED else f"'{shown[:_MOST_QUOTED]}...'"


def complain(text: str) -> None:
    """Write a line that is no error to stderr."""
    click.echo(f"aiomilter: {printable(text)}", err=True)


def complain_of_a_bug() -> None:
    """Show the exception that is being handled, which nobody has foreseen."""
    with contextlib.suppress(OSError):
        traceback.print_exc()
        complain("this is a fault of aiomilter itself; please report it, with the lines above")


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
