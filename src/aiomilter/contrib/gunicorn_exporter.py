"""The process that serves the metrics of all workers, and a health check of the service.

Rules of this file:

- It is neither the process above the workers, which must not wait for anybody and must not have
  threads when it forks, nor one of them, which may die or be blocked by its handlers. See
  decision 6.
- It never loads the milter. It has no socket of the MTA's, so that these close when they should.
- It ends when the process above does. If it ends before, another one follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from aiomilter.aio.metrics_http import MetricsServer
from aiomilter.app.text import describe_error
from aiomilter.contrib.gunicorn_metrics import SUMMED_KINDS, MetricsFolder
from aiomilter.errors import ConfigError

__all__ = ["Exporter", "WorkersMetrics"]

_logger = logging.getLogger("aiomilter")

_READY = b"+"
_START_S = 10.0
"""How long it may take to listen: a name may have to be looked up."""
_RETRY_S = 1.0
_ORPHAN_S = 1.7
"""Workers have ended by then, and two seconds are promised for all processes."""
_READ_AGAIN = 50
_READ_AGAIN_S = 0.01
_IGNORED = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU),
)
"""It ends when it is told to from above: a service manager may send SIGTERM to all processes, and
the metrics of the last messages are wanted, too."""


class WorkersMetrics:
    """The metrics of all workers as one."""

    def __init__(self, folder: MetricsFolder) -> None:
        """Prepare.

        Args:
            folder: Where workers leave theirs.
        """
        assert folder.path is not None
        self._path: Path = folder.path
        self._status = folder.status
        self._ended_prefix = folder.ended_prefix
        self._total_prefix = folder.ended_prefix.replace("_ended-", "_total-")
        # It writes files, and may be called in several threads.
        self._lock = threading.Lock()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as text, and its media type.

        Args:
            accept: The value of the field of an HTTP request.
        """
        with self._lock:
            for _ in range(_READ_AGAIN):
                version = self._status.files_version
                if version % 2 == 0:
                    try:
                        self.sum_up_ended()
                        found = self._render(accept)
                    except FileNotFoundError:  # renamed, which the version tells as well
                        found = None
                    if found is not None and version == self._status.files_version:
                        return found
                time.sleep(_READ_AGAIN_S)
        raise RuntimeError("workers end faster than their metrics can be read")

    def _render(self, accept: str) -> tuple[bytes, str]:
        from prometheus_client import CollectorRegistry, Metric, multiprocess
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
        from prometheus_client.exposition import choose_encoder
        from prometheus_client.registry import Collector

        serving, deaths = self._status.read()

        class Workers(Collector):
            def collect(self) -> Iterator[Metric]:
                yield GaugeMetricFamily("aiomilter_workers", "Workers that serve.", serving)
                yield CounterMetricFamily(
                    "aiomilter_worker_deaths", "Workers that ended by themselves.", deaths
                )

        registry = CollectorRegistry()
        # It has no annotations.
        multiprocess.MultiProcessCollector(registry, str(self._path))  # type: ignore[no-untyped-call]
        registry.register(Workers())
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type

    def sum_up_ended(self) -> None:
        """Put what dead workers have counted into one file of each kind.

        A total has the number of the last file that is in it, so that whoever is killed here
        leaves nothing behind that would be counted twice.
        """
        for kind in SUMMED_KINDS:
            totals = sorted(self._path.glob(f"{kind}{self._total_prefix}*.db"))
            parts = sorted(self._path.glob(f"{kind}{self._ended_prefix}*.db"))
            if not parts and len(totals) < 2:
                continue
            done = _number_of(totals[-1]) if totals else 0
            new = [part for part in parts if _number_of(part) > done]
            if new:
                name = f"{kind}{self._total_prefix}{_number_of(new[-1]):09}.db"
                total = self._path / name
                _write_sum([*totals[-1:], *new], total)
                totals.append(total)
            for file in (*totals[:-1], *parts):
                file.unlink(missing_ok=True)


