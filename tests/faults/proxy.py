"""A proxy between an MTA and a milter that does harm at a chosen byte, and nowhere else.

Each connection has a script: for each of the two directions, what happens when so many bytes have
gone through. Between these points bytes pass as they come, an end of the stream passes as one, and
no byte ever overtakes another of its direction. There is no chance in it: what a script does at a
byte, it does at that byte every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.mta import PATIENCE_S

__all__ = [
    "Cut",
    "Gate",
    "HalfClose",
    "HoldUntil",
    "Link",
    "Pause",
    "Proxy",
    "Reset",
    "Script",
    "Split",
    "Step",
]

_READ_BYTES = 65_536
_TURNS_A_PIECE = 3
"""Turns of the loop after each piece: it is sent, seen, and read by an end of this process."""
_RST = struct.pack("ii", 1, 0)
_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(eq=False)
class Flow:
    """One direction of a connection.

    Attributes:
        passed: How many bytes have gone through.
        data: Those bytes.
        largest_piece: How many bytes are written at once at most.
        is_dropped: Whether what comes is no longer passed on.
    """

    passed: int = 0
    data: bytearray = field(default_factory=bytearray)
    largest_piece: int = _READ_BYTES
    is_dropped: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, data: bytes) -> None:
        """Count bytes that have gone through."""
        self.passed += len(data)
        self.data += data
        self._changed.set()

    async def until(self, passed: int) -> None:
        """Wait until so many bytes have gone through."""
        while self.passed < passed:
            self._changed.clear()
            await self._changed.wait()


@dataclass(eq=False)
class Link:
    """One connection through the proxy: both of its directions, and its ends.

    Attributes:
        to_milter: What the MTA says.
        to_mta: What the milter says.
        is_over: Set when nothing more will go through.
    """

    mta: _Ends
    milter: _Ends
    to_milter: Flow = field(default_factory=Flow)
    to_mta: Flow = field(default_factory=Flow)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self, *, with_reset: bool = False) -> None:
        """End the connection towards both ends."""
        self.is_over.set()
        for _, writer in (self.mta, self.milter):
            if with_reset:
                sock: socket.socket = writer.get_extra_info("socket")
                if sock.family != socket.AF_UNIX and sock.fileno() >= 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                writer.transport.abort()
            else:
                writer.close()


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection towards both ends; each reads an end of the stream."""

    async def act(self, link: Link, flow: Flow, onward: asyncio.StreamWriter) -> None:
        del flow, onward
        link.close()


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connection towards both ends; over a unix socket it is a cut at once."""

    async def act(self, link: Link, flow: Flow, onward: asyncio.StreamWriter) -> None:
        del flow, onward
        link.close(with_reset=True)


@dataclass(frozen=True, slots=True)
class HalfClose:
    """End this direction alone; what comes for it later is dropped."""

    async def act(self, link: Link, flow: Flow, onward: asyncio.StreamWriter) -> None:
        del link
        flow.is_dropped = True
        onward.write_eof()


@dataclass(frozen=True, slots=True)
class Gate:
    """Let nothing more through in this direction until the gate is opened.

    Attributes:
        reached: Set when it holds bytes back.
        opened: For the test to set.
    """

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def act(self, link: Link, flow: Flow, onward: asyncio.StreamWriter) -> None:
        del link, flow, onward
        self.reached.set()
        await self.opened.wait()


@dataclass(frozen=True, slots=True)
class HoldUntil:
    """Hold this direction until the other one has got so far.

    Attributes:
        passed: How many bytes have gone through in the other direction.
    """

    passed: int

    async def act(self, link: Link, flow: Flow, onward: asyncio.StreamWriter) -> None:
        del onward
        other = link.to_mta if flow is link.to_milter else link.to_milter
        await other.until(self.passed)


@dataclass(frozen=True, slots=True)
class Pause:
    """Let nothing through in this direction for a time, and then go on."""

    seconds: float

    async def act(self, link: Link, flow: Flow, onward: asyncio.StreamWriter) -> None:
        del link, flow, onward
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class Split:
    """From here on, write at most so many bytes at once, each piece by itself."""

    size: int

    async def act(self, link: Link, flow: Flow, onward: asyncio.StreamWriter) -> None:
        del link, onward
        flow.largest_piece = self.size


Action = Cut | Reset | HalfClose | Gate | HoldUntil | Pause | Split


@dataclass(frozen=True, slots=True)
class Step:
    """What happens when so many bytes have gone through.

    Attributes:
        at: Number of bytes; 0 is ahead of the first one.
        action: What happens, before the next byte.
    """

    at: int
    action: Action


@dataclass(frozen=True, slots=True)
class Script:
    """What happens to a connection: steps for each direction, in the order of their bytes."""

    to_milter: Sequence[Step] = ()
    to_mta: Sequence[Step] = ()


class Proxy:
    """Listens as the milter would; connection by connection there is a script.

    Attributes:
        listener: Where the MTA connects.
        links: The connections so far.
        scripts: For the connections to come, the next one first; none: bytes pass unharmed.
    """

    def __init__(self, listener: socket.socket, dial: Callable[[], Awaitable[_Ends]]) -> None:
        self.listener = listener
        self.links: list[Link] = []
        self.scripts: list[Script] = []
        self._dial = dial
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """The listener's address as the library writes it."""
        name = self.listener.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"inet:{name[1]}@127.0.0.1"

    @classmethod
    @asynccontextmanager
    async def before(
        cls, milter: socket.socket | str, *scripts: Script, path: Path | None = None
    ) -> AsyncIterator[Proxy]:
        """Listen in front of a milter until the block ends; nothing is left of it then.

        Args:
            milter: The listening socket of a milter, or the path of one.
            *scripts: For the first connections.
            path: A unix socket to listen on; None for a port of the loopback.
        """
        target = milter if isinstance(milter, str) else milter.getsockname()

        async def dial() -> _Ends:
            if isinstance(target, str):
                return await asyncio.open_unix_connection(target)
            return await asyncio.open_connection(*target[:2])

        listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        listener.bind(str(path) if path else ("127.0.0.1", 0))
        proxy = cls(listener, dial)
        proxy.scripts += scripts
        serve = asyncio.start_unix_server if path else asyncio.start_server
        server = await serve(proxy._accept, sock=listener)
        try:
            yield proxy
        finally:
            server.close()
            for link in proxy.links:
                link.close(with_reset=True)
            for task in proxy._tasks:
                task.cancel()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*proxy._tasks, return_exceptions=True)
                for link in proxy.links:
                    for _, writer in (link.mta, link.milter):
                        with contextlib.suppress(OSError):
                            await writer.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._relay((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, mta: _Ends) -> None:
        script = self.scripts.pop(0) if self.scripts else Script()
        try:
            milter = await self._dial()
        except OSError:
            # Nobody listens behind us: the MTA sees its connection closed.
            mta[1].close()
            return
        except asyncio.CancelledError:
            # The block has ended, as the MTA gave up early: no link is there yet to close this.
            mta[1].transport.abort()
            raise
        link = Link(mta, milter)
        self.links.append(link)
        for _, writer in (mta, milter):
            sock: socket.socket = writer.get_extra_info("socket")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.gather(
                _pump(link, link.to_milter, mta[0], milter[1], script.to_milter),
                _pump(link, link.to_mta, milter[0], mta[1], script.to_mta),
            )
        finally:
            link.close()


async def _pump(
    link: Link,
    flow: Flow,
    reader: asyncio.StreamReader,
    onward: asyncio.StreamWriter,
    steps: Sequence[Step],
) -> None:
    """Carry one direction until its end, doing what the steps say."""
    waiting = list(steps)
    with contextlib.suppress(OSError):
        while not link.is_over.is_set():
            while waiting and waiting[0].at == flow.passed:
                await waiting.pop(0).action.act(link, flow, onward)
            limit = waiting[0].at - flow.passed if waiting else _READ_BYTES
            if link.is_over.is_set():
                return
            data = await reader.read(min(limit, flow.largest_piece))
            if link.is_over.is_set():
                return
            if not data:
                if not flow.is_dropped:
                    onward.write_eof()
                return
            if flow.is_dropped:
                continue
            flow.note(data)
            onward.write(data)
            await onward.drain()
            if flow.largest_piece < _READ_BYTES:
                for _ in range(_TURNS_A_PIECE):
                    await asyncio.sleep(0)
    if not link.is_over.is_set():
        # One end is gone with an error; the other learns of it.
        link.close(with_reset=True)
