"""Charsets of mail, by the names that are used there, and no others.

Rules of this file:

- Python's own look-up is not asked for a name that came with a mail: it imports a module of that
  name, remembers each one that it does not find for ever, and knows codecs that are no charsets
  (``punycode`` takes time that grows with the square of what it is given).
"""

from __future__ import annotations

import re
from encodings.aliases import aliases

__all__ = ["decode_charset", "python_codec"]

_NO_CHARSETS = frozenset(
    {
        "base64_codec",
        "bz2_codec",
        "hex_codec",
        "mbcs",
        "quopri_codec",
        "rot_13",
        "uu_codec",
        "zlib_codec",
    }
)
_SEPARATORS = re.compile(r"[^a-z0-9]+")
_MAX_NAME_CHARS = 40
_CODECS = {
    # As the standard library, mail programs decode these as the larger sets that contain them.
    "us_ascii": "ascii",
    "utf_8": "utf_8",
    "utf8": "utf_8",
    **{name: codec for name, codec in aliases.items() if codec not in _NO_CHARSETS},
    **{codec: codec for codec in aliases.values() if codec not in _NO_CHARSETS},
}


def python_codec(charset: str) -> str | None:
    """Return Python's name of a charset, or None for one that is not known.

    Args:
        charset: As in a mail, in any case; RFC 2231 allows a language behind ``*``.
    """
    name = charset.partition("*")[0]
    if len(name) > _MAX_NAME_CHARS:
        return None
    return _CODECS.get(_SEPARATORS.sub("_", name.lower()).strip("_"))


def decode_charset(data: bytes, charset: str) -> str | None:
    """Return the text of ``data``, what is not of the charset as U+FFFD; None if it is unknown."""
    codec = python_codec(charset)
    if codec is None:
        return None
    try:
        return data.decode(codec, "replace")
    except (UnicodeError, LookupError):
        # Some multi-byte codecs raise in spite of "replace", and platforms may lack one.
        return None
