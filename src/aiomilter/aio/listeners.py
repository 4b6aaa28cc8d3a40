"""Listening sockets, from addresses.

Rules of this file:

- A unix socket has its mode, owner and group before anybody can connect to it: it is bound under
  a fitting umask and listens only when all is set.
- A socket at the path that somebody serves is left alone, and starting fails. One that nobody
  serves is taken over. Anything that is no socket is never touched.
- At the end the path is removed only if it still is the socket that was made here.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass

from aiomilter.aio.address import Address, parse_address
from aiomilter.aio.config import Config
from aiomilter.errors import ConfigError

__all__ = ["Listener", "open_listeners"]

_FIRST_SYSTEMD_DESCRIPTOR = 3
_PROBE_TIMEOUT_S = 1.0


@dataclass(slots=True)
class Listener:
    """An open listening socket.

    Attributes:
        sock: The socket; non-blocking, listening.
        label: For the log.
        owned_path: The path of a unix socket that was made here, with device and inode.
    """

    sock: socket.socket
    label: str
    owned_path: tuple[str, int, int] | None = None

    def close(self) -> None:
        """Close the socket and remove its path, if that is still ours."""
        self.sock.close()
        if self.owned_path is None:
            return
        path, device, inode = self.owned_path
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) == (device, inode):
                os.unlink(path)


def open_listeners(where: tuple[str | socket.socket, ...], config: Config) -> list[Listener]:
    """Return listening sockets for addresses and bound sockets, in their order.

    Raises:
        ConfigError: One of them cannot be opened; those opened before are closed again.
    """
    if not where:
        raise ConfigError("no address to listen on, such as 'inet:8890' or 'unix:/run/my.sock'")
    opened: list[Listener] = []
    try:
        for place in where:
            if isinstance(place, socket.socket):
                opened.append(_adopt(place, _name_of(place), config))
            else:
                opened.extend(_open(parse_address(place), config))
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    return opened


def _open(address: Address, config: Config) -> list[Listener]:
    match address.kind:
        case "unix":
            return [_open_unix(address, config)]
        case "fd":
            return [_open_descriptor(address.number, str(address), config)]
        case "systemd":
            return [
                _open_descriptor(number, f"{address} (descriptor {number})", config)
                for number in _systemd_descriptors(address)
            ]
        case _:
            return _open_inet(address, config)


def _adopt(sock: socket.socket, label: str, config: Config) -> Listener:
    if sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"{label} is no stream socket")
    sock.setblocking(False)
    sock.set_inheritable(False)
    try:
        sock.listen(config.backlog)
    except OSError as error:
        raise ConfigError(f"cannot listen on {label}: {error.strerror}") from error
    return Listener(sock, label)


def _name_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    if sock.family == socket.AF_INET6:
        return f"inet6:{name[1]}@{name[0]}"
    return f"inet:{name[1]}@{name[0]}"


def _open_descriptor(number: int, label: str, config: Config) -> Listener:
    try:
        # A copy, so that closing it does not take the descriptor from whoever handed it in.
        sock = socket.socket(fileno=os.dup(number))
    except OSError as error:
        raise ConfigError(f"{label}: no open socket there: {error.strerror}") from error
    try:
        return _adopt(sock, label, config)
    except BaseException:
        sock.close()
        raise


def _systemd_descriptors(address: Address) -> list[int]:
    """Return the descriptors that systemd has passed, by sd_listen_fds(3)."""
    environ = os.environ
    count = environ.get("LISTEN_FDS", "")
    is_number = count.isascii() and count.isdigit() and len(count) < 5
    if environ.get("LISTEN_PID") != str(os.getpid()) or not is_number or int(count) == 0:
        raise ConfigError(
            f"{address}: systemd has passed no sockets to this process; start it by its socket unit"
        )
    numbers = range(_FIRST_SYSTEMD_DESCRIPTOR, _FIRST_SYSTEMD_DESCRIPTOR + int(count))
    if not address.name:
        return list(numbers)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found = [number for number, name in zip(numbers, names, strict=False) if name == address.name]
    if not found:
        raise ConfigError(f"{address}: systemd has passed sockets named {', '.join(names)}")
    return found


def _open_inet(address: Address, config: Config) -> list[Listener]:
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
    try:
        found = socket.getaddrinfo(
            address.host, address.port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        # A name that IDNA cannot encode is a UnicodeError.
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{address}: host {address.host!r}: {reason}") from error
    listeners: list[Listener] = []
    for host_family, _type, _protocol, _name, where in dict.fromkeys(found):
        sock = socket.socket(host_family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if host_family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            listeners.append(_adopt(sock, _name_of(sock), config))
        except (OSError, ConfigError) as error:
            sock.close()
            for listener in listeners:
                listener.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot listen on {address}: {reason}") from error
    return listeners


def _open_unix(address: Address, config: Config) -> Listener:
    path = address.path
    uid = _number(config.unix_owner, "unix_owner", lambda name: pwd.getpwnam(name).pw_uid)
    gid = _number(config.unix_group, "unix_group", lambda name: grp.getgrnam(name).gr_gid)
    _make_room(path, address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~config.unix_mode)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot make the socket {address}: {error.strerror}") from error
    finally:
        os.umask(umask)
    made = os.lstat(path)
    listener = Listener(sock, str(address), (path, made.st_dev, made.st_ino))
    try:
        if uid != -1 or gid != -1:
            os.chown(path, uid, gid)
        os.chmod(path, config.unix_mode)
        _adopt(sock, str(address), config)
        listener.label = f"{address} ({_permissions(path)})"
    except ConfigError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot set owner, group and mode of the socket {address}: {error.strerror}; only "
            f"root may give it to others, and a user only to a group of their own"
        ) from error
    return listener


def _permissions(path: str) -> str:
    """Return who may connect, for the log: an MTA must be able to write to the socket."""
    found = os.stat(path)
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    return f"{owner}:{group}, mode {stat.S_IMODE(found.st_mode):04o}"


def _make_room(path: str, address: Address) -> None:
    """Remove a socket that nobody serves; refuse to go on over anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot look at {address}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{address}: there is a file that is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise ConfigError(
                    f"{address}: there is a socket, and whether it is in use cannot be told: "
                    f"{error.strerror or error}"
                ) from error
        else:
            raise ConfigError(f"{address}: another process is listening there")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _number(value: str | int | None, setting: str, look_up: Callable[[str], int]) -> int:
    """Return the number of a user or group; -1 leaves it as it is."""
    if value is None:
        return -1
    if isinstance(value, int) or (value.isascii() and value.isdigit()):
        return int(value)
    try:
        return look_up(value)
    except KeyError:
        raise ConfigError(f"{setting}: there is no {value!r} on this system") from None
