"""Listening sockets, from addresses.

Rules of this file:

- A unix socket has its mode, owner and group before anybody can connect to it: it is bound under
  a fitting umask and listens only when all is set.
- A socket at the path that somebody serves is left alone, and starting fails. One that nobody
  serves is taken over. Anything that is no socket is never touched.
- From looking at what is there until our socket listens the directory is locked (flock), so that
  of several that start at one moment none takes a socket for stale that is about to be served.
- At the end the path is removed only if it still is the socket that was made here. It is removed
  while the socket is open: a closed one's inode number may be a successor's by then.
- An address that other hosts can reach is only bound if it is said who may connect: whoever does
  can claim to be an MTA. Sockets that were handed in are the decision of who has made them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import pwd
import socket
import stat
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from aiomilter.aio.address import Address, parse_address
from aiomilter.aio.config import Config
from aiomilter.errors import ConfigError

__all__ = ["Listener", "open_listeners"]

_logger = logging.getLogger("aiomilter")

_FIRST_SYSTEMD_DESCRIPTOR = 3
_PROBE_TIMEOUT_S = 1.0
_LOCK_TIMEOUT_S = 2.0
"""How long another start in the same directory is waited for. One takes under a millisecond, but
up to a second if it has to find out about a socket whose owner is stuck."""
_LOCK_RETRY_S = 0.01


@dataclass(slots=True)
class Listener:
    """An open listening socket.

    Attributes:
        sock: The socket; non-blocking, listening.
        label: The address, as it was configured.
        owned_path: The path of a unix socket that was made here, with device and inode.
        permissions: Who may connect to that.
        is_own: Whether it was bound here, so that nobody takes over its backlog.
    """

    sock: socket.socket
    label: str
    owned_path: tuple[str, int, int] | None = None
    permissions: str = ""
    is_own: bool = False

    @property
    def description(self) -> str:
        """The address and who may connect, for the log."""
        return f"{self.label} ({self.permissions})" if self.permissions else self.label

    def close(self) -> None:
        """Close the socket and remove its path, if that is still ours."""
        self.remove_path()
        self.sock.close()

    def remove_path(self) -> None:
        """Remove the path of a unix socket, if it is still ours: nobody finds it any more."""
        if self.owned_path is not None:
            path, device, inode = self.owned_path
            self.owned_path = None
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
    count = os.environ.get("LISTEN_FDS", "")
    owner = os.environ.get("LISTEN_PID", "")
    problem = f"{address}: systemd has passed no sockets to this process"
    if not count or not owner:
        raise ConfigError(f"{problem}; start it by its socket unit")
    if owner != str(os.getpid()):
        raise ConfigError(
            f"{problem}: those of LISTEN_FDS are for process {owner!r}, and this is {os.getpid()}; "
            f"a script that starts it has to do so by exec"
        )
    if not (count.isascii() and count.isdigit() and len(count) < 5) or int(count) == 0:
        raise ConfigError(f"{problem}: LISTEN_FDS is {count!r}; see ListenStream= of its unit")
    numbers = range(_FIRST_SYSTEMD_DESCRIPTOR, _FIRST_SYSTEMD_DESCRIPTOR + int(count))
    if not address.name:
        return list(numbers)
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
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
    # All of them first: a host name may have an address of each kind.
    for *_, where in found:
        _check_reach(address, str(where[0]), config)
    listeners: list[Listener] = []
    for host_family, _type, _protocol, _name, where in dict.fromkeys(found):
        sock = socket.socket(host_family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if host_family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            listener = _adopt(sock, _name_of(sock), config)
            listener.is_own = True
            listeners.append(listener)
        except (OSError, ConfigError) as error:
            sock.close()
            for listener in listeners:
                listener.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot listen on {address}: {reason}") from error
    return listeners


def _check_reach(address: Address, host: str, config: Config) -> None:
    """Refuse an address that others can reach, unless it is said who may."""
    # A link-local address comes with its interface.
    found = ip_address(host.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if not found.is_loopback and not config.allowed_networks:
        raise ConfigError(
            f"{address}: {host} is not the loopback address, and whoever reaches it can claim to "
            f"be an MTA; say who may connect by allowed_networks, such as "
            f"Config(allowed_networks=('192.0.2.0/24',)), or listen on the loopback address"
        )


def _open_unix(address: Address, config: Config) -> Listener:
    path = address.path
    uid = _number(config.unix_owner, "unix_owner", lambda name: pwd.getpwnam(name).pw_uid)
    gid = _number(config.unix_group, "unix_group", lambda name: grp.getgrnam(name).gr_gid)
    directory = os.path.dirname(path) or "."
    _check_directory(directory, address)
    with _locked(directory, address):
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
        listener = Listener(sock, str(address), (path, made.st_dev, made.st_ino), is_own=True)
        try:
            # Not through a link that somebody may have put in the socket's place. The mode is the
            # umask's: there is no way to set one without following links.
            if uid != -1 or gid != -1:
                os.chown(path, uid, gid, follow_symlinks=False)
            _check_made(path, made, config.unix_mode)
            _adopt(sock, str(address), config)
            listener.permissions = _permissions(path)
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


def _check_made(path: str, made: os.stat_result, mode: int) -> None:
    """Refuse to go on if the path is not our socket any more, or has another mode than was asked.

    Raises:
        ConfigError: So it is; a default ACL of the directory can change a mode.
    """
    found = os.lstat(path)
    if (found.st_dev, found.st_ino) != (made.st_dev, made.st_ino):
        raise ConfigError(f"{path}: somebody has put something else in the place of the socket")
    if stat.S_IMODE(found.st_mode) != mode:
        raise ConfigError(
            f"{path}: the mode is {stat.S_IMODE(found.st_mode):04o} instead of {mode:04o}; has the "
            "directory a default ACL?"
        )


def _check_directory(directory: str, address: Address) -> None:
    """Refuse a directory that is not there, and tell of one where anybody can take our place."""
    try:
        found = os.stat(directory)
    except FileNotFoundError as error:
        raise ConfigError(
            f"cannot make the socket {address}: there is no directory {directory!r} (make it, or "
            f"have systemd do so by RuntimeDirectory=): {error.strerror}"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot look at {directory!r} of {address}: {error.strerror}") from error
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        _logger.warning(
            "%s: everybody on this host may write to the directory %r, and so put a socket of "
            "their own in place of this one; take a directory that only its owner may write to",
            address,
            directory,
        )


@contextlib.contextmanager
def _locked(directory: str, address: Address) -> Generator[None]:
    """Keep other starts out of a directory, as far as it can be locked."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        # It may be one that we can search and write to, but not read.
        yield
        return
    try:
        _wait_for_lock(descriptor, directory, address)
        yield
    finally:
        # The lock ends with it.
        os.close(descriptor)


def _wait_for_lock(descriptor: int, directory: str, address: Address) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"{address}: another process holds a lock on the directory {directory!r}, as a "
                    f"milter does that is just starting there; try again, or take a directory of "
                    f"its own"
                ) from error
            time.sleep(_LOCK_RETRY_S)
        except OSError:
            # Not every file system has locks.
            return
        else:
            return


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
        except BlockingIOError as error:
            # Its backlog is full.
            raise ConfigError(f"{address}: another process is listening there") from error
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
