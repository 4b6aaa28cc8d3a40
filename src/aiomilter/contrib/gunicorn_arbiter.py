"""The process above the workers: gunicorn's arbiter, with our sockets, patience and ledger.

Rules of this file:

- The sockets are open here and handed to every worker, so that a connection that comes while
  workers are replaced waits in the backlog and is never refused.
- A reload ends no worker that serves before its successors do. If one of those cannot start, all
  stays as it was.
- A worker that dies is replaced, ever more slowly if its like die young. If none can start at all,
  the service ends with an error; at once if that is one which no further attempt can mend.
- A start has a limit of its own: an event loop that is blocked by the lifespan stalls nobody.
- Clocks are monotonic: one that is set neither ends nor keeps a worker.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections import deque
from typing import Any, NoReturn, cast

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.sock import BaseSocket

from aiomilter.aio.ledger import WorkerState
from aiomilter.aio.listeners import Listener
from aiomilter.aio.notify import Notifier
from aiomilter.contrib.gunicorn_exporter import Exporter
from aiomilter.contrib.gunicorn_metrics import MetricsFolder, ServiceStatus
from aiomilter.contrib.gunicorn_worker import STOP_SIGNALS, MilterApplication, MilterWorker
from aiomilter.errors import ConfigError

__all__ = ["HANDED_ON", "MilterArbiter"]

_logger = logging.getLogger("aiomilter")

HANDED_ON = "AIOMILTER_LISTENERS"
"""The environment variable by which SIGUSR2 hands the sockets to a new program."""

_SHORTEST_DELAY_S, _LONGEST_DELAY_S = 0.1, 10.0
_DIED_YOUNG_S = 10.0
_MOST_FAILURES, _FAILURES_WITHIN_S = 5, 60.0
_SPAWNED_AT_A_TIME = 16
_POLL_S = 0.02
"""How often is looked whether a worker that starts has come to serve."""
_BEYOND_GRACE_S = 6.0
"""What a worker may take beyond the grace: the idle, the last answers, and its lifespan."""
_HURRIED_S = 4.0
_UNSTARTED_GRACE_S = 5.0
"""What a worker may take that has not served anybody yet: for its lifespan."""
_ABORT_S = 1.0
"""How long it may take to write where it is."""
_SILENT_S = 5.0
"""A worker without a sign of life for so long, five times its period, does not count as serving."""
_HOUR_S = 3600
_EXIT_FAILURE = 1


class MilterArbiter(Arbiter):
    """Keeps workers alive."""

    # Exit codes at which gunicorn would end the service at once: never, see `worker_ended`.
    WORKER_BOOT_ERROR = APP_LOAD_ERROR = -1

    def __init__(
        self, app: MilterApplication, listeners: list[Listener], *, is_successor: bool = False
    ) -> None:
        """Prepare.

        Args:
            app: What is served, and how.
            listeners: Where; they are closed at the end.
            is_successor: Whether the program that SIGUSR2 was sent to is there still.

        Raises:
            ConfigError: There can be no folder for metrics.
        """
        self._settings = app.milter_settings
        self._ledger = app.ledger
        self._listeners = listeners
        self._is_successor = is_successor
        self._status = ServiceStatus()
        self._metrics = MetricsFolder(self._status, is_shared=is_successor)
        app.clean_up = self._metrics.remove
        self._exporter: Exporter | None = None
        if self._settings.metrics is not None:
            address = self._settings.metrics
            leave = self._leave_sockets
            self._exporter = Exporter(
                self._metrics, address, app.lifeline, leave, self._reopen_logs
            )
        self._notifier = Notifier(has_event_loop=False)
        self._problem = ""
        self._has_served = False
        self._generation = 0
        self._is_reload_wanted = False
        self._is_stopping = False
        self._has_told_ready = False
        self._delay_s = _SHORTEST_DELAY_S
        self._not_before = 0.0
        self._failures: deque[float] = deque(maxlen=_MOST_FAILURES)
        super().__init__(app)
        # Of this object: gunicorn's are of its class.
        self._set("WORKERS", {})
        self._set("LISTENERS", [cast("BaseSocket", one.sock) for one in listeners])
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]

    def _set(self, name: str, value: object) -> None:
        # Not plainly: to type checkers these belong to the class.
        setattr(self, name, value)

    def setup(self, app: BaseApplication) -> None:
        """Take over the settings."""
        super().setup(app)
        # gunicorn's own setting takes whole seconds.
        self._set("timeout", self._settings.worker_timeout)
        self.cfg.set("child_exit", _on_child_exit)

    def start(self) -> None:
        """Take signals, and say where is listened."""
        # gunicorn would tell systemd that it is ready before any worker is.
        notify_socket = os.environ.pop("NOTIFY_SOCKET", None)
        try:
            super().start()
        finally:
            if notify_socket is not None:
                os.environ["NOTIFY_SOCKET"] = notify_socket
        if self._exporter is not None:
            self._exporter.start(is_patient=self._is_successor)
        for listener in self._listeners:
            _logger.info("listening on %s", listener.description)

    def close(self) -> None:
        """Remove what is there for metrics; for the end of the program."""
        if self._exporter is not None:
            self._exporter.stop()
        self._metrics.close()
        self._notifier.close()

    def _leave_sockets(self) -> None:
        """Close the sockets, in a process that has no use for them."""
        for listener in self._listeners:
            listener.sock.close()

    def _reopen_logs(self) -> None:
        assert self.log is not None
        self.log.reopen_files()

    def _tell(self, news: str) -> None:
        """Tell systemd, if it has started us; gunicorn would wait for it, for ever if need be."""
        self._notifier.tell(news)

    # Signals

    def signal(self, sig: int, frame: object) -> None:
        """Note a signal; nothing else may be done here."""
        self.SIG_QUEUE.put_nowait(sig)

    def handle_int(self) -> None:
        """Stop as at SIGTERM; gunicorn would not let messages finish."""
        self.handle_term()

    def handle_hup(self) -> None:
        """Start workers that load the code anew, to replace those that are there."""
        self._is_reload_wanted = True

    def handle_usr1(self) -> None:
        """Open log files anew, in all processes."""
        super().handle_usr1()
        if self._exporter is not None:
            self._exporter.reopen_logs()

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        """Wait for signals, or until something else is due."""
        longest = 1.0 if timeout is None else timeout
        if any(worker.notes.state is WorkerState.STARTING for worker in self._all()):
            longest = min(longest, _POLL_S)
        elif len(self._serving()) < self.num_workers:
            longest = min(longest, max(0.0, self._not_before - time.monotonic()))
        # Never nothing at all: it would be waited without an end.
        return super().wait_for_signals(max(longest, 0.001))

    # Workers

    def _all(self) -> list[MilterWorker]:
        """Return the workers, the oldest first."""
        found = cast("list[MilterWorker]", list(self.WORKERS.values()))
        return sorted(found, key=lambda worker: worker.age)

    def _serving(self) -> list[MilterWorker]:
        """Return the workers that were not asked to end."""
        return [worker for worker in self._all() if not worker.is_leaving]

    def manage_workers(self) -> None:
        """Start, replace and end workers as needed."""
        self._kill_overdue()
        self._look_at_ledger()
        if self._exporter is not None:
            self._exporter.keep_alive()
        serving = self._serving()
        old = [worker for worker in serving if worker.generation < self._generation]
        young = [worker for worker in serving if worker.generation == self._generation]
        if self._is_reload_wanted:
            _logger.info("reloading: new workers load the code, and replace those that serve")
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            self._is_reload_wanted = False
            self._generation += 1
            if old:
                # Of a reload that is under way, with code that is out of date by now.
                for worker in young:
                    self._kill(worker, signal.SIGTERM)
            else:
                old = young
            young = []
        if len(young) < self.num_workers:
            self.spawn_workers()
        elif all(worker.notes.state is WorkerState.SERVING for worker in young):
            self._end_surplus(old, young)
        self._tell("WATCHDOG=1")
        self._write_status()

    def _look_at_ledger(self) -> None:
        for worker in self._all():
            self._ledger.clear(worker.notes.cleared())
        self._ledger.look_at_clock()

    def _write_status(self) -> None:
        oldest = time.monotonic() - _SILENT_S
        serving = [one for one in self._serving() if one.notes.state is WorkerState.SERVING]
        self._has_served = self._has_served or bool(serving)
        alive = [worker for worker in serving if worker.notes.beat > oldest]
        self._status.write(len(alive), is_stopping=self._is_stopping)

    def _end_surplus(self, old: list[MilterWorker], young: list[MilterWorker]) -> None:
        for worker in (*old, *young[: len(young) - self.num_workers]):
            self._kill(worker, signal.SIGTERM)
        if old:
            _logger.info("reloaded: %d workers serve", len(young))
        if old or not self._has_told_ready:
            self._has_told_ready = True
            self._tell(f"READY=1\nSTATUS=serving with {len(young)} workers")

    def spawn_workers(self) -> None:
        """Start the workers that are missing, unless it is too soon."""
        if time.monotonic() < self._not_before:
            return
        present = [one for one in self._serving() if one.generation == self._generation]
        # Signals are heeded between one round and the next.
        for _ in range(min(self.num_workers - len(present), _SPAWNED_AT_A_TIME)):
            try:
                pid = self.spawn_worker()
            except OSError as error:
                _logger.error("cannot start a worker for now: %s", error.strerror or error)
                self._wait_longer(was_young=True)
                return
            worker = cast("MilterWorker", self.WORKERS[pid])
            worker.generation = self._generation

    def spawn_worker(self) -> int:
        """Start one worker; only the process above returns."""
        above = os.getpid()
        # A signal between the fork and the worker's own handlers would be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().spawn_worker()
        except BaseException as error:
            if os.getpid() == above:
                raise
            # All below on the stack is of the process above, its `finally` blocks as well.
            _end_process(error)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a worker a signal, but SIGTERM only once: its time is counted from there."""
        worker = cast("MilterWorker | None", self.WORKERS.get(pid))
        if sig == signal.SIGTERM and worker is not None:
            if worker.is_leaving:
                return
            patience_s = self._settings.config.stop_grace + _BEYOND_GRACE_S
            if worker.notes.state is WorkerState.STARTING:
                patience_s = _UNSTARTED_GRACE_S
            worker.leave_by = time.monotonic() + patience_s
        super().kill_worker(pid, sig)

    def _kill(self, worker: MilterWorker, number: int) -> None:
        self.kill_worker(cast("int", worker.pid), number)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in self._all():
            if worker.leave_by is not None and now > worker.leave_by:
                _logger.warning("worker %s does not end; killing it", worker.pid)
                self._kill(worker, signal.SIGKILL)

    def murder_workers(self) -> None:
        """End workers whose event loop is blocked, and those that do not come to serve."""
        now = time.monotonic()
        for worker in self._all():
            notes, limit_s = worker.notes, self._settings.worker_timeout
            if worker.aborted_at is not None:
                if now - worker.aborted_at > _ABORT_S:
                    self._kill(worker, signal.SIGKILL)
            elif notes.state is not WorkerState.STARTING:
                if now - notes.beat > limit_s:
                    self._abort(worker, f"has blocked its event loop for {limit_s:g} s")
            elif not worker.is_leaving:
                self._look_at_start(worker, now)

    def _look_at_start(self, worker: MilterWorker, now: float) -> None:
        limit_s = self._settings.start_timeout
        if now - worker.spawned_at > limit_s:
            self._abort(worker, f"does not come to serve within {limit_s:g} s")
        beat, silent_s = worker.notes.beat, self._settings.worker_timeout
        if not worker.is_slow and now - max(beat, worker.spawned_at) > silent_s:
            worker.is_slow = True
            what = "the lifespan blocks the event loop" if beat else "the code is being loaded"
            _logger.warning(
                "worker %s is starting, and %s for more than %g s; it has %g s in all",
                *(worker.pid, what, silent_s, limit_s),
            )

    def _abort(self, worker: MilterWorker, why: str) -> None:
        _logger.critical("worker %s %s; ending it. It was here:", worker.pid, why)
        worker.aborted_at = time.monotonic()
        self._kill(worker, signal.SIGABRT)

    def worker_ended(self, worker: MilterWorker) -> None:
        """Draw the conclusions from a worker's end.

        Raises:
            HaltServer: No worker can start.
        """
        state, problem = worker.notes.state, worker.notes.problem
        suspects = [] if state is WorkerState.ENDED else worker.notes.suspects()
        self._ledger.clear(worker.notes.cleared())
        worker.notes.close()
        pid, has_exporter = cast("int", worker.pid), self._exporter is not None
        self._metrics.forget_worker(pid, are_summed=has_exporter)
        for refusal in self._ledger.blame(suspects):
            _logger.error(
                "message %s has ended %d workers; from now on it gets %s without the handlers, "
                "for %g h",
                refusal.label,
                refusal.crashes,
                self._settings.crash_verdict.name,
                refusal.seconds / _HOUR_S,
            )
        if worker.is_leaving or self._is_stopping:
            return
        self._status.deaths += 1
        self._wait_longer(was_young=time.monotonic() - worker.spawned_at < _DIED_YOUNG_S)
        if state is not WorkerState.STARTING:
            _logger.warning("worker %s has ended by itself; another one follows", worker.pid)
            return
        if any(one.generation < self._generation for one in self._serving()):
            self._give_up_reload(problem)
            return
        if problem and not self._has_served:
            self._problem = problem
            raise HaltServer(problem, _EXIT_FAILURE)
        if problem:
            _logger.error("worker %s cannot start: %s", worker.pid, problem)
        if not any(one.notes.state is WorkerState.SERVING for one in self._serving()):
            self._note_failure()

    def _give_up_reload(self, problem: str) -> None:
        reason = f": {problem}" if problem else ""
        _logger.error("the reload has failed; the workers that were there go on%s", reason)
        for worker in self._serving():
            if worker.generation == self._generation:
                self._kill(worker, signal.SIGTERM)
            else:
                worker.generation = self._generation
        self._tell("READY=1\nSTATUS=the last reload has failed")

    def _note_failure(self) -> None:
        now = time.monotonic()
        self._failures.append(now)
        is_full = len(self._failures) == _MOST_FAILURES
        if is_full and now - self._failures[0] <= _FAILURES_WITHIN_S:
            raise HaltServer(f"{_MOST_FAILURES} workers in a row could not start", _EXIT_FAILURE)

    def _wait_longer(self, *, was_young: bool) -> None:
        """Put the next start off; several that end together count once."""
        now = time.monotonic()
        if now < self._not_before:
            return
        self._not_before = now + self._delay_s if was_young else now + _SHORTEST_DELAY_S
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S) if was_young else _SHORTEST_DELAY_S

    # The end

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End the service.

        Raises:
            SystemExit: Always, but for the next.
            ConfigError: It could not begin.
        """
        if self._problem:
            self.stop(graceful=False)
            raise ConfigError(self._problem)
        super().halt(reason, exit_status)

    def stop(self, graceful: bool = True) -> None:
        """End all workers.

        Args:
            graceful: Whether messages in progress may finish; a further signal takes that back.
        """
        self._is_stopping = True
        self._write_status()
        patience_s = self._settings.config.stop_grace + _BEYOND_GRACE_S
        if self._listeners and not self._problem:
            _logger.info("letting messages in progress finish" if graceful else "stopping at once")
            usec = int(patience_s * 1e6)
            self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={usec}")
        self._close_listeners()
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        deadline = time.monotonic() + (patience_s if graceful else _HURRIED_S)
        while self.WORKERS and time.monotonic() < deadline:
            asked = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
            if asked.intersection(self.wait_for_signals(0.1)) and graceful:
                _logger.info("a further signal: stopping at once")
                graceful = False
                self.kill_workers(signal.SIGQUIT)
                deadline = time.monotonic() + _HURRIED_S
            self._kill_overdue()
            self._write_status()
            self.reap_workers()
        self.kill_workers(signal.SIGKILL)
        deadline = time.monotonic() + 1
        while self.WORKERS and time.monotonic() < deadline:
            self.wait_for_signals(0.05)
            self.reap_workers()

    def _close_listeners(self) -> None:
        """Close the sockets; paths stay if another program that SIGUSR2 has started has them."""
        # A program before this one that has ended is not our parent. Without one it is number 0,
        # and so is the parent of a container's first process.
        has_elder = self.master_pid != 0 and self.master_pid == os.getppid()
        is_alone = self.reexec_pid == 0 and not has_elder
        for listener in self._listeners:
            if is_alone:
                listener.close()
            else:
                listener.sock.close()
        self._listeners.clear()
        self._set("LISTENERS", [])

    def reexec(self) -> None:
        """Start the program anew beside this one, with the same sockets (SIGUSR2)."""
        # Copied into the environment of the new program, and nobody else's.
        self.cfg.env_orig[HANDED_ON] = json.dumps(
            [(one.sock.fileno(), one.label, one.owned_path) for one in self._listeners]
        )
        self.cfg.set("pre_exec", self._hand_on_sockets)
        super().reexec()

    def _hand_on_sockets(self, _arbiter: Arbiter) -> None:
        for listener in self._listeners:
            listener.sock.set_inheritable(True)


def _on_child_exit(arbiter: MilterArbiter, worker: MilterWorker) -> None:
    """Stand where gunicorn calls for a worker that has ended."""
    arbiter.worker_ended(worker)


def _end_process(error: BaseException) -> NoReturn:
    """End a worker's process without going up the stack."""
    code: Any = error.code if isinstance(error, SystemExit) else _EXIT_FAILURE
    try:
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else _EXIT_FAILURE)
