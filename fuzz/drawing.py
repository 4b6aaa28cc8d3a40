"""Values drawn from the bytes of an input, one field after the other.

Rules of this file:

- Fields are separated by one byte: so an input stays what it was when the engine inserts or
  removes bytes in the middle of a field, and a person can write one by hand.
- There is always another field: an input that has come to its end yields empty ones.
"""

from __future__ import annotations

from fuzz.packets import SEPARATOR

# Enough to pass every limit of the protocol (65 535 bytes) by a few repetitions.
MAX_REPEATED_CHARACTERS = 70_000


class Draw:
    """The fields of one input."""

    def __init__(self, data: bytes) -> None:
        self._fields = data.split(SEPARATOR)
        self._next = 0

    @property
    def is_empty(self) -> bool:
        """Whether no field is left."""
        return self._next >= len(self._fields)

    def field(self) -> bytes:
        """Return the next field."""
        if self.is_empty:
            return b""
        self._next += 1
        return self._fields[self._next - 1]

    def text(self) -> str:
        """Return the next field as text; it may hold any character, lone surrogates included.

        The first byte says how: ``w`` for UTF-16, ``r`` for a repetition (of 256 times the byte
        after it), anything else for UTF-8 in which bytes that are none become surrogates.
        """
        field = self.field()
        kind, rest = field[:1], field[1:]
        if kind == b"w":
            return rest[: len(rest) & ~1].decode("utf-16-le", "surrogatepass")
        if kind == b"r" and len(rest) > 1:
            text = rest[1:].decode("utf-8", "surrogateescape")
            return (text * (256 * rest[0]))[: MAX_REPEATED_CHARACTERS + rest[0]]
        return rest.decode("utf-8", "surrogateescape")

    def texts(self) -> list[str]:
        """Return a field's number of texts."""
        return [self.text() for _ in range(self.number() % 40)]

    def number(self) -> int:
        """Return the next field as a number: decimal where it is one, else its bytes as such."""
        field = self.field()
        try:
            return int(field[:12])
        except ValueError:
            return int.from_bytes(field[:8], "big", signed=True)


def fields(*values: bytes | str | int) -> bytes:
    """Return an input of these fields, text as `Draw.text` reads it in UTF-8."""
    return SEPARATOR.join(_field(value) for value in values)


def _field(value: bytes | str | int) -> bytes:
    if isinstance(value, bytes):
        return value
    return b"u" + value.encode() if isinstance(value, str) else b"%d" % value
