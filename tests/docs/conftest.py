"""What the tests of the documentation share."""

from pathlib import Path

import pytest

from aiomilter.testing.pytest_plugin import async_milter_tester, milter_tester
from tests.docs.site import build

__all__ = ["async_milter_tester", "milter_tester", "site"]


@pytest.fixture(scope="session")
def site() -> Path:
    """The built documentation."""
    return build()
