"""Fields inside a payload: strings that end in NUL, and 32-bit numbers.

Rules of this file:

- A string is the bytes before its NUL; an empty string is one NUL.
- What stands behind the last NUL of a list of strings is dropped without a word, as
  libmilter's ``dec_argv`` does.
- Text stays bytes: which characters they are is not known here.
"""

from __future__ import annotations

from struct import Struct

from aiomilter.errors import LocalProtocolError

__all__ = ["NUL", "U32", "c_string", "join_strings", "split_strings"]

NUL = b"\0"
"""What ends a string."""
U32 = Struct(">I")
"""A number of 32 bits, its highest byte first."""


def split_strings(payload: bytes) -> list[bytes]:
    """Return the NUL-terminated strings of ``payload`` in order, empty ones included.

    An unterminated rest is dropped; a payload without any NUL gives an empty list.
    """
    strings = payload.split(NUL)
    del strings[-1]
    return strings


def join_strings(*strings: bytes) -> bytes:
    """Return the strings, each with its NUL.

    Raises:
        LocalProtocolError: A string has a NUL inside, which would shift all that follow.
    """
    joined = NUL.join(strings) + NUL
    if joined.count(NUL) != len(strings):
        raise LocalProtocolError(f"a NUL byte inside a string: {joined!r}")
    return joined


def c_string(data: bytes) -> bytes:
    """Return ``data`` up to its first NUL, or all of it if it has none."""
    return data.partition(NUL)[0]
