"""What came of a case."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiomilter.app.mta.kind import Mta
from aiomilter.testing.servers.case import Case
from aiomilter.testing.servers.template import Pattern

__all__ = ["CaseResult", "difference"]

_LOG_LINES = 15
_LONGEST_SHOWN = 200


@dataclass(slots=True)
class CaseResult:
    """What came of a case with one mail server.

    Attributes:
        case: The case.
        kind: The mail server.
        version: Its version.
        differences: What is not as the case says; empty if all is.
        transcript: The dialogue as it went.
        log: The last lines of the server's log.
        seconds: How long it took.
    """

    case: Case
    kind: Mta
    version: str
    differences: list[str] = field(default_factory=list[str])
    transcript: list[str] = field(default_factory=list[str])
    log: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all was as the case says."""
        return not self.differences

    def report(self) -> str:
        """Return all that is known, for people."""
        parts = [
            f"{self.case.name} with {self.kind.value} {self.version}: {self.case.title}",
            *self.differences,
            "the dialogue:\n" + "\n".join(f"  {line}" for line in self.transcript),
            "the log:\n" + "\n".join(f"  {line}" for line in self.log[-_LOG_LINES:]),
        ]
        return "\n\n".join(parts)

    def assert_passed(self) -> None:
        """Raise an AssertionError with the report if something is not as the case says."""
        __tracebackhide__ = True  # pytest shows the test then, which is what failed
        if not self.passed:
            raise AssertionError(self.report())


def difference(expected: Sequence[Pattern], got: Sequence[bytes]) -> list[str]:
    """Return a unified diff of lines; a line that agrees with its pattern is shown as it came."""
    wanted = [_show(pattern.show()) for pattern in expected]
    came = [_show(line) for line in got]
    matcher = difflib.SequenceMatcher(None, *_as_symbols(expected, got), autojunk=False)
    lines: list[str] = []
    for tag, begin, end, other_begin, other_end in matcher.get_opcodes():
        if tag == "equal":
            lines.extend(f"  {line}" for line in came[other_begin:other_end])
        else:
            lines.extend(f"- {line}" for line in wanted[begin:end])
            lines.extend(f"+ {line}" for line in came[other_begin:other_end])
    return lines


def _as_symbols(expected: Sequence[Pattern], got: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Number the lines so that a pattern and a line that it matches have the same number."""
    wanted = list(range(len(expected)))
    came: list[int] = []
    for line in got:
        matching = (number for number in wanted if expected[number].matches(line))
        # Each pattern stands for one line, so that a second one like it is a difference.
        free = (number for number in matching if number not in came)
        came.append(next(free, -1 - len(came)))
    return wanted, came


def _show(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return (
        text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(line)} bytes)"
    )
