"""A mail server that is killed in the middle of a message."""

# <test>
from aiomilter import Milter
from aiomilter.testing.pytest_plugin import MakeMilterTester


class Counting(Milter):
    aborted = closed = 0

    async def on_mail(self, sender: str, params: list[str]) -> None:
        pass

    async def on_abort(self) -> None:
        self.aborted += 1

    async def on_close(self) -> None:
        self.closed += 1


def test_a_mail_server_that_is_killed(milter_tester: MakeMilterTester) -> None:
    tester = milter_tester(Counting)
    tester.mail("sender@example.com")
    tester.disconnect()
    (milter,) = tester.milters
    assert isinstance(milter, Counting)
    assert (milter.aborted, milter.closed) == (1, 1)