def _number_of(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def _write_sum(files: Sequence[Path], total: Path) -> None:
    # Any: it has no annotations.
    stored: Any = import_module("prometheus_client.mmap_dict")
    sums: dict[str, float] = {}
    for file in files:
        try:
            for key, value, _timestamp, _place in stored.MmapedDict.read_all_values_from_file(file):
                sums[key] = sums.get(key, 0.0) + value
        except Exception as error:  # noqa: BLE001  (whatever half a file makes of that module)
            _logger.warning(
                "what a dead worker has counted cannot be read: %s", describe_error(error)
            )
    # Without the ending of those that are read.
    unfinished = total.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    written = stored.MmapedDict(unfinished)
    for key, value in sums.items():
        written.write_value(key, value, 0.0)
    written.close()
    unfinished.rename(total)


class Exporter:
    """The process, seen from the one above."""

    def __init__(
        self,
        folder: MetricsFolder,
        address: tuple[str, int],
        lifeline: tuple[int, int],
        leave_to_parent: Callable[[], None],
        reopen_logs: Callable[[], None],
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            folder: Where workers leave their metrics, with the status of the service.
            address: Host and port.
            lifeline: The two ends of a pipe; the parent alone keeps the one that writes open.
            leave_to_parent: Closes, in the new process, what is the parent's alone.
            reopen_logs: What SIGUSR1 does.
        """
        self._folder = folder
        self._address = address
        self._leave_to_parent = leave_to_parent
        self._reopen_logs = reopen_logs
        self._lifeline = lifeline
        self._pid = 0
        self._news = -1
        self._not_before = 0.0
        self._is_missing = False

    def start(self, *, is_patient: bool) -> None:
        """Start the process.

        Args:
            is_patient: Whether the address may be in use for now, as by the program that has
                started this one, so that the process tries again and nobody waits for it.

        Raises:
            ConfigError: The address cannot be listened on, or there can be no process.
        """
        try:
            self._fork(is_patient=is_patient)
        except OSError as error:
            raise ConfigError(f"no process for the metrics: {error.strerror}") from error
        if is_patient:
            return
        select.select([self._news], [], [], _START_S)
        try:
            news = os.read(self._news, 4096)
        except BlockingIOError:
            news = f"the metrics: nothing is listened on after {_START_S:g} s".encode()
        if news != _READY:
            self.stop()
            raise ConfigError(news.decode() or "the process for the metrics has ended at once")

    def keep_alive(self) -> None:
        """Start the process again if it has ended; mail is served also if that is not possible."""
        now = time.monotonic()
        if not self._pid or now < self._not_before or not self._has_ended():
            return
        self._not_before = now + _RETRY_S
        try:
            self._fork(is_patient=True)
        except OSError as error:
            # Once, as it is tried again every second.
            if not self._is_missing:
                self._is_missing = True
                _logger.error(
                    "the process that serves the metrics has ended, and for now there can be no "
                    "other one: %s",
                    error.strerror,
                )
        else:
            self._is_missing = False
            _logger.error("the process that serves the metrics has ended; another one follows")

    def reopen_logs(self) -> None:
        """Let it open its log files anew."""
        if self._pid and not self._has_ended():
            os.kill(self._pid, signal.SIGUSR1)

    def stop(self) -> None:
        """End the process."""
        if self._pid:
            # Asked ahead, as its number may be another's if somebody has waited for it.
            if not self._has_ended():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            os.close(self._news)
            self._pid = 0

    def _has_ended(self) -> bool:
        """Look at its end of a pipe; it is not in the way of who waits for children."""
        try:
            while news := os.read(self._news, 4096):
                if news != _READY:
                    _logger.debug("the process for the metrics: %s", news.decode())
        except BlockingIOError:
            return False
        return True

    def _fork(self, *, is_patient: bool) -> None:
        news, telling = os.pipe()
        os.set_blocking(news, False)
        # What comes before the child ignores it would end it, or be taken for the parent's.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_IGNORED, signal.SIGUSR1))
        try:
            pid = os.fork()
            if pid == 0:
                self._run(telling, news, before, is_patient=is_patient)
        except OSError:
            os.close(news)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(telling)
        if self._pid:
            os.close(self._news)
        self._pid, self._news = pid, news

    # In the new process

    def _run(self, telling: int, news: int, mask: Iterable[int], *, is_patient: bool) -> NoReturn:
        try:
            for number in _IGNORED:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGUSR1, lambda _number, _frame: self._reopen_logs())
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(news)
            os.close(self._lifeline[1])
            self._leave_to_parent()
            threading.Thread(target=self._watch_lifeline, daemon=True).start()
            asyncio.run(self._serve(telling, is_patient=is_patient))
        except BaseException as error:  # noqa: BLE001  (all below on the stack is the parent's)
            _logger.error("the process that serves the metrics: %s", describe_error(error))
        finally:
            os._exit(1)

    async def _serve(self, telling: int, *, is_patient: bool) -> None:
        has_complained = False
        metrics = WorkersMetrics(self._folder)
        host, port = self._address
        while True:
            server = MetricsServer(
                metrics.render, host, port, is_healthy=self._folder.status.is_healthy
            )
            try:
                await server.start()
                break
            except ConfigError as error:
                if not is_patient:
                    os.write(telling, str(error).encode()[:4096])
                    return
                if not has_complained:
                    has_complained = True
                    _logger.warning("%s; trying again until it works", error)
            await asyncio.sleep(_RETRY_S)
        os.write(telling, _READY)
        # For good: who wants an end of it kills it.
        await asyncio.get_running_loop().create_future()

    def _watch_lifeline(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._lifeline[0], 1)
        # Workers write into it still.
        time.sleep(_ORPHAN_S)
        self._folder.remove()
        os._exit(1)
