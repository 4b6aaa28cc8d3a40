"""Metrics of several workers: prometheus_client's folder, and what is known of the service.

Rules of this file:

- The process above the workers does no more than to rename and remove files and to write a few
  numbers into memory. It never imports prometheus_client, and nothing here can keep it waiting
  or end it.
- What a dead worker has counted stays; what was true of it only while it lived is removed.
- Its files are summed up into one by the process that serves the metrics. With each reload there
  would be more of them otherwise.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from aiomilter.errors import ConfigError

__all__ = [
    "SUMMED_KINDS",
    "MetricsFolder",
    "ServiceStatus",
    "require_prometheus",
    "with_room_for_files",
]

_logger = logging.getLogger("aiomilter")

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SUMMED_KINDS = ("counter", "histogram", "summary")
"""Files whose values are added up. Others are gauges, each with a rule of its own."""

# Native formats and slices of memory: each value is written in one step.
_STATUS = struct.Struct("IIIId")
_FILES_VERSION = struct.Struct("I")
_FILES_VERSION_AT = _STATUS.size
_ROOM_BYTES = 4 << 20
"""Four files, of which each has up to 1 MiB at the beginning."""
_FILE_BYTES = 1 << 16
_SILENT_AFTER_S = 10.0
"""The process above the workers writes at least once a second."""


def require_prometheus() -> None:
    """Make sure that workers can have metrics.

    Raises:
        ConfigError: They cannot.
    """
    if find_spec("prometheus_client") is None:
        raise ConfigError("metrics need prometheus_client: pip install 'aiomilter[prometheus]'")
    if "prometheus_client.values" in sys.modules and not os.environ.get(_VARIABLE):
        raise ConfigError(
            "prometheus_client is imported already, and would not add up the metrics of several "
            "processes: import it in what the workers load, and nowhere else"
        )


@contextmanager
def with_room_for_files() -> Generator[None]:
    """Make sure that a worker's files have the room on the disk that they need.

    They are written by way of memory: without room that ends the process, by SIGBUS, at whatever
    moment a page is written to for the first time.

    Raises:
        OSError: There is no room, or no folder.
    """
    folder = Path(os.environ[_VARIABLE])
    # Not on all systems.
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is not None:
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve(file.fileno(), 0, _ROOM_BYTES)
    yield
    if reserve is not None:
        # The one of gauges that are added up is not there before the first connection.
        later = folder / f"gauge_livesum_{os.getpid()}.db"
        for path in {later, *folder.glob(f"*_{os.getpid()}.db")}:
            with path.open("ab") as file:
                reserve(file.fileno(), 0, path.stat().st_size or _FILE_BYTES)


class ServiceStatus:
    """What the process above the workers knows of them, in memory shared with who serves it.

    Attributes:
        deaths: How many workers have ended by themselves.
    """

    def __init__(self) -> None:
        self.deaths = 0
        self._memory = mmap.mmap(-1, _FILES_VERSION_AT + _FILES_VERSION.size)

    def write(self, serving: int, *, is_stopping: bool) -> None:
        """Write how many workers serve, and that this is so now."""
        values = (serving, is_stopping, self.deaths, 0, time.monotonic())
        self._memory[: _STATUS.size] = _STATUS.pack(*values)

    def read(self) -> tuple[int, int]:
        """Return how many workers serve, and how many have ended by themselves."""
        serving, _is_stopping, deaths, _, _at = _STATUS.unpack_from(self._memory)
        return serving, deaths

    def is_healthy(self) -> bool:
        """Return whether mail is served, and will be for now."""
        serving, is_stopping, _deaths, _, at = _STATUS.unpack_from(self._memory)
        is_known = time.monotonic() - at < _SILENT_AFTER_S
        return is_known and serving > 0 and not is_stopping

    @property
    def files_version(self) -> int:
        """Changes with the names of files; odd while they are being changed."""
        version: int = _FILES_VERSION.unpack_from(self._memory, _FILES_VERSION_AT)[0]
        return version

    def _count_files_version(self) -> None:
        self._memory[_FILES_VERSION_AT:] = _FILES_VERSION.pack(
            (self.files_version + 1) & 0xFFFFFFFF
        )

    @contextmanager
    def changing_files(self) -> Generator[None]:
        """Let readers know that files are being renamed, and that they have to read again."""
        self._count_files_version()
        try:
            yield
        finally:
            self._count_files_version()


class MetricsFolder:
    """Where workers leave their metrics for whichever process is asked for the sum.

    It does nothing without prometheus_client. That module reads the variable when it is imported,
    so that this comes first, in the process above the workers.

    Attributes:
        status: Told when names of files change.
    """

    def __init__(self, status: ServiceStatus, *, is_shared: bool = False) -> None:
        """Make a folder, or empty the one that the environment names of an earlier run's files.

        Args:
            status: See above.
            is_shared: Whether another program may use the folder still, which is not emptied then.

        Raises:
            ConfigError: There can be none.
        """
        self.status = status
        self._owner = os.getpid()
        self._is_own = False
        self._path: Path | None = None
        self._ended = 0
        if find_spec("prometheus_client") is None:
            return
        given = os.environ.get(_VARIABLE)
        try:
            if given:
                self._path = Path(given)
                self._path.mkdir(parents=True, exist_ok=True)
                for file in () if is_shared else self._path.glob("*.db"):
                    file.unlink(missing_ok=True)
            else:
                self._path = Path(tempfile.mkdtemp(prefix="aiomilter-metrics-"))
                self._is_own = True
                os.environ[_VARIABLE] = str(self._path)
        except OSError as error:
            where = f" ({_VARIABLE})" if given else ""
            raise ConfigError(
                f"no folder for metrics can be had at {given or tempfile.gettempdir()}{where}: "
                f"{error.strerror}"
            ) from error

    @property
    def path(self) -> Path | None:
        """The folder; None without prometheus_client."""
        return self._path

    @property
    def ended_prefix(self) -> str:
        """What the name of a dead worker's file has after its kind; another program's differ."""
        return f"_ended-{self._owner}-"

    def forget_worker(self, pid: int, *, are_summed: bool) -> None:
        """Remove what was true only while a worker lived, such as the number of its connections.

        Args:
            pid: The number of its process.
            are_summed: Whether somebody sums up what it has counted. Its files get names for
                that, which also makes sure that no later process with that number goes on in them.
        """
        if self._path is None:
            return
        try:
            with self.status.changing_files():
                self._rename(self._path, pid, are_summed=are_summed)
        except OSError as error:
            # No descriptor, or a disk that can be read only: no reason to serve no mail.
            _logger.warning(
                "the metrics of worker %d, which has ended, stay as they are: %s",
                pid,
                error.strerror,
            )

    def _rename(self, folder: Path, pid: int, *, are_summed: bool) -> None:
        for file in folder.glob(f"*_{pid}.db"):
            kind, _, rest = file.stem.partition("_")
            with suppress(FileNotFoundError):
                if rest.startswith("live"):
                    file.unlink()
                elif are_summed and kind in SUMMED_KINDS:
                    self._ended += 1
                    name = f"{kind}{self.ended_prefix}{self._ended:09}.db"
                    file.rename(file.with_name(name))

    def remove(self) -> None:
        """Remove the folder if it was made here; also for a process that outlives its maker."""
        if self._is_own and self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder, and take it out of the environment; in a worker nothing."""
        if self._is_own and os.getpid() == self._owner:
            self.remove()
            os.environ.pop(_VARIABLE, None)
