"""The benchmark's filter on aiomilter: a handler at every stage, one header added at the end."""

import argparse

from aiomilter import EomActions, Milter, SocketInfo, no_reply, run


class AnsweringMilter(Milter):
    """Every stage has a handler, and the MTA waits for the answer of each."""

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        """Do nothing."""

    async def on_helo(self, hostname: str) -> None:
        """Do nothing."""

    async def on_mail(self, sender: str, params: list[str]) -> None:
        """Do nothing."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        """Do nothing."""

    async def on_data(self) -> None:
        """Do nothing."""

    async def on_header(self, name: str, value: str) -> None:
        """Do nothing."""

    async def on_eoh(self) -> None:
        """Do nothing."""

    async def on_body(self, chunk: bytes) -> None:
        """Do nothing."""

    async def on_eom(self, actions: EomActions) -> None:
        """Add the one header that the load generator expects."""
        actions.add_header("X-Bench", "1")

    async def on_abort(self) -> None:
        """Do nothing."""

    async def on_close(self) -> None:
        """Do nothing."""

    async def on_unknown(self, command: str) -> None:
        """Do nothing."""


class ObservingMilter(Milter):
    """The same handlers, but only the end of the message is answered."""

    @no_reply
    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        """Do nothing."""

    @no_reply
    async def on_helo(self, hostname: str) -> None:
        """Do nothing."""

    @no_reply
    async def on_mail(self, sender: str, params: list[str]) -> None:
        """Do nothing."""

    @no_reply
    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        """Do nothing."""

    @no_reply
    async def on_data(self) -> None:
        """Do nothing."""

    @no_reply
    async def on_header(self, name: str, value: str) -> None:
        """Do nothing."""

    @no_reply
    async def on_eoh(self) -> None:
        """Do nothing."""

    @no_reply
    async def on_body(self, chunk: bytes) -> None:
        """Do nothing."""

    async def on_eom(self, actions: EomActions) -> None:
        """Add the one header that the load generator expects."""
        actions.add_header("X-Bench", "1")

    async def on_abort(self) -> None:
        """Do nothing."""

    async def on_close(self) -> None:
        """Do nothing."""

    @no_reply
    async def on_unknown(self, command: str) -> None:
        """Do nothing."""


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="where to listen: inet:PORT@IPV4 or unix:PATH")
    parser.add_argument("--uvloop", action="store_true", help="uvloop in place of stock asyncio")
    parser.add_argument("--no-reply", action="store_true", help="answer only at end of message")
    options = parser.parse_args()
    milter = ObservingMilter if options.no_reply else AnsweringMilter
    run(milter, options.address, uvloop=options.uvloop)


if __name__ == "__main__":
    main()
