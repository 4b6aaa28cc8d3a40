"""Which MTA it is: the two that milters are written for differ in what they make of an edit."""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["Mta", "detect_mta"]

_SENDMAIL_ONLY = ("{if_name}", "{if_addr}")


class Mta(enum.Enum):
    """A kind of MTA."""

    POSTFIX = "postfix"
    SENDMAIL = "sendmail"


def detect_mta(macros: Mapping[str, str]) -> Mta | None:
    """Return which MTA has sent some macros, or None if they do not tell.

    Postfix sends its name in ``v`` at CONNECT unless its configuration leaves it out
    (milter_connect_macros, milter_macro_v). Sendmail, asked for ``v``, sends its number, and by
    default ``{if_name}``, which Postfix does not have.

    Args:
        macros: What the MTA has told so far in this session.
    """
    version = macros.get("v", "")
    if version.startswith("Postfix"):
        return Mta.POSTFIX
    if version.startswith("8.") or any(name in macros for name in _SENDMAIL_ONLY):
        return Mta.SENDMAIL
    return None
