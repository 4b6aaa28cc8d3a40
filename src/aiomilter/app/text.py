"""Between the bytes of the wire and the text of a handler.

Text is UTF-8 with ``surrogateescape``: decoding never fails, a byte that is not UTF-8 becomes a
lone surrogate, and encoding gives back the same bytes. Addresses and headers with SMTPUTF8 are
readable, and anything else survives the round trip.
"""

from __future__ import annotations

__all__ = ["decode_text", "encode_text"]


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
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{what} is no text that can be sent: {ascii(text)[:80]}") from None
