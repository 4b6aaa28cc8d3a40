"""One sink and one Postfix for all tests of a worker, and room for a milter between them."""

from collections.abc import Generator, Iterator

import pytest

from tests.integration.journal import Journal
from tests.integration.ports import ReservedPort
from tests.integration.postfix import Postfix
from tests.integration.rig import Rig
from tests.integration.sink import Sink

LOG_LINES = 12
"""Enough for a session."""


@pytest.fixture(scope="session")
def sink() -> Iterator[Sink]:
    """The place where all mail ends."""
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="session")
def rig(sink: Sink) -> Iterator[Rig]:
    """A Postfix in front of the sink, and a place for a milter beside it."""
    with ReservedPort() as milter_port, Postfix(sink.port) as postfix:
        yield Rig.started(postfix, sink, milter_port.number)


@pytest.fixture(scope="session")
def postfix(rig: Rig) -> Postfix:
    """The Postfix of the rig."""
    return rig.postfix


@pytest.fixture
def journal() -> Journal:
    """An empty record of events."""
    return Journal()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what Postfix said beside a failure: the SMTP replies alone rarely tell why."""
    report = yield
    rig = item.funcargs.get("rig") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(rig, Rig):
        report.sections.append(
            ("Postfix log", "\n".join(rig.postfix.log_text().splitlines()[-LOG_LINES:]))
        )
    return report
