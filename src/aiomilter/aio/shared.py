"""What all connections of one server share."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aiomilter.aio.config import Config
from aiomilter.aio.deadline import FarTimers
from aiomilter.aio.memory import MemoryBudget
from aiomilter.aio.threads import WorkerThreads
from aiomilter.app.dispatch import Dispatcher
from aiomilter.app.host import FaultPolicy, Host
from aiomilter.app.milter import Milter
from aiomilter.app.observer import Observer, Observers
from aiomilter.app.watch import Observation
from aiomilter.session.filter import FilterSession

__all__ = ["READ_BYTES", "Shared"]

READ_BYTES = 128 * 1024
"""How much is read at a time: a full packet and the beginning of the next."""


def _session_ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    process = os.getpid()
    return lambda: f"{process:x}.{next(numbers):x}"


@dataclass(slots=True)
class Shared:
    """What all connections of one server share.

    Attributes:
        config: The settings.
        policy: Those of them that dispatchers keep.
        threads: For handlers that block.
        memory: The budget for what has come in and is not served.
        session_ids: Makes the id of a session.
        observers: Who is told what happens; all of them as one is ``observation.observers``.
        observation: What dispatchers need for that.
        read_buffer: What the transports read to. One for all connections: its contents are
            taken out at once. asyncio would allocate 256 KiB for each read and cut them to size,
            which leaves the heap of a process with many connections full of holes.
    """

    config: Config
    threads: WorkerThreads
    session_ids: Callable[[], str] = field(default_factory=_session_ids)
    observers: Sequence[Observer] = ()
    policy: FaultPolicy = field(init=False)
    observation: Observation = field(init=False)
    memory: MemoryBudget = field(init=False)
    read_buffer: memoryview = field(init=False)
    _far_timers: FarTimers | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        config = self.config
        self.policy = FaultPolicy(
            on_error=config.error_status,
            handler_timeout_s=config.handler_timeout,
            eom_timeout_s=config.eom_timeout,
            limits=config.message_limits,
            on_limit=config.limit_status,
        )
        self.observation = Observation(Observers(self.observers), time.perf_counter)
        self.memory = MemoryBudget(config.memory_budget)
        self.read_buffer = memoryview(bytearray(READ_BYTES))

    def far_timers(self, loop: asyncio.AbstractEventLoop) -> FarTimers:
        """Return what connections keep their deadlines in; a server may see several loops."""
        far = self._far_timers
        if far is None or far.loop is not loop:
            far = self._far_timers = FarTimers(loop)
        return far

    def dispatcher(
        self, factory: Callable[[], Milter], session: FilterSession, host: Host, listener: str
    ) -> Dispatcher:
        """Return what serves the events of one connection; see `Dispatcher`."""
        ids, observation = self.session_ids, self.observation
        return Dispatcher(factory, session, host, self.policy, ids, listener, observation)
