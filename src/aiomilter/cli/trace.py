"""``aiomilter trace``: stand between an MTA and a milter, and show every packet.

Rules of this file:

- A terminal that does not take its lines (Ctrl-S) and a full disk must not hold up the mail: lines
  are printed in a thread; a record or output that cannot be written ends while the mail goes on,
  and the exit code is 2 then.
- Ctrl-C and SIGTERM are the way to end it: exit code 0. It also ends when nobody reads its lines
  any more, as in ``aiomilter trace ... | head``; with ``--quiet`` nobody has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from aiomilter.aio.address import Address, parse_address
from aiomilter.aio.config import Config
from aiomilter.aio.listeners import Listener, open_listeners
from aiomilter.app.text import printable
from aiomilter.cli.console import CommandError, complain, errors_as_sentences, run_to_end, stderr
from aiomilter.cli.listening import advice_about
from aiomilter.cli.proxy import Counts, Proxy
from aiomilter.cli.record import Entry, Header, RecordWriter
from aiomilter.cli.view import show
from aiomilter.errors import ConfigError

__all__ = ["trace"]

_MOST_LINES_WAITING = 10_000
_LAST_LINES_S = 2.0
"""How long the terminal may take for the lines that wait when the trace ends."""


@click.command()
@click.option("--listen", required=True, metavar="ADDRESS", help="Where the MTA connects to.")
@click.option("--to", required=True, metavar="ADDRESS", help="Where the milter is.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all that passes to a new file, for 'replay' and 'decode'. It will hold mail.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print no packets.")
@click.option(
    "--unix-mode",
    default="660",
    show_default=True,
    metavar="MODE",
    help="Permissions of a unix socket to listen on, in octal.",
)
@click.option("--unix-group", metavar="GROUP", help="Its group, such as postfix.")
@click.option(
    "--allow",
    multiple=True,
    metavar="NETWORK",
    help="Who may connect, as 192.0.2.0/24; needed for another address than the loopback.",
)
def trace(
    listen: str,
    to: str,
    record: Path | None,
    quiet: bool,
    unix_mode: str,
    unix_group: str | None,
    allow: tuple[str, ...],
) -> None:
    """Stand between an MTA and a milter, and show every packet.

    Start it on an address of its own and point the MTA there. What passes is not changed. Ctrl-C
    ends it, and the connections with it.

    \b
      aiomilter trace --listen inet:9901 --to inet:9900 --record session.jsonl
    """  # noqa: D301  (click wants the character itself)
    with errors_as_sentences(to):
        target = _target(to, listen)
        config = Config(unix_mode=_mode(unix_mode), unix_group=unix_group, allowed_networks=allow)
        with contextlib.ExitStack() as at_end:
            try:
                listeners = open_listeners((listen,), config)
            except ConfigError as error:
                raise CommandError(f"{error}{advice_about(error)}") from error
            for listener in listeners:
                at_end.callback(listener.close)
            if any(_leads_to(target, listener.sock) for listener in listeners):
                raise _loop_error(to)
            started = datetime.now(UTC).isoformat(timespec="milliseconds")
            writer = RecordWriter(record, Header(started, listen, to)) if record else None
            printer = None if quiet else _Printer()
            tracing = _Tracing(writer, printer)
            try:
                counts = run_to_end(tracing.run(listeners, target, config))
            finally:
                if writer is not None:
                    writer.close()
                if printer is not None:
                    printer.close()
        where = f", recorded in {printable(str(record))}" if record else ""
        stderr.print(f"{_summary(counts)}{where}", markup=False)
        if printer is not None and printer.is_stuck:
            # At its end Python would wait for the thread that writes; there is nothing to lose.
            os._exit(2 if tracing.record_fault else 0)
        if tracing.record_fault:
            raise CommandError(f"the record {record} is not complete: {tracing.record_fault}")
        if printer is not None and printer.fault:
            raise CommandError(f"the output is not complete: {printer.fault}")
        if printer is not None and printer.is_unread:
            raise BrokenPipeError


def _summary(counts: Counts) -> str:
    plural = "" if counts.connections == 1 else "s"
    return f"{counts.connections} connection{plural}, {counts.packets} packets"


def _mode(text: str) -> int:
    if len(text) > 5 or not text.isascii() or not text.isdigit() or set(text) & {"8", "9"}:
        raise CommandError(f"--unix-mode is a mode in octal, such as 660; not {text!r}")
    return int(text, 8)


def _target(to: str, listen: str) -> Address:
    target = parse_address(to)
    if target.kind in ("fd", "systemd"):
        raise ConfigError(f"{to!r} is a place to listen on, not one to connect to")
    if target.kind != "unix" and not target.port:
        raise ConfigError(f"{to!r}: port 0 is for listening; name the milter's port")
    if _place(target) == _place(parse_address(listen)):
        raise _loop_error(to)
    return target


def _loop_error(to: str) -> ConfigError:
    return ConfigError(f"{to!r} is both the milter's address and the one to listen on")


def _leads_to(target: Address, listening: socket.socket) -> bool:
    """Say whether who connects to the target would reach this socket."""
    if listening.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            return target.kind == "unix" and os.path.samefile(target.path, listening.getsockname())
        return False
    host, port = listening.getsockname()[:2]
    if target.kind == "unix" or target.port != port:
        return False
    try:
        found = socket.getaddrinfo(
            target.host, port, family=listening.family, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        # It has no address of this family, or none at all, which is told to each connection.
        return False
    hosts = [str(address[0]) for *_, address in found]
    return any(one == host or _reaches_all(host, one, listening.family) for one in hosts)


def _reaches_all(listening: str, host: str, family: int) -> bool:
    """Say whether a host is this one, where all its addresses are listened on."""
    if listening not in ("0.0.0.0", "::"):  # noqa: S104  (it is only compared)
        return False
    with contextlib.suppress(OSError), socket.socket(family) as probe:
        # Only an address of this host can be bound.
        probe.bind((host, 0))
        return True
    return False


def _place(address: Address) -> tuple[str, str, int, str]:
    return address.kind, address.host, address.port, address.path


class _Tracing:
    """A proxy at work, and where its reports go.

    Attributes:
        record_fault: Why the record has ended before the trace; empty if it has not.
    """

    def __init__(self, writer: RecordWriter | None, printer: _Printer | None) -> None:
        self._writer = writer
        self._printer = printer
        self.record_fault = ""

    async def run(self, listeners: list[Listener], to: Address, config: Config) -> Counts:
        """Forward until a signal comes."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if self._printer is not None:
            self._printer.start(lambda: loop.call_soon_threadsafe(stop.set))
        proxy = Proxy(to, self._report, config)
        servers = [await proxy.serve(listener, config.backlog) for listener in listeners]
        for listener in listeners:
            stderr.print(f"listening on {printable(listener.description)}, forwarding to ", end="")
            stderr.print(printable(str(to)), markup=False)
        await stop.wait()
        for server in servers:
            server.close()
        await proxy.stop()
        return proxy.counts

    def _report(self, entry: Entry) -> None:
        if self._writer is not None and not self.record_fault:
            try:
                self._writer.write(entry)
            except OSError as error:
                self.record_fault = error.strerror or str(error)
                complain(f"the record ends here: {self.record_fault}; the mail goes on")
        if entry.event == "error":
            complain(f"connection {entry.connection}: {entry.detail}")
        elif self._printer is not None:
            self._printer.print(entry)


