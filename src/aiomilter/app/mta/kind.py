"""Which MTA it is: the two that milters are written for differ in what they make of an edit."""

from __future__ import annotations

import enum

__all__ = ["Mta"]


class Mta(enum.Enum):
    """A kind of MTA."""

    POSTFIX = "postfix"
    SENDMAIL = "sendmail"
