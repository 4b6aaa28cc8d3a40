"""The line ends of a new body, which may come in pieces that are cut anywhere.

Rules of this file:

- A bare CR, one without LF behind it, is refused unless it was asked for. Postfix and Sendmail
  hand it on, and a server behind them that takes it for a line end can be made to see the end
  of the message, and commands, where there are none (SMTP smuggling). What Postfix does against
  it, it does to what a client sends, not to a new body.
- A bare LF passes: both send CRLF in its place, also around a line of a single dot
  (``edits/replace-body-bare-lf.case``).
- What a piece ends in is judged with the next one. An empty piece changes nothing and is not
  sent: to Sendmail it parts a CR from its LF and, of a CR before it, makes two.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["BodyLines", "LineEndings"]

LineEndings = Literal["checked", "canonical", "raw"]

_BARE_CR = re.compile(rb"\r(?!\n)")
_RULE = (
    'a new body has no CR without LF behind it: {}; line_endings="canonical" makes line ends of '
    'both alone, "raw" sends all as it is'
)
_KNOWN = ("checked", "canonical", "raw")


class BodyLines:
    """What has to be known of the pieces of a body that were taken, to judge the next one."""

    __slots__ = ("_ends_in_cr", "_line_endings")

    def __init__(self) -> None:
        self._line_endings: LineEndings | None = None
        self._ends_in_cr = False

    @property
    def fault(self) -> str | None:
        """What is wrong with the body if no piece follows; None if nothing is."""
        if self._ends_in_cr and self._line_endings == "checked":
            return _RULE.format("it ends in one")
        return None

    def take(self, piece: bytes, line_endings: LineEndings) -> bytes:
        """Return what is to be sent of a piece.

        Args:
            piece: The next piece of the body; may be empty.
            line_endings: As for `EomActions.replace_body`.

        Raises:
            ValueError: It has a bare CR in it, or other line ends than the pieces before were
                asked for. It is as if it had not been handed over.
        """
        if line_endings not in _KNOWN:
            raise ValueError(f"line_endings is one of {', '.join(_KNOWN)}, not {line_endings!r}")
        if self._line_endings not in (None, line_endings):
            raise ValueError(
                f"all pieces of a new body have the same line_endings: "
                f"{self._line_endings!r}, not {line_endings!r}"
            )
        if line_endings == "checked":
            self._check(piece)
        elif line_endings == "canonical":
            piece, whole = self._canonical(piece), piece
            self._ends_in_cr = whole.endswith(b"\r") or (self._ends_in_cr and not whole)
        self._line_endings = line_endings
        return piece

    def _check(self, piece: bytes) -> None:
        if not piece:
            return
        if self._ends_in_cr and not piece.startswith(b"\n"):
            raise ValueError(_RULE.format("the piece before ends in one"))
        # Hot path: 64 MiB take 25 to 370 ms, a loop in Python minutes.
        found = _BARE_CR.search(piece)
        at = len(piece) if found is None else found.start()
        if at < len(piece) - 1:
            raise ValueError(_RULE.format(f"there is one at index {at}"))
        self._ends_in_cr = found is not None

    def _canonical(self, piece: bytes) -> bytes:
        # The CR at the end of the piece before is a line end already.
        if self._ends_in_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        count = piece.count(b"\r\n")
        if piece.count(b"\r") == count == piece.count(b"\n"):
            return piece
        lines = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return lines.replace(b"\n", b"\r\n")
