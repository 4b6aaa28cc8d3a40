"""The benchmark's filter on purepythonmilter; TCP only, since it has no unix sockets."""

import argparse
import asyncio
import logging
from typing import Any

import purepythonmilter as ppm

WAIT_S = 0.02


async def answer(_: Any) -> ppm.VerdictOrContinue:
    """Do nothing; the MTA waits for it."""
    return ppm.Continue()


async def observe(_: Any) -> None:
    """Do nothing; by the type of the result it is known that no answer is needed."""


async def wait(_: Any) -> ppm.VerdictOrContinue:
    """Wait, as for an answer from DNS."""
    await asyncio.sleep(WAIT_S)
    return ppm.Continue()


async def end(_: ppm.EndOfMessage) -> ppm.VerdictOrContinue:
    """Add the one header that the load generator expects."""
    return ppm.Continue(manipulations=[ppm.AppendHeader(headername="X-Bench", headertext="1")])


async def ignore(_: Any) -> None:
    """Do nothing, where nothing is answered."""


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="inet:PORT@IPV4")
    parser.add_argument("work", nargs="?", choices=("add", "no-reply", "wait"), default="add")
    options = parser.parse_args()
    port, _, host = options.address.removeprefix("inet:").partition("@")
    logging.basicConfig(level=logging.WARNING)
    every: Any = observe if options.work == "no-reply" else answer
    milter = ppm.PurePythonMilter(
        name="bench",
        hook_on_connect=every,
        hook_on_helo=every,
        hook_on_mail_from=wait if options.work == "wait" else every,
        hook_on_rcpt_to=every,
        hook_on_data=every,
        hook_on_header=every,
        hook_on_end_of_headers=every,
        hook_on_body_chunk=every,
        hook_on_end_of_message=end,
        hook_on_abort=ignore,
        hook_on_quit=ignore,
        hook_on_unknown=every,
        can_add_headers=True,
    )
    milter.run_server(host=host, port=int(port))


if __name__ == "__main__":
    main()
