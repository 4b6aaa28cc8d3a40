"""SIGTERM to a milter under load, through Postfix, again and again: what becomes of each message.

    python -m bench.term --runs 20

Clients send all the time; the milter, which edits each message twice, is asked to end in the middle
of it. Every message must either arrive with both edits or be refused for now, so that its client
tries again: no message is lost, none passes unfiltered or half edited. Needs Postfix, and root.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from aiomilter.testing.servers.smtp import SmtpClient
from tests.integration.load.clients import Ledger, is_accepted
from tests.integration.load.process import Watched
from tests.integration.load.rig import Delivered, LoadRig

__all__ = ["main"]

_MILTER = f"{Path(__file__).resolve().parent}/milters.py:TwoStamps"
_CONTENT = b"Subject: kept\r\n\r\n" + b"x" * 70 + b"\r\n"
_ACCEPTED_BEFORE = 100
_RETRY_S = 0.02
_AFTERWARDS_S = 0.2
_RUN_S = 40.0
_MESSAGES_A_SESSION = 5
_TOTALS = ("injected", "delivered", "deferred", "half edited", "unfiltered", "lost")


async def send_until(over: asyncio.Event, port: int, name: str, ledger: Ledger) -> int:
    """Send messages, each once, until it is over; return how many."""
    sent = 0
    while not over.is_set():
        async with SmtpClient.connect(port) as smtp:
            await smtp.ehlo()
            for _ in range(_MESSAGES_A_SESSION):
                sent += 1
                recipient = f"<{name}.{sent}@dst.example>"
                if not await is_accepted(smtp, recipient, _CONTENT, ledger) or over.is_set():
                    break
            else:
                continue
        await asyncio.sleep(_RETRY_S)
    return sent


async def end_under_load(rig: LoadRig, ledger: Ledger, over: asyncio.Event) -> float:
    """Run the milter, have it end in the middle of mail; return how long it took to end."""
    async with Watched.started(
        *(sys.executable, "-m", "aiomilter.cli", "run", _MILTER),
        *("--listen", rig.postfix.milter_address, "--unix-group", "postfix"),
    ) as milter:
        await milter.has_lines(1)
        await ledger.has_accepted(_ACCEPTED_BEFORE)
        milter.send_signal(signal.SIGTERM)
        began = time.monotonic()
        status = await milter.ended()
        took_s = time.monotonic() - began
        if status:
            raise RuntimeError(f"exit status {status}: {milter.lines[-5:]}")
    # Without a milter Postfix puts everything off.
    await asyncio.sleep(_AFTERWARDS_S)
    over.set()
    return took_s


def judge(deliveries: Iterable[Delivered], ledger: Ledger, injected: int) -> Counter[str]:
    """Count what became of the messages of a run."""
    totals = Counter(injected=injected, deferred=len(ledger.refused))
    came: set[str] = set()
    for delivered in deliveries:
        came.update(delivered.recipients)
        totals["delivered"] += 1
        totals["unfiltered"] += not delivered.stamps
        totals["half edited"] += len(delivered.stamps) == 1
    totals["lost"] = len(ledger.accepted.keys() - came)
    return totals


async def one_run(rig: LoadRig, number: int, clients: int) -> tuple[Counter[str], float]:
    """Do a run; return what it counted and how long the milter took to end."""
    ledger, over = Ledger(), asyncio.Event()
    before = len(await rig.all_delivered())
    port = rig.postfix.port("milter")
    async with asyncio.timeout(_RUN_S), asyncio.TaskGroup() as group:
        ending = group.create_task(end_under_load(rig, ledger, over))
        senders = [
            group.create_task(send_until(over, port, f"{number}-{client}", ledger))
            for client in range(clients)
        ]
    deliveries = (await rig.all_delivered())[before:]
    injected = sum(sender.result() for sender in senders)
    return judge(deliveries, ledger, injected), ending.result()


async def all_runs(runs: int, clients: int) -> Counter[str]:
    """Do all runs, with a line for each; return the sums."""
    totals: Counter[str] = Counter()
    async with LoadRig.started() as rig:
        for number in range(1, runs + 1):
            counted, took_s = await one_run(rig, number, clients)
            totals.update(counted)
            print(f"{number:3}  {line(counted)}, ended after {took_s:.2f} s", flush=True)
    return totals


def line(totals: Counter[str]) -> str:
    """Return the counts as text."""
    return ", ".join(f"{name} {totals[name]}" for name in _TOTALS)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="bench.term", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--clients", type=int, default=10)
    options = parser.parse_args()
    totals = asyncio.run(all_runs(options.runs, options.clients))
    print(f"all  {line(totals)}")
    is_kept = totals["injected"] == totals["delivered"] + totals["deferred"]
    return 0 if is_kept and not any(totals[name] for name in _TOTALS[3:]) else 1


if __name__ == "__main__":
    sys.exit(main())
