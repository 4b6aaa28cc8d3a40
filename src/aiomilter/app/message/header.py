"""One header of a message, without loss."""

from __future__ import annotations

import re
from typing import Final

from aiomilter.app.guards import encode_header_name
from aiomilter.app.message.decoding import decode_words
from aiomilter.app.message.encoding import encode_value
from aiomilter.app.text import decode_text, shorten

__all__ = ["Header"]

_FOLD = re.compile(r"\r?\n(?=[ \t]|\Z)")


class Header:
    """A header: its name, and its value as it stands in the mail and as people read it.

    It does not change; `Headers.replace` puts another one in its place. One that was taken out may
    be put in again (`Headers.add` and the others take it instead of a name), also into another
    message, and stays the same to the last byte.

    Two of them are equal if they are the same bytes, the case of the name included.
    """

    __slots__ = ("_name", "_raw_value", "place")

    place: int
    """For `Headers` alone: where it is there; -1 for nowhere."""

    def __init__(self, raw_name: bytes, raw_value: bytes) -> None:
        """Take the bytes as the MTA sends them; to make one from text there is `made`.

        Args:
            raw_name: The name.
            raw_value: What stands behind the colon, the blank included; folded lines parted by LF.
        """
        self._name: Final = raw_name
        self._raw_value: Final = raw_value
        self.place = -1

    @classmethod
    def made(cls, name: str, value: str) -> Header:
        r"""Make a header from text.

        Args:
            name: Printable ASCII characters without colon and blank; not empty.
            value: Any text. It is encoded (RFC 2047) and folded as needed; folds that it has, LF
                with a blank or tab behind it, stay.

        Raises:
            ValueError: The name or the value is none that a header can have: a line break in the
                value that would begin another header, or a NUL.
        """
        return cls(encode_header_name(name), encode_value(name, value))

    @property
    def name(self) -> str:
        """The name as it is spelled."""
        return decode_text(self._name)

    @property
    def key(self) -> bytes:
        """The name by which it is found, whatever its case."""
        return self._name.lower()

    @property
    def raw_name(self) -> bytes:
        """The bytes of the name."""
        return self._name

    @property
    def raw_value(self) -> bytes:
        """The bytes behind the colon, the blank included; folded lines are parted by LF alone."""
        return self._raw_value

    @property
    def raw(self) -> bytes:
        """The bytes of the whole header as in SMTP: folds are CRLF, and so is its end."""
        value = self._raw_value
        if b"\n" in value:
            value = value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return b"%b:%b\r\n" % (self._name, value)

    @property
    def value(self) -> str:
        """The value without folds, and without the blanks at both ends.

        UTF-8 with ``surrogateescape``: bytes that are no UTF-8 are lone surrogates, and go back to
        the same bytes. Encoded words stay encoded; a CR or NUL that a client has smuggled in is
        still there.
        """
        text = decode_text(self._raw_value)
        if "\n" in text:
            text = _FOLD.sub("", text)
        return text.strip(" \t")

    @property
    def text(self) -> str:
        """The value as people read it: encoded words (RFC 2047) decoded.

        U+FFFD stands for bytes that mean nothing, and for control characters, also those that come
        out of encoded words: it can be put into a header again, and shown anywhere.
        """
        return decode_words(self.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Header):
            return NotImplemented
        return self._name == other._name and self._raw_value == other._raw_value

    def __hash__(self) -> int:
        return hash((self._name, self._raw_value))

    def __repr__(self) -> str:
        return f"Header({shorten(self._name)}, {shorten(self._raw_value)})"
