"""What is odd about a body, found while it comes in, and line ends put right.

Rules of this file:

- Where the pieces are cut does not matter, also between CR and LF.
- Hot path: a body passes once through `LineFlags.feed`. Everything in it is a scan of C over a
  whole piece: some 25 µs for 64 KiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["LineFlags", "crlf_lines"]

_MAX_LINE = 998
"""RFC 5322, 2.1.1: "MUST be no more than 998 characters", its CRLF left out."""
_WINDOW = _MAX_LINE + len(b"\r\n")


class LineFlags:
    """What is odd about a body. Feed it all pieces; the properties then tell of the whole."""

    __slots__ = (
        "_bare_cr",
        "_bare_lf",
        "_column",
        "_ends_in_cr",
        "_line_over_998",
        "eight_bit",
        "nul",
    )

    eight_bit: bool
    """Whether there is a byte above 127."""
    nul: bool
    """Whether there is a NUL."""

    def __init__(self) -> None:
        self.eight_bit = False
        self.nul = False
        self._bare_cr = False
        self._bare_lf = False
        self._line_over_998 = False
        self._ends_in_cr = False
        self._column = 0

    @property
    def bare_cr(self) -> bool:
        """Whether there is a CR without an LF behind it."""
        return self._bare_cr or self._ends_in_cr

    @property
    def bare_lf(self) -> bool:
        """Whether there is an LF without a CR in front of it."""
        return self._bare_lf

    @property
    def line_over_998(self) -> bool:
        """Whether a line, which ends in LF, has more than 998 bytes, its CRLF left out."""
        return self._line_over_998

    def feed(self, chunk: bytes) -> None:
        """Look at the next piece."""
        if not chunk:
            return
        self.eight_bit = self.eight_bit or not chunk.isascii()
        self.nul = self.nul or b"\0" in chunk
        if not self._line_over_998:
            self._measure(chunk)
        starts_with_lf = chunk[0] == 0x0A
        ends_in_cr = chunk[-1] == 0x0D
        pairs = chunk.count(b"\r\n")
        if self._ends_in_cr and not starts_with_lf:
            self._bare_cr = True
        joined = self._ends_in_cr and starts_with_lf
        if chunk.count(b"\n") != pairs + joined:
            self._bare_lf = True
        if chunk.count(b"\r") != pairs + ends_in_cr:
            self._bare_cr = True
        self._ends_in_cr = ends_in_cr

    def _measure(self, chunk: bytes) -> None:
        """Look for a long line."""
        end = chunk.find(b"\n")
        if end < 0:
            self._column += len(chunk)
            self._line_over_998 = self._column - (chunk[-1] == 0x0D) > _MAX_LINE
            return
        has_cr = chunk[end - 1] == 0x0D if end else self._ends_in_cr
        if self._column + end - has_cr > _MAX_LINE:
            self._line_over_998 = True
            return
        at = end + 1
        # From the beginning of a line to the last LF that can still be its own, and so on: short
        # lines in between need no look.
        while (end := chunk.rfind(b"\n", at, at + _WINDOW)) >= 0:
            if end == at + _WINDOW - 1 and chunk[end - 1] != 0x0D and b"\n" not in chunk[at:end]:
                self._line_over_998 = True
                return
            at = end + 1
        self._column = len(chunk) - at
        self._line_over_998 = self._column - (chunk[-1] == 0x0D) > _MAX_LINE


def crlf_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes with every line end as CRLF: CR alone and LF alone become one too.

    An end of the last line is added where it is missing; nothing stays nothing.
    """
    held = b""
    last = b""
    for piece in pieces:
        data = held + piece if held else piece
        if not data:
            continue
        held = b"\r" if data[-1] == 0x0D else b""
        if held:
            data = data[:-1]
        pairs = data.count(b"\r\n")
        if not pairs == data.count(b"\n") == data.count(b"\r"):
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        if data:
            last = data[-1:]
            yield data
    if held or last not in (b"", b"\n"):
        yield b"\r\n"
