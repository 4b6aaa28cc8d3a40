"""The fixtures under test, also where pytest does not load the plugin by itself."""

from __future__ import annotations

from aiomilter.testing.pytest_plugin import async_milter_tester, milter_tester

__all__ = ["async_milter_tester", "milter_tester"]
