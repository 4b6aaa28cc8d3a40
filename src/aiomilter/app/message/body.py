"""The body of a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, cast

from aiomilter.app.message.lines import LineFlags, crlf_lines
from aiomilter.app.message.spool import CHUNK_BYTES, Spool
from aiomilter.app.text import show_value

__all__ = ["DEFAULT_SPOOL_THRESHOLD", "Body"]

DEFAULT_SPOOL_THRESHOLD = 1 << 20
"""In memory, some hundred messages at once stay well below what a small machine has; and nine of
ten messages are smaller."""
_SLICE_BYTES = 1 << 20


class Body:
    """The body of a message: bytes, lines ending in CRLF; in a temporary file if it is large.

    Reading from and writing to the file may block as long as the disk does. In a plain ``def``
    handler, which runs in a thread, that is nobody's business; in an ``async def`` handler read
    large bodies (`is_spooled`) in a thread.

    The flags `bare_cr` and so on tell what was odd about the body as it came; a new one does not
    change them.
    """

    __slots__ = (
        "_directory",
        "_flags",
        "_is_shared",
        "_left",
        "_new",
        "_original",
        "_threshold",
    )

    def __init__(
        self,
        data: bytes = b"",
        *,
        spool_threshold: int = DEFAULT_SPOOL_THRESHOLD,
        directory: str | Path | None = None,
    ) -> None:
        """Begin with some bytes, to which `write` adds.

        Args:
            data: The first bytes.
            spool_threshold: How many bytes are kept in memory at most, of the body as it came and
                of a new one each.
            directory: Where temporary files are made; None for the system's folder.
        """
        self._threshold = spool_threshold
        self._directory = directory
        self._original = Spool(spool_threshold, directory)
        self._new: Spool | None = None
        self._flags = LineFlags()
        # Whether copies read the same new body, and those of old that are closed at the end.
        self._is_shared = False
        self._left: list[Spool] = []
        if data:
            self.write(data)

    # For whoever collects it

    def write(self, chunk: bytes) -> None:
        """Add a piece that came with the message.

        It blocks only where `goes_to_file` says so.

        Raises:
            SpoolError: It cannot be kept; the body is closed, and no descriptor is left open.
        """
        self._flags.feed(chunk)
        self._original.write(chunk)

    def goes_to_file(self, size: int) -> bool:
        """Whether `write` of so many bytes would touch the disk, and is a thing for a thread."""
        return self._original.goes_to_file(size)

    def save_memory(self) -> None:
        """Keep it in a file from the next `write` on, whatever its size."""
        self._threshold = 0
        self._original.save_memory()

    def close(self) -> None:
        """Forget it, and close its files. Calling it again does nothing."""
        self._original.close()
        for spool in (self._new, *self._left):
            if spool is not None:
                spool.close()

    def copy(self) -> Body:
        """Return the same body once more: a new one for the one is none for the other.

        They have their bytes in common; closing one of them closes both.
        """
        new = Body(spool_threshold=self._threshold, directory=self._directory)
        new._original, new._new, new._flags = self._original, self._new, self._flags
        self._is_shared = new._is_shared = True
        return new

    # For whoever reads it

    @property
    def bare_cr(self) -> bool:
        """Whether it has a CR without an LF behind it; some take that for the end of a line."""
        return self._flags.bare_cr

    @property
    def bare_lf(self) -> bool:
        """Whether it has an LF without a CR in front of it."""
        return self._flags.bare_lf

    @property
    def nul(self) -> bool:
        """Whether it has a NUL."""
        return self._flags.nul

    @property
    def eight_bit(self) -> bool:
        """Whether it has a byte above 127."""
        return self._flags.eight_bit

    @property
    def line_over_998(self) -> bool:
        """Whether one of its lines is longer than SMTP allows (998 bytes and CRLF)."""
        return self._flags.line_over_998

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self._current)

    def __len__(self) -> int:
        return len(self._current)

    @property
    def is_spooled(self) -> bool:
        """Whether it is in a file, so that reading may block."""
        return self._current.is_in_file

    @property
    def touches_disk(self) -> bool:
        """Whether it or the body as it came is in a file, so that comparing them may block."""
        return self._original.is_in_file or self._current.is_in_file

    def read(self) -> bytes:
        """Return all of it; think of `size` first.

        Raises:
            SpoolError: It cannot be read, or the message is over.
        """
        return self._current.read()

    def iter_chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield it in pieces, cut anywhere.

        Args:
            size: Of each piece but the last, in bytes; at least 1.

        Raises:
            SpoolError: It cannot be read, or the message is over.
        """
        return self._current.iter_chunks(size)

    def slice(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``; fewer where there are no more.

        Raises:
            SpoolError: It cannot be read, or the message is over.
        """
        return self._current.slice(start, end)

    def iter_original(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the body as it came in pieces, whatever has become of it."""
        return self._original.iter_chunks(size)

    # For whoever changes it

    def replace(self, data: bytes | Iterable[bytes] | BinaryIO) -> None:
        """Put a new body in its place.

        All line ends become CRLF, also a CR or LF that stands alone: what some server on the way
        takes for the end of a line, and of the message, must not come from here. The MTA would
        complete a missing end of the last line; that is done here too.

        Args:
            data: Bytes; or pieces of them, which may be made from this body's own; or a binary
                file, read from where it stands to its end.

        Raises:
            SpoolError: It cannot be kept; the body is as it was.
            TypeError: The pieces are no bytes; the body is as it was.
        """
        new = Spool(self._threshold, self._directory)
        try:
            for piece in crlf_lines(_pieces(data)):
                new.write(piece)
        except BaseException:
            new.close()
            raise
        if self._new is not None:
            if self._is_shared:
                self._left.append(self._new)
            else:
                self._new.close()
        self._new, self._is_shared = new, False

    def is_changed(self) -> bool:
        """Whether it is another one than that which came; a method, since it may read both.

        Raises:
            SpoolError: It cannot be read, or the message is over.
        """
        return self._new is not None and _differ(self._new, self._original)

    def differs_from(self, other: Body) -> bool:
        """Whether it is another one than a second body is now; may read both.

        Raises:
            SpoolError: One cannot be read, or the message is over.
        """
        return self._current is not other._current and _differ(self._current, other._current)

    @property
    def _current(self) -> Spool:
        return self._original if self._new is None else self._new

    def __repr__(self) -> str:
        return f"<Body: {self.size} bytes>"


def _differ(new: Spool, old: Spool) -> bool:
    if len(new) != len(old):
        return True
    return any(one != other for one, other in zip_longest(new.iter_chunks(), old.iter_chunks()))


def _pieces(data: bytes | Iterable[bytes] | BinaryIO) -> Iterator[bytes]:
    """Yield what may be the new body in pieces that are not too large."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _SLICE_BYTES):
            yield bytes(view[at : at + _SLICE_BYTES])
    elif hasattr(data, "read"):
        file = cast("BinaryIO", data)
        while piece := file.read(CHUNK_BYTES):
            yield _checked(piece)
    else:
        for piece in data:
            yield _checked(piece)


def _checked(piece: object) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if not isinstance(piece, (bytearray, memoryview)):
        raise TypeError(f"a piece of a body is bytes, not {show_value(piece)}")
    return bytes(cast("bytearray", piece))
