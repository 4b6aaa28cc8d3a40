"""The results of a handler, by which a session chooses its reply and its next state."""

from __future__ import annotations

import enum

__all__ = ["Status"]


class Status(enum.Enum):
    """What a handler decides; the values are libmilter's (``SMFIS_*``)."""

    CONTINUE = 0
    """Go on with the next event."""
    REJECT = 1
    """Refuse for good: this recipient at `on_rcpt`, the session at connect and HELO, else the
    message."""
    DISCARD = 2
    """Accept the message towards the client and throw it away."""
    ACCEPT = 3
    """Let the message pass without asking further; at connect and HELO, the whole session."""
    TEMPFAIL = 4
    """Refuse for now; what is refused is the same as for REJECT."""
    NOREPLY = 7
    """Say nothing; only where the handler is declared with `no_reply`."""
    SKIP = 8
    """No more events of this kind in this message; the message goes on."""
    ALL_OPTS = 10
    """From `on_negotiate` only: take all actions that the MTA offers and the default options."""
