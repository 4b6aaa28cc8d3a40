"""Tests of this folder fail for whatever the event loop has to handle by itself."""

from __future__ import annotations

import inspect

import pytest


@pytest.fixture(autouse=True)
def _watched_loop(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_unhandled_errors")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Do not measure the coverage: these tests go the same ways very often."""
    item.add_marker("unmeasured")
