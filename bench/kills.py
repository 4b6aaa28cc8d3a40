"""Workers that are killed at random under load: whose sessions end, and how soon others serve.

    python -m bench.kills --minutes 10

Sessions send messages without a pause and know which worker serves them. Every few seconds some
workers are killed by SIGKILL. Only their own sessions may end; no connection may be refused, no
answer be wrong, and the metrics of all workers, of the dead ones too, must be the sum of what the
sessions have counted, but for messages that were on their way.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiomilter import EomActions, Milter, Reply, Status
from bench.packets import CONNECT, CONTINUE, EOM, HELO, Gone, Peer, added_header, packet

__all__ = ["Knowing", "Run", "main", "run"]

_WHO = "<who@a.example>"
_PID_DIGITS = 10
_MAIL = packet(b"M", b"<alice@a.example>\0")
_WHO_RCPT = packet(b"R", _WHO.encode() + b"\0")
_STAMPED = added_header(b"X-One", b"1") + added_header(b"X-Two", b"2") + packet(b"a")
_MESSAGES_A_CONNECTION = 200
_DEATH_SHOWS_WITHIN_S = 2.0
_PATIENCE_S = 30.0
_ROOT = Path(__file__).resolve().parent.parent
_LISTENING = "listening on"

_numbers = itertools.count(1)


class Knowing(Milter):
    """Says which process it is in, and edits each message twice."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        if recipient == _WHO:
            return Reply(550, "5.7.1", f"{os.getpid():0{_PID_DIGITS}}")
        return None

    async def on_eom(self, actions: EomActions) -> Status:
        # A moment in which it can be killed with half a message.
        await asyncio.sleep(0.001)
        actions.add_header("X-One", "1")
        actions.add_header("X-Two", "2")
        return Status.ACCEPT


@dataclass
class Run:
    """A run under way.

    Attributes:
        messages: How many were answered as they should be.
        killed: When each worker was killed, by its number.
        delays: How long it took each time until as many served as before.
        ended: How many sessions ended with their worker.
        in_transit: How many ended before they knew it, shortly after a kill.
        wrong: What was not as it should be.
        counted: How many messages the metrics tell of at the end.
    """

    messages: int = 0
    killed: dict[int, float] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)
    ended: int = 0
    in_transit: int = 0
    wrong: list[str] = field(default_factory=list)
    counted: int = 0

    @property
    def is_right(self) -> bool:
        """Whether nothing was wrong."""
        # A worker may die when it has counted and not answered, or the other way round.
        return not self.wrong and abs(self.counted - self.messages) <= self.ended

    def note_end(self, pid: int, what: str) -> None:
        """Note that a session has ended before its time."""
        last = max(self.killed.values(), default=float("-inf"))
        if pid in self.killed:
            self.ended += 1
        elif not pid and time.monotonic() - last < _DEATH_SHOWS_WITHIN_S:
            self.in_transit += 1
        else:
            self.wrong.append(f"a session of worker {pid} ended: {what}")


async def client(path: Path, run: Run, over: asyncio.Event) -> None:
    """Send messages until it is over."""
    while not over.is_set():
        pid = 0
        try:
            peer = await Peer.negotiated(str(path))
        except Gone as error:
            run.note_end(pid, str(error))
            continue
        except OSError as error:
            run.wrong.append(f"a connection was refused: {error}")
            return
        try:
            expected = len(packet(b"y", b"550 5.7.1 " + b"0" * _PID_DIGITS + b"\0"))
            await peer.ask(CONNECT + HELO + _MAIL, 3 * len(CONTINUE))
            answer = await peer.ask(_WHO_RCPT, expected)
            pid = int(answer[-1 - _PID_DIGITS : -1])
            for _ in range(_MESSAGES_A_CONNECTION):
                # No two messages are the same: one that ends many workers would be refused.
                recipient = b"<bob%d@b.example>\0" % next(_numbers)
                answer = await peer.ask(packet(b"R", recipient), len(CONTINUE))
                answer += await peer.ask(EOM, len(_STAMPED))
                if answer != CONTINUE + _STAMPED:
                    run.wrong.append(f"wrong answer: {answer!r}")
                run.messages += 1
                if over.is_set():
                    break
                await peer.ask(_MAIL, len(CONTINUE))
            peer.quit()
        except (Gone, OSError) as error:
            run.note_end(pid, str(error))
            peer.hang_up()


