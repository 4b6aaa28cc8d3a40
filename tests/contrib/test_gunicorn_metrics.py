"""The folder of metrics, its sums, and the process that serves them, without workers."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gunicorn")
pytest.importorskip("prometheus_client")

from prometheus_client.mmap_dict import MmapedDict, mmap_key

from aiomilter.contrib import gunicorn_exporter, gunicorn_metrics, gunicorn_worker
from aiomilter.contrib.gunicorn_exporter import Exporter, WorkersMetrics
from aiomilter.contrib.gunicorn_metrics import (
    MetricsFolder,
    ServiceStatus,
    require_prometheus,
    with_room_for_files,
)
from aiomilter.errors import ConfigError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def folder() -> Iterator[MetricsFolder]:
    made = MetricsFolder(ServiceStatus())
    yield made
    made.close()


def path_of(folder: MetricsFolder) -> Path:
    assert folder.path is not None
    return folder.path


def count(folder: MetricsFolder, name: str, pid: int, value: float) -> None:
    """Write what a worker does that has counted; the name is that of the file's kind."""
    stored: Any = MmapedDict(str(path_of(folder) / f"{name}_{pid}.db"))  # type: ignore[no-untyped-call]
    metric = name.partition("_")[0]
    sample = f"some_{metric}_total" if metric == "counter" else f"some_{metric}"
    stored.write_value(mmap_key(f"some_{metric}", sample, [], [], "Text."), value, 0.0)
    stored.close()


def value_of(folder: MetricsFolder, name: str) -> float:
    text = WorkersMetrics(folder).render("")[0].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def names_in(folder: MetricsFolder) -> set[str]:
    return {file.name for file in path_of(folder).iterdir()}


# The folder


def test_a_folder_is_made_for_nobody_else_and_removed(folder: MetricsFolder) -> None:
    made = Path(os.environ[VARIABLE])
    assert made == folder.path
    assert made.stat().st_mode & 0o777 == 0o700
    (made / "counter_1.db").touch()
    folder.close()
    assert not made.exists()
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_folder_that_is_given_is_emptied_unless_shared_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    given = tmp_path / "some" / "given"
    given.mkdir(parents=True)
    (given / "counter_1.db").touch()
    (given / "other").touch()
    monkeypatch.setenv(VARIABLE, str(given))
    folder = MetricsFolder(ServiceStatus(), is_shared=is_shared)
    assert names_in(folder) == ({"other", "counter_1.db"} if is_shared else {"other"})
    folder.close()
    assert given.exists()


def test_a_folder_that_cannot_be_had_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match=rf"no folder for metrics .*below \({VARIABLE}\): Not a"):
        MetricsFolder(ServiceStatus())


def test_without_prometheus_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_metrics, "find_spec", lambda _name: None)
    folder = MetricsFolder(ServiceStatus())
    folder.forget_worker(1, are_summed=True)
    folder.close()
    assert folder.path is None
    assert VARIABLE not in os.environ
    with pytest.raises(ConfigError, match="need prometheus_client: pip install"):
        require_prometheus()


def test_an_import_that_comes_too_early_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "prometheus_client.values" in sys.modules
    with pytest.raises(ConfigError, match="imported already"):
        require_prometheus()
    monkeypatch.setenv(VARIABLE, "somewhere")
    require_prometheus()


# Workers that have ended


def test_what_was_true_while_a_worker_lived_goes_with_it(folder: MetricsFolder) -> None:
    for pid in (7, 77):
        count(folder, "gauge_livesum", pid, pid)
        count(folder, "counter", pid, pid)
    assert value_of(folder, "some_gauge") == 84
    folder.forget_worker(7, are_summed=True)
    assert value_of(folder, "some_gauge") == 77
    assert value_of(folder, "some_counter_total") == 84


def test_without_a_process_that_sums_up_the_files_keep_their_names(folder: MetricsFolder) -> None:
    count(folder, "counter", 7, 1)
    folder.forget_worker(7, are_summed=False)
    assert names_in(folder) == {"counter_7.db"}


