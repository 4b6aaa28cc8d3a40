"""One sink and one Postfix for all tests of a worker, and room for a milter between them."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from aiomilter.testing.servers import load_cases
from aiomilter.testing.servers.ports import ReservedPort
from aiomilter.testing.servers.postfix import Postfix
from aiomilter.testing.servers.sink import Sink
from tests.integration.journal import Journal
from tests.integration.results import PAGE, outcomes_of, page, table, versions_of
from tests.integration.rig import Rig

CASES = Path(__file__).parent / "cases"
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


@pytest.fixture(scope="session")
def sendmail_root() -> Path:
    """Where the packages of Sendmail are unpacked."""
    return Path(__file__).resolve().parents[2] / ".sendmail"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of all cases, and write it into the documentation, if that was asked for."""
    if not config.getoption("--results"):
        return
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    cases = load_cases(CASES)
    outcomes, versions = outcomes_of(reports), versions_of(reports)
    for line in table(cases, outcomes, versions):
        terminalreporter.write_line(line)
    if len(outcomes) == sum(len(case.servers) for case in cases):
        PAGE.write_text(page(cases, outcomes, versions), encoding="utf-8")
    else:
        terminalreporter.write_line("the page is left as it is: not all cases were run")
