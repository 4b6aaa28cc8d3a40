"""A milter and an MTA joined in memory, and what can be seen of the milter meanwhile.

Rules of this file:

- What serves the milter is the library's own `Connection`, with its budgets, threads and fault
  boundary. It is watched, and nothing else about it is changed.
- Faults are taken where the library reports them, not from the log: a program under test may
  configure, filter or disable that.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping

from aiomilter.aio.config import Config
from aiomilter.aio.connection import Connection
from aiomilter.aio.mta import MilterConnection, Timeouts
from aiomilter.aio.shared import Shared
from aiomilter.aio.threads import WorkerThreads
from aiomilter.app.dispatch import Dispatcher
from aiomilter.app.facts import Facts, SessionLog
from aiomilter.app.milter import Milter
from aiomilter.app.mta.conversation import Conversation
from aiomilter.app.mta.kind import Mta
from aiomilter.app.text import describe_error
from aiomilter.session.mta import Offer
from aiomilter.testing.faults import Fault, Observations
from aiomilter.testing.memory import MemoryTransport, MemoryWire

__all__ = ["Link"]

_logger = logging.getLogger("aiomilter")

_EAGER_TURNS = 200
"""For how many turns of the loop to look on at once; after that a thread is at work, or a timer."""
_LOOK_EVERY_S = 0.001
_NEVER_S = 86_400.0
_LISTENER = "memory"
_numbers = itertools.count(1)


class _WatchedLog(SessionLog):
    """The library's log, whose warnings and faults are also kept."""

    def __init__(self, facts: Facts, seen: Observations) -> None:
        super().__init__(_logger, facts)
        self._seen = seen

    def log(self, level: int, msg: object, *args: object, **kwargs: object) -> None:
        if level >= logging.WARNING:
            text = str(msg)
            self._seen.lines.append(text % args if args else text)
            if text.startswith("fault "):
                incident, handler, milter, reason = map(str, args[:4])
                error = kwargs.get("exc_info")
                raised = error if isinstance(error, BaseException) else None
                self._seen.faults.append(Fault(incident, handler, milter, reason, raised))
        kwargs["stacklevel"] = 2
        super().log(level, msg, *args, **kwargs)  # type: ignore[arg-type]  # keywords are passed on


class _WatchedDispatcher(Dispatcher):
    """A dispatcher that tells which handler runs."""

    seen: Observations

    @property
    def log(self) -> SessionLog:
        return _WatchedLog(self._facts, self.seen)

    @property
    def running(self) -> str | None:
        """The handler that has not returned, or None."""
        if self._running is None or self._table is None:
            return None
        return f"{self._running.name} of {self._table.class_name}"

    def answer_internal_error(self) -> None:
        error = sys.exception()
        reason = "?" if error is None else describe_error(error)
        self.seen.faults.append(Fault("-", "the library", "itself", reason, error))
        super().answer_internal_error()


class _WatchedConnection(Connection):
    """A connection that tells when it waits for the MTA."""

    def __init__(
        self,
        factory: Callable[[], Milter],
        config: Config,
        threads: WorkerThreads,
        seen: Observations,
    ) -> None:
        name = f"test.{next(_numbers)}"
        sessions = itertools.count(1)
        self.over = asyncio.Event()

        def make_milter() -> Milter:
            milter = factory()
            seen.milters.append(milter)
            return milter

        def session_id() -> str:
            return f"{name}.{next(sessions)}"

        shared = Shared(config, threads, session_id)
        super().__init__(make_milter, shared, _LISTENER, lambda _: self.over.set())
        dispatcher = _WatchedDispatcher(
            make_milter,
            self._session,
            self,
            shared.policy,
            session_id,
            _LISTENER,
            shared.observation,
        )
        dispatcher.seen = seen
        self._dispatcher = self.watched = dispatcher

    @property
    def awaits_mta(self) -> bool:
        """Whether all that has come in is served."""
        return self.over.is_set() or self._arrival.wakeup is not None


class Link:
    """One connection between a milter and an MTA, with nothing but memory between them.

    Attributes:
        mta: The MTA's end.
        conversation: What the MTA knows.
    """

    def __init__(
        self,
        factory: Callable[[], Milter],
        config: Config,
        threads: WorkerThreads,
        seen: Observations,
        *,
        mta: Mta,
        offer: Offer | None,
        macros: Mapping[str, str] | None,
        chunk_bytes: int | None,
    ) -> None:
        self._filter = _WatchedConnection(factory, config, threads, seen)
        self._transport = MemoryTransport(self._filter, chunk_bytes)
        self._filter.connection_made(self._transport)
        self.conversation = Conversation(offer, mta=mta, macros=macros)
        self.mta = MilterConnection(
            MemoryWire(self._transport),
            self.conversation,
            # The tester has a limit of its own for each call, and its words say more.
            timeouts=Timeouts(_NEVER_S, _NEVER_S, _NEVER_S),
            name="the milter",
        )

    @property
    def is_over(self) -> bool:
        """Whether the connection is of no use any more."""
        return self.mta.is_over or self._filter.over.is_set()

    @property
    def running(self) -> str | None:
        """The handler that has not returned, or None."""
        return self._filter.watched.running

    async def settle(self) -> None:
        """Wait until the milter has served all that it was sent."""
        for pause_s in _pauses():
            if self._transport.is_delivered and self._filter.awaits_mta:
                return
            await asyncio.sleep(pause_s)

    async def wait_closed(self) -> None:
        """Wait until the milter's end has closed, and all its hooks have run."""
        await self._filter.over.wait()

    def abort(self) -> None:
        """End it at once, at both ends, without waiting for anything."""
        self.mta.disconnect()
        self._filter.abort()


def _pauses() -> Iterator[float]:
    yield from itertools.repeat(0.0, _EAGER_TURNS)
    yield from itertools.repeat(_LOOK_EVERY_S)
