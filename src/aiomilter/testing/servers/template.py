"""Text with ``{{expressions}}``: what a case sends, and what it expects.

Rules of this file:

- An expression is Python, evaluated among the names of the case's milter. Its value is text, which
  goes out as UTF-8, or bytes, or one of the two wildcards, `ANY` and `REST`.
- Lines of a case end in CRLF on the wire; what an expression gives is left as it is.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CaseError", "Pattern", "Template", "Wildcard"]

_EXPRESSION = re.compile(r"\{\{(.+?)\}\}", re.DOTALL)
_END_OF_LINES = re.compile(rb"\r\n(?![ \t])")


class CaseError(ValueError):
    """A case cannot be understood; the text says where and why."""


class Wildcard(enum.Enum):
    """What stands for text that a case does not know beforehand.

    Attributes:
        ANY: Any text within a line, or within a header field with its folds.
        REST: Anything, also several lines.
    """

    ANY = "any"
    REST = "rest"


_WILDCARDS = {
    # A field goes on in lines that begin with a blank.
    Wildcard.ANY: rb"[^\r\n]*(?:\r\n[ \t][^\r\n]*)*",
    Wildcard.REST: rb"(?s:.*)",
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text to be compared with, its wildcards included.

    Attributes:
        parts: Bytes and wildcards, in order.
    """

    parts: tuple[bytes | Wildcard, ...]

    def matches(self, data: bytes) -> bool:
        """Tell whether all of ``data`` is as expected."""
        head, middle, tail = self._cut()
        if len(data) < len(head) + len(tail) or not data.startswith(head):
            return False
        if not data.endswith(tail):
            return False
        between = data[len(head) : len(data) - len(tail)]
        return re.fullmatch(middle, between) is not None

    def show(self) -> bytes:
        """Return the text for people, with the wildcards as they are written."""
        return b"".join(
            part if isinstance(part, bytes) else b"{{%s}}" % part.value.encode()
            for part in self.parts
        )

    def lines(self) -> list[Pattern]:
        """Return the pattern line by line, folds kept, without line ends; the last may be empty."""
        lines: list[list[bytes | Wildcard]] = [[]]
        for part in self.parts:
            if isinstance(part, Wildcard):
                lines[-1].append(part)
                continue
            first, *others = _END_OF_LINES.split(part)
            lines[-1].append(first)
            lines.extend([other] for other in others)
        return [Pattern(tuple(line)) for line in lines]

    def _cut(self) -> tuple[bytes, bytes, bytes]:
        """Return the text ahead of all wildcards, a regular expression, the text behind them.

        A message may have megabytes, of which no regular expression should be made.
        """
        wildcards = [i for i, part in enumerate(self.parts) if isinstance(part, Wildcard)]
        if not wildcards:
            return self._text(self.parts), b"", b""
        first, last = wildcards[0], wildcards[-1]
        middle = b"".join(
            re.escape(part) if isinstance(part, bytes) else _WILDCARDS[part]
            for part in self.parts[first : last + 1]
        )
        return self._text(self.parts[:first]), middle, self._text(self.parts[last + 1 :])

    @staticmethod
    def _text(parts: tuple[bytes | Wildcard, ...]) -> bytes:
        return b"".join(part for part in parts if isinstance(part, bytes))


@dataclass(frozen=True, slots=True)
class Template:
    """Text of a case before its expressions are evaluated.

    Attributes:
        text: The text, with CRLF line ends.
        where: File and line, for complaints.
    """

    text: str
    where: str

    def fill(self, names: Mapping[str, object]) -> Pattern:
        """Evaluate the expressions.

        Raises:
            CaseError: An expression fails, or gives what is no text.
        """
        parts: list[bytes | Wildcard] = []
        for index, piece in enumerate(_EXPRESSION.split(self.text)):
            if index % 2 == 0:
                parts.append(_encode(piece))
            else:
                parts.append(self._evaluate(piece.strip(), names))
        return Pattern(tuple(parts))

    def render(self, names: Mapping[str, object]) -> bytes:
        """Evaluate the expressions of text that is sent.

        Raises:
            CaseError: As `fill`; or there is a wildcard, which cannot be sent.
        """
        parts: list[bytes] = []
        for part in self.fill(names).parts:
            if isinstance(part, Wildcard):
                raise CaseError(f"{self.where}: {{{{{part.value}}}}} can be expected, but not sent")
            parts.append(part)
        return b"".join(parts)

    def _evaluate(self, source: str, names: Mapping[str, object]) -> bytes | Wildcard:
        try:
            # A case is a test, and as trusted as one: it holds its milter as Python, too.
            value: object = eval(source, dict(names))  # noqa: S307
        except Exception as error:
            raise CaseError(
                f"{self.where}: {{{{{source}}}}} fails: {type(error).__name__}: {error}"
            ) from error
        if isinstance(value, str):
            return _encode(value)
        if isinstance(value, (bytes, Wildcard)):
            return value
        raise CaseError(f"{self.where}: {{{{{source}}}}} is neither text nor bytes, but {value!r}")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
