"""Metrics for Prometheus, the HTTP server in front of them, and the dashboard that shows them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from aiomilter.aio.metrics_http import MetricsServer, parse_metrics_address
from aiomilter.app.observer import Observer
from aiomilter.app.record import MessageRecord
from aiomilter.contrib.metrics import METRICS, MetricsObserver
from aiomilter.contrib.prometheus import PrometheusObserver, forget_process
from aiomilter.errors import ConfigError
from tests.mta import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent.parent
DASHBOARD = ROOT / "packaging" / "grafana" / "aiomilter.json"
RECORD = MessageRecord(
    session_id="s1",
    verdict="reject",
    stage="eom",
    recipient_count=3,
    refused_recipients=2,
    edits={"add_header": 2},
    seconds=0.2,
    size_bytes=1000,
)


def tell_everything(observer: Observer) -> None:
    """Let each event happen once, and a second connection be open."""
    observer.connection_opened("inet:1", "192.0.2.1:5")
    observer.connection_opened("inet:1", "192.0.2.1:6")
    observer.connection_closed("inet:1", "192.0.2.1:5", 1.5)
    observer.turned_away("peer")
    observer.session_started("s1", "inet:1")
    observer.message_finished(RECORD)
    observer.handler_finished("on_mail", 0.2, "continue")
    observer.handler_failed("on_mail", "exception")
    observer.verdict_dropped("on_header")
    observer.timed_out("idle")
    observer.protocol_broken("inet:1")
    observer.loop_lagged(0.002)


EXPECTED = {
    "aiomilter_open_connections{listener=inet:1}": 1,
    "aiomilter_connections_total{listener=inet:1}": 2,
    "aiomilter_connection_seconds_total": 1.5,
    "aiomilter_turned_away_total{reason=peer}": 1,
    "aiomilter_sessions_total": 1,
    "aiomilter_messages_total{verdict=reject,stage=eom}": 1,
    "aiomilter_message_seconds_count": 1,
    "aiomilter_message_seconds_sum": 0.2,
    "aiomilter_message_bytes_total": 1000,
    "aiomilter_recipients_total": 3,
    "aiomilter_refused_recipients_total": 2,
    "aiomilter_edits_total{kind=add_header}": 2,
    "aiomilter_handler_seconds_count{handler=on_mail}": 1,
    "aiomilter_handler_seconds_sum{handler=on_mail}": 0.2,
    "aiomilter_handler_results_total{handler=on_mail,result=continue}": 1,
    "aiomilter_faults_total{handler=on_mail,kind=exception}": 1,
    "aiomilter_dropped_verdicts_total{handler=on_header}": 1,
    "aiomilter_timeouts_total{kind=idle}": 1,
    "aiomilter_protocol_errors_total{listener=inet:1}": 1,
    "aiomilter_loop_lag_seconds_count": 1,
    "aiomilter_loop_lag_seconds_sum": 0.002,
}


def samples(text: str) -> dict[str, float]:
    """Return what is measured, without buckets and times of creation."""
    order = {"verdict": 0, "stage": 1, "handler": 0}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith(("_bucket", "_created")):
                continue
            names = sorted(sample.labels, key=lambda name: (order.get(name, 2), name))
            labels = ",".join(f"{name}={sample.labels[name]}" for name in names)
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def without_build(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if "build_info" not in name}


def test_each_event_changes_its_metrics() -> None:
    observer = PrometheusObserver(CollectorRegistry())
    tell_everything(observer)
    body, media_type = observer.render()
    assert media_type.startswith("text/plain")
    assert without_build(samples(body.decode())) == EXPECTED
    tell_everything(observer)
    doubled = without_build(samples(observer.render()[0].decode()))
    assert doubled == {name: 2 * value for name, value in EXPECTED.items()}


def test_build_is_told_and_names_may_have_another_prefix() -> None:
    observer = PrometheusObserver(CollectorRegistry(), "mail")
    text = observer.render()[0].decode()
    assert re.search(
        r'^mail_build_info\{python="[^"]+",version="[^"]+"\} 1\.0$', text, re.MULTILINE
    )
    assert "aiomilter_" not in text


def test_scraper_may_ask_for_openmetrics() -> None:
    observer = PrometheusObserver(CollectorRegistry())
    body, media_type = observer.render("application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_two_observers_cannot_share_a_registry() -> None:
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        PrometheusObserver(registry)


def test_all_events_are_counted_and_all_metrics_have_an_event() -> None:
    events = {name for name in vars(Observer) if not name.startswith("_")}
    assert events <= set(vars(MetricsObserver))
    changed: set[str] = set()

    class Noting(MetricsObserver):
        def add(self, name: str, by: float, *labels: str) -> None:
            changed.add(name)

        def measure(self, name: str, value: float, *labels: str) -> None:
            changed.add(name)

    tell_everything(Noting())
    assert changed == {metric.name for metric in METRICS}
    for method in (MetricsObserver().add, MetricsObserver().measure):
        with pytest.raises(NotImplementedError):
            method("messages", 1)


def test_a64_labels_have_nothing_that_comes_from_outside() -> None:
    observer = PrometheusObserver(CollectorRegistry())
    for number in range(1_000):
        observer.connection_opened("inet:1", f"192.0.2.1:{number}")
        observer.connection_closed("inet:1", f"192.0.2.1:{number}", 1.0)
        observer.session_started(f"s{number}", "inet:1")
        observer.message_finished(
            MessageRecord(
                session_id=f"s{number}",
                queue_id=f"Q{number}",
                client=f"192.0.2.{number}",
                hostname=f"h{number}",
                helo_name=f"h{number}",
                sender=f"<{number}@a>",
                recipients=(f"<{number}@b>",),
                code=400 + number % 200,
                verdict="accept",
                stage="eom",
            )
        )
    assert len(samples(observer.render()[0].decode())) < 20


PROCESS = """
import sys
from aiomilter.contrib.prometheus import PrometheusObserver
from tests.contrib.test_prometheus import tell_everything
tell_everything(PrometheusObserver())
print("told", flush=True)
sys.stdin.readline()
"""

READER = """
import sys
from aiomilter.contrib.prometheus import PrometheusObserver, forget_process
observer = PrometheusObserver()
sys.stdout.write(observer.render()[0].decode() + "---\\n")
for pid in sys.argv[1:]:
    forget_process(int(pid))
