"""The limits of what is shown to the parser of the standard library's `email`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EmailLimits"]


@dataclass(frozen=True, slots=True)
class EmailLimits:
    """What a message may have to be parsed by `email`, at most.

    Attributes:
        max_bytes: All of it. As much as Postfix takes from a client by default.
        max_lines: Lines of the body; a parser in Python looks at each of them.
        max_headers: Headers of the message.
        max_parts: Parts, at all depths.
        max_depth: Multiparts within each other; the parser's own stack ends beyond some hundred.
    """

    max_bytes: int = 10_240_000
    max_lines: int = 150_000
    max_headers: int = 1_000
    max_parts: int = 1_000
    max_depth: int = 20
