"""Handlers that failed: what a test can know of them."""

from __future__ import annotations

from dataclasses import dataclass

from aiomilter.app.milter import Milter

__all__ = ["Fault", "HandlerFault", "Observations"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A handler that failed.

    Attributes:
        incident: The id that also stands in the log.
        handler: Its name; or ``the factory``.
        milter: The name of its class.
        reason: In words, as in the log.
        error: What it raised, with its traceback; None if it was too slow, or returned what no
            handler may.
    """

    incident: str
    handler: str
    milter: str
    reason: str
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.handler} of {self.milter}: {self.reason} (incident {self.incident})"


class HandlerFault(AssertionError):
    """A handler failed, and the test did not expect that. Its cause is what the handler raised.

    Attributes:
        fault: What is known of it.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Observations:
    """What is seen of all the sessions of a tester.

    Attributes:
        milters: The objects that the factory has made.
        faults: All faults.
        lines: What the library has warned of.
        looked_at: How many of the faults somebody knows of.
    """

    def __init__(self) -> None:
        self.milters: list[Milter] = []
        self.faults: list[Fault] = []
        self.lines: list[str] = []
        self.looked_at = 0

    def look(self) -> tuple[Fault, ...]:
        """Return all faults; somebody knows of them now."""
        self.looked_at = len(self.faults)
        return tuple(self.faults)

    def check(self) -> None:
        """Raise `HandlerFault` if there is a fault that nobody knows of."""
        __tracebackhide__ = True
        new = self.faults[self.looked_at :]
        self.looked_at = len(self.faults)
        if new:
            error = HandlerFault(new[0])
            for fault in new[1:]:
                error.add_note(f"and then {fault}")
            raise error from new[0].error