sys.stdout.write(observer.render()[0].decode())
"""


def test_processes_are_summed_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "told\n"
        pids = [str(process.pid) for process in processes]
        read = subprocess.run(
            [sys.executable, "-c", READER, *pids],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    finally:
        for process in processes:
            process.communicate("\n", timeout=10)
    together, afterwards = map(samples, read.stdout.split("---\n"))
    sums = {name: 2 * value for name, value in EXPECTED.items()}
    # A process that has counted nothing has zeros.
    assert {name: together[name] for name in sums} == pytest.approx(sums)
    assert [v for name, v in together.items() if "build_info" in name] == [1.0]
    open_now = "aiomilter_open_connections{listener=inet:1}"
    assert afterwards.get(open_now, 0) == 0
    del sums[open_now]
    assert {name: afterwards[name] for name in sums} == pytest.approx(sums)


def test_process_alone_has_nothing_to_forget() -> None:
    forget_process(1)


# The HTTP server


async def ask(server: MetricsServer, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Send a request; return the status line, the fields and the body of the answer."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(request)
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return status, dict(field.split(": ", 1) for field in fields), body


def get(path: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


async def test_metrics_are_served() -> None:
    observer = PrometheusObserver(CollectorRegistry())
    tell_everything(observer)
    async with MetricsServer(observer.render) as server:
        status, fields, body = await ask(server, get("/metrics?x=1"))
        assert status == "HTTP/1.1 200 OK"
        assert without_build(samples(body.decode())) == EXPECTED
        assert fields["Content-Type"].startswith("text/plain")
        assert fields["Connection"] == "close"
        status, of_head, body = await ask(server, get("/metrics", "HEAD"))
        assert (status, body) == ("HTTP/1.1 200 OK", b"")
        assert of_head["Content-Length"] == fields["Content-Length"]
        accept = "accept: application/openmetrics-text;version=1.0.0\r\n"
        _, fields, _ = await ask(server, get("/metrics", more=accept))
        assert fields["Content-Type"].startswith("application/openmetrics-text")
    assert server.port == 0


async def test_health_is_what_the_server_says() -> None:
    is_healthy = True
    async with MetricsServer(lambda _: (b"", "x"), is_healthy=lambda: is_healthy) as server:
        assert (await ask(server, get("/healthz")))[::2] == ("HTTP/1.1 200 OK", b"OK\n")
        is_healthy = False
        status, _, body = await ask(server, get("/healthz"))
        assert status == "HTTP/1.1 503 Service Unavailable"
        assert body == b"Service Unavailable\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/metrics/../etc/passwd"), 404),
        (get("/metrics", "POST"), 405),
        (get("/metrics", "get"), 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (get("/metrics", more="X: " + "a" * 9000 + "\r\n"), 431),
    ],
)
async def test_all_else_is_refused(request_: bytes, status: int) -> None:
    def never(accept: str) -> tuple[bytes, str]:
        raise AssertionError("must not be asked for")

    async with MetricsServer(never) as server:
        line, fields, _ = await ask(server, request_)
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert ("Allow" in fields) == (status == 405)


async def test_who_is_slow_or_gone_is_given_up() -> None:
    async with MetricsServer(lambda _: (b"", "x"), timeout_s=0.05) as server:
        assert await ask(server, b"GET /met") == ("", {}, b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET")
        writer.close()
        assert (await ask(server, get("/healthz")))[0] == "HTTP/1.1 200 OK"
        del reader


async def test_metrics_that_fail_are_an_error_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(accept: str) -> tuple[bytes, str]:
        raise ValueError("no")

    async with MetricsServer(broken) as server:
        for _ in range(2):
            status, _, body = await ask(server, get("/metrics"))
            assert status == "HTTP/1.1 500 Internal Server Error"
            assert b"no" not in body.split()
    assert caplog.text.count("the metrics could not be made") == 1


async def test_address_in_use_is_a_clear_error() -> None:
    async with MetricsServer(lambda _: (b"", "x")) as server:
        second = MetricsServer(lambda _: (b"", "x"), port=server.port)
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{server.port}: "):
            await second.start()
        await second.stop()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:0", ("::1", 0)),
        ("metrics.example:65535", ("metrics.example", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_metrics_address(text) == address


@pytest.mark.parametrize("text", ["", "x", "h:", "h:x", "h:65536", "::1:9", "h:-1", "h:٣"])
def test_what_is_no_address_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_metrics_address(text)


# The dashboard


def expressions(node: Any) -> list[str]:
    """Return all queries in a part of the dashboard."""
    if isinstance(node, dict):
        own = [node["expr"]] if "expr" in node else []
        return own + [found for value in node.values() for found in expressions(value)]
    if isinstance(node, list):
        return [found for value in node for found in expressions(value)]
    return []


def test_every_metric_of_the_dashboard_exists_with_its_labels() -> None:
    observer = PrometheusObserver(CollectorRegistry())
    tell_everything(observer)
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(observer.render()[0].decode()):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    queries = expressions(json.loads(DASHBOARD.read_text(encoding="utf-8")))
    assert len(queries) >= 12
    named: set[str] = set()
    for query in queries:
        metrics = re.findall(r"\baiomilter_\w+", query)
        assert metrics, query
        named.update(metrics)
        assert set(metrics) <= set(known), query
        for labels in re.findall(r"by \(([^)]*)\)", query):
            for label in labels.split(", "):
                assert label in known[metrics[0]], query
    shown = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in named}
    assert {f"aiomilter_{metric.name}" for metric in METRICS} - shown <= {
        "aiomilter_connection_seconds",
        "aiomilter_dropped_verdicts",
    }


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    ids: list[int] = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


# The page


PAGE = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")


def test_page_lists_all_metrics_with_their_labels() -> None:
    rows = re.findall(r"^\| `aiomilter_(\w+)` \|([^|]*)\|", PAGE, flags=re.MULTILINE)
    suffix = {"counter": "_total", "level": "", "histogram": ""}
    expected = [
        (metric.name + suffix[metric.kind], ", ".join(f"`{label}`" for label in metric.labels))
        for metric in METRICS
    ]
    assert [(name, labels.strip()) for name, labels in rows] == [
        *expected,
        ("build_info", "`version`, `python`"),
    ]
