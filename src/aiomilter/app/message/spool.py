"""Bytes that are kept in memory up to a threshold, and in an unnamed temporary file beyond it.

Rules of this file:

- The file has no name from the beginning where the system can do that (O_TMPFILE on Linux), is for
  its owner alone (0600), is not inherited by children, and is gone when it is closed or the
  process ends, however that ends.
- A file is closed by whoever lets go of it last. A thread that was given up may be about to use
  its descriptor, and after a `close` that is the number of another file, or of a connection.
- Reading does not move a position: several readers do not disturb each other.
- Every call that touches the file may block, as calls of a disk do: `write` beyond the threshold,
  and all reads of what is in the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from aiomilter.errors import SpoolError

__all__ = ["CHUNK_BYTES", "Spool"]

CHUNK_BYTES = 65_536
"""How much is read at once unless otherwise said."""


class Spool:
    """Bytes that are written once, from beginning to end, and read as often as needed."""

    __slots__ = ("_chunks", "_directory", "_file", "_is_closed", "_size", "_threshold")

    def __init__(self, threshold: int, directory: str | Path | None) -> None:
        """Begin empty.

        Args:
            threshold: How many bytes are kept in memory at most.
            directory: Where the file is made; None for the system's folder of temporary files.
        """
        self._threshold = threshold
        self._directory = directory
        self._chunks: list[bytes] = []
        self._file: _File | None = None
        self._size = 0
        self._is_closed = False

    def __len__(self) -> int:
        return self._size

    @property
    def is_in_file(self) -> bool:
        """Whether the bytes are in a file."""
        return self._file is not None

    def goes_to_file(self, size: int) -> bool:
        """Whether the next write of so many bytes would touch the disk."""
        return self._file is not None or self._size + size > self._threshold

    def save_memory(self) -> None:
        """Use the file from the next `write` on, whatever the size."""
        self._threshold = 0

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            SpoolError: They cannot be kept; the spool is closed.
        """
        self._check_open()
        if not self.goes_to_file(len(data)):
            self._chunks.append(data)
            self._size += len(data)
            return
        try:
            file = self._file
            if file is None:
                file = _File.made(self._directory)
                chunks, self._chunks = self._chunks, []
                for chunk in chunks:
                    file.write_all(chunk)
                # Not if it was closed meanwhile: nobody would take it out again.
                self._file = None if self._is_closed else file
            file.write_all(data)
        except OSError as error:
            self.close()
            raise SpoolError(f"the body of a message cannot be kept: {error}") from error
        self._size += len(data)

    def read(self) -> bytes:
        """Return all bytes.

        Raises:
            SpoolError: They cannot be read; the spool is closed.
        """
        self._check_open()
        if self._file is not None:
            return b"".join(self.iter_chunks())
        if len(self._chunks) != 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0]

    def iter_chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield all bytes in pieces.

        Args:
            size: Of each piece but the last; at least 1.

        Raises:
            SpoolError: They cannot be read; the spool is closed.
        """
        if size < 1:
            raise ValueError(f"a piece has at least one byte, not {size}")
        for at in range(0, self._size, size):
            yield self.slice(at, min(at + size, self._size))

    def slice(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``; fewer where there are no more.

        Raises:
            SpoolError: They cannot be read; the spool is closed.
        """
        self._check_open()
        file = self._file
        if file is None:
            return self.read()[start:end]
        pieces: list[bytes] = []
        end = min(end, self._size)
        try:
            while start < end:
                piece = os.pread(file.descriptor, end - start, start)
                if not piece:
                    raise OSError(f"the temporary file ends at {start} of {end} bytes")
                pieces.append(piece)
                start += len(piece)
        except OSError as error:
            self.close()
            # The error may be kept for a while, and has hold of what there is here.
            del file
            raise SpoolError(f"the body of a message cannot be read: {error}") from error
        return b"".join(pieces)

    def close(self) -> None:
        """Forget the bytes, and close the file. Calling it again does nothing.

        A thread that is reading or writing just now ends that first, and closes the file.
        """
        self._is_closed = True
        self._chunks = []
        self._file = None

    def _check_open(self) -> None:
        if self._is_closed:
            raise SpoolError("the body of a message is closed: the message is over")


class _File:
    """A temporary file without a name, closed when nobody holds it any more.

    Attributes:
        descriptor: Its number, of use for as long as the object is held.
    """

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def made(cls, directory: str | Path | None) -> _File:
        """Make a file in a directory; None for the system's folder of temporary files."""
        import tempfile  # late: it imports much, and most bodies are small

        with tempfile.TemporaryFile(buffering=0, prefix="aiomilter-", dir=directory) as file:
            return cls(os.dup(file.fileno()))

    def write_all(self, data: bytes) -> None:
        """Add bytes at the end; if that fails, the file is closed."""
        view = memoryview(data)
        try:
            while view:
                # The kernel may take a part, and says why it takes no more the next time.
                view = view[os.write(self.descriptor, view) :]
        except OSError:
            # The error, which may be kept for a while, has hold of this object.
            self._close()
            raise

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            # An error of a late write: it is closed all the same, and nobody reads it any more.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self._close()
