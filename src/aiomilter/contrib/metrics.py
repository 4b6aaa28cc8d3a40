"""The metrics of a milter: their names, and which event changes which; for any backend.

Rules of this file:

- Every label has few values: names of handlers, stages and results, and the addresses that the
  server itself listens on. Nothing that a client or an MTA can choose is one.
- Names are those of Prometheus: with the prefix ``aiomilter_``, counters with ``_total`` behind.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from aiomilter.app.observer import Observer
from aiomilter.app.record import MessageRecord

__all__ = ["METRICS", "Metric", "MetricsObserver"]


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: Without prefix and suffix.
        kind: ``level`` goes up and down.
        text: What it is, in words.
        labels: Their names.
        buckets: Upper bounds, of a histogram.
    """

    name: str
    kind: Literal["counter", "level", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
)
"""From what a handler without I/O takes to what Sendmail waits for at most."""
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

METRICS: tuple[Metric, ...] = (
    Metric("open_connections", "level", "Connections that are open.", ("listener",)),
    Metric("connections", "counter", "Connections accepted, port probes included.", ("listener",)),
    Metric("connection_seconds", "counter", "Seconds that closed connections were open."),
    Metric("turned_away", "counter", "Connections refused by a limit.", ("reason",)),
    Metric("sessions", "counter", "SMTP sessions."),
    Metric("messages", "counter", "Messages, by verdict and its stage.", ("verdict", "stage")),
    Metric("message_seconds", "histogram", "From MAIL to the verdict.", (), _SECONDS),
    Metric("message_bytes", "counter", "Bytes of messages that were shown to the milter."),
    Metric("recipients", "counter", "Recipients that nobody refused."),
    Metric("refused_recipients", "counter", "Recipients that the milter refused."),
    Metric("edits", "counter", "Edits of messages.", ("kind",)),
    Metric("handler_seconds", "histogram", "How long handlers took.", ("handler",), _SECONDS),
    Metric("handler_results", "counter", "What handlers returned.", ("handler", "result")),
    Metric("faults", "counter", "Handlers that failed.", ("handler", "kind")),
    Metric("dropped_verdicts", "counter", "Verdicts in stages without replies.", ("handler",)),
    Metric("timeouts", "counter", "Connections closed as the MTA was too slow.", ("kind",)),
    Metric("protocol_errors", "counter", "Connections that broke the protocol.", ("listener",)),
    Metric("loop_lag_seconds", "histogram", "Lateness of the event loop.", (), _LAG_SECONDS),
)
"""All metrics but ``build_info``, which has the labels ``version`` and ``python``."""


class MetricsObserver(Observer):
    """Turns events into changes of metrics; a subclass knows how those are made."""

    def add(self, name: str, by: float, *labels: str) -> None:
        """Add to a counter or a level.

        Args:
            name: Of `METRICS`.
            by: Negative for a level only.
            *labels: The values of all its labels, in their order.
        """
        raise NotImplementedError

    def measure(self, name: str, value: float, *labels: str) -> None:
        """Put a value into a histogram.

        Args:
            name: Of `METRICS`.
            value: As measured.
            *labels: As for `add`.
        """
        raise NotImplementedError

    def connection_opened(self, listener: str, peer: str) -> None:
        """Count it."""
        self.add("connections", 1, listener)
        self.add("open_connections", 1, listener)

    def connection_closed(self, listener: str, peer: str, seconds: float) -> None:
        """Count it."""
        self.add("open_connections", -1, listener)
        self.add("connection_seconds", seconds)

    def turned_away(self, reason: str) -> None:
        """Count it."""
        self.add("turned_away", 1, reason)

    def session_started(self, session_id: str, listener: str) -> None:
        """Count it."""
        self.add("sessions", 1)

    def message_finished(self, record: MessageRecord) -> None:
        """Count it, its recipients and its edits."""
        self.add("messages", 1, record.verdict, record.stage)
        self.measure("message_seconds", record.seconds)
        self.add("message_bytes", record.size_bytes)
        self.add("recipients", record.recipient_count)
        self.add("refused_recipients", record.refused_recipients)
        for kind, count in record.edits.items():
            self.add("edits", count, kind)

    def handler_finished(self, handler: str, seconds: float, result: str) -> None:
        """Measure it."""
        self.measure("handler_seconds", seconds, handler)
        self.add("handler_results", 1, handler, result)

    def handler_failed(self, handler: str, kind: str) -> None:
        """Count it."""
        self.add("faults", 1, handler, kind)

    def verdict_dropped(self, handler: str) -> None:
        """Count it."""
        self.add("dropped_verdicts", 1, handler)

    def timed_out(self, kind: str) -> None:
        """Count it."""
        self.add("timeouts", 1, kind)

    def protocol_broken(self, listener: str) -> None:
        """Count it."""
        self.add("protocol_errors", 1, listener)

    def loop_lagged(self, seconds: float) -> None:
        """Measure it."""
        self.measure("loop_lag_seconds", seconds)
