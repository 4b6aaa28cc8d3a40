"""Milters for commands to talk to, good and bad, each on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from click.testing import CliRunner, Result

from aiomilter import Config, Milter, Server
from aiomilter.cli.commands import aiomilter

__all__ = ["Talk", "answering", "called", "foreign", "served"]

PATIENCE_S = 20
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def called(*arguments: str, stdin: bytes = b"") -> Result:
    """Return what a command has come to; without colours."""
    return CliRunner().invoke(aiomilter, arguments, input=stdin, env={"COLUMNS": "100"})


@contextmanager
def _in_thread(serving: AbstractAsyncContextManager[str]) -> Iterator[str]:
    """Enter a context on a loop in a thread; yield its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="milter")
    thread.start()

    def done(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE_S)

    try:
        address = done(serving.__aenter__())
        try:
            yield address
        finally:
            done(serving.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


@contextmanager
def served(factory: Callable[[], Milter], listen: str = "inet:0") -> Iterator[str]:
    """Serve a milter; yield its address."""

    @asynccontextmanager
    async def serving() -> Any:
        async with Server(factory, listen, config=Config(stop_grace=0)) as server:
            name = server.sockets[0].getsockname()
            yield listen if isinstance(name, str) else f"inet:{name[1]}"

    with _in_thread(serving()) as address:
        yield address


@contextmanager
def foreign(talk: Talk) -> Iterator[str]:
    """Serve what is no milter, or a bad one; yield its address."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    @asynccontextmanager
    async def serving() -> Any:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        yield f"inet:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with _in_thread(serving()) as address:
        yield address


def answering(answers: dict[str, bytes | None]) -> Talk:
    """Return a milter that answers commands with fixed bytes, by letter.

    A command without an answer gets CONTINUE, macros and ABORT nothing; None closes.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length = int.from_bytes(await reader.readexactly(4))
            letter = (await reader.readexactly(length))[:1].decode("ascii")
            answer = answers.get(letter, b"" if letter in "DA" else b"\0\0\0\x01c")
            if answer is None or letter == "Q":
                return
            writer.write(answer)
            await writer.drain()

    return talk
