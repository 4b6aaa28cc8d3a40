"""A private Postfix: own queue, own configuration, own ports, and all mail to the sink."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.ports import ReservedPort
from tests.integration.postfix_config import main_cf, master_cf
from tests.integration.processes import ProcessGroup

__all__ = ["Postfix", "QueuedMessage"]

POSTFIX = Path("/usr/sbin/postfix")
TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in Postfix's queue.

    Attributes:
        queue_name: ``hold``, ``active``, ``deferred``, ``incoming`` or ``maildrop``.
        queue_id: Postfix's id.
        sender: The envelope sender without brackets.
        recipients: The envelope recipients that are still to be served, without brackets.
    """

    queue_name: str
    queue_id: str
    sender: str
    recipients: tuple[str, ...]


class Postfix:
    """One Postfix instance with any number of SMTP listeners, each with its own milters.

    ``with Postfix(sink.port) as postfix: postfix.start({"plain": {}})``; everything it writes
    is below ``directory``, which goes away at the end together with the processes.
    """

    def __init__(self, sink_port: int) -> None:
        """Make the directory; nothing runs before ``start``.

        Args:
            sink_port: The loopback port to which all mail is delivered.

        Raises:
            RuntimeError: Postfix is not installed, or this is not root.
        """
        if not POSTFIX.exists():
            raise RuntimeError(f"{POSTFIX} is missing: install the Debian package 'postfix'")
        if os.geteuid() != 0:
            raise RuntimeError(
                "Postfix's master daemon only starts as root: run these tests as root"
            )
        # Not pytest's tmp_path: that is 0700, and the daemons work as user postfix.
        self.directory = Path(tempfile.mkdtemp(prefix="aiomilter-postfix-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.config_directory = self.directory / "conf"
        self.log_file = self.directory / "log" / "maillog"
        self._sink_port = sink_port
        self._ports: dict[str, ReservedPort] = {}
        self._processes: ProcessGroup | None = None

    def start(
        self, listeners: Mapping[str, Mapping[str, str]], settings: Mapping[str, str] | None = None
    ) -> None:
        """Write the configuration and start the daemons; returns when the ports answer.

        Args:
            listeners: A name for each SMTP port, with the settings that only this port has, such as
                ``{"smtpd_milters": "inet:127.0.0.1:9900"}``.
            settings: Further lines of main.cf.

        Raises:
            RuntimeError: Postfix refused to start; the text holds what it said.
        """
        for name in ("conf", "spool", "data", "log"):
            (self.directory / name).mkdir()
        shutil.chown(self.directory / "data", "postfix")
        self._ports = {name: ReservedPort() for name in listeners}
        services = {self._ports[name].number: options for name, options in listeners.items()}
        (self.config_directory / "master.cf").write_text(master_cf(services))
        file = self.config_directory / "main.cf"
        file.write_text(main_cf(self.directory, self._sink_port, settings or {}))
        # Each program of Postfix naps until the file is older than a second and a half.
        os.utime(file, (time.time() - 60,) * 2)
        started = subprocess.run(
            [*self._tool("postfix"), "start"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
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
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                text = await asyncio.to_thread(self.log_text)
                if found := re.search(f"^.*(?:{pattern}).*$", text, re.MULTILINE):
                    return found[0]
                # A daemon writes the log some time after the SMTP reply, and a file that grows
                # wakes nobody: so look again soon.
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
            )
            for entry in entries
        ]

    async def held(self) -> dict[str, QueuedMessage]:
        """Return the messages in the hold queue by their ids."""
        return {entry.queue_id: entry for entry in await self.queue() if entry.queue_name == "hold"}

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
        await self._communicate([str(POSTFIX.with_name("sendmail")), *arguments], content)

    async def _run(self, tool: str, *arguments: str) -> str:
        return await self._communicate([*self._tool(tool), *arguments], b"")

    def _tool(self, name: str) -> list[str]:
        return [str(POSTFIX.with_name(name)), "-c", str(self.config_directory)]

    @staticmethod
    async def _communicate(command: list[str], data: bytes) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(data), TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {errors.decode(errors='replace')}")
        return output.decode("utf-8", "surrogateescape")
