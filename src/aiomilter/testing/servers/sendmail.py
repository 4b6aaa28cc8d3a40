"""A private Sendmail: own queue, own configuration, own port, and all mail to the sink."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from aiomilter.app.mta.kind import Mta
from aiomilter.testing.servers.ports import ReservedPort
from aiomilter.testing.servers.processes import ProcessGroup
from aiomilter.testing.servers.sendmail_config import (
    HOST_NAME,
    SERVICE_SWITCH,
    check_settings,
    filter_equate,
    sendmail_mc,
)
from aiomilter.testing.servers.sendmail_queue import held_messages, kill_those_in, unsettled_ids
from aiomilter.testing.servers.server import HeldMessage
from aiomilter.testing.servers.smtp import dot_stuffed

__all__ = ["ROOT_VARIABLE", "Sendmail"]

ROOT_VARIABLE = "AIOMILTER_SENDMAIL_ROOT"
"""The environment variable that says where Debian's packages are unpacked."""

_BINARIES = ("usr/libexec/sendmail/sendmail", "usr/lib/sm.bin/sendmail")
_CF_DIRECTORY = "usr/share/sendmail/cf"
_TIMEOUT_S = 10
_LOOK_AGAIN_S = 0.01


class Sendmail:
    """One Sendmail instance with one SMTP listener and one milter.

    ``with Sendmail(sink.port) as sendmail: ...`` starts it; everything it writes is below
    ``directory``, which goes away at the end together with the processes.

    Attributes:
        kind: ``Mta.SENDMAIL``.
        directory: Everything it writes is here; its daemons can reach sockets in it.
        milter_address: Where its milter has to listen.
    """

    kind = Mta.SENDMAIL

    def __init__(
        self,
        sink_port: int,
        milter_address: str | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        root: Path | None = None,
    ) -> None:
        """Make the directory; nothing runs before ``start``.

        Args:
            sink_port: The loopback port to which all mail is delivered.
            milter_address: Where the milter listens, as ``unix:PATH`` or ``inet:PORT@HOST``;
                None is the unix socket ``milter.sock`` in the directory.
            settings: ``F`` is what happens when the milter fails: ``T`` (tempfail, as without
                this), ``R`` (reject), ``4`` (421) or empty (go on). ``T`` holds the timeouts of
                the milter, such as ``C:5s;S:5s;R:10s;E:20s``. A key that begins with ``conf``
                is a define of Sendmail's m4 files, such as ``confMILTER_MACROS_ENVFROM``.
            root: Where Debian's packages sendmail-bin and sendmail-cf are unpacked; None is the
                folder that the environment variable ``AIOMILTER_SENDMAIL_ROOT`` names, or the
                Sendmail that is installed.

        Raises:
            ConfigError: The address is none.
            ValueError: A setting is not allowed, or Sendmail cannot connect to such an address.
            RuntimeError: Sendmail was not found, or this is not root.
        """
        self._root = _found_root() if root is None else root
        binary = _binary_below(self._root)
        if binary is None or not self._cf_directory.is_dir():
            raise RuntimeError(
                f"{self._root} does not hold Debian's packages sendmail-bin and sendmail-cf"
            )
        self._binary = binary
        self._m4 = _tool("m4", "m4")
        self._unshare = _tool("unshare", "util-linux")
        if os.geteuid() != 0:
            raise RuntimeError("a Sendmail with a host name of its own takes root: run as root")
        self._sink_port = sink_port
        self._settings = dict(settings or {})
        check_settings(self._settings, self._cf_directory)
        if milter_address is not None:
            filter_equate(milter_address, self._settings)
        # Not pytest's tmp_path: that may be too long for the path of a unix socket.
        self.directory = Path(tempfile.mkdtemp(prefix="aiomilter-sendmail-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.milter_address = milter_address or f"unix:{self.directory}/milter.sock"
        self._config_file = self.directory / "sendmail.cf"
        self._queue_directory = self.directory / "queue"
        self._log_file = self.directory / "maillog"
        self._port: ReservedPort | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._version: str | None = None

    def start(self) -> None:
        """Write the configuration and start the daemon; returns when the port answers.

        Raises:
            RuntimeError: Sendmail refused to start; the text holds what it said. ``stop`` is still
                needed then, unless a ``with`` block does it.
        """
        self._queue_directory.mkdir(mode=0o700)
        self._port = ReservedPort()
        self._write_config()
        output_file = self.directory / "output"
        with output_file.open("wb") as output:
            self._daemon = subprocess.Popen(  # noqa: S603  (a fixed program, and no shell)
                self._command("-bD"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        listens = self._listens(self._daemon)
        said = output_file.read_text(errors="replace")
        if not listens:
            raise RuntimeError(f"Sendmail did not start: {said}{self.log_text()}")
        # It only complains of some settings, and works without them.
        if str(self._config_file) in said:
            raise RuntimeError(f"Sendmail does not take these settings: {said}")

    def stop(self) -> None:
        """End all processes, remove the directory. Calling it again does nothing."""
        if self._daemon is not None:
            group = ProcessGroup(self._daemon.pid)
            # The daemon does not hand the signal on to the processes of open SMTP sessions.
            if group.members():
                os.killpg(group.leader, signal.SIGTERM)
            group.end()
            self._daemon.wait(_TIMEOUT_S)
            self._daemon = None
            # Those that deliver in the background have left the group.
            kill_those_in(self._queue_directory)
        if self._port is not None:
            self._port.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start.

        Raises:
            RuntimeError: Sendmail refused to start; nothing is left of it.
        """
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def version(self) -> str:
        """What Sendmail calls its version, such as ``8.17.1.9``.

        Raises:
            RuntimeError: It does not say, as its configuration is not there before ``start``.
        """
        if self._version is None:
            # The test mode ends with its input.
            said = subprocess.run(  # noqa: S603  (as above)
                self._named("-d0.1", "-bt"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            ).stdout
            found = re.match(r"Version (\S+)", said)
            if found is None:
                raise RuntimeError(f"Sendmail does not name its version: {said}")
            self._version = str(found[1])
        return self._version

    @property
    def smtp_port(self) -> int:
        """The loopback port on which it takes mail.

        Raises:
            RuntimeError: It was never started.
        """
        if self._port is None:
            raise RuntimeError("this Sendmail was never started")
        return self._port.number

    def log_text(self) -> str:
        """Return the whole log so far, empty before the first line."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    async def settle(self, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until the queue holds nothing but quarantined messages.

        Raises:
            TimeoutError: Something is still there; the text names the queue ids.
        """
        deadline = time.monotonic() + timeout_s
        while unsettled := await asyncio.to_thread(unsettled_ids, self._queue_directory):
            if time.monotonic() > deadline:
                raise TimeoutError(f"still in the queue: {', '.join(unsettled)}")
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def held(self) -> list[HeldMessage]:
        """Return the messages in quarantine, oldest first."""
        return await asyncio.to_thread(held_messages, self._queue_directory)

    async def release(self, queue_id: str) -> None:
        """Take a message out of quarantine and have it delivered now.

        Raises:
            RuntimeError: There is no such message, or Sendmail failed.
        """
        if queue_id not in [message.queue_id for message in await self.held()]:
            raise RuntimeError(f"Sendmail has no message {queue_id} in quarantine")
        await self._run("-qQ", f"-qI{queue_id}", "-Q")
        # Without "f" it would deliver in the background.
        await self._run("-qf", f"-qI{queue_id}")

    async def submit(self, content: bytes, sender: str, recipients: Iterable[str]) -> None:
        """Hand in a message as a program on the same machine does, over a pipe (``-bs``).

        Sendmail consults its milters about such mail. It does not about mail that comes with
        the recipients on the command line.

        Args:
            content: The message with LF line ends.
            sender: The envelope sender without brackets.
            recipients: The envelope recipients without brackets.

        Raises:
            RuntimeError: Sendmail refused a command or the message.
            TimeoutError: It did not answer.
        """
        envelope = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{name}>" for name in recipients)]
        commands = [f"EHLO {HOST_NAME}", *envelope, "DATA"]
        steps = [
            b"",
            *(command.encode("utf-8", "surrogateescape") + b"\r\n" for command in commands),
            dot_stuffed(content.replace(b"\n", b"\r\n")),
            b"QUIT\r\n",
        ]
        async with self._process("-bs") as process:
            for data in steps:
                await _say(process, data)
            await process.wait()

    def _write_config(self) -> None:
        (self.directory / "service.switch").write_text(SERVICE_SWITCH)
        for name in ("aliases", "statistics"):
            (self.directory / name).touch()
        source = sendmail_mc(
            self.directory,
            self.smtp_port,
            self._sink_port,
            filter_equate(self.milter_address, self._settings),
            {key: self._private(key, value) for key, value in self._settings.items()},
        )
        # Else m4 starts a script that writes the date and the user's name into the file.
        options = ["-D_NO_MAKEINFO_", f"-D_CF_DIR_={self._cf_directory}/"]
        try:
            made = subprocess.run(  # noqa: S603  (as above)
                [self._m4, *options, self._cf_directory / "m4" / "cf.m4", "-"],
                input=source.encode(),
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # As it does over a value that names the define that it belongs to.
            raise RuntimeError(f"m4 does not come to an end over this:\n{source}") from None
        if made.returncode != 0:
            raise RuntimeError(f"m4 failed: {made.stderr.decode(errors='replace')}")
        self._config_file.write_bytes(made.stdout)

    def _private(self, key: str, value: str) -> str:
        """Return a setting, with a key file as a copy that only we can read.

        Sendmail takes no other, and a version control system does not keep such a mode.
        """
        if not key.startswith("conf") or not key.endswith("_KEY"):
            return value
        # Not the key itself: m4 would take it for the define, and never end.
        copy = self.directory / f"{key.removeprefix('conf').lower()}.pem"
        copy.touch(mode=0o600)
        copy.write_bytes(Path(value).read_bytes())
        return str(copy)

    @property
    def _cf_directory(self) -> Path:
        return self._root / _CF_DIRECTORY

    def _command(self, *arguments: str) -> list[str]:
        # Its log goes to syslog alone; debug flag 89 sends it to the file of -D instead.
        return self._named("-D", str(self._log_file), "-d89.10", *arguments)

    def _named(self, *arguments: str) -> list[str]:
        """Return the command line of a Sendmail that has a host name of its own.

        Sendmail sleeps a minute when the machine's name has no dot.
        """
        named = [self._unshare, "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', HOST_NAME]
        return [*named, str(self._binary), "-C", str(self._config_file), *arguments]

    def _listens(self, daemon: subprocess.Popen[bytes]) -> bool:
        """Wait until somebody listens on the port; return False if the daemon ends before."""
        deadline = time.monotonic() + _TIMEOUT_S
        while daemon.poll() is None and time.monotonic() < deadline:
            if _is_listening(self.smtp_port):
                return True
            time.sleep(_LOOK_AGAIN_S)
        return False

    async def _run(self, *arguments: str) -> None:
        async with self._process(*arguments) as process:
            output, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(
                f"sendmail {' '.join(arguments)} failed: {output.decode(errors='replace')}"
            )

    @asynccontextmanager
    async def _process(self, *arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
        """Run another Sendmail on the same queue for as long as the block lasts."""
        process = await asyncio.create_subprocess_exec(
            *self._command(*arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                yield process
        finally:
            if process.returncode is None:
                # Asked to end, it takes a message that it has not accepted out of the queue.
                process.terminate()
                await _wait_or_kill(process)


async def _wait_or_kill(process: asyncio.subprocess.Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), _TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _say(process: asyncio.subprocess.Process, data: bytes) -> None:
    """Send a command or a message, and see that the reply to it is a positive one."""
    # Both are there: the process was made with pipes.
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(data)
    await process.stdin.drain()
    reply = b""
    while line := await process.stdout.readline():
        reply += line
        if line[3:4] != b"-":
            break
    if not reply.startswith((b"2", b"3")):
        raise RuntimeError(f"Sendmail refused {data[:60]!r}: {reply.decode(errors='replace')}")


def _is_listening(port: int) -> bool:
    """Tell whether somebody listens on a port of 127.0.0.1, without connecting to it.

    A connection would be an SMTP session, of which the milter is told.
    """
    # Address and port are in hexadecimal digits, the state 0A is LISTEN.
    listening = re.compile(rf"0100007F:{port:04X} [0-9A-F:]+ 0A ")
    return listening.search(Path("/proc/net/tcp").read_text()) is not None


def _found_root() -> Path:
    """Return where Sendmail is when the caller has not said it."""
    if named := os.environ.get(ROOT_VARIABLE):
        return Path(named)
    if _binary_below(Path("/")) is not None and (Path("/") / _CF_DIRECTORY).is_dir():
        return Path("/")
    raise RuntimeError(
        "Sendmail is missing. Unpack Debian's packages without installing them, as they would "
        "replace another mail server: apt-get download sendmail-bin sendmail-cf; "
        f"dpkg -x each of them into one folder; name that folder in {ROOT_VARIABLE}"
    )


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is missing: install the Debian package '{package}'")
    return path


def _binary_below(root: Path) -> Path | None:
    return next((root / name for name in _BINARIES if (root / name).exists()), None)
