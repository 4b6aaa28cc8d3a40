"""Metrics and spans for OpenTelemetry, collected in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from aiomilter.app.record import MessageRecord
from aiomilter.contrib.metrics import METRICS
from aiomilter.contrib.opentelemetry import OpenTelemetryObserver

RECORD = MessageRecord(
    session_id="s1",
    queue_id="4XyZ1",
    recipients=("<b@b.example>", "<c@c.example>"),
    recipient_count=2,
    verdict="reject",
    code=550,
    stage="eom",
    edits={"add_header": 2, "quarantine": 1},
    is_quarantined=True,
    seconds=0.25,
    size_bytes=1000,
)


class Rig:
    """An observer, and what it has told."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.observer = OpenTelemetryObserver(self.meters, self.tracers)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Return labels and value (or sum) of each point, by name."""
        return {
            name: [
                (dict(point.attributes), point.value if hasattr(point, "value") else point.sum)
                for point in metric.data.data_points
            ]
            for name, metric in self.metrics().items()
        }


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.tracers.shutdown()
    rig.meters.shutdown()


def test_each_event_changes_its_metrics(rig: Rig) -> None:
    observer = rig.observer
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
    assert rig.values() == {
        "aiomilter.open_connections": [({"listener": "inet:1"}, 1)],
        "aiomilter.connections": [({"listener": "inet:1"}, 2)],
        "aiomilter.connection_seconds": [({}, 1.5)],
        "aiomilter.turned_away": [({"reason": "peer"}, 1)],
        "aiomilter.sessions": [({}, 1)],
        "aiomilter.messages": [({"verdict": "reject", "stage": "eom"}, 1)],
        "aiomilter.message_seconds": [({}, 0.25)],
        "aiomilter.message_bytes": [({}, 1000)],
        "aiomilter.recipients": [({}, 2)],
        "aiomilter.refused_recipients": [({}, 0)],
        "aiomilter.edits": [({"kind": "add_header"}, 2), ({"kind": "quarantine"}, 1)],
        "aiomilter.handler_seconds": [({"handler": "on_mail"}, 0.2)],
        "aiomilter.handler_results": [({"handler": "on_mail", "result": "continue"}, 1)],
        "aiomilter.faults": [({"handler": "on_mail", "kind": "exception"}, 1)],
        "aiomilter.dropped_verdicts": [({"handler": "on_header"}, 1)],
        "aiomilter.timeouts": [({"kind": "idle"}, 1)],
        "aiomilter.protocol_errors": [({"listener": "inet:1"}, 1)],
        "aiomilter.loop_lag_seconds": [({}, 0.002)],
    }


def test_units_and_buckets_are_told(rig: Rig) -> None:
    rig.observer.handler_finished("on_mail", 0.2, "continue")
    rig.observer.message_finished(RECORD)
    metrics = rig.metrics()
    assert metrics["aiomilter.message_bytes"].unit == "By"
    assert metrics["aiomilter.messages"].unit == "1"
    handlers = metrics["aiomilter.handler_seconds"]
    assert handlers.unit == "s"
    (buckets,) = (metric.buckets for metric in METRICS if metric.name == "handler_seconds")
    assert tuple(handlers.data.data_points[0].explicit_bounds) == buckets


def test_a_message_is_one_span_with_the_fields_of_its_record(rig: Rig) -> None:
    rig.observer.message_finished(RECORD)
    (span,) = rig.spans.get_finished_spans()
    assert span.name == "message"
    assert span.parent is None
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 250_000_000
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "aiomilter.session_id": "s1",
        "aiomilter.queue_id": "4XyZ1",
        "aiomilter.recipients": ("<b@b.example>", "<c@c.example>"),
        "aiomilter.recipient_count": 2,
        "aiomilter.refused_recipients": 0,
        "aiomilter.verdict": "reject",
        "aiomilter.code": 550,
        "aiomilter.stage": "eom",
        "aiomilter.edits.add_header": 2,
        "aiomilter.edits.quarantine": 1,
        "aiomilter.is_quarantined": True,
        "aiomilter.seconds": 0.25,
        "aiomilter.size_bytes": 1000,
        "aiomilter.faults": 0,
    }


def test_a_message_with_a_fault_is_a_span_with_an_error(rig: Rig) -> None:
    rig.observer.message_finished(
        MessageRecord(session_id="s1", verdict="tempfail", stage="mail", faults=1)
    )
    (span,) = rig.spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR


def test_without_providers_the_global_ones_are_used() -> None:
    OpenTelemetryObserver().message_finished(RECORD)
