"""A private Postfix: own queue, own configuration, own ports, and all mail to the sink."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiomilter.app.mta.kind import Mta
from aiomilter.testing.servers.ports import ReservedPort
from aiomilter.testing.servers.postfix_config import as_postfix_writes, main_cf, master_cf
from aiomilter.testing.servers.processes import ProcessGroup
from aiomilter.testing.servers.server import HeldMessage, find_log_line

__all__ = ["Postfix", "QueuedMessage"]

_POSTFIX = Path("/usr/sbin/postfix")
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in Postfix's queue.

    Attributes:
        queue_name: ``hold``, ``active``, ``deferred``, ``incoming`` or ``maildrop``.
        queue_id: Postfix's id.
        sender: The envelope sender without brackets.
        recipients: The envelope recipients that are still to be served, without brackets.
        arrived: When it came, in seconds since 1970.
    """

    queue_name: str
    queue_id: str
    sender: str
    recipients: tuple[str, ...]
    arrived: int


class Postfix:
    """One Postfix instance with any number of SMTP listeners: a `MailServer`.

    ``with Postfix(sink.port) as postfix: postfix.start()``; everything it writes is below
    ``directory``, which goes away at the end together with the processes.

    Attributes:
        directory: Where all of it lives.
        milter_address: Where the milter of the SMTP port and of local mail has to listen.
    """

    kind = Mta.POSTFIX

    def __init__(
        self,
        sink_port: int,
        milter_address: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Make the directory; nothing runs before ``start``.

        Args:
            sink_port: The loopback port to which all mail is delivered.
            milter_address: Where its milter listens; None for a unix socket in ``directory``.
            settings: Further lines of main.cf; they win over those that are there.

        Raises:
            RuntimeError: Postfix is not installed, or this is not root.
        """
        if not _POSTFIX.exists():
            raise RuntimeError(f"{_POSTFIX} is missing: install the Debian package 'postfix'")
        if os.geteuid() != 0:
            raise RuntimeError(
                "Postfix's master daemon only starts as root: run these tests as root"
            )
        # Not pytest's tmp_path: that is 0700, and the daemons work as user postfix.
        self.directory = Path(tempfile.mkdtemp(prefix="aiomilter-postfix-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.config_directory = self.directory / "conf"
        self.log_file = self.directory / "log" / "maillog"
        self.milter_address = milter_address or f"unix:{self.directory}/milter.sock"
        self._sink_port = sink_port
        self._settings = settings or {}
        self._ports: dict[str, ReservedPort] = {}
        self._processes: ProcessGroup | None = None

    def start(self, listeners: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Write the configuration and start the daemons; returns when the ports answer.

        Args:
            listeners: A name for each SMTP port, with the settings that only this port has, such as
                ``{"smtpd_milters": "inet:127.0.0.1:9900"}``. None for a single one, ``smtp``.

        Raises:
            RuntimeError: Postfix refused to start; the text holds what it said.
        """
        if listeners is None:
            listeners = {"smtp": {}}
        for name in ("conf", "spool", "data", "log"):
            (self.directory / name).mkdir()
        shutil.chown(self.directory / "data", "postfix")
        self._ports = {name: ReservedPort() for name in listeners}
        services = {self._ports[name].number: options for name, options in listeners.items()}
        (self.config_directory / "master.cf").write_text(master_cf(services))
        file = self.config_directory / "main.cf"
        milter = as_postfix_writes(self.milter_address)
        settings = {"smtpd_milters": milter, "non_smtpd_milters": milter, **self._settings}
        file.write_text(main_cf(self.directory, self._sink_port, settings))
        # Each program of Postfix naps until the file is older than a second and a half.
        a_minute_ago = time.time() - 60
        os.utime(file, (a_minute_ago, a_minute_ago))
        started = subprocess.run(  # noqa: S603  (a fixed program, and no shell)
            [*self._tool("postfix"), "start"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if started.returncode != 0:
            raise RuntimeError(
                f"Postfix did not start: {started.stdout}{started.stderr}{self.log_text()}"
            )
        pid_file = self.directory / "spool" / "pid" / "master.pid"
        self._processes = ProcessGroup(int(pid_file.read_text()))

    def stop(self) -> None:
        """End the daemons, and remove the directory. Calling it again does nothing."""
        if self._processes is not None:
            self._processes.end()
            self._processes = None
        for port in self._ports.values():
            port.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return the instance itself, not yet started."""
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
        """What ``postconf mail_version`` says, such as ``3.7.11``."""
        said = subprocess.run(  # noqa: S603  (as above)
            [*self._tool("postconf"), "-h", "mail_version"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return said.stdout.strip()

    @property
    def smtp_port(self) -> int:
        """The port of the first listener."""
        return next(iter(self._ports.values())).number

    def port(self, listener: str) -> int:
        """Return the SMTP port of a listener."""
        return self._ports[listener].number

    def log_text(self) -> str:
        """Return the whole log so far, empty before the first line."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    async def log_line(self, pattern: str) -> str:
        """Wait until a line of the log matches a regular expression, and return it.

        Raises:
            TimeoutError: There is none in time.
        """
        return await find_log_line(self, pattern, _TIMEOUT_S)

    async def settle(self, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until the queue holds nothing but quarantined messages.

        Raises:
            TimeoutError: Something is still there; the text says what.
        """
        end = time.monotonic() + timeout_s
        while busy := [entry for entry in await self.queue() if entry.queue_name != "hold"]:
            if time.monotonic() > end:
                raise TimeoutError(f"still in the queue of Postfix: {busy[:5]}")
            await asyncio.sleep(0.01)

    async def queue(self) -> list[QueuedMessage]:
        """Return what is in the queue, held messages included."""
        listing = await self._run("postqueue", "-j")
        entries = [json.loads(line) for line in listing.splitlines()]
        return [
            QueuedMessage(
                entry["queue_name"],
                entry["queue_id"],
                entry["sender"],
                tuple(recipient["address"] for recipient in entry["recipients"]),
                entry["arrival_time"],
            )
            for entry in entries
        ]

    async def held(self) -> list[HeldMessage]:
        """Return the messages in the hold queue, oldest first."""
        held = [entry for entry in await self.queue() if entry.queue_name == "hold"]
        return [
            # Postfix logs the reason and does not keep it.
            HeldMessage(entry.queue_id, entry.sender, tuple(sorted(entry.recipients)), None)
            for entry in sorted(held, key=lambda entry: entry.arrived)
        ]

    async def release(self, queue_id: str) -> None:
        """Let a held message go, and have it delivered now."""
        await self._run("postsuper", "-H", queue_id)
        await self._run("postqueue", "-i", queue_id)

    async def submit(self, content: bytes, sender: str, recipients: Iterable[str]) -> None:
        """Hand in a message as a local user does, with sendmail(1).

        Args:
            content: The message with LF line ends.
            sender: The envelope sender without brackets.
            recipients: The envelope recipients without brackets.
        """
        # sendmail(1) alone names the configuration directory with -C.
        arguments = ["-C", str(self.config_directory), "-i", "-f", sender, *recipients]
        await self._communicate([str(_POSTFIX.with_name("sendmail")), *arguments], content)

    async def _run(self, tool: str, *arguments: str) -> str:
        return await self._communicate([*self._tool(tool), *arguments], b"")

    def _tool(self, name: str) -> list[str]:
        return [str(_POSTFIX.with_name(name)), "-c", str(self.config_directory)]

    @staticmethod
    async def _communicate(command: list[str], data: bytes) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(data), _TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {errors.decode(errors='replace')}")
        return output.decode("utf-8", "surrogateescape")
