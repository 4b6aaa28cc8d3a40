"""Between the bytes of the wire and the text of a handler.

Text is UTF-8 with ``surrogateescape``: decoding never fails, a byte that is not UTF-8 becomes a
lone surrogate, and encoding gives back the same bytes. Addresses and headers with SMTPUTF8 are
readable, and anything else survives the round trip.
"""

from __future__ import annotations

import re

from aiomilter.errors import escape

__all__ = [
    "decode_text",
    "describe_error",
    "encode_line",
    "encode_text",
    "printable",
    "shorten",
    "show_value",
]

_MOST_BYTES_SHOWN = 200
_LINE_BREAK_OR_NUL = re.compile(rb"[\r\n\0]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF


def decode_text(data: bytes) -> str:
    """Return the text of ``data``; any bytes are legal."""
    return data.decode("utf-8", "surrogateescape")


def encode_text(text: str, what: str) -> bytes:
    """Return the bytes of ``text``.

    Args:
        text: As `decode_text` gives it, or any other text.
        what: What it is, for the error.

    Raises:
        ValueError: It holds a surrogate that stands for no byte.
        TypeError: It is no text.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{what} is text, not {show_value(text)}")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{what} is no text that can be sent: {ascii(text)[:80]}") from None


def encode_line(text: str, what: str) -> bytes:
    """Return the bytes of ``text``, which goes where a line break or NUL would end it.

    Args:
        text: As `decode_text` gives it, or any other text.
        what: What it is, for the error.

    Raises:
        ValueError: It has a CR, LF or NUL, or a surrogate that stands for no byte.
        TypeError: It is no text.
    """
    data = encode_text(text, what)
    if _LINE_BREAK_OR_NUL.search(data):
        raise ValueError(f"{what} has no CR, LF or NUL: {ascii(text)[:80]}")
    return data


def printable(text: str | bytes) -> str:
    r"""Return text with its control characters, and bytes that are no UTF-8, as ``\x1b``."""
    if isinstance(text, bytes):
        text = decode_text(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if _FIRST_BYTE <= ord(char) <= _LAST_BYTE:
        # What "surrogateescape" makes of a byte.
        return f"\\x{ord(char) & 0xFF:02x}"
    return char.encode("unicode_escape").decode("ascii")


def shorten(data: bytes) -> str:
    """Return bytes as they are written in Python; of many the beginning."""
    if len(data) <= _MOST_BYTES_SHOWN:
        return repr(data)
    return f"{data[:_MOST_BYTES_SHOWN]!r}... ({len(data):,} bytes)"


def show_value(value: object) -> str:
    """Return a value of the author's in one line; its ``__repr__`` may do anything."""
    try:
        return _one_line(repr(value), 80)
    except BaseException:  # noqa: BLE001  (whatever the author's code raises)
        return f"an object of the class {type(value).__name__}"


def describe_error(error: BaseException) -> str:
    """Return an exception in one line; its text may be anything, even raise."""
    name = type(error).__name__
    try:
        text = _one_line(str(error), 200)
    except BaseException:  # noqa: BLE001  (the exception is the author's, and so is its __str__)
        return f"{name}: (its text cannot be shown)"
    return f"{name}: {text}" if text else name


def _one_line(text: str, limit: int) -> str:
    """Return text without quotes of its own, shortened, control characters visible."""
    shown = escape(text[:limit])[1:-1]
    return shown if len(text) <= limit else f"{shown}..."
