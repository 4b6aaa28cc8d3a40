"""Opening a connection to a milter.

Rules of this file:

- Whatever goes wrong is one sentence that says what to do about it, as `MilterUnavailable`.
- Of a host with several addresses each is tried, in the order of the system's resolver.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass

from aiomilter.aio.address import Address, parse_address
from aiomilter.errors import ConfigError, MilterUnavailable

__all__ = ["Stream", "dial"]


_READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Stream:
    """An open connection, as asyncio has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self) -> bytes:
        """Return what has come in, as soon as there is something; nothing at the end."""
        return await self.reader.read(_READ_BYTES)

    async def write(self, data: bytes) -> None:
        """Send, and wait while the other end does not read."""
        if self.writer.is_closing():
            # uvloop raises a RuntimeError for it.
            raise ConnectionResetError("the connection is closed")
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        """Close the connection; what was written still goes out."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Close the connection without waiting for anything."""
        self.writer.transport.abort()


async def dial(address: str | Address, *, timeout_s: float = 30.0) -> Stream:
    """Connect to a milter.

    Args:
        address: As of `aiomilter.aio.address`; a place to connect to, so neither ``fd:`` nor
            ``systemd:``.
        timeout_s: How long it may take. Postfix gives a milter 30 s.

    Raises:
        ConfigError: The address is none, or nothing to connect to.
        MilterUnavailable: There is no connection. The text says why and what may help.
    """
    where = parse_address(address) if isinstance(address, str) else address
    if where.kind in ("fd", "systemd"):
        raise ConfigError(f"{str(where)!r} is a place to listen on, not one to connect to")
    if where.kind != "unix" and not where.port:
        raise ConfigError(f"{str(where)!r}: port 0 is for listening; name the milter's port")
    try:
        async with asyncio.timeout(timeout_s):
            return await _open(where)
    except TimeoutError:
        raise MilterUnavailable(
            f"{where} does not take the connection within {timeout_s:g} s; "
            f"is the address right, and is no firewall in between?"
        ) from None
    except UnicodeError as error:
        # Labels of a name that are empty or too long.
        raise MilterUnavailable(_no_host(where)) from error
    except OSError as error:
        if where.kind == "unix" and error.errno == errno.ECONNREFUSED:
            # What Linux says of files, too.
            error = await asyncio.to_thread(_refusal, where.path, error)
        raise MilterUnavailable(_explain(where, error)) from error


async def _open(where: Address) -> Stream:
    if where.kind == "unix":
        return Stream(*await asyncio.open_unix_connection(where.path))
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(where.kind, socket.AF_UNSPEC)
    reader, writer = await asyncio.open_connection(where.host, where.port, family=family)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Stream(reader, writer)


def _refusal(path: str, error: OSError) -> OSError:
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as why:
        return why
    return error if is_socket else OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))


def _no_host(where: Address) -> str:
    return f"{where}: no host is called {where.host!r}; check its spelling, or the DNS"


def _explain(where: Address, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return _no_host(where)
    match error.errno:
        case errno.ECONNREFUSED if where.kind == "unix":
            return f"{where}: nobody listens on this socket any more; start the milter again"
        case errno.ECONNREFUSED:
            return f"{where}: nobody listens there; is the milter running, and on this port?"
        case errno.ENOENT:
            return f"{where}: there is no such socket; is the milter running, with this path?"
        case errno.EACCES | errno.EPERM:
            return (
                f"{where}: no permission to connect; become a member of the socket's group, or "
                f"start the milter with a socket that others may write to"
            )
        case errno.ENOTSOCK:
            return f"{where}: this is no socket, but a file or a directory"
        case errno.EPROTOTYPE:
            return f"{where}: this is no stream socket, as milters have them"
        case errno.EHOSTUNREACH | errno.ENETUNREACH:
            return f"{where}: the host cannot be reached from here"
        case _:
            # Several addresses of one host fail together, as text without a number.
            text = error.strerror or str(error)
            if f"Errno {errno.ECONNREFUSED}" in text:
                return f"{where}: nobody listens there; is the milter running, and on this port?"
            return f"{where}: no connection: {text}"
