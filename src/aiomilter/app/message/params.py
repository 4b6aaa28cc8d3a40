"""ESMTP parameters of MAIL and RCPT, read.

Rules of this file:

- Nothing raises: a parameter that is written wrongly counts as one that is not there. The text as
  it came is in the address's `params`.
- Of two parameters of a name the first one counts, as in Postfix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from aiomilter.app.mta.esmtp import keyword_of

__all__ = ["OriginalRecipient", "Params", "decode_xtext"]

_XTEXT_BYTE = re.compile(r"\+([0-9A-F]{2})")
_MAX_SIZE_DIGITS = 20
"""RFC 1870, section 3."""
_NOTIFY = frozenset({"NEVER", "SUCCESS", "FAILURE", "DELAY"})


class OriginalRecipient(NamedTuple):
    """The value of ORCPT: for whom the mail was in the first place.

    Attributes:
        type: The type of the address in lower case; mostly ``rfc822`` or ``utf-8``.
        address: The address, decoded.
    """

    type: str
    address: str


class Params:
    """The parameters of an address of the envelope, read when they are asked for."""

    def __init__(self, params: Iterable[str]) -> None:
        """Take them as in SMTP, such as ``SIZE=1000``."""
        self._values: dict[str, str] = {}
        for param in params:
            self._values.setdefault(keyword_of(param), param.partition("=")[2])

    def __contains__(self, keyword: object) -> bool:
        return isinstance(keyword, str) and keyword.upper() in self._values

    def get(self, keyword: str) -> str | None:
        """Return the value of a parameter as it came, empty if it has none; None without it."""
        return self._values.get(keyword.upper())

    @cached_property
    def size(self) -> int | None:
        """SIZE: how many bytes the client says that the message has (RFC 1870)."""
        text = self._values.get("SIZE", "")
        if len(text) > _MAX_SIZE_DIGITS or not (text.isascii() and text.isdigit()):
            return None
        return int(text)

    @cached_property
    def body(self) -> str | None:
        """BODY, in upper case: ``7BIT`` or ``8BITMIME`` (RFC 6152)."""
        return self._values.get("BODY", "").upper() or None

    @cached_property
    def smtputf8(self) -> bool:
        """SMTPUTF8: whether addresses and headers may have other letters (RFC 6531)."""
        return "SMTPUTF8" in self._values

    @cached_property
    def ret(self) -> str | None:
        """RET, in upper case: ``FULL`` or ``HDRS``, what a bounce returns (RFC 3461)."""
        text = self._values.get("RET", "").upper()
        return text if text in ("FULL", "HDRS") else None

    @cached_property
    def envid(self) -> str | None:
        """ENVID: the sender's id of the message, decoded (RFC 3461)."""
        return self._xtext("ENVID")

    @cached_property
    def auth(self) -> str | None:
        """AUTH: who has submitted the message, decoded; ``<>`` for unknown (RFC 4954)."""
        return self._xtext("AUTH")

    @cached_property
    def notify(self) -> frozenset[str]:
        """NOTIFY, in upper case: of what the sender is told (RFC 3461); empty without it."""
        words = frozenset(self._values.get("NOTIFY", "").upper().split(","))
        return (
            words if words <= _NOTIFY and ("NEVER" not in words or len(words) == 1) else frozenset()
        )

    @cached_property
    def orcpt(self) -> OriginalRecipient | None:
        """ORCPT: for whom the mail was in the first place, decoded (RFC 3461)."""
        kind, separator, text = self._values.get("ORCPT", "").partition(";")
        if not kind or not separator:
            return None
        return OriginalRecipient(kind.lower(), decode_xtext(text))

    def _xtext(self, keyword: str) -> str | None:
        text = self._values.get(keyword)
        return decode_xtext(text) if text else None


def decode_xtext(text: str) -> str:
    """Return text without the encoding of RFC 3461, section 4; what is none stays as it is."""
    if "+" not in text:
        return text
    data = text.encode("utf-8", "surrogateescape").decode("latin-1")
    decoded = _XTEXT_BYTE.sub(lambda found: chr(int(found[1], 16)), data)
    return decoded.encode("latin-1").decode("utf-8", "surrogateescape")
