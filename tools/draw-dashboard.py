"""Draw the dashboard's main panels as docs/images/dashboard.svg, from metrics of a real server.

A milter with a few ways to decide is served on the loopback for some seconds, under a load that
changes; its metrics are read over HTTP twice a second, as Prometheus would.

    PYTHONPATH=src:. python tools/draw-dashboard.py [SECONDS]
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from aiomilter import EomActions, Milter, Reply, Server, Status
from aiomilter.aio.metrics_http import MetricsServer
from aiomilter.aio.monitor import LoopMonitor
from aiomilter.contrib.prometheus import PrometheusObserver
from tests.mta import ABORT, BODY, CONNECT, DATA, EOH, EOM, HEADER, HELO, MAIL, OFFER, RCPT, Mta

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "dashboard.svg"
NAMESPACE = "http://www.w3.org/2000/svg"
PERIOD_S = 0.5
COLOURS = ("#2a9d5c", "#d1495b", "#e09f3e", "#3d6fb6", "#7b5ea7", "#4c9aa8")
Sample = dict[tuple[str, tuple[str, ...]], float]


class Varied(Milter):
    """Decides in several ways, sometimes slowly, and fails now and then."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        await asyncio.sleep(random.expovariate(400))
        return Reply(550, "5.1.1", "no such user") if random.random() < 0.05 else None

    async def on_header(self, name: str, value: str) -> None: ...

    async def on_body(self, chunk: bytes) -> Status | None:
        return Status.REJECT if random.random() < 0.12 else None

    async def on_eom(self, actions: EomActions) -> Status:
        await asyncio.sleep(random.expovariate(60))
        if random.random() < 0.03:
            raise ValueError("a fault, for the picture")
        actions.add_header("X-Seen", "yes")
        if random.random() < 0.2:
            actions.change_header("Subject", 1, "[list] hello")
        return Status.ACCEPT if random.random() < 0.85 else Status.DISCARD


async def load(server: Server, until: float) -> None:
    """Send messages, one after another, at a pace that rises and falls."""
    async with Mta.connected(server.sockets[0]) as mta:
        mta.writer.write(OFFER + CONNECT + HELO)
        await mta.reader.read(4096)
        while time.monotonic() < until:
            for part in (MAIL, RCPT, DATA + HEADER * 5 + EOH, BODY, EOM):
                mta.writer.write(part)
                answer = await mta.reader.read(65_536)
                if part != RCPT and answer[-5:-1] == b"\0\0\0\1" and answer[-1:] in b"rtda":
                    break
            mta.writer.write(ABORT)
            await asyncio.sleep(0.02 * (1.3 + math.sin(time.monotonic())) * random.random())


