"""What the clients of the soak do: one message each, whole or not, and the answer they expect."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.packets import (
    ABORT,
    CONTINUE,
    DATA,
    EOH,
    EOM,
    HEADERS,
    TEMPFAIL,
    Peer,
    added_header,
    packet,
)

__all__ = ["ERRANDS", "NEEDS_ANOTHER", "Errand", "Wrong", "in_lockstep"]

_ACCEPT = packet(b"a")
_RCPT = packet(b"R", b"<bob@b.example>\0")
_BODY = packet(b"B", b"hello, this is a line of text\r\n" * 20)
_BIG_CHUNK = packet(b"B", b"x" * 65_000)
_BIG_CHUNKS = 12
_CONTENT = b"".join((DATA, *HEADERS, EOH, _BODY, EOM))
_CONTENT_STEPS = 1 + len(HEADERS) + 2
_REPLACED = 200_000
_LARGEST_CHUNK = 65_535


class Wrong(Exception):
    """An answer that should have been another one."""


def _mail(sender: bytes) -> bytes:
    return packet(b"M", sender + b"\0")


def _verdict(sender: bytes) -> bytes:
    return added_header(b"X-Load", sender) + _ACCEPT


async def _expect(peer: Peer, data: bytes, expected: bytes) -> None:
    answer = await peer.ask(data, len(expected))
    if answer != expected:
        raise Wrong(f"{answer[:60]!r} instead of {expected[:60]!r}")


async def _plain(peer: Peer, choice: random.Random) -> None:
    sender = b"<%d@a.example>" % choice.randrange(10**9)
    steps = (2 + _CONTENT_STEPS) * CONTINUE
    await _expect(peer, _mail(sender) + _RCPT + _CONTENT, steps + _verdict(sender))


async def in_lockstep(peer: Peer) -> None:
    """Send a message, one command after the other's answer."""
    for step in (_mail(b"<lockstep>"), _RCPT, DATA, *HEADERS, EOH, _BODY):
        await _expect(peer, step, CONTINUE)
    await _expect(peer, EOM, _verdict(b"<lockstep>"))


async def _lockstep(peer: Peer, choice: random.Random) -> None:
    del choice
    await in_lockstep(peer)


async def _big(peer: Peer, choice: random.Random) -> None:
    del choice
    data = b"".join((_mail(b"<big>"), _RCPT, DATA, *HEADERS, EOH, *_BIG_CHUNKS * [_BIG_CHUNK], EOM))
    steps = 2 + _CONTENT_STEPS - 1 + _BIG_CHUNKS
    await _expect(peer, data, steps * CONTINUE + _verdict(b"<big>"))


async def _big_edit(peer: Peer, choice: random.Random) -> None:
    del choice
    full, rest = divmod(_REPLACED, _LARGEST_CHUNK)
    body = full * packet(b"b", _LARGEST_CHUNK * b"x") + packet(b"b", rest * b"x")
    steps = (2 + _CONTENT_STEPS) * CONTINUE
    # In the order in which the handler made the edits.
    expected = steps + body + _verdict(b"<big-edit>")
    await _expect(peer, _mail(b"<big-edit>") + _RCPT + _CONTENT, expected)


async def _slow(peer: Peer, choice: random.Random) -> None:
    data = _mail(b"<slow>") + _RCPT + _CONTENT
    while data:
        size = choice.randint(1, 120)
        peer.transport.write(data[:size])
        data = data[size:]
        await asyncio.sleep(0.002)
    expected = (2 + _CONTENT_STEPS) * CONTINUE + _verdict(b"<slow>")
    await _expect(peer, b"", expected)


async def _fault_at_end(peer: Peer, choice: random.Random) -> None:
    del choice
    expected = (2 + _CONTENT_STEPS) * CONTINUE + TEMPFAIL
    await _expect(peer, _mail(b"<fault-eom>") + _RCPT + _CONTENT, expected)


