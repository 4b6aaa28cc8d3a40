"""What the tests of the documentation share."""

from aiomilter.testing.pytest_plugin import async_milter_tester, milter_tester

__all__ = ["async_milter_tester", "milter_tester"]