async def read_metrics(port: int) -> Sample:
    """Return what Prometheus would keep of one scrape."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    text = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
    writer.close()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def measure(seconds: float) -> list[Sample]:
    """Serve under load; return the scrapes."""
    metrics = PrometheusObserver(CollectorRegistry())
    monitor = LoopMonitor(on_lag=metrics.loop_lagged)
    found: list[Sample] = []
    async with (
        MetricsServer(metrics.render) as http,
        Server(Varied, "inet:0@127.0.0.1", observers=[metrics]) as server,
    ):
        monitor.start()
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(load(server, until)) for _ in range(12)]
        while time.monotonic() < until:
            found.append(await read_metrics(http.port))
            await asyncio.sleep(PERIOD_S)
        await asyncio.gather(*tasks)
        monitor.stop()
    return found


def rates(found: list[Sample], name: str, at: int = 0) -> dict[str, list[float]]:
    """Return the growth of a counter a second, summed up by one of its labels (in their order)."""
    lines: dict[str, list[float]] = {}
    keys = sorted({key for sample in found for key in sample if key[0] == name})
    for key in keys:
        label = key[1][at] if key[1] else "all"
        line = lines.setdefault(label, [0.0] * (len(found) - 1))
        for number, (before, after) in enumerate(itertools.pairwise(found)):
            line[number] += (after.get(key, 0) - before.get(key, 0)) / PERIOD_S
    return lines


def quantiles(found: list[Sample], name: str, part: float) -> dict[str, list[float]]:
    """Return a quantile of a histogram, in milliseconds, by its first label."""
    lines: dict[str, list[float]] = {}
    keys = [key for key in found[-1] if key[0] == f"{name}_bucket"]
    for label in sorted({key[1][0] if len(key[1]) > 1 else "" for key in keys}):
        own = [key for key in keys if (key[1][0] if len(key[1]) > 1 else "") == label]
        own.sort(key=lambda key: float(key[1][-1]))
        lines[label or f"{part:.0%}"] = [
            1000 * _quantile(before, after, own, part)
            for before, after in zip(found, found[4:], strict=False)
        ]
    return lines


def _quantile(
    before: Sample, after: Sample, keys: list[tuple[str, tuple[str, ...]]], part: float
) -> float:
    counts = [after.get(key, 0) - before.get(key, 0) for key in keys]
    low = below = 0.0
    for key, count in zip(keys, counts, strict=True):
        bound = float(key[1][-1])
        if count and count >= part * counts[-1]:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (part * counts[-1] - below) / max(count - below, 1e-9)
        low, below = bound, count
    return low


def panel(x: int, y: int, title: str, lines: dict[str, list[float]], unit: str) -> list[str]:
    """Return one panel as SVG."""
    width, height = 440, 150
    top = max((max(line) for line in lines.values() if line), default=0) or 1
    out = [
        f'<g transform="translate({x},{y})">',
        f'<rect width="{width + 50}" height="{height + 62}" rx="4" fill="#fff" stroke="#ccd"/>',
        f'<text x="12" y="20" font-weight="bold">{title}</text>',
    ]
    for step in range(3):
        at = 34 + height * step / 2
        value = top * (1 - step / 2)
        out.append(f'<line x1="46" x2="{width + 40}" y1="{at}" y2="{at}" stroke="#e4e4ec"/>')
        out.append(f'<text x="42" y="{at + 4}" text-anchor="end" fill="#667">{value:.3g}</text>')
    offset = 46
    for number, (label, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{46 + (width - 6) * at / max(1, len(line) - 1):.1f},{34 + height * (1 - v / top):.1f}"
            for at, v in enumerate(line)
        )
        out.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        out.append(f'<rect x="{offset}" y="{height + 44}" width="10" height="3" fill="{colour}"/>')
        out.append(f'<text x="{offset + 14}" y="{height + 50}" fill="#334">{label}</text>')
        offset += 26 + 7 * len(label)
    out.append(f'<text x="{width + 40}" y="20" text-anchor="end" fill="#667">{unit}</text></g>')
    return out


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 25.0
    found = asyncio.run(measure(seconds))
    panels = [
        ("Messages by verdict", rates(found, "aiomilter_messages_total", 1), "per second"),
        (
            "Handlers, 95 %",
            quantiles(found, "aiomilter_handler_seconds", 0.95),
            "milliseconds",
        ),
        ("Edits", rates(found, "aiomilter_edits_total"), "per second"),
        ("Faults", rates(found, "aiomilter_faults_total"), "per second"),
        ("Recipients refused", rates(found, "aiomilter_refused_recipients_total"), "per second"),
        ("Event loop, lag", quantiles(found, "aiomilter_loop_lag_seconds", 0.99), "milliseconds"),
    ]
    out = [
        f'<svg xmlns="{NAMESPACE}" viewBox="0 0 1030 712" font-family="sans-serif" font-size="12">',
        '<rect width="1030" height="712" fill="#f3f4f8"/>',
    ]
    for number, (title, lines, unit) in enumerate(panels):
        x, y = 16 + number % 2 * 508, 16 + number // 2 * 230
        out += panel(x, y, title, lines, unit)
    TARGET.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")
    print(f"drawn: {TARGET.name}, {len(found)} scrapes")


if __name__ == "__main__":
    main()
