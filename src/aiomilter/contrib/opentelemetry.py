"""Metrics and traces for OpenTelemetry; needs ``pip install aiomilter[opentelemetry]``.

Example::

    server = Server(MyMilter, "inet:8890", observers=[OpenTelemetryObserver()])

Rules of this file:

- The names are those for Prometheus, with a dot behind ``aiomilter``: an exporter for Prometheus
  makes the same names of them.
- A message is one span, from its first command to its verdict, with the fields of its record and
  nothing of its content. It is made when the message is over, and is the child of no other.
"""

from __future__ import annotations

import time

from opentelemetry.context import Context
from opentelemetry.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    UpDownCounter,
    get_meter_provider,
)
from opentelemetry.trace import StatusCode, TracerProvider, get_tracer_provider

from aiomilter._version import __version__
from aiomilter.app.record import MessageRecord
from aiomilter.contrib.metrics import METRICS, Metric, MetricsObserver

__all__ = ["OpenTelemetryObserver"]

_UNITS = {"seconds": "s", "bytes": "By"}


class OpenTelemetryObserver(MetricsObserver):
    """Tells OpenTelemetry what happens."""

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        """Make the instruments.

        Args:
            meter_provider: None for the global one.
            tracer_provider: None for the global one.
        """
        meters = get_meter_provider() if meter_provider is None else meter_provider
        tracers = get_tracer_provider() if tracer_provider is None else tracer_provider
        self._meter = meters.get_meter("aiomilter", __version__)
        self._tracer = tracers.get_tracer("aiomilter", __version__)
        self._sums: dict[str, Counter | UpDownCounter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            self._make(metric)
        self._labels = {metric.name: metric.labels for metric in METRICS}

    def _make(self, metric: Metric) -> None:
        name = f"aiomilter.{metric.name}"
        unit = _UNITS.get(metric.name.rpartition("_")[2], "1")
        if metric.kind == "counter":
            self._sums[metric.name] = self._meter.create_counter(name, unit, metric.text)
        elif metric.kind == "level":
            self._sums[metric.name] = self._meter.create_up_down_counter(name, unit, metric.text)
        else:
            self._histograms[metric.name] = self._meter.create_histogram(
                name, unit, metric.text, explicit_bucket_boundaries_advisory=metric.buckets
            )

    def add(self, name: str, by: float, *labels: str) -> None:
        """Add to a counter or a level."""
        self._sums[name].add(by, dict(zip(self._labels[name], labels, strict=True)))

    def measure(self, name: str, value: float, *labels: str) -> None:
        """Put a value into a histogram."""
        self._histograms[name].record(value, dict(zip(self._labels[name], labels, strict=True)))

    def message_finished(self, record: MessageRecord) -> None:
        """Count the message, and make its span."""
        super().message_finished(record)
        end_ns = time.time_ns()
        span = self._tracer.start_span(
            "message",
            context=Context(),
            start_time=end_ns - round(record.seconds * 1e9),
        )
        for name, value in record.as_dict().items():
            if isinstance(value, dict):
                for kind, count in record.edits.items():
                    span.set_attribute(f"aiomilter.{name}.{kind}", count)
            elif isinstance(value, list):
                span.set_attribute(f"aiomilter.{name}", record.recipients)
            elif isinstance(value, (str, int, float)):
                span.set_attribute(f"aiomilter.{name}", value)
        if record.faults:
            span.set_status(StatusCode.ERROR, "a handler failed")
        span.end(end_ns)
