"""The value of a header that an author writes, as it goes into the mail.

Rules of this file:

- ASCII stays as it is, and so does a word with bytes that are no UTF-8: they came with the mail,
  and nobody knows their charset.
- Other words become encoded words of RFC 2047 in UTF-8, of at most 75 characters, none of which
  cuts a character in two. Blanks between two of them go into the second one: a reader drops those
  outside.
- In headers of addresses only display names and comments are encoded; in headers whose words mean
  something (Content-Type, Message-Id, DKIM-Signature and so on) nothing is: RFC 2047 does not allow
  it there, and UTF-8 stays (RFC 6532).
- Lines are folded in front of blanks, from 78 characters on, where the line has something else in
  it already; the first word always stays behind the name. The author's own folds stay.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from aiomilter.app.guards import encode_header_value

__all__ = ["encode_value"]

_MAX_LINE = 78
"""RFC 5322, 2.1.1: "should be no more than 78 characters"."""
_MAX_WORD = 75
"""RFC 2047, section 2."""
_SHORTEST_WORD = 40
"""Behind a very long name the line gets longer rather."""
_WRAP = len("=?utf-8?q?") + len("?=")

_ADDRESSES = frozenset(
    {
        *(f"{prefix}{name}" for prefix in ("", "resent-") for name in ("from", "to", "cc", "bcc")),
        "reply-to",
        "sender",
        "resent-sender",
        "disposition-notification-to",
    }
)
_STRUCTURED = re.compile(
    r"(content-(?!description)|arc-|authentication-|list-|dkim-|dmarc-|tls-|mime-|received|"
    r"message-id|in-reply-to|references|date|return-path|resent-date|resent-message-id).*"
)
_TOKEN = re.compile(r"[ \t\n]+|[^ \t\n]+")
# A quoted string; an address in brackets; a comment's or list's sign; a blank; a word.
# Possessive, and an open quote takes all the rest: linear whatever the author copies into it.
_ADDRESS_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.?)*+(?:"|\Z)|<[^<>]*>|[(),:;]|[ \t\n]+|[^ \t\n"<>(),:;]+|.', re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_Q_SAFE = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!*+-/")
"""What may stand for itself in an encoded word wherever that is (RFC 2047, section 5)."""
_Q = [chr(byte) if byte in _Q_SAFE else f"={byte:02X}" for byte in range(256)]
_Q[0x20] = "_"


def encode_value(name: str, value: str) -> bytes:
    """Return what stands behind the colon: with a blank in front, lines parted by LF.

    Args:
        name: The name of the header, which says what may be encoded.
        value: Any text; an LF (or CRLF) with a blank behind it is a fold.

    Raises:
        ValueError: It has a NUL, or a CR or LF that is no fold.
    """
    text = encode_header_value(value).decode("utf-8", "surrogateescape").rstrip(" \t\n")
    lowered = name.lower()
    # The first one has to fit behind the name.
    max_word = max(_SHORTEST_WORD, min(_MAX_WORD, _MAX_LINE - len(name) - len(": ")))
    if text.isascii() or _STRUCTURED.fullmatch(lowered):
        tokens = _TOKEN.findall(text)
    elif lowered in _ADDRESSES:
        tokens = _without_quotes(_ADDRESS_TOKEN.findall(text))
        tokens = _encode_words(tokens, _is_foreign_phrase, max_word)
    else:
        tokens = _encode_words(_TOKEN.findall(text), _is_foreign, max_word)
    if not tokens or not tokens[0][0].isspace():
        tokens.insert(0, " ")
    return _fold(len(name) + 1, tokens).encode("utf-8", "surrogateescape")


def _fold(column: int, tokens: list[str]) -> str:
    """Return tokens as one text, with line breaks in front of blanks where they are needed."""
    lines: list[str] = []
    has_word = False
    blank = ""
    for token in tokens:
        if token[0] in " \t\n":
            blank = token
            continue
        # Of several folds in a row the last one is kept: a line of blanks alone is obsolete, and
        # some programs take it for the end of the header.
        is_fold = "\n" in blank
        blank = blank.rpartition("\n")[2] if is_fold else blank
        if has_word and blank and (is_fold or column + len(blank) + _width(token) > _MAX_LINE):
            lines.append("\n")
            column = 0
        lines += (blank, token)
        column += len(blank) + _width(token)
        has_word = True
        blank = ""
    return "".join(lines) if has_word else " "


def _width(token: str) -> int:
    return len(token) if token.isascii() else len(token.encode("utf-8", "surrogateescape"))


def _is_foreign(token: str) -> bool:
    """Whether a word needs to be encoded, and can be."""
    return not token.isascii() and not any("\ud800" <= char <= "\udfff" for char in token)


def _encode_words(tokens: list[str], is_foreign: Callable[[str], bool], max_word: int) -> list[str]:
    """Return tokens with encoded words in place of those that need it."""
    encoded: list[str] = []
    blank = ""
    was_encoded = False
    for token in tokens:
        if token[0] in " \t\n":
            blank = token
            continue
        encoded += filter(None, (blank,))
        if is_foreign(token):
            # A fold of several blanks counts as they would without it.
            inner = " " * len(blank.rpartition("\n")[2]) if was_encoded else ""
            encoded += _encode(inner + token, max_word)
            was_encoded = True
        else:
            encoded.append(token)
            was_encoded = False
        blank = ""
    return encoded


def _is_foreign_phrase(token: str) -> bool:
    return token[0] not in '<"' and "@" not in token and _is_foreign(token)


def _without_quotes(tokens: list[str]) -> list[str]:
    """Take the quotes off display names that must be encoded, and part those from the address.

    A quoted string with an "@" behind it is part of an address.
    """
    plain: list[str] = []
    for at, token in enumerate(tokens):
        behind = tokens[at + 1][0] if at + 1 < len(tokens) else ""
        if token[0] == '"' and behind in (" ", "\t", "\n", "<") and _is_foreign(token):
            name = _ESCAPED.sub(r"\1", token[1:].removesuffix('"'))
            plain += _TOKEN.findall(name)
            if behind == "<":
                plain.append(" ")
        else:
            plain.append(token)
    return plain


def _encode(text: str, max_word: int) -> list[str]:
    """Return encoded words with a blank between each two."""
    data = text.encode("utf-8")
    # The one that is shorter, but rather Q where parts of it can be read.
    use_q = sum(len(_Q[byte]) for byte in data) <= (len(data) + 2) // 3 * 8
    words: list[str] = []
    for piece in _pieces(text, max_word - _WRAP, use_q=use_q):
        if words:
            words.append(" ")
        if use_q:
            words.append("=?utf-8?q?" + "".join(_Q[byte] for byte in piece) + "?=")
        else:
            words.append("=?utf-8?b?" + base64.b64encode(piece).decode("ascii") + "?=")
    return words


def _pieces(text: str, room: int, *, use_q: bool) -> list[bytes]:
    """Cut text between characters, so that each piece fits into an encoded word."""
    room = room if use_q else room // 4 * 3
    pieces: list[bytes] = []
    piece = bytearray()
    used = 0
    for char in text:
        data = char.encode("utf-8")
        size = sum(len(_Q[byte]) for byte in data) if use_q else len(data)
        if used + size > room:
            pieces.append(bytes(piece))
            piece, used = bytearray(), 0
        piece += data
        used += size
    pieces.append(bytes(piece))
    return pieces
