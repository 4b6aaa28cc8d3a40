"""Encoded words (RFC 2047) as people read them.

Rules of this file:

- Nothing raises, and time is linear in the length: the text is a stranger's.
- Between two encoded words blanks go away, as they must; two of the same charset are put together
  before they are decoded, since many programs cut characters in two.
- Control characters that come out of it are shown as U+FFFD, and so are bytes without a meaning:
  what is read here and written into another header cannot break it.
- What is no encoded word, or of an unknown charset, stays as it is.
"""

from __future__ import annotations

import binascii
import re

from aiomilter.app.message.charsets import decode_charset

__all__ = ["decode_words", "without_controls"]

# No part may hold a "?" or a blank, so the search never tries a character twice.
_WORD = re.compile(r"=\?([!->@-~]{1,75})\?([bBqQ])\?([!->@-~ ]*?)\?=")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")


def decode_words(text: str) -> str:
    """Return text with its encoded words decoded.

    Args:
        text: The value of a header, unfolded; any text at all.
    """
    if "=?" not in text:
        return without_controls(text)
    shown: list[str] = []
    run = _Run()
    end = 0
    for found in _WORD.finditer(text):
        between = text[end : found.start()]
        if between.strip(" \t") or not run:
            shown += (run.end(), between)
        charset, encoding, content = found.groups()
        data = _decode_b(content) if encoding in "bB" else _decode_q(content)
        shown.append(run.add(charset, data, found.group()))
        end = found.end()
    shown += (run.end(), text[end:])
    return without_controls("".join(shown))


def without_controls(text: str) -> str:
    """Return text with U+FFFD in place of control characters, a tab excepted."""
    return text if text.isprintable() else _CONTROL.sub("\ufffd", text)


class _Run:
    """Encoded words of one charset that stand side by side."""

    __slots__ = ("_charset", "_data", "_sources")

    def __init__(self) -> None:
        self._charset: str | None = None
        self._data: list[bytes] = []
        self._sources: list[str] = []

    def __bool__(self) -> bool:
        return self._charset is not None

    def add(self, charset: str, data: bytes, source: str) -> str:
        """Take a word; return the text of those before it if they are of another charset."""
        charset = charset.partition("*")[0].lower()
        before = "" if charset == self._charset else self.end()
        self._charset = charset
        self._data.append(data)
        self._sources.append(source)
        return before

    def end(self) -> str:
        """Return the text of all words, and begin anew."""
        if self._charset is None:
            return ""
        text = decode_charset(b"".join(self._data), self._charset)
        if text is None:
            text = " ".join(self._sources)
        self._charset = None
        self._data, self._sources = [], []
        return text


def _decode_b(content: str) -> bytes:
    # Whatever is missing or too much at the end, the rest is readable.
    data = _NOT_BASE64.sub(b"", content.encode("ascii"))
    if len(data) % 4 == 1:
        data = data[:-1]
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))


def _decode_q(content: str) -> bytes:
    data = content.replace("_", " ").encode("ascii")
    return _HEX.sub(lambda found: bytes.fromhex(found[1].decode("ascii")), data)
