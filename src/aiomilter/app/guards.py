"""What an edit must not hold: the guards of everything that an author puts into a message.

What could become another header, another line of the envelope or the end of a string on the wire
is refused here. Neither libmilter nor an MTA looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiomilter.app.text import encode_line, encode_text
from aiomilter.spec import MAX_HEADER_INDEX

__all__ = [
    "check_header_index",
    "encode_address",
    "encode_header_name",
    "encode_header_value",
    "encode_params",
    "encode_reason",
]

_HEADER_NAME = re.compile(rb"[!-9;-~]+")
_CRLF_BEFORE_BLANK = re.compile(rb"\r\n(?=[ \t])")
_BROKEN_LINE = re.compile(rb"\r|\n(?![ \t])")
_MAX_NAME_BYTES = 996
"""With its colon and a blank a name must fit into a line of 998 bytes (RFC 5322, 2.1.1)."""


def encode_header_name(name: str) -> bytes:
    """Return the name of a header as bytes.

    Raises:
        ValueError: It is none: printable ASCII without colon and blank, 1 to 996 bytes.
    """
    data = encode_text(name, "the name of a header")
    if len(data) > _MAX_NAME_BYTES:
        raise ValueError(
            f"the name of a header has at most {_MAX_NAME_BYTES} bytes, not {len(data)}: "
            f"{ascii(name)[:80]}"
        )
    if not _HEADER_NAME.fullmatch(data):
        raise ValueError(
            f"the name of a header is printable ASCII without colon and blank, and not empty: "
            f"{ascii(name)[:80]}"
        )
    return data


def encode_header_value(value: str) -> bytes:
    """Return the value of a header as bytes, folded lines parted by LF alone.

    Raises:
        ValueError: It has a NUL, or a line break without a blank or tab behind it.
    """
    data = _CRLF_BEFORE_BLANK.sub(b"\n", encode_text(value, "the value of a header"))
    if b"\0" in data:
        raise ValueError(f"the value of a header has no NUL: {ascii(value)[:80]}")
    if _BROKEN_LINE.search(data):
        raise ValueError(
            f"a line of a header's value ends in LF or CRLF with a blank or tab behind it, "
            f"else it would begin another header: {ascii(value)[:80]}"
        )
    return data


def encode_address(address: str) -> bytes:
    """Return an envelope address as bytes.

    Raises:
        ValueError: It is empty, or has a CR, LF or NUL.
    """
    return _one_line(address, "an envelope address")


def encode_params(params: str | Sequence[str] | None) -> bytes | None:
    """Return ESMTP parameters as bytes, or None for None.

    Raises:
        ValueError: They have a CR, LF or NUL.
    """
    if params is None:
        return None
    text = params if isinstance(params, str) else " ".join(params)
    return _one_line(text, "a list of ESMTP parameters") if text else b""


def encode_reason(reason: str) -> bytes:
    """Return the reason of a quarantine as bytes.

    Raises:
        ValueError: It is empty, or has a CR, LF or NUL.
    """
    return _one_line(reason, "the reason of a quarantine")


def _one_line(text: str, what: str) -> bytes:
    data = encode_line(text, what)
    if not data:
        raise ValueError(f"{what} is not empty")
    return data


def check_header_index(index: int) -> None:
    """Refuse what is no index of a header.

    Raises:
        ValueError: It is negative or too large.
        TypeError: It is no number.
    """
    if not isinstance(index, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the index of a header is an integer, not {index!r}")
    if not 0 <= index <= MAX_HEADER_INDEX:
        raise ValueError(f"the index of a header is from 0 to {MAX_HEADER_INDEX}, not {index}")
