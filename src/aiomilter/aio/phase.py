"""What a connection is about at a moment."""

from __future__ import annotations

import enum

__all__ = ["Phase"]


class Phase(enum.Enum):
    """What a connection is about; the deadline of its one timer is for that.

    Attributes:
        BETWEEN: It waits for the MTA's next packet, or the rest of one; or goes on at once.
        HANDLER: A handler runs.
        HOOK: A handler runs whose result is of no account.
        WRITE: It waits until the MTA has read its answers.
    """

    BETWEEN = enum.auto()
    HANDLER = enum.auto()
    HOOK = enum.auto()
    WRITE = enum.auto()
