"""A server whose sessions keep a diary each, and a look at what a session has left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from aiomilter import EomActions, Milter, Server, SocketInfo, Status
from tests.aio.serving import until_true

__all__ = ["Diarist", "assert_orderly", "descriptors", "diarist", "nothing_left"]

_DESCRIPTORS = "/proc/self/fd/"


class Diarist(Milter):
    """Has all handlers, and notes them in a list that each session has to itself.

    Attributes:
        diaries: One a session, in the order in which they began.
    """

    diaries: ClassVar[list[list[str]]]

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.diaries.append(self.diary)

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.diary.append("connect")

    async def on_helo(self, hostname: str) -> None:
        self.diary.append("helo")

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.diary.append("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.diary.append("rcpt")

    async def on_data(self) -> None:
        self.diary.append("data")

    async def on_header(self, name: str, value: str) -> None:
        self.diary.append("header")

    async def on_eoh(self) -> None:
        self.diary.append("eoh")

    async def on_body(self, chunk: bytes) -> None:
        self.diary.append("body")

    async def on_eom(self, actions: EomActions) -> Status:
        self.diary.append("eom")
        actions.add_header("X-First", "1")
        actions.change_sender("<changed@a.example>")
        actions.replace_body(b"changed\r\n")
        actions.add_header("X-Last", "2")
        return Status.ACCEPT

    async def on_abort(self) -> None:
        self.diary.append("abort")

    async def on_close(self) -> None:
        self.diary.append("close")


def diarist(base: type[Diarist] = Diarist) -> type[Diarist]:
    """Return a subclass with diaries of its own."""
    return type(base.__name__, (base,), {"diaries": []})


def assert_orderly(diary: list[str]) -> None:
    """Close came once and last; abort once for a message that had begun and not ended."""
    assert diary.count("close") == 1, diary
    assert diary[-1] == "close", diary
    is_unfinished = "mail" in diary and "eom" not in diary
    assert diary.count("abort") == is_unfinished, diary
    if is_unfinished:
        assert diary[-2] == "abort", diary


def descriptors() -> set[str]:
    """Return the descriptors of this process, with what they lead to."""
    found = set()
    for entry in os.listdir(_DESCRIPTORS):
        try:
            found.add(f"{entry} {os.readlink(f'{_DESCRIPTORS}/{entry}')}")
        except FileNotFoundError:
            # The one that the listing itself had open.
            continue
    return found


@asynccontextmanager
async def nothing_left(server: Server | None = None) -> AsyncIterator[None]:
    """Make sure that after the block there are the tasks and descriptors of before, no others."""
    tasks, files = asyncio.all_tasks(), descriptors()
    yield
    if server is not None:
        await until_true(lambda: server.connections == 0)
    await until_true(lambda: asyncio.all_tasks() <= tasks)
    try:
        await until_true(lambda: descriptors() <= files)
    except TimeoutError:
        raise AssertionError(sorted(descriptors() - files)) from None
