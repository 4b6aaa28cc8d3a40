"""What the mail server gets when a handler fails."""

# <test>
from aiomilter import Milter
from aiomilter.testing.pytest_plugin import MakeMilterTester


class Broken(Milter):
    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        raise KeyError(recipient)


def test_what_the_client_hears(milter_tester: MakeMilterTester) -> None:
    tester = milter_tester(Broken, raise_faults=False)
    tester.rcpt("a@example.org").assert_tempfailed()
    assert [type(fault.error) for fault in tester.faults] == [KeyError]
