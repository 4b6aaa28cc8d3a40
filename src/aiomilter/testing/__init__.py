"""The test kit: a milter under test, consulted by an MTA in memory.

::

    from aiomilter.testing import MilterTester

    def test_that_nobody_is_refused() -> None:
        with MilterTester(MyMilter) as tester:
            tester.rcpt("nobody@example.org").assert_rejected(550)

With pytest there is the fixture ``milter_tester``. For property tests with Hypothesis there is
`aiomilter.testing.strategies`.

Names are imported when they are first used: pytest loads this package in every project that has
aiomilter installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiomilter.app.mta.content import Content
    from aiomilter.app.mta.envelope import Client, Envelope, Path
    from aiomilter.app.mta.kind import Mta
    from aiomilter.session.mta import Offer
    from aiomilter.testing.async_tester import AsyncMilterTester
    from aiomilter.testing.calls import DEFAULT_MESSAGE, Call
    from aiomilter.testing.faults import Fault, HandlerFault
    from aiomilter.testing.results import Result, StageResult
    from aiomilter.testing.tester import MilterTester

__all__ = [
    "DEFAULT_MESSAGE",
    "AsyncMilterTester",
    "Call",
    "Client",
    "Content",
    "Envelope",
    "Fault",
    "HandlerFault",
    "MilterTester",
    "Mta",
    "Offer",
    "Path",
    "Result",
    "StageResult",
]

_HOMES = {
    "DEFAULT_MESSAGE": "aiomilter.testing.calls",
    "AsyncMilterTester": "aiomilter.testing.async_tester",
    "Call": "aiomilter.testing.calls",
    "Client": "aiomilter.app.mta.envelope",
    "Content": "aiomilter.app.mta.content",
    "Envelope": "aiomilter.app.mta.envelope",
    "Fault": "aiomilter.testing.faults",
    "HandlerFault": "aiomilter.testing.faults",
    "MilterTester": "aiomilter.testing.tester",
    "Mta": "aiomilter.app.mta.kind",
    "Offer": "aiomilter.session.mta",
    "Path": "aiomilter.app.mta.envelope",
    "Result": "aiomilter.testing.results",
    "StageResult": "aiomilter.testing.results",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
