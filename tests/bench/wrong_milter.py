"""A milter that answers wrongly, in the way that its command line says."""

import sys

from aiomilter import EomActions, Milter, Status, run


class WrongValue(Milter):
    """Adds the right header with another value."""

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Bench", "2")


class TwoHeaders(Milter):
    """Adds the right header, and one more."""

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Bench", "1")
        actions.add_header("X-Bench", "1")


class NoHeader(Milter):
    """Adds none."""

    async def on_eom(self, actions: EomActions) -> None:
        pass


class WrongVerdict(Milter):
    """Does all that is right, and then discards the message."""

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Bench", "1")
        return Status.DISCARD


class WrongStage(Milter):
    """Is right at the end, but does not let one header pass."""

    async def on_header(self, name: str, value: str) -> Status:
        return Status.ACCEPT if name == "X-Header-7" else Status.CONTINUE

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Bench", "1")


if __name__ == "__main__":
    run(globals()[sys.argv[2]], sys.argv[1])
