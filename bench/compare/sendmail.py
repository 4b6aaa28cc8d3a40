"""A real Sendmail over TCP: what a milter adds to a message, as an SMTP client sees it."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from aiomilter.testing.servers.sendmail import Sendmail
from aiomilter.testing.servers.sink import Sink
from aiomilter.testing.servers.smtp import SmtpClient
from bench.compare.measuring import Bench, Figures, Workload
from bench.compare.milter import running
from bench.compare.peers import Peer
from bench.compare.programs import BENCH, BenchError

__all__ = ["measure_sendmail"]

_ROOT = BENCH.parent / ".sendmail"
_RECIPIENTS = ("user1@dst.example", "user2@dst.example")
_CONTENT = (
    b"".join(
        b"X-Header-%d: value number %d of an ordinary header of ordinary length\r\n" % (n, n)
        for n in range(1, 13)
    )
    + b"\r\n"
    + (b"a" * 62 + b"\r\n") * 64
)
_WARM_UP_MESSAGES = 2


def measure_sendmail(workload: Workload, peer: Peer, bench: Bench) -> Figures:
    """Send messages on one SMTP connection; the milliseconds of each, with and without the milter.

    Without a milter is the same Sendmail, told to go on when there is none.

    Raises:
        BenchError: There is no Sendmail, or it did not take a message.
    """
    messages = 10 if bench.quick else 30
    try:
        with Sink() as sink, tempfile.TemporaryDirectory(prefix="bench-") as name:
            with running(peer.works[workload.work], Path(name), core=bench.core) as milter:
                # What the address was is known only now; it stays free when the milter has ended.
                address = milter.address
                with Sendmail(sink.port, address, {"F": ""}, root=_root()) as sendmail:
                    with_it = asyncio.run(_send(sendmail.smtp_port, messages))
            with Sendmail(sink.port, address, {"F": ""}, root=_root()) as sendmail:
                without = asyncio.run(_send(sendmail.smtp_port, messages))
            headers = sum(b"X-Bench: 1" in delivery.content for delivery in sink.since(0))
    except (RuntimeError, AssertionError) as error:
        raise BenchError(str(error).splitlines()[0]) from None
    if not headers:
        raise BenchError("Sendmail has not asked the milter")
    return {
        "p50_ms": statistics.median(with_it),
        "without_ms": statistics.median(without),
        "added_ms": statistics.median(with_it) - statistics.median(without),
    }


def _root() -> Path | None:
    return _ROOT if _ROOT.is_dir() else None


async def _send(port: int, messages: int) -> list[float]:
    """Send messages; return the milliseconds of each, from MAIL to the reply to the last dot."""
    taken = []
    async with SmtpClient.connect(port) as smtp:
        await smtp.ehlo()
        for number in range(_WARM_UP_MESSAGES + messages):
            began = time.perf_counter()
            reply = await smtp.message(_CONTENT, recipients=_RECIPIENTS)
            if reply.code != 250:
                raise BenchError(f"Sendmail: {reply}")
            if number >= _WARM_UP_MESSAGES:
                taken.append((time.perf_counter() - began) * 1e3)
    return taken
