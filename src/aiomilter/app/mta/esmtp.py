"""Addresses and ESMTP parameters in the form that a milter gives them.

Rules of this file:

- Both MTAs take an address with or without its brackets, and with a name in front of them (but
  Sendmail not for a recipient with parameters; that is left out here).
- The words of a parameter are taken in any case; both MTAs write them in upper case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["address_of", "is_recipient_param", "keyword_of", "param_of"]

_IN_BRACKETS = re.compile(r"<[^<>]*>")
_LINE_BREAKS = re.compile(r"[\r\n\0]+")
_RECIPIENT_PARAM = re.compile(
    r"NOTIFY=(NEVER|(SUCCESS|FAILURE|DELAY)(,(SUCCESS|FAILURE|DELAY))*)|ORCPT=[^;]+;.*",
    re.IGNORECASE,
)
"""RFC 3461, sections 4.1 and 4.2."""


def address_of(text: str) -> str:
    """Return an address in brackets; ``<>`` if there is none."""
    line = _LINE_BREAKS.sub(" ", text)
    found = _IN_BRACKETS.search(line)
    return found.group() if found else f"<{line.strip()}>"


def keyword_of(param: str) -> str:
    """Return the name of a parameter, in upper case."""
    return param.partition("=")[0].upper()


def param_of(params: Iterable[str], keyword: str) -> str:
    """Return the value of the first parameter of a name; empty if there is none."""
    return next((text.partition("=")[2] for text in params if keyword_of(text) == keyword), "")


def is_recipient_param(param: str) -> bool:
    """Whether it is a parameter of RCPT that both MTAs know, and rightly written."""
    return _RECIPIENT_PARAM.fullmatch(param) is not None
