"""The other end of an example, in raw bytes: nothing here is the library's."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from aiomilter import Milter, Server

__all__ = ["CONTINUE", "Peer", "connect_from", "header", "packet", "served", "strings"]

# Version 6, all actions, all options but no-reply: so that every command has an answer.
OFFER = bytes.fromhex("0000000d 4f 00000006 000001ff 00100f7f")
CONTINUE = (b"c", b"")
PATIENCE_S = 5.0


def packet(letter: bytes, payload: bytes = b"") -> bytes:
    """Return one packet: length, letter, payload."""
    return struct.pack(">I", 1 + len(payload)) + letter + payload


def strings(letter: bytes, *texts: str) -> bytes:
    """Return one packet of strings, each with its NUL."""
    return packet(letter, b"".join(text.encode() + b"\0" for text in texts))


def connect_from(address: str) -> bytes:
    """Return the packet of a client with an IPv4 address and no name."""
    payload = f"[{address}]".encode() + b"\x004\x9c\x40" + address.encode() + b"\0"
    return packet(b"C", payload)


def header(name: str, value: str) -> bytes:
    """Return the packet of a header."""
    return strings(b"L", name, value)


@dataclass(slots=True)
class Peer:
    """A connection to an example."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, port: int) -> Self:
        """Connect and negotiate."""
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        letter, _ = await peer.ask(OFFER)
        assert letter == b"O"
        return peer

    async def read(self) -> tuple[bytes, bytes]:
        """Return the next packet as (letter, payload)."""
        async with asyncio.timeout(PATIENCE_S):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            data = await self.reader.readexactly(length)
        return data[:1], data[1:]

    async def ask(self, data: bytes) -> tuple[bytes, bytes]:
        """Send a packet and return its answer."""
        self.writer.write(data)
        return await self.read()

    async def go_on(self, *packets: bytes) -> None:
        """Send packets, each of which is to be answered CONTINUE."""
        for data in packets:
            assert await self.ask(data) == CONTINUE

    async def end(self) -> list[tuple[bytes, bytes]]:
        """Send the end of a message and return all of its answer, the verdict being the last."""
        answer = [await self.ask(packet(b"E"))]
        while answer[-1][0] not in (b"c", b"a", b"r", b"t", b"d", b"y"):
            answer.append(await self.read())
        return answer

    async def close(self) -> None:
        """Say QUIT and hang up."""
        self.writer.write(packet(b"Q"))
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def served(factory: Callable[[], Milter]) -> AsyncIterator[Peer]:
    """Serve a milter on a port of its own, and connect to it."""
    async with Server(factory, "inet:0") as server:
        peer = await Peer.connect(server.sockets[0].getsockname()[1])
        try:
            yield peer
        finally:
            await peer.close()
