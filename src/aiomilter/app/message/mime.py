"""Where the parts of a MIME message are, found within limits.

Rules of this file:

- The content is a stranger's: every loop is bounded, and time is linear in what is looked at.
- Parts are found as the standard says, and no better: a reader that is more forgiving may see
  others. So what is found is good for an edit that does no harm if it is missed, and for limits,
  but not for deciding whether something harmful is in there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from aiomilter.app.message.header import Header
from aiomilter.errors import MessageLimitExceeded

__all__ = ["MimeLimits", "Part", "content_type_of", "iter_parts"]

_DELIMITER = re.compile(rb"(?:\A|\n)--([^\r\n]*)")
_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)")
_PARAM = re.compile(r';[ \t]*([^ \t=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*+)"?|([^; \t]*))')
_QUOTED_PAIR = re.compile(r"\\(.)")
_TYPE = re.compile(r"[!#-'*+\-.0-9A-Z^-~]+/[!#-'*+\-.0-9A-Z^-~]+(?=[ \t;(]|\Z)")
_MAX_TYPE_CHARS = 4_096
_MAX_PARAMS = 64


@dataclass(frozen=True, slots=True)
class MimeLimits:
    """What is looked at, at most.

    Attributes:
        max_parts: Parts, at all depths.
        max_depth: Multiparts within each other.
        max_delimiters: Lines that begin with two hyphens.
        max_header_bytes: The headers of one part.
    """

    max_parts: int = 1_000
    max_depth: int = 20
    max_delimiters: int = 50_000
    max_header_bytes: int = 65_536


@dataclass(slots=True)
class Part:
    """A part of a message, or the message itself.

    Attributes:
        headers: Its headers; folded lines are parted by CRLF, as in the body.
        start: Where its headers begin in the body.
        content: Where its content begins; behind the empty line.
        end: Where its content ends; the line end in front of the delimiter is not part of it.
            None if that is beyond what was looked at.
        depth: In how many multiparts it is.
        is_sealed: Whether a multipart that it is in is signed or encrypted.
        content_type: In lower case; the default of its surroundings if it says none. Empty if it
            is none, if there are several, or if no empty line follows the headers.
        params: Of the Content-Type; names in lower case.
    """

    headers: list[Header]
    start: int = 0
    content: int = 0
    end: int | None = None
    depth: int = 0
    is_sealed: bool = False
    content_type: str = ""
    params: dict[str, str] = field(default_factory=dict)

    def get(self, name: bytes) -> str | None:
        """Return the only header of a name; None for none, empty for several."""
        found = [header.value for header in self.headers if header.key == name]
        return None if not found else found[0] if len(found) == 1 else ""


@dataclass(frozen=True, slots=True)
class _Level:
    boundary: bytes
    is_sealed: bool
    default_type: str


def content_type_of(value: str) -> tuple[str, dict[str, str]]:
    """Return type and parameters of a Content-Type; an empty type if it is none.

    Args:
        value: The value of the header, of any length; only its beginning counts.
    """
    value = value[:_MAX_TYPE_CHARS]
    found = _TYPE.match(value)
    if found is None:
        return "", {}
    params: dict[str, str] = {}
    for match in _PARAM.finditer(value, found.end()):
        name, quoted, plain = match.groups()
        text = plain if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        params.setdefault(name.lower(), text)
        if len(params) >= _MAX_PARAMS:
            break
    return found.group().lower(), params


def iter_parts(headers: Iterable[Header], body: bytes, limits: MimeLimits) -> Iterator[Part]:
    """Yield the message and all of its parts, each when its end is known.

    Args:
        headers: Those of the message.
        body: Its body, or the beginning of it.
        limits: What is looked at.

    Raises:
        MessageLimitExceeded: There is more.
    """
    message = Part(list(headers), end=len(body))
    _read_type(message, "text/plain")
    yield message
    levels: list[_Level] = []
    _descend(message, levels, limits)
    part: Part | None = None
    parts = 0
    for number, found in enumerate(_DELIMITER.finditer(body)):
        if not levels:
            break
        if number >= limits.max_delimiters:
            raise MessageLimitExceeded(f"more than {limits.max_delimiters} lines begin with --")
        depth, is_last = _level_of(found[1].rstrip(b" \t"), levels)
        if not depth or (part is not None and found.start(1) < part.content):
            continue
        if part is not None:
            part.end = max(part.content, _line_end_before(body, found.start(1) - len("--")))
            yield part
            part = None
        del levels[depth:]
        if is_last:
            levels.pop()
            continue
        parts += 1
        if parts > limits.max_parts:
            raise MessageLimitExceeded(f"the message has more than {limits.max_parts} parts")
        part = _begin(body, body.find(b"\n", found.end()) + 1 or len(body), levels, limits)
        _descend(part, levels, limits)
    if part is not None:
        yield part


def _begin(body: bytes, start: int, levels: list[_Level], limits: MimeLimits) -> Part:
    """Read the headers of a part."""
    level = levels[-1]
    end = start + limits.max_header_bytes
    headers: list[Header] = []
    at = start
    while found := _HEADER.match(body, at, end):
        value = found[2].removesuffix(b"\r")
        headers.append(Header(found[1], value.replace(b"\r\n", b"\n")))
        at = found.end()
    if at >= end:
        raise MessageLimitExceeded(
            f"the headers of a part have more than {limits.max_header_bytes} bytes"
        )
    for empty in (b"\r\n", b"\n"):
        if body.startswith(empty, at):
            part = Part(headers, start, at + len(empty), None, len(levels), level.is_sealed)
            _read_type(part, level.default_type)
            return part
    # Without the empty line there is no content, or what follows is no header: readers differ.
    return Part(headers, start, at, None, len(levels), level.is_sealed)


def _read_type(part: Part, default: str) -> None:
    value = part.get(b"content-type")
    if value is None:
        part.content_type = default
    else:
        part.content_type, part.params = content_type_of(value)


def _descend(part: Part, levels: list[_Level], limits: MimeLimits) -> None:
    """Note the delimiters of a multipart."""
    kind, _, subtype = part.content_type.partition("/")
    boundary = part.params.get("boundary", "").encode("utf-8", "surrogateescape")
    if kind != "multipart" or not boundary:
        return
    if len(levels) >= limits.max_depth:
        raise MessageLimitExceeded(f"more than {limits.max_depth} multiparts in each other")
    is_sealed = part.is_sealed or subtype in ("signed", "encrypted")
    default = "message/rfc822" if subtype == "digest" else "text/plain"
    levels.append(_Level(boundary.rstrip(b" \t"), is_sealed, default))


def _level_of(line: bytes, levels: list[_Level]) -> tuple[int, bool]:
    """Return how deep a multipart is that a line delimits (0: none), and if that is its end."""
    for at in range(len(levels) - 1, -1, -1):
        boundary = levels[at].boundary
        if line == boundary:
            return at + 1, False
        if line == boundary + b"--":
            return at + 1, True
    return 0, False


def _line_end_before(body: bytes, at: int) -> int:
    if body[at - 1 : at] == b"\n":
        at -= 1
        if body[at - 1 : at] == b"\r":
            at -= 1
    return at