def test_files_do_not_grow_in_number_with_workers(folder: MetricsFolder) -> None:
    for pid in range(1, 51):
        count(folder, "counter", pid, pid)
        count(folder, "gauge_livesum", pid, pid)
        folder.forget_worker(pid, are_summed=True)
        # Not each time: several may have ended in between.
        if pid % 3 == 0:
            assert value_of(folder, "some_counter_total") == sum(range(pid + 1))
    assert value_of(folder, "some_counter_total") == sum(range(51))
    assert names_in(folder) == {f"counter_total-{os.getpid()}-000000050.db"}


def test_a_number_that_a_process_has_again_goes_on_in_a_file_of_its_own(
    folder: MetricsFolder,
) -> None:
    count(folder, "counter", 7, 5)
    folder.forget_worker(7, are_summed=True)
    count(folder, "counter", 7, 2)
    assert value_of(folder, "some_counter_total") == 7
    folder.forget_worker(7, are_summed=True)
    assert value_of(folder, "some_counter_total") == 7


def test_a_sum_that_was_cut_short_counts_nothing_twice(
    folder: MetricsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid in (7, 8):
        count(folder, "counter", pid, pid)
        folder.forget_worker(pid, are_summed=True)
        with monkeypatch.context() as patch:
            # It ends when the sum is there, and its parts are as well.
            patch.setattr(Path, "unlink", lambda *_arguments, **_options: sys.exit())
            patch.setattr(Path, "with_suffix", lambda path, _suffix: Untouched(path))
            with pytest.raises(SystemExit):
                WorkersMetrics(folder).sum_up_ended()
    assert len(names_in(folder)) == 4
    assert value_of(folder, "some_counter_total") == 15


class Untouched:
    """The unfinished sum, which may be removed."""

    def __init__(self, total: Path) -> None:
        self._path = Path(f"{total}.new")

    def __fspath__(self) -> str:
        return str(self._path)

    def unlink(self, *, missing_ok: bool) -> None:
        assert missing_ok

    def rename(self, target: Path) -> None:
        self._path.rename(target)


def test_another_programs_sums_are_left_alone(folder: MetricsFolder) -> None:
    for kind, number in (("ended", 1), ("total", 2)):
        count(folder, "counter", 1, 1)
        path = path_of(folder)
        (path / "counter_1.db").rename(path / f"counter_{kind}-1-{number:09}.db")
    names = names_in(folder)
    assert value_of(folder, "some_counter_total") == 2
    assert names_in(folder) == names


def test_half_a_file_is_left_out(folder: MetricsFolder, caplog: pytest.LogCaptureFixture) -> None:
    count(folder, "counter", 7, 1)
    (path_of(folder) / "counter_8.db").write_bytes(b"\xff\x00\x00\x00\0\0\0\0\xff\xff\xff\x7f")
    for pid in (7, 8):
        folder.forget_worker(pid, are_summed=True)
    assert value_of(folder, "some_counter_total") == 1
    assert "what a dead worker has counted cannot be read: RuntimeError" in caplog.text


def test_what_changes_while_it_is_read_is_read_again(
    folder: MetricsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(folder, "counter", 7, 1)
    render, rounds = WorkersMetrics._render, []

    def worker_ends_meanwhile(self: WorkersMetrics, accept: str) -> tuple[bytes, str]:
        found = render(self, accept)
        rounds.append(found)
        if len(rounds) == 1:
            folder.forget_worker(7, are_summed=True)
        return found

    monkeypatch.setattr(WorkersMetrics, "_render", worker_ends_meanwhile)
    assert value_of(folder, "some_counter_total") == 1
    assert len(rounds) == 2


def test_files_that_never_come_to_rest_are_given_up(
    folder: MetricsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn_exporter, "_READ_AGAIN_S", 0)
    with folder.status.changing_files(), pytest.raises(RuntimeError, match="faster"):
        WorkersMetrics(folder).render("")


def test_the_service_itself_has_metrics(folder: MetricsFolder) -> None:
    folder.status.deaths = 3
    folder.status.write(4, is_stopping=False)
    assert value_of(folder, "aiomilter_workers") == 4
    assert value_of(folder, "aiomilter_worker_deaths_total") == 3


# Health


def test_the_service_is_healthy_while_somebody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    status = ServiceStatus()
    assert not status.is_healthy()
    status.write(0, is_stopping=False)
    assert not status.is_healthy()
    status.write(1, is_stopping=False)
    assert status.is_healthy()
    status.write(1, is_stopping=True)
    assert not status.is_healthy()


def test_it_is_not_if_the_process_above_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    status = ServiceStatus()
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    status.write(1, is_stopping=False)
    now += 9
    assert status.is_healthy()
    now += 2
    assert not status.is_healthy()


# The process


def test_an_address_that_cannot_be_had_is_an_error(folder: MetricsFolder) -> None:
    lifeline = os.pipe()
    exporter = Exporter(folder, ("192.0.2.1", 9), lifeline, lambda: None, lambda: None)
    with pytest.raises(ConfigError, match=r"the metrics cannot be served on 192\.0\.2\.1:9: "):
        exporter.start(is_patient=False)
    for number in lifeline:
        os.close(number)


def test_a_process_that_has_ended_is_started_again(
    folder: MetricsFolder, caplog: pytest.LogCaptureFixture
) -> None:
    lifeline = os.pipe()
    exporter = Exporter(folder, ("127.0.0.1", 0), lifeline, lambda: None, lambda: None)
    exporter.start(is_patient=False)
    try:
        first = exporter._pid
        exporter.keep_alive()
        assert exporter._pid == first
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        with caplog.at_level(logging.ERROR):
            exporter.keep_alive()
        assert exporter._pid != first
        assert "has ended; another one follows" in caplog.text
        # Whoever waits for all children may have waited for it.
        os.kill(exporter._pid, signal.SIGKILL)
        os.waitpid(exporter._pid, 0)
    finally:
        exporter.stop()
        exporter.stop()
        for number in lifeline:
            os.close(number)


def test_a_process_that_cannot_be_started_again_for_now_is_no_reason_to_end(
    folder: MetricsFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifeline = os.pipe()
    exporter = Exporter(folder, ("127.0.0.1", 0), lifeline, lambda: None, lambda: None)
    exporter.start(is_patient=False)
    first = exporter._pid
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)

    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    try:
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(os, "fork", fail)
            descriptors = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                exporter._not_before = 0.0
                exporter.keep_alive()
            assert len(os.listdir("/proc/self/fd")) == descriptors
        assert caplog.text.count("for now there can be no other one: Resource") == 1
        exporter._not_before = 0.0
        exporter.keep_alive()
        assert exporter._pid != first
    finally:
        exporter.stop()
        for number in lifeline:
            os.close(number)


def test_without_a_process_there_are_no_metrics_and_a_reason(
    folder: MetricsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    exporter = Exporter(folder, ("127.0.0.1", 0), (-1, -1), lambda: None, lambda: None)
    with pytest.raises(ConfigError, match="no process for the metrics: Resource temporarily"):
        exporter.start(is_patient=False)
    exporter.stop()


def test_files_that_cannot_be_renamed_are_said_and_end_nothing(
    folder: MetricsFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(folder, "counter", 7, 1)

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        folder.forget_worker(7, are_summed=True)
    assert "the metrics of worker 7, which has ended, stay as they are: Read-only" in caplog.text
    assert value_of(folder, "some_counter_total") == 1


# Room


def test_a_workers_files_have_their_room_before_they_are_written(folder: MetricsFolder) -> None:
    with with_room_for_files():
        sparse = path_of(folder) / f"counter_{os.getpid()}.db"
        with sparse.open("wb") as file:
            file.truncate(1 << 20)
    for file_bytes in (file.stat() for file in path_of(folder).iterdir()):
        assert file_bytes.st_blocks * 512 >= file_bytes.st_size > 0
    assert names_in(folder) == {sparse.name, f"gauge_livesum_{os.getpid()}.db"}
    count(folder, "gauge_livesum", os.getpid(), 3)
    assert value_of(folder, "some_gauge") == 3


@pytest.mark.parametrize("trouble", ["no room", "no folder"])
def test_without_room_a_worker_serves_without_metrics(
    trouble: str,
    folder: MetricsFolder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_arguments: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if trouble == "no room":
        monkeypatch.setattr(os, "posix_fallocate", fail)
    else:
        folder.remove()
    assert gunicorn_worker._metrics_observers() == ()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "serves without metrics, for which there is no room or no folder: No s" in line
