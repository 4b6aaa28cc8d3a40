"""A test that is a coroutine itself."""

# <test>
import pytest

from aiomilter.testing.pytest_plugin import MakeAsyncMilterTester
from examples.recipient_counter import RecipientCounter


@pytest.mark.asyncio
async def test_in_a_coroutine(async_milter_tester: MakeAsyncMilterTester) -> None:
    tester = async_milter_tester(RecipientCounter)
    result = await tester.send()
    result.assert_header_added("X-Recipient-Count", "1")
