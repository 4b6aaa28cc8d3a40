"""Pieces of a message that cannot be kept, and threads that come too late for theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import ClassVar

import pytest

from aiomilter import Message, Milter, Status
from aiomilter.app.host import Abandoned, Cut
from aiomilter.app.message.collector import CollectLimits
from aiomilter.errors import SpoolError
from tests.app.test_dispatch import POLICY, FakeHost, Rig
from tests.mta import ABORT, DATA, EOH, EOM, HEADER, MAIL, OFFER, RCPT, packet

SPOOLING = replace(POLICY, limits=CollectLimits(spool_threshold=0))
BEGINNING = (MAIL, RCPT, DATA, HEADER, EOH)


class LateHost(FakeHost):
    """A host with a thread that does not come to its first job in time."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Callable[[], object]] = []

    def run_in_thread(self, function: Callable[[], object]) -> Awaitable[object]:
        if self.late:
            return super().run_in_thread(function)
        self.late.append(function)

        async def run() -> object:
            raise asyncio.CancelledError

        return run()


class Bodies(Milter):
    """Keeps the bodies that it is shown."""

    seen: ClassVar[list[bytes]]

    async def on_message(self, message: Message) -> None:
        self.seen.append(message.body.read())
        message.body.replace(b"new\r\n")


def rig_of(milter: type[Milter], on_error: Status = Status.TEMPFAIL) -> tuple[Rig, LateHost]:
    rig = Rig(milter, replace(SPOOLING, on_error=on_error))
    host = rig.host = rig.dispatcher._host = LateHost()
    return rig, host


@pytest.mark.parametrize("on_error", [Status.CONTINUE, Status.TEMPFAIL])
async def test_nothing_is_made_of_a_body_with_a_hole(on_error: Status) -> None:
    Bodies.seen = []
    rig, host = rig_of(Bodies, on_error)
    host.cuts = [Cut.TIME_LIMIT]
    await rig.feed(OFFER)
    await rig.feed(*BEGINNING, packet(b"B", b"first\r\n"), packet(b"B", b"second\r\n"))
    replies = await rig.feed(EOM)
    assert Bodies.seen == []
    assert replies == [b"c" if on_error is Status.CONTINUE else b"t"]
    # The next message is gathered again.
    replies = await rig.feed(*BEGINNING, packet(b"B", b"third\r\n"), EOM)
    assert Bodies.seen == [b"third\r\n"]
    assert replies[-2:] == [b"bnew\r\n", b"c"]


async def test_a_thread_that_comes_too_late_does_not_write_to_the_next_message() -> None:
    Bodies.seen = []
    rig, host = rig_of(Bodies)
    host.cuts = [Cut.TIME_LIMIT]
    await rig.feed(OFFER)
    await rig.feed(*BEGINNING, packet(b"B", b"first\r\n"), ABORT, *BEGINNING)
    with pytest.raises(SpoolError, match="over"):
        host.late[0]()
    await rig.feed(packet(b"B", b"second\r\n"), EOM)
    assert Bodies.seen == [b"second\r\n"]


async def test_a_message_that_was_given_up_with_its_handler_is_not_kept() -> None:
    class Abandoning(Milter):
        async def on_message(self, message: Message) -> None:
            # What the host does if the handler does not heed its cancellation.
            rig.dispatcher.abandon()
            with pytest.raises(SpoolError, match="over"):
                message.body.read()
            noted.append(host.kept)
            host.cuts = [Cut.ABANDONED]

    noted: list[int] = []
    rig, host = rig_of(Abandoning)
    rig.dispatcher._policy = POLICY
    await rig.feed(OFFER)
    with pytest.raises(Abandoned):
        await rig.feed(*BEGINNING, packet(b"B", bytes(20_000)), EOM)
    assert noted == [0]
    assert host.most_kept >= 20_000
