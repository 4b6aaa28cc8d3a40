"""A footer behind the first text that people read, in that part's charset and encoding."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiomilter.app.message.body import Body
from aiomilter.app.message.charsets import python_codec
from aiomilter.app.message.header import Header
from aiomilter.app.message.mime import MimeLimits, Part, iter_parts
from aiomilter.errors import MessageLimitExceeded

__all__ = ["FooterEdit", "footer_edit"]

_WINDOW_BYTES = 1 << 20
_LIMITS = MimeLimits()
_IDENTITY = frozenset({"7bit", "8bit", "binary"})
_PGP = re.compile(rb"^-----BEGIN PGP ", re.MULTILINE)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_CHARSET = re.compile(r'(;[ \t]*charset[ \t]*=[ \t]*)("[^"]*"?|[^; \t]*)', re.IGNORECASE)
# Bytes of ASCII mean other things there.
_NO_ASCII = re.compile(r"utf_?(7|16|32)|hz|ebcdic|cp(037|273|424|500|875|1026|1140)")
_CONTENT_TYPE = b"content-type"
_ENCODING = b"content-transfer-encoding"


@dataclass(frozen=True, slots=True)
class FooterEdit:
    """What becomes of a body and of headers.

    Attributes:
        start: Where the bytes begin that are replaced.
        end: Where they end.
        new: What takes their place.
        headers: Headers of the message that get another value.
    """

    start: int
    end: int
    new: bytes
    headers: tuple[tuple[str, str], ...] = ()

    def pieces(self, body: Body) -> Iterator[bytes]:
        """Yield the new body."""
        yield body.slice(0, self.start)
        yield self.new
        for at in range(self.end, body.size, _WINDOW_BYTES):
            yield body.slice(at, at + _WINDOW_BYTES)


def footer_edit(headers: Sequence[Header], body: Body, footer: str) -> FooterEdit | None:
    """Return how a footer is appended, or None if there is no text that could have one.

    Args:
        headers: Those of the message.
        body: Its body.
        footer: Lines of text.

    Raises:
        SpoolError: The body cannot be read.
    """
    window = body.slice(0, _WINDOW_BYTES)
    try:
        part = _text_part(headers, window, is_whole=len(window) == body.size)
    except MessageLimitExceeded:
        return None
    if part is None or part.end is None:
        return None
    content = window[part.content : part.end]
    if _PGP.search(content):
        return None
    changed = _with_footer(part, content, footer)
    if changed is None:
        return None
    new, replaced = changed
    if not part.depth:
        return FooterEdit(0, len(window), new, replaced)
    if not window.startswith((b"\r", b"\n"), part.end) and part.end < len(window):
        # An empty part: the line end ahead of the delimiter is that of its headers.
        new += b"\r\n"
    head = _head(part, window, dict(replaced)) if replaced else window[part.start : part.content]
    return FooterEdit(part.start, part.end, head + new)


def _text_part(headers: Sequence[Header], window: bytes, *, is_whole: bool) -> Part | None:
    """Return the first text that people read."""
    for part in iter_parts(headers, window, _LIMITS):
        if part.content_type != "text/plain" or part.is_sealed:
            continue
        if part.depth or is_whole:
            disposition = part.get(b"content-disposition")
            if disposition is None or disposition.lower().startswith("inline"):
                # Behind the last delimiter a part could go on beyond the window.
                return part
    return None


def _with_footer(
    part: Part, content: bytes, footer: str
) -> tuple[bytes, tuple[tuple[str, str], ...]] | None:
    """Return content with a footer, and the headers that change; None if that cannot be."""
    encoding = (part.get(_ENCODING) or "7bit").strip().lower()
    charset = part.params.get("charset", "us-ascii")
    codec = python_codec(charset)
    if codec is None or _NO_ASCII.match(codec) or part.get(_ENCODING) == "":
        return None
    text = "\r\n".join(footer.rstrip("\r\n").splitlines())
    ending = b"" if part.depth else b"\r\n"
    try:
        added = text.encode(codec)
    except UnicodeError:
        return _as_utf8(part, content, encoding, codec, text, ending)
    if encoding == "base64":
        data = _decode_base64(content)
        if data is None:
            return None
        return _encode_base64(_joined(data, added) + ending) + ending, ()
    if encoding == "quoted-printable":
        # A soft line break at the end would take the footer into its line.
        soft = b"\r\n" if content.rstrip().endswith(b"=") else b""
        return _joined(content, soft + _encode_qp(added)) + ending, ()
    if encoding not in _IDENTITY:
        return None
    if added.isascii() or encoding != "7bit":
        return _joined(content, added) + ending, ()
    new = _encode_qp(_joined(content, added)) + ending
    return new, _mime(part, (("Content-Transfer-Encoding", "quoted-printable"),))


def _as_utf8(
    part: Part, content: bytes, encoding: str, codec: str, text: str, ending: bytes
) -> tuple[bytes, tuple[tuple[str, str], ...]] | None:
    """Return a part's content in UTF-8, since its charset lacks letters of the footer."""
    data = _decode(content, encoding)
    if data is None:
        return None
    try:
        new = _joined(data.decode(codec).encode("utf-8"), text.encode("utf-8"))
    except UnicodeError:
        return None
    value = part.get(_CONTENT_TYPE) or "text/plain"
    if _CHARSET.search(value):
        value = _CHARSET.sub(r"\1utf-8", value, count=1)
    else:
        value += "; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", value),)
    if encoding == "base64":
        return _encode_base64(new + ending) + ending, _mime(part, headers)
    if encoding in ("8bit", "binary"):
        return new + ending, _mime(part, headers)
    headers = (*headers, ("Content-Transfer-Encoding", "quoted-printable"))
    return _encode_qp(new) + ending, _mime(part, headers)


def _mime(part: Part, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return headers with MIME-Version, without which a message has none of them."""
    if part.depth or part.get(b"mime-version") is not None:
        return headers
    return ("MIME-Version", "1.0"), *headers


def _joined(content: bytes, added: bytes) -> bytes:
    separator = b"" if not content or content.endswith(b"\n") else b"\r\n"
    return content + separator + added


def _decode(content: bytes, encoding: str) -> bytes | None:
    if encoding == "base64":
        return _decode_base64(content)
    if encoding == "quoted-printable":
        return binascii.a2b_qp(content)
    return content if encoding in _IDENTITY else None


def _decode_base64(content: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(_NOT_BASE64.sub(b"", content.rstrip(b"=\r\n \t")) + b"==")
    except binascii.Error:
        return None


def _encode_base64(data: bytes) -> bytes:
    lines = (
        binascii.b2a_base64(data[at : at + 57], newline=False) for at in range(0, len(data), 57)
    )
    return b"\r\n".join(lines)


def _encode_qp(data: bytes) -> bytes:
    encoded = binascii.b2a_qp(data.replace(b"\r\n", b"\n"), istext=True)
    return encoded.replace(b"\n", b"\r\n")


def _head(part: Part, window: bytes, values: dict[str, str]) -> bytes:
    """Return the headers of a part with other values, and the empty line behind them."""
    left = {
        name.lower().encode("ascii"): Header.made(name, value) for name, value in values.items()
    }
    lines = [(left.pop(header.key, None) or header).raw for header in part.headers]
    lines += [header.raw for header in left.values()]
    return b"".join(lines) + b"\r\n"
