"""A record of what happened in a milter that a test can wait on."""

import asyncio
from collections.abc import Callable

__all__ = ["Journal"]

TIMEOUT_S = 10


class Journal:
    """Names of events with their facts, in order.

    To be used from handlers on the event loop of the test.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.events: list[tuple[object, ...]] = []
        self._noted = asyncio.Event()

    def note(self, name: str, *facts: object) -> None:
        """Append one event."""
        self.events.append((name, *facts))
        self._noted.set()

    @property
    def names(self) -> list[str]:
        """The names alone, in order."""
        return [str(event[0]) for event in self.events]

    def facts(self, name: str) -> list[tuple[object, ...]]:
        """Return the facts of every event of that name, in order."""
        return [event[1:] for event in self.events if event[0] == name]

    async def until(self, name: str, count: int = 1) -> None:
        """Wait until ``name`` has been noted ``count`` times.

        Raises:
            TimeoutError: It has not been in time.
        """
        await self._wait(lambda: self.names.count(name) >= count)

    async def _wait(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():
                self._noted.clear()
                await self._noted.wait()
