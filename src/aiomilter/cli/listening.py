"""What to do about an address that cannot be listened on."""

from __future__ import annotations

import errno

__all__ = ["advice_about"]

_ADVICE = {
    errno.EADDRINUSE: "stop what listens there, or take another address",
    errno.EADDRNOTAVAIL: "take an address of this host",
    errno.EACCES: "run it as a user who may do that, or take another address",
    errno.EPERM: "run it as a user who may do that, or take another address",
    errno.ENOENT: "make its folder first",
}


def advice_about(error: BaseException) -> str:
    """Return what to do about an error of the system behind another one; empty if that is open."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    advice = _ADVICE.get(cause.errno or 0) if cause is not None else None
    return f"; {advice}" if advice else ""
