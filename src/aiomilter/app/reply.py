"""SMTP replies of a milter's own wording.

Rules of this file:

- What libmilter's ``smfi_setreply`` and ``smfi_setmlreply`` refuse is refused here, when the
  reply is made: codes other than 4xx and 5xx, an enhanced code of the wrong form, CR and LF,
  lines above 980 bytes, more than 32 lines. So are a NUL and an enhanced code of another class
  than the code (libmilter lets both pass; MTAs and clients then disagree about what was said).
- Percent signs are doubled on the wire. Sendmail takes the text as a format, and with a single
  one it falls back to its own words; both MTAs make one of two.
"""

from __future__ import annotations

import re

from aiomilter.app.text import decode_text, encode_line
from aiomilter.errors import RemoteProtocolError
from aiomilter.spec import MAX_REPLY_LINE_BYTES, MAX_REPLY_LINES

__all__ = ["Reply"]

_CODE = re.compile(r"[45][0-9][0-9]")
_ENHANCED_CODE = re.compile(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}")
_LINE = re.compile(rb"([45][0-9]{2})(?:([ -])([^\r\n\0]*))?")
_ENHANCED_AHEAD = re.compile(rb"([45]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")
_PERCENT = re.compile(rb"%(%?)")


class Reply:
    """A refusal in the milter's own words: a handler's result beside `Status`.

    A code of 4xx refuses for now (as TEMPFAIL), one of 5xx for good (as REJECT). A code of 421
    also makes the MTA hang up on its client. The reply counts for the one event that returns it.

    Both MTAs read a text that begins with a digit as an enhanced code; give one of your own then.

    Attributes:
        code: From 400 to 599.
        enhanced_code: As of RFC 3463, for example ``5.7.1``, or None.
        lines: The text; may be empty.

    Example:
        ``Reply(550, "5.7.1", "no such user", "see https://example.org/help")``
    """

    __slots__ = ("_wire", "code", "enhanced_code", "lines")

    code: int
    enhanced_code: str | None
    lines: tuple[str, ...]
    _wire: bytes

    def __init__(self, code: int, enhanced_code: str | None = None, *lines: str) -> None:
        """Make a reply.

        Args:
            code: An integer from 400 to 599.
            enhanced_code: ``4.x.y`` for a code of 4xx, ``5.x.y`` for one of 5xx, or None: then
                none is sent with a single line, and ``4.0.0`` or ``5.0.0`` with several, as
                libmilter does.
            *lines: At most 32 lines of at most 980 bytes, without CR, LF and NUL; may be empty.

        Raises:
            ValueError: One of these does not hold. The text says which.
            TypeError: The code is no integer or a line is no text.
        """
        if type(code) is not int:
            raise TypeError(f"the code of a reply is an integer, not {code!r}")
        if not _CODE.fullmatch(str(code)):
            raise ValueError(f"the code of a reply is from 400 to 599, not {code}")
        if enhanced_code is not None:
            if not _ENHANCED_CODE.fullmatch(enhanced_code):
                raise ValueError(
                    f"an enhanced code is three numbers, the first 4 or 5, the others of one to "
                    f"three digits, as in 5.7.1; not {ascii(enhanced_code)[:80]}"
                )
            if int(enhanced_code[0]) != code // 100:
                raise ValueError(f"the enhanced code {enhanced_code} does not go with {code}")
        if len(lines) > MAX_REPLY_LINES:
            raise ValueError(f"a reply has at most {MAX_REPLY_LINES} lines, not {len(lines)}")
        encoded = [_encode_line(line) for line in lines]
        put = super().__setattr__
        put("code", code)
        put("enhanced_code", enhanced_code)
        put("lines", lines)
        put("_wire", _join_lines(code, enhanced_code, encoded))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Reply does not change: make another one to set {name}")

    @classmethod
    def from_wire(cls, text: bytes) -> Reply:
        """Return the reply that a milter has sent, as an MTA reads it.

        A doubled percent sign is one, a single one is dropped, as Postfix does.

        Raises:
            RemoteProtocolError: It is no SMTP reply that refuses: an MTA would be out of step with
                its client, or use words of its own.
        """
        found = [match for line in text.split(b"\r\n") if (match := _LINE.fullmatch(line))]
        ends = [match[2] for match in found]
        is_whole = len(found) == text.count(b"\r\n") + 1 and ends[-1] != b"-"
        if not is_whole or len({match[1] for match in found}) > 1 or set(ends[:-1]) - {b"-"}:
            raise RemoteProtocolError(
                "the text of a reply code is no SMTP reply of 4xx or 5xx", text
            )
        lines = [match[3] or b"" for match in found]
        enhanced = None
        ahead = [_ENHANCED_AHEAD.match(line) for line in lines]
        codes = {match and match[1] for match in ahead}
        code = codes.pop()
        if not codes and code is not None and code[:1] == text[:1]:
            enhanced = code.decode("ascii")
            lines = [line[match.end() :] for line, match in zip(lines, ahead, strict=True) if match]
        if lines == [b""]:
            lines = []
        # What a milter sends need not keep to the limits for what is sent to an MTA.
        reply = cls.__new__(cls)
        put = super(Reply, reply).__setattr__
        put("code", int(text[:3]))
        put("enhanced_code", enhanced)
        put("lines", tuple(decode_text(_PERCENT.sub(rb"\1", line)) for line in lines))
        put("_wire", _PERCENT.sub(rb"\1\1", text))
        return reply

    @property
    def is_permanent(self) -> bool:
        """Whether the client should not try again."""
        return self.code >= 500

    def encode(self) -> bytes:
        """Return the text as it goes to the MTA: lines joined by CRLF, percent signs doubled."""
        return self._wire

    @property
    def text(self) -> str:
        """What the client reads, lines parted by CRLF."""
        return self._wire.replace(b"%%", b"%").decode("utf-8", "replace")

    def __str__(self) -> str:
        """Return what the client reads, in one line."""
        return self.text.replace("\r\n", " / ").rstrip()

    def __repr__(self) -> str:
        arguments = (self.code, self.enhanced_code, *self.lines)
        return f"Reply({', '.join(map(repr, arguments))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reply) and self._wire == other._wire

    def __hash__(self) -> int:
        return hash(self._wire)


def _encode_line(line: str) -> bytes:
    if not isinstance(line, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a line of a reply is text, not {line!r}")
    data = encode_line(line, "a line of a reply")
    if len(data) > MAX_REPLY_LINE_BYTES:
        raise ValueError(
            f"a line of a reply has at most {MAX_REPLY_LINE_BYTES} bytes, not {len(data)}: "
            f"{ascii(line)[:80]}..."
        )
    return data.replace(b"%", b"%%")


def _join_lines(code: int, enhanced_code: str | None, lines: list[bytes]) -> bytes:
    """Lay out the text of the reply as libmilter does, blanks at the end included."""
    if len(lines) <= 1:
        parts = [] if enhanced_code is None else [enhanced_code.encode()]
        return b"%d " % code + b" ".join(parts + lines)
    prefix = (enhanced_code or f"{code // 100}.0.0").encode()
    separators = [b"-"] * (len(lines) - 1) + [b" "]
    return b"\r\n".join(
        b"%d%b%b %b" % (code, separator, prefix, line)
        for separator, line in zip(separators, lines, strict=True)
    )
