"""Where to listen or to connect, as one string.

::

    inet:PORT@HOST      IPv4            inet:PORT      on the loopback address
    inet6:PORT@HOST     IPv6            inet6:PORT     on the loopback address
    HOST:PORT           either; an IPv6 address in brackets
    unix:PATH           a unix socket; also local:PATH, or a bare PATH that begins with /
    fd:NUMBER           an open, bound socket that was inherited
    systemd:            all sockets from systemd; systemd:NAME those of that name

Rules of this file:

- The forms ``inet``, ``inet6``, ``unix``, ``local`` and ``fd`` are those of libmilter
  (``smfi_setconn``) and of Sendmail's and Postfix's configuration (``inet:HOST:PORT`` is
  Postfix's order and understood, too).
- Without a host libmilter listens on all interfaces; here it is the loopback one. Whoever can
  connect can claim to be any client, so that all interfaces have to be asked for, as
  ``inet:PORT@0.0.0.0``.
- libmilter takes ``8891abc`` for 8891 and 65537 for 1; here both are errors.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal

from aiomilter.errors import ConfigError
from aiomilter.spec import MAX_UNIX_PATH_BYTES

__all__ = ["Address", "parse_address"]

_FORMS = "inet:PORT@HOST, inet6:PORT@HOST, HOST:PORT, unix:PATH, /PATH, fd:NUMBER, systemd:NAME"

_Kind = Literal["inet", "inet6", "any", "unix", "fd", "systemd"]


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address.

    Attributes:
        kind: ``any`` is a host of whatever family.
        host: For ``inet``, ``inet6`` and ``any``.
        port: For the same; 0 lets the system choose one.
        path: For ``unix``.
        number: For ``fd``.
        name: For ``systemd``; empty for all.
        text: As it was written.
    """

    kind: _Kind
    host: str = ""
    port: int = 0
    path: str = ""
    number: int = -1
    name: str = ""
    text: str = ""

    def __str__(self) -> str:
        return self.text


def parse_address(text: str) -> Address:
    """Return what an address says; nothing is looked up or opened.

    Raises:
        ConfigError: It is none. The error says what is wrong and what the forms are.
    """
    if text.startswith("/"):
        return _unix(text, text)
    scheme, colon, rest = text.partition(":")
    match scheme.lower() if colon else "":
        case "unix" | "local":
            return _unix(rest, text)
        case "inet":
            return _inet("inet", rest, "127.0.0.1", text)
        case "inet6":
            return _inet("inet6", rest, "::1", text)
        case "fd":
            if not (rest.isascii() and rest.isdigit() and len(rest) < 10):
                raise ConfigError(f"{text!r}: a descriptor is a number, as in fd:3")
            return Address("fd", number=int(rest), text=text)
        case "systemd":
            return Address("systemd", name=rest, text=text)
        case "tcp" | "tcp4" | "tcp6" | "http":
            raise ConfigError(f"{text!r}: write inet:PORT@HOST instead of {scheme}:")
        case _:
            return _host_and_port(text)


def _unix(path: str, text: str) -> Address:
    if not path:
        raise ConfigError(f"{text!r}: the path of the socket is missing")
    try:
        size = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise ConfigError(f"{text!r}: this cannot be a path") from None
    if "\0" in path:
        raise ConfigError(f"{text!r}: a path has no NUL")
    if size > MAX_UNIX_PATH_BYTES:
        raise ConfigError(
            f"{text!r}: the path of a unix socket has at most {MAX_UNIX_PATH_BYTES} bytes, this "
            f"one has {size}"
        )
    return Address("unix", path=path, text=text)


def _inet(kind: Literal["inet", "inet6"], rest: str, loopback: str, text: str) -> Address:
    port, at, host = rest.partition("@")
    if not at and ":" in rest:
        # Postfix's order: inet:HOST:PORT.
        host, _, port = rest.rpartition(":")
        at = ":"
    host = host.removeprefix("[").removesuffix("]")
    if at and not host:
        raise ConfigError(f"{text!r}: the host is missing; without one leave out the {at!r}")
    if kind == "inet" and ":" in host:
        raise ConfigError(f"{text!r}: this is an IPv6 address; write inet6:{port}@{host}")
    return Address(kind, host=_host(host or loopback, text), port=_port(port, text), text=text)


def _host_and_port(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ConfigError(f"{text!r} is no address; {_suggestion(text)}the forms are {_FORMS}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f"{text!r}: put an IPv6 address in brackets, as in [::1]:8890")
    host = host.removeprefix("[").removesuffix("]")
    return Address("any", host=_host(host, text), port=_port(port, text), text=text)


def _suggestion(text: str) -> str:
    """Say what a bare port or host was meant to be, where that is clear."""
    port = text.removeprefix(":")
    if port.isascii() and port.isdigit() and len(port) <= 5:
        return f"did you mean inet:{port}? "
    if text == "localhost":
        return "did you mean inet:PORT@localhost? "
    if text.startswith(("./", "../")) or text.endswith((".sock", ".socket")):
        return f"did you mean unix:{text}? "
    return ""


def _host(host: str, text: str) -> str:
    # Lone surrogates, too, are not printable.
    if not host.isprintable() or " " in host:
        raise ConfigError(f"{text!r}: {host!r} is no host")
    return host


def _port(port: str, text: str) -> int:
    if port.isascii() and port.isdigit():
        digits = port.lstrip("0") or "0"
        if len(digits) <= 5 and int(digits) <= 0xFFFF:
            return int(digits)
        raise ConfigError(f"{text!r}: a port is at most 65535")
    try:
        return socket.getservbyname(port, "tcp")
    except (OSError, ValueError):
        raise ConfigError(f"{text!r}: {port!r} is no port; the forms are {_FORMS}") from None
