"""Both mail servers, and packets that are cut anywhere."""

# <test>
import pytest

from aiomilter.testing import Mta
from aiomilter.testing.pytest_plugin import MakeMilterTester
from examples.recipient_counter import RecipientCounter


@pytest.mark.parametrize("mta", Mta)
@pytest.mark.parametrize("chunk_bytes", [1, 100, None])
def test_wherever_packets_are_cut(
    milter_tester: MakeMilterTester, mta: Mta, chunk_bytes: int | None
) -> None:
    tester = milter_tester(RecipientCounter, mta=mta, chunk_bytes=chunk_bytes)
    tester.send().assert_accepted()
