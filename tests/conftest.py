"""What all tests share: no fault of the event loop goes unnoticed."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import coverage
import pytest

__all__ = ["no_unhandled_errors"]

# What tests share asserts too, and has to under `python -O` as well, where an assertion that was
# not rewritten is none.
pytest.register_assert_rewrite(
    *(f"tests.{path.stem}" for path in Path(__file__).parent.iterdir() if path.stem != "conftest"),
    *("bench", "fuzz"),
)


@pytest.fixture
async def no_unhandled_errors() -> AsyncIterator[list[dict[str, Any]]]:
    """Fail the test if the loop has to handle an exception that nobody else did.

    The value is the list of what the loop was told; a test that expects something there takes it
    out.
    """
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: found.append(context))
    yield found
    # A task that failed unseen tells when it is collected.
    gc.collect(1)
    assert found == []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what continuous integration asks for, and what `make mta` and `make captures` do."""
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped is a failure")
    parser.addoption(
        "--record-captures", action="store_true", help="record the packets of every case anew"
    )
    parser.addoption(
        "--results", action="store_true", help="print the table of all cases, and write its page"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of tests that do the same very often."""
    config.addinivalue_line("markers", "unmeasured: coverage is not measured in this test.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Measure no coverage in a test with the mark ``unmeasured``, nor in what it starts.

    A test that does the same a hundred thousand times takes three times as long if its coverage
    is measured, and adds nothing to it. The mark ``no_cover`` of pytest-cov does not do in a
    worker of xdist: there more than one measurement is under way.
    """
    if not item.get_closest_marker("unmeasured"):
        return (yield)
    stopped: list[coverage.Coverage] = []
    while (current := coverage.Coverage.current()) is not None:
        current.stop()
        stopped.append(current)
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
            return (yield)
    finally:
        for one in reversed(stopped):
            one.start()


def pytest_collection_finish() -> None:
    """Spare the collector what stays for the whole run: half a million objects of all tests."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a test was skipped where everything is there that tests need."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not session.config.getoption("--no-skips"):
        return
    if skipped := reporter.getreports("skipped"):
        reporter.write_line(f"\n{len(skipped)} tests were skipped, which --no-skips forbids")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what tests have counted, by the properties that they record as numbers."""
    totals: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        totals.update(
            {name: value for name, value in report.user_properties if isinstance(value, int)}
        )
        for name, value in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(str(value))
    for name, total in sorted(totals.items()):
        terminalreporter.write_line(f"{name}: {total}")
