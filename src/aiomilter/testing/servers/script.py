"""The milter of a case: Python in a text file, and the names that it may use."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import linecache
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import aiomilter
from aiomilter.aio.config import Config
from aiomilter.app.milter import Milter
from aiomilter.testing.servers.case import Case
from aiomilter.testing.servers.smtp import dot_stuffed
from aiomilter.testing.servers.template import CaseError, Wildcard

__all__ = ["DEFAULT_MESSAGE", "Script", "filler"]

DEFAULT_MESSAGE = (
    b"From: a@src.example\r\n"
    b"To: b@dst.example\r\n"
    b"Subject: hello\r\n"
    b"Date: Fri, 2 Jan 2026 03:04:05 +0000\r\n"
    b"Message-ID: <1@src.example>\r\n"
    b"\r\n"
    b"first line\r\n"
    b".second line\r\n"
)
"""What ``{{message}}`` sends if a case has no section ``message``.

It has all the fields that a mail server would add to a message of a program on its own machine.
"""

_LINE = b"The quick brown fox jumps over the lazy dog, and the dog does not even mind.\r\n"


def filler(size: int) -> bytes:
    """Return text that is ``size`` bytes as a line of a case, so with the CRLF that follows it.

    It is in lines of at most 78 bytes.
    """
    lines, rest = divmod(size, len(_LINE))
    # A rest too short for a line of its own goes to the last one.
    lines, rest = (lines - 1, rest + len(_LINE)) if rest < len(b"\r\n") else (lines, rest)
    return (_LINE * lines + b"x" * (rest - 2) + b"\r\n").removesuffix(b"\r\n")


class Script:
    """The milter of a case, ready to be made.

    Attributes:
        names: What the milter's source has defined, and what expressions in the case may use.
        factory: Makes the milter of a session; None if the case has no milter.
        content: The message that ``{{message}}`` sends.
        config: The settings of the server of the milter: those of the case (its name ``config``),
            with a unix socket that any mail server can reach.
    """

    def __init__(self, case: Case, note: Callable[[str], None]) -> None:
        """Run the source.

        Args:
            case: The case.
            note: Takes what the milter notes.

        Raises:
            CaseError: The source fails, or defines no milter, or several.
        """
        self.names: dict[str, object] = {
            **{name: getattr(aiomilter, name) for name in aiomilter.__all__},
            **{module.__name__: module for module in (asyncio, contextvars, os, signal, time)},
            "filler": filler,
            "note": _noter(note),
        }
        self.factory: type[Milter] | None = None
        if case.milter:
            self._run(case.milter, case.path, case.milter_line)
            self.factory = self._milter_class(case)
        config = self.names.get("config", Config())
        if not isinstance(config, Config):
            raise CaseError(f"{case.path}:{case.milter_line}: config is a Config, not {config!r}")
        # The mail servers' daemons are other users. The folder is the test's own.
        self.config = dataclasses.replace(config, unix_mode=0o666)
        self.names.update({wildcard.value: wildcard for wildcard in Wildcard})
        content = case.message.render(self.names) if case.message else DEFAULT_MESSAGE
        self.content = content
        self.names["content"] = content.removesuffix(b"\r\n")
        self.names["message"] = dot_stuffed(content).removesuffix(b"\r\n")

    def _run(self, source: str, path: Path, line: int) -> None:
        try:
            # Empty lines ahead, so that tracebacks name the line of the file.
            code = compile("\n" * (line - 1) + source, str(path), "exec")
            linecache.checkcache(str(path))
            exec(code, self.names)  # noqa: S102  (a case is a test, and as trusted as one)
        except (Exception, SystemExit) as error:
            where = f"{path}:{getattr(error, 'lineno', None) or line}"
            raise CaseError(
                f"{where}: the milter fails: {type(error).__name__}: {error}"
            ) from error

    def _milter_class(self, case: Case) -> type[Milter]:
        made = [
            value
            for value in self.names.values()
            if isinstance(value, type) and issubclass(value, Milter) and value is not Milter
        ]
        # A class that another one extends is a part of that.
        ends = [value for value in made if not any(value in other.__mro__[1:] for other in made)]
        if len(ends) != 1:
            raise CaseError(
                f"{case.path}:{case.milter_line}: a case has one milter, a subclass of Milter, "
                f"not {len(ends)}"
            )
        return ends[0]


def _noter(note: Callable[[str], None]) -> Callable[..., None]:
    def note_words(*words: object) -> None:
        note(" ".join(str(word) for word in words))

    return note_words