class Service:
    """A running service with workers."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self.process = process
        self.path = path
        self.port = 0
        self.exporter = 0
        self.starts = 0
        self._news = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def started(cls, folder: Path, workers: int) -> AsyncIterator[Service]:
        path = folder / "milter.sock"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aiomilter.cli", "run", "bench.kills:Knowing"),
            *("--listen", f"unix:{path}", "--workers", str(workers), "--metrics", "127.0.0.1:0"),
            *("--log-level", "info", "--stop-grace", "5"),
            cwd=_ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            stderr=asyncio.subprocess.PIPE,
        )
        service = cls(process, path)
        reading = asyncio.create_task(service._read())
        try:
            # The first line is that of the process above.
            await service.until_started(workers + 1)
            yield service
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            text = line.decode()
            if _LISTENING in text:
                self.starts += 1
            elif "metrics on http://" in text:
                self.port = int(text.rpartition(":")[2].partition("/")[0])
                self.exporter = int(text.split()[2])
            self._news.set()

    async def until_started(self, count: int) -> None:
        """Wait until so many have come to serve, all in all."""
        async with asyncio.timeout(_PATIENCE_S):
            while self.starts < count:
                self._news.clear()
                await self._news.wait()

    def workers(self) -> set[int]:
        """The processes that serve, or will."""
        main = self.process.pid
        listed = Path(f"/proc/{main}/task/{main}/children").read_text(encoding="ascii")
        return set(map(int, listed.split())) - {self.exporter}

    async def messages(self) -> int:
        """Return how many messages the metrics tell of."""
        return await asyncio.to_thread(self._messages)

    def _messages(self) -> int:
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
            rows = answer.read().decode().splitlines()
        # Those that are given up, and the one that is asked who it is, are not accepted.
        accepted = [row for row in rows if row.startswith("aiomilter_messages_total{")]
        return sum(int(float(row.split()[-1])) for row in accepted if 'verdict="accept"' in row)


async def run(
    *,
    workers: int,
    clients: int,
    at_once: int,
    kills: int,
    every_s: float,
    until_s: float,
    seed: int,
) -> Run:
    """Kill workers under load.

    Args:
        workers: How many there are.
        clients: Sessions at a time.
        at_once: How many workers are killed at a time.
        kills: After how many it is enough; 0 for the time alone.
        every_s: From one time to the next, in seconds.
        until_s: For how long at most.
        seed: Of the choice.
    """
    run, choice, over = Run(), random.Random(seed), asyncio.Event()
    deadline = time.monotonic() + until_s
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        async with Service.started(Path(folder), workers) as service:
            async with asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(client(service.path, run, over))
                while time.monotonic() < deadline and not (0 < kills <= len(run.killed)):
                    await asyncio.sleep(every_s)
                    starts, began = service.starts, time.monotonic()
                    for victim in choice.sample(sorted(service.workers()), at_once):
                        run.killed[victim] = began
                        os.kill(victim, signal.SIGKILL)
                    await service.until_started(starts + at_once)
                    run.delays.append(time.monotonic() - began)
                    if len(service.workers()) != workers:
                        run.wrong.append(f"there are {len(service.workers())} workers")
                over.set()
            run.counted = await service.messages()
        left = os.listdir(folder)
        if left or service.process.returncode:
            run.wrong.append(f"exit code {service.process.returncode}, left behind: {left}")
    return run


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="bench.kills", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--kills", type=int, default=0, help="end after so many, if that is earlier"
    )
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done = asyncio.run(
        run(
            workers=options.workers,
            clients=options.clients,
            at_once=options.at_once,
            kills=options.kills,
            every_s=options.every,
            until_s=options.minutes * 60,
            seed=options.seed,
        )
    )
    print(
        f"{len(done.killed)} workers killed, {done.messages:,} messages answered, "
        f"{done.counted:,} counted"
    )
    print(
        f"sessions that ended: {done.ended} of a killed worker, {done.in_transit} before they knew "
        f"theirs, others: {len(done.wrong)}"
    )
    steps = Counter(round(delay, 1) for delay in done.delays)
    print(
        f"until all served again: median {statistics.median(done.delays):.2f} s, "
        f"at most {max(done.delays):.2f} s; {dict(sorted(steps.items()))}"
    )
    for one in done.wrong[:10]:
        print(f"wrong: {one}")
    return 0 if done.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
