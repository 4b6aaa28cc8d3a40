"""Between the bytes of the wire and the text of a handler.

Text is UTF-8 with ``surrogateescape``: decoding never fails, a byte that is not UTF-8 becomes a
lone surrogate, and encoding gives back the same bytes. Addresses and headers with SMTPUTF8 are
readable, and anything else survives the round trip.
"""

from __future__ import annotations

from aiomilter.errors import escape

__all__ = ["decode_text", "describe_error", "encode_text", "shorten", "show_value"]

_MOST_BYTES_SHOWN = 200


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
