"""The same without pytest: a tester in a `with` block.

PYTHONPATH=. python examples/testing/without_pytest.py
"""

# <test>
from aiomilter.testing import MilterTester
from examples.recipient_counter import RecipientCounter

with MilterTester(RecipientCounter) as tester:
    tester.send().assert_header_added("X-Recipient-Count", "1")
