"""A message as the standard library's `email` sees it, within limits.

Rules of this file:

- What makes that parser slow is looked for first: size, lines, parts in parts. Limits are such that
  the worst that was found takes a second.
- The values of headers are parsed by `email` when they are asked for; some then take time that
  grows with the square of their length, and some raise. So very long ones are not parsed, and long
  ones only until there were many; these, and those that raise, are text.
- `email` takes a while to import: so does this module, and only who needs it imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import Any

from aiomilter.app.message.body import Body
from aiomilter.app.message.decoding import decode_words
from aiomilter.app.message.email_limits import EmailLimits
from aiomilter.app.message.header import Header
from aiomilter.app.message.mime import MimeLimits, iter_parts
from aiomilter.errors import MessageLimitExceeded

__all__ = ["copy_email"]


_MAX_PARSED_CHARS = 2_000
_LONG_CHARS = 200
_MAX_LONG_CHARS = 20_000
"""Of all long values of a message together; `email` parses them anew each time they are read."""
_PLAIN = {"content-type": "application/octet-stream", "content-disposition": "attachment"}


class _BoundedPolicy(EmailPolicy):
    """Parses headers that are short, and shows others as text."""

    # What is left for long values; a list, since policies do not change.
    left: list[int] = []  # noqa: RUF012  (each message has its own; email allows no other way)

    def header_fetch_parse(self, name: str, value: Any) -> Any:
        """Return the value of a header; never raises."""
        text = "".join(str(value).splitlines())
        if self._is_affordable(len(text)):
            try:
                return super().header_fetch_parse(name, value)
            except Exception:  # noqa: BLE001, S110  (email raises anything for odd headers)
                pass
        plain = _PLAIN.get(name.lower())
        if plain is not None:
            return self.header_factory(name, plain)
        return decode_words(text.strip())

    def _is_affordable(self, size: int) -> bool:
        if size <= _LONG_CHARS:
            return True
        if size > _MAX_PARSED_CHARS or self.left[0] < size:
            return False
        self.left[0] -= size
        return True


def copy_email(headers: Sequence[Header], body: Body, limits: EmailLimits) -> EmailMessage:
    """Return a message as `email` sees it.

    Raises:
        MessageLimitExceeded: It has more than the limits allow.
        SpoolError: The body cannot be read.
    """
    if len(headers) > limits.max_headers:
        raise MessageLimitExceeded(f"the message has more than {limits.max_headers} headers")
    head = b"".join(header.raw for header in headers) + b"\r\n"
    if len(head) + body.size > limits.max_bytes:
        raise MessageLimitExceeded(f"the message has more than {limits.max_bytes} bytes")
    data = body.read()
    if data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n") > limits.max_lines:
        raise MessageLimitExceeded(f"the body has more than {limits.max_lines} lines")
    mime = MimeLimits(max_parts=limits.max_parts, max_depth=limits.max_depth)
    for _ in iter_parts(headers, data, mime):
        pass
    # By name, since what is known of policies does not include attributes of one's own.
    settings: dict[str, Any] = {"utf8": True, "refold_source": "none", "left": [_MAX_LONG_CHARS]}
    policy = _BoundedPolicy(**settings)
    try:
        message = message_from_bytes(head + data, policy=policy)
    except RecursionError:
        # Not by what is known of it, but a parser that sees more than `iter_parts` might.
        raise MessageLimitExceeded("the parts of the message are too deep in each other") from None
    assert isinstance(message, EmailMessage)
    return message
