"""`run_workers` in a program of one's own, and gunicorn's other signals."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gunicorn")

from aiomilter import Config
from aiomilter.contrib.gunicorn_arbiter import MilterArbiter
from aiomilter.contrib.gunicorn_worker import Served, WorkerSettings
from aiomilter.errors import ConfigError
from tests.cli.running import MILTER, Running
from tests.cli.test_run_workers import Workers, is_gone, until

PROGRAM = """\
import logging
from aiomilter.contrib.gunicorn import run_workers

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        run_workers("cli_milter:Greeting", "unix:m.sock", workers=WORKERS, lifespan="cli_life:life")
    finally:
        logging.info("left")
"""
LIFESPAN = """\
import contextlib, logging

@contextlib.asynccontextmanager
async def life():
    logging.info("entered")
    yield
    logging.info("exited")
"""
FIRST = b"y550 5.7.1 first\0"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program with two workers."""
    (tmp_path / "cli_milter.py").write_text(MILTER, encoding="utf-8")
    (tmp_path / "cli_life.py").write_text(LIFESPAN, encoding="utf-8")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace("WORKERS", "2"), encoding="utf-8")
    return path


async def test_a_program_of_its_own(program: Path) -> None:
    async with Running.started(program.parent, program=str(program)) as running:
        for _ in range(3):
            await running.until("listening on")
        assert await Running.answer(program.parent / "m.sock") == FIRST
        await running.end(signal.SIGINT)
        rest = (await running.process.communicate())[1].decode()
    said = "".join(running.said) + rest
    assert said.count(":entered") == said.count(":exited") == 2
    # What a program does at its end is done once, and not in the workers.
    assert said.count(":left") == 1
    assert not (program.parent / "m.sock").exists()


async def test_ttin_and_ttou_change_the_number_of_workers(program: Path) -> None:
    async with Workers.started(program.parent, program=str(program)) as running:
        assert isinstance(running, Workers)
        for _ in range(3):
            await running.until("listening on")
        running.process.send_signal(signal.SIGTTIN)
        await running.until("listening on")
        assert len(running.workers()) == 3
        for _ in range(2):
            running.process.send_signal(signal.SIGTTOU)
            await running.until(":exited")
        await until(lambda: len(running.workers()) == 1)
        assert await Running.answer(program.parent / "m.sock") == FIRST
        await running.end()


async def test_usr2_starts_the_program_anew_beside_the_old_one(program: Path) -> None:
    path = program.parent / "m.sock"
    async with Workers.started(program.parent, program=str(program)) as running:
        assert isinstance(running, Workers)
        for _ in range(3):
            await running.until("listening on")
        workers = running.workers()
        inode = path.stat().st_ino
        running.process.send_signal(signal.SIGUSR2)
        for _ in range(3):
            await running.until("listening on")
        (successor,) = running.workers() - workers
        try:
            running.process.terminate()
            # Its stderr stays open, so that its end cannot be awaited.
            await until(lambda: is_gone(running.process.pid))
            assert path.stat().st_ino == inode
            assert await Running.answer(path) == FIRST
        finally:
            os.kill(successor, signal.SIGTERM)
            await until(lambda: not path.exists())


async def test_a_name_that_cannot_be_loaded_is_said(program: Path) -> None:
    program.write_text(
        PROGRAM.replace("WORKERS", "1").replace("cli_milter:", "cli_nothing:"), encoding="utf-8"
    )
    async with Running.started(program.parent, program=str(program)) as running:
        await running.until("'cli_nothing:Greeting' cannot be loaded by")
        await running.ended(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"workers": True},
        {"workers": 40_000},
        {"crash_limit": 0},
        {"worker_timeout": 0},
        {"start_timeout": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    settings: dict[str, int] = {"workers": 1, **wrong}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        WorkerSettings(
            load=lambda: Served(lambda: None),  # type: ignore[arg-type, return-value]  # not called
            listen=("inet:0",),
            config=Config(),
            **settings,  # type: ignore[arg-type]  # wrong on purpose
        )


class _Listener:
    """What the arbiter needs of one."""

    def __init__(self) -> None:
        self.sock = self
        self.closed: list[str] = []

    def close(self) -> None:
        self.closed.append("with its path")


@pytest.mark.parametrize("parent", [0, 4711])
def test_the_first_process_of_a_container_removes_its_path_as_well(
    parent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: parent)
    # All but what this is about would change the process.
    arbiter: Any = object.__new__(MilterArbiter)
    arbiter.reexec_pid = arbiter.master_pid = 0
    listener = _Listener()
    listener.sock = None  # type: ignore[assignment]  # closed alone, it would leave the path
    arbiter._listeners = [listener]
    arbiter._close_listeners()
    assert listener.closed == ["with its path"]


def test_many_workers_are_started_a_few_at_a_time_so_that_signals_are_heeded() -> None:
    arbiter: Any = object.__new__(MilterArbiter)
    arbiter.WORKERS = {}
    arbiter._num_workers = 100
    arbiter._not_before = arbiter._generation = 0

    def spawn() -> int:
        number = len(arbiter.WORKERS)
        arbiter.WORKERS[number] = SimpleNamespace(age=number, is_leaving=False, generation=0)
        return number

    arbiter.spawn_worker = spawn
    arbiter.spawn_workers()
    assert 0 < len(arbiter.WORKERS) < 50
    for _ in range(100):
        arbiter.spawn_workers()
    assert len(arbiter.WORKERS) == 100
