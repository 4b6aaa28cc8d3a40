"""What a dispatcher needs of whoever runs it, so that it needs neither asyncio nor a clock."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiomilter.app.handlers import HandlerKind
from aiomilter.app.message.collector import CollectLimits
from aiomilter.session.status import Status

__all__ = ["Abandoned", "Clock", "Cut", "FaultPolicy", "Host"]


class Cut(enum.Enum):
    """Why a handler was cut short."""

    TIME_LIMIT = "it took longer than its time limit"
    BLOCKED_LOOP = (
        "it blocked the event loop, and with it all other sessions, beyond its time limit; "
        "write a handler that blocks as a plain def"
    )
    NO_THREAD = "all threads were busy (Config.max_threads) for its whole time limit"
    STOPPING = "the server is stopping"
    CONNECTION_LOST = "the MTA is gone"
    FROM_OUTSIDE = "its task was cancelled"
    ABANDONED = "it was cancelled, but did not end"


class Abandoned(BaseException):
    """A handler that was given up has come back: nobody is left to listen to it."""


class Clock(Protocol):
    """Returns a time in seconds that never goes back."""

    def __call__(self) -> float:
        """Return it."""
        ...


class Host(Protocol):
    """What runs a `Dispatcher`: keeper of the clock, of threads and of the line to the MTA.

    Attributes:
        ticket: Another number once a clock was started, or a handler was given up.
        time: The clock.
    """

    ticket: int
    time: Clock

    def start_clock(self, limit_s: float, kind: HandlerKind, began: float | None = None) -> int:
        """Begin a handler's budget; at the end of a message also keep the MTA waiting.

        Args:
            limit_s: The budget.
            kind: What the MTA does meanwhile.
            began: When the handler was called, if that was before now.

        Returns:
            What ``ticket`` was before; `stop_clock` asks for it.
        """
        ...

    def stop_clock(self, ticket: int) -> Cut | None:
        """End a handler's budget; return why the handler was cut short, or None."""
        ...

    def run_in_thread(self, function: Callable[[], object]) -> Awaitable[object]:
        """Run a function that may block."""
        ...

    def keep(self, gathered_bytes: int) -> bool:
        """Count what is kept of a message in memory.

        Args:
            gathered_bytes: All of it.

        Returns:
            Whether memory is tight, so that a file had better be used.
        """
        ...

    def is_stray_at_work(self) -> bool:
        """Return whether a handler that was cut short goes on all the same."""
        ...

    async def send_progress(self) -> None:
        """Tell the MTA, now, that the end of the message takes longer."""
        ...


@dataclass(frozen=True, slots=True)
class FaultPolicy:
    """What handlers may take and what a fault costs.

    Attributes:
        on_error: The verdict after a fault.
        handler_timeout_s: The budget of all handlers but `on_eom`.
        eom_timeout_s: The budget of `on_eom` and `on_message`.
        limits: What a message may have that is gathered for `on_message`.
        on_limit: The verdict for one that has more.
    """

    on_error: Status
    handler_timeout_s: float
    eom_timeout_s: float
    limits: CollectLimits = field(default_factory=CollectLimits)
    on_limit: Status = Status.TEMPFAIL
