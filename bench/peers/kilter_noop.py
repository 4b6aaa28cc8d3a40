"""The benchmark's filter on kilter.service: one coroutine sees a message from end to end."""

import argparse
import logging
import signal
from collections.abc import Callable
from typing import Any

import anyio
from kilter.protocol import Accept, Header
from kilter.service import END, Runner, Session, options

WAIT_S = 0.02


def make_filter(work: str) -> Callable[[Session], object]:
    """Return the filter for a kind of work."""
    answers = work != "no-reply"

    async def add(session: Session) -> Accept:
        await session.helo()
        await session.envelope_from()
        if work == "wait":
            await anyio.sleep(WAIT_S)
        async for _ in session.envelope_recipients():
            pass
        async with session.headers as headers:
            collected = [header async for header in headers]
        body = bytearray()
        async with session.body as chunks:
            async for chunk in chunks:
                if work == "change":
                    body += chunk
        if work == "change":
            await session.headers.update(collected[2], b"changed")
        else:
            await session.headers.insert(Header("X-Bench", b"1"), END)
        return Accept()

    decorators = [
        options.examine_helo(can_respond=answers),
        options.examine_sender(can_respond=answers),
        options.examine_recipients(can_respond=answers),
        options.examine_headers(can_respond=answers, can_add=True, can_modify=True),
        options.examine_body(can_respond=answers),
    ]
    if answers:
        decorators.append(options.responds_to_connect())
    for decorate in decorators:
        decorate(add)
    return add


async def serve(address: str, work: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    listener: Any
    if address.startswith("unix:"):
        listener = await anyio.create_unix_listener(address.removeprefix("unix:"), backlog=4096)
    else:
        port, _, host = address.removeprefix("inet:").partition("@")
        listener = await anyio.create_tcp_listener(
            local_host=host, local_port=int(port), backlog=4096
        )
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, Runner(make_filter(work)))
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                break
        tasks.cancel_scope.cancel()


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="where to listen: inet:PORT@IPV4 or unix:PATH")
    works = ("add", "no-reply", "change", "wait")
    parser.add_argument("work", nargs="?", choices=works, default="add")
    options_given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    anyio.run(serve, options_given.address, options_given.work)


if __name__ == "__main__":
    main()