class _Printer:
    """Prints entries in a thread of its own.

    Attributes:
        is_unread: Whether the reader of our output is gone.
        fault: Why nothing can be printed any more, as on a full disk; else empty.
    """

    def __init__(self) -> None:
        self.is_unread = False
        self.fault = ""
        self._waiting: queue.Queue[Entry | None] = queue.Queue(_MOST_LINES_WAITING)
        self._left_out = 0
        self._thread = threading.Thread(target=self._work, name="aiomilter-trace", daemon=True)
        self._when_unread: Callable[[], object] = lambda: None

    @property
    def is_stuck(self) -> bool:
        """Whether the terminal has not taken all lines, though this is closed."""
        return self._thread.is_alive()

    def start(self, when_unread: Callable[[], object]) -> None:
        """Begin to print; ``when_unread`` is called if nobody reads any more."""
        self._when_unread = when_unread
        self._thread.start()

    def print(self, entry: Entry) -> None:
        """Have an entry printed; leave it out if too many wait."""
        if self.fault:
            return
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Print what waits, but do not wait for long."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_LAST_LINES_S)
            self._thread.join(_LAST_LINES_S)
        missing = self._left_out + (self._waiting.qsize() if self.is_stuck else 0)
        if missing:
            complain(f"{missing} lines were not shown: the terminal did not keep up")

    def _work(self) -> None:
        try:
            while (entry := self._waiting.get()) is not None:
                show(entry)
        except (BrokenPipeError, SystemExit):
            # rich makes a SystemExit of it.
            self.is_unread = True
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._when_unread()
        except OSError as error:
            self.fault = error.strerror or str(error)
            complain(f"the output ends here: {self.fault}; the mail goes on")
            # At its end Python would try once more to write what is left.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