async def _fault_at_recipient(peer: Peer, choice: random.Random) -> None:
    del choice
    await _expect(peer, _mail(b"<fault-rcpt>") + _RCPT + ABORT, CONTINUE + TEMPFAIL)


async def _late(peer: Peer, choice: random.Random) -> None:
    del choice
    await _expect(peer, _mail(b"<late>") + _RCPT + DATA, 2 * CONTINUE + TEMPFAIL)
    peer.transport.write(ABORT)


async def _in_thread(peer: Peer, choice: random.Random) -> None:
    command = choice.choice((b"NOOP", b"FAIL"))
    answer = TEMPFAIL if command == b"FAIL" else CONTINUE
    await _expect(peer, packet(b"U", command + b"\0"), answer)
    await _plain(peer, choice)


async def _hung_thread(peer: Peer, choice: random.Random) -> None:
    del choice
    await _expect(peer, packet(b"U", b"HANG\0"), TEMPFAIL)
    peer.hang_up()


async def _aborted(peer: Peer, choice: random.Random) -> None:
    del choice
    data = b"".join((_mail(b"<aborted>"), _RCPT, DATA, HEADERS[0], ABORT))
    await _expect(peer, data, 4 * CONTINUE)


async def _cut(peer: Peer, choice: random.Random) -> None:
    data = _mail(b"<cut>") + _RCPT + _CONTENT
    peer.transport.write(data[: choice.randrange(len(data))])
    await asyncio.sleep(0)
    peer.hang_up()


async def _reset(peer: Peer, choice: random.Random) -> None:
    data = _mail(b"<reset>") + _RCPT + _CONTENT
    peer.transport.write(data[: choice.randrange(len(data))])
    await asyncio.sleep(0.001)
    peer.reset()


async def _leave(peer: Peer, choice: random.Random) -> None:
    """Go while a handler waits: it is cancelled."""
    await _expect(peer, _mail(b"<leave>") + _RCPT + DATA, 2 * CONTINUE)
    await asyncio.sleep(0.01 * choice.random())
    peer.reset()


async def _unread(peer: Peer, choice: random.Random) -> None:
    """Ask for a large edit, read none of it, and go."""
    peer.transport.pause_reading()
    peer.transport.write(_mail(b"<big-edit>") + _RCPT + _CONTENT)
    await asyncio.sleep(0.02 * choice.random())
    peer.reset()


async def _nonsense(peer: Peer, choice: random.Random) -> None:
    peer.transport.write(choice.choice((packet(b"Z"), b"\0\0\0\0", b"\xff\xff\xff\xff", EOM + EOM)))
    await asyncio.sleep(0)
    peer.hang_up()


@dataclass(frozen=True, slots=True)
class Errand:
    """One way to send a message, or not.

    Attributes:
        weight: How often, out of 1,000.
        run: Does it, on a connection where HELO was said.
    """

    weight: float
    run: Callable[[Peer, random.Random], Awaitable[None]]


ERRANDS = {
    "plain": Errand(740, _plain),
    "in lockstep": Errand(40, _lockstep),
    "big body": Errand(10, _big),
    "big edit": Errand(10, _big_edit),
    "slow client": Errand(5, _slow),
    "fault at EOM": Errand(40, _fault_at_end),
    "fault at RCPT": Errand(30, _fault_at_recipient),
    "handler out of time": Errand(3, _late),
    "thread": Errand(30, _in_thread),
    "thread that hangs": Errand(0.2, _hung_thread),
    "aborted": Errand(40, _aborted),
    "cut": Errand(20, _cut),
    "reset": Errand(10, _reset),
    "left a handler": Errand(10, _leave),
    "answer unread": Errand(5, _unread),
    "nonsense": Errand(6.8, _nonsense),
}
NEEDS_ANOTHER = frozenset(
    {"thread that hangs", "cut", "reset", "left a handler", "answer unread", "nonsense"}
)
"""Those that end their connection."""
