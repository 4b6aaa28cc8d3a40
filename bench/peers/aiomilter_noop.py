"""The benchmark's filter on aiomilter: a handler at every stage, one header added at the end."""

import argparse
import asyncio
import logging
import time

from aiomilter import Config, EomActions, Milter, SocketInfo, no_reply, run

WAIT_S = 0.02
COMPUTE_S = 0.002
MANY_CONNECTIONS = 15_000


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


class ChangingMilter(AnsweringMilter):
    """Collects headers and body by hand, and changes a header."""

    def begin_message(self) -> None:
        """Begin with nothing."""
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()

    async def on_header(self, name: str, value: str) -> None:
        """Keep it."""
        self.headers.append((name, value))

    async def on_body(self, chunk: bytes) -> None:
        """Keep it."""
        self.body += chunk

    async def on_eom(self, actions: EomActions) -> None:
        """Change the one header that the load generator expects to be changed."""
        actions.change_header("X-Header-3", 1, "changed")


class ObservingChanger(ObservingMilter):
    """Collects the same without keeping the MTA waiting, as `on_message` does."""

    def begin_message(self) -> None:
        """Begin with nothing."""
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()

    @no_reply
    async def on_header(self, name: str, value: str) -> None:
        """Keep it."""
        self.headers.append((name, value))

    @no_reply
    async def on_body(self, chunk: bytes) -> None:
        """Keep it."""
        self.body += chunk

    async def on_eom(self, actions: EomActions) -> None:
        """Change the one header that the load generator expects to be changed."""
        actions.change_header("X-Header-3", 1, "changed")


class WaitingMilter(AnsweringMilter):
    """Waits at the sender, as for an answer from DNS."""

    async def on_mail(self, sender: str, params: list[str]) -> None:
        """Wait."""
        await asyncio.sleep(WAIT_S)


class ComputingMilter(AnsweringMilter):
    """Keeps the processor busy at the end of a message, as a filter does that looks into mail."""

    async def on_eom(self, actions: EomActions) -> None:
        """Compute, and add the header."""
        end = time.thread_time() + COMPUTE_S
        while time.thread_time() < end:
            pass
        actions.add_header("X-Bench", "1")


WORKS: dict[str, type[Milter]] = {
    "add": AnsweringMilter,
    "no-reply": ObservingMilter,
    "change": ChangingMilter,
    "change-no-reply": ObservingChanger,
    "wait": WaitingMilter,
    "compute": ComputingMilter,
}


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="where to listen: inet:PORT@IPV4 or unix:PATH")
    parser.add_argument("work", nargs="?", choices=sorted(WORKS), default="add")
    parser.add_argument("--uvloop", action="store_true", help="uvloop in place of stock asyncio")
    parser.add_argument("--log", action="store_true", help="log a line for each message, as usual")
    options = parser.parse_args()
    config = Config(max_connections=MANY_CONNECTIONS)
    run(
        WORKS[options.work],
        options.address,
        config=config,
        uvloop=options.uvloop,
        log_level=logging.INFO if options.log else logging.WARNING,
    )


if __name__ == "__main__":
    main()
