"""What large messages cost that `on_message` collects: memory above all.

    python -m bench.large                               # 1 GiB, then 50 times 20 MiB twice
    python -m bench.large --gib 4 --messages 100

One body of a gibibyte, then many messages at once, with two budgets of memory. They are read as a
whole by the handler, in a thread, and its digest is compared. The MTA's end is in this process, the
milter in another; the memory is that of the milter. It takes some room on the disk: as much as all
the messages, in unnamed files.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.idle import without_connections
from bench.packets import EOM, OFFER, packet
from bench.process import MilterProcess

__all__ = ["Large", "main", "measure"]

_MIB = 1 << 20
_PIECE_BYTES = 65_535
_ENVELOPE = packet(b"M", b"<a@src.example>\0") + packet(b"R", b"<b@dst.example>\0")
_SINGLE_MB = 100
_OVER_BUDGET = 1.3
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Large:
    """What some large messages have cost the milter.

    Attributes:
        idle_bytes: What its process held before, resident.
        peak_bytes: What it held at most.
        cpu_s: Its time of the processor.
        seconds: How long it took.
        wrong: How many messages did not come whole.
        descriptors: How many more it has afterwards.
    """

    idle_bytes: int
    peak_bytes: int
    cpu_s: float
    seconds: float
    wrong: int
    descriptors: int


def measure(messages: int, body_bytes: int, budget_bytes: int) -> Large:
    """Send so many messages at once to a milter of its own."""
    with tempfile.TemporaryDirectory(prefix="large-") as directory:
        path = Path(directory) / "milter.sock"
        with MilterProcess.running(
            "bench.milters:Digest",
            path,
            memory_budget=budget_bytes,
            max_message_body_bytes=body_bytes,
        ) as milter:
            # What the first message ever brings with it is not the price of a large one.
            asyncio.run(_send_all(path, 1, 2 * _MIB))
            idle = asyncio.run(without_connections(milter))
            cpu_s, began = milter.cpu_s(), time.monotonic()
            wrong = asyncio.run(_send_all(path, messages, body_bytes))
            seconds = time.monotonic() - began
            after = asyncio.run(without_connections(milter))
            return Large(
                idle_bytes=idle.rss_bytes,
                peak_bytes=milter.peak_rss_bytes(),
                cpu_s=milter.cpu_s() - cpu_s,
                seconds=seconds,
                wrong=wrong,
                descriptors=after.descriptors - idle.descriptors,
            )


async def _send_all(path: Path, messages: int, body_bytes: int) -> int:
    async with asyncio.timeout(_PATIENCE_S):
        sent = (_send(path, number, body_bytes) for number in range(messages))
        return (await asyncio.gather(*sent)).count(False)


async def _send(path: Path, number: int, body_bytes: int) -> bool:
    """Send a message; return whether its digest is right."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(OFFER)
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        writer.write(_ENVELOPE)
        digest = hashlib.sha256()
        for piece in _pieces(number, body_bytes):
            digest.update(piece)
            writer.write(packet(b"B", piece))
            await writer.drain()
        writer.write(EOM)
        await writer.drain()
        answer = b"p"
        while answer[:1] == b"p":
            length = int.from_bytes(await reader.readexactly(4), "big")
            answer = await reader.readexactly(length)
        return digest.hexdigest().encode() in answer
    finally:
        writer.close()
        await writer.wait_closed()


def _pieces(number: int, body_bytes: int) -> Iterator[bytes]:
    line = b"%08d and some words for a line of mail.\r\n" % number
    piece = (line * (_PIECE_BYTES // len(line) + 1))[:_PIECE_BYTES]
    for at in range(0, body_bytes, _PIECE_BYTES):
        yield piece[: min(_PIECE_BYTES, body_bytes - at)]


def _print(name: str, large: Large) -> None:
    print(
        f"{name:38} RSS {large.idle_bytes / 1e6:5.1f} MB before, {large.peak_bytes / 1e6:6.1f} MB "
        f"at most; CPU {large.cpu_s:5.1f} s of {large.seconds:5.1f} s; {large.wrong} wrong, "
        f"{large.descriptors:+d} descriptors",
        flush=True,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.large", description=__doc__)
    parser.add_argument("--gib", type=float, default=1, help="of the single body")
    parser.add_argument("--messages", type=int, default=50, help="at once")
    parser.add_argument("--mib", type=int, default=20, help="of each of them")
    options = parser.parse_args()
    single = measure(1, int(options.gib * 1024 * _MIB), 256 * _MIB)
    _print(f"a body of {options.gib:g} GiB", single)
    is_kept = single.peak_bytes < _SINGLE_MB * 1_000_000 and not single.wrong
    for budget_mib in (256, 64):
        many = measure(options.messages, options.mib * _MIB, budget_mib * _MIB)
        _print(f"{options.messages} times {options.mib} MiB, budget {budget_mib} MiB", many)
        limit = many.idle_bytes + budget_mib * _MIB * _OVER_BUDGET
        is_kept = is_kept and many.peak_bytes < limit and not many.wrong
    print(f"asked: below {_SINGLE_MB} MB; below the budget and 30 % of it, over the idle process")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
