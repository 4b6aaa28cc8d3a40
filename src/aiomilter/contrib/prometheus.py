"""Metrics for Prometheus; needs ``pip install aiomilter[prometheus]``.

Example::

    from aiomilter import Server
    from aiomilter.aio.metrics_http import MetricsServer
    from aiomilter.contrib.prometheus import PrometheusObserver

    metrics = PrometheusObserver()
    async with (
        MetricsServer(metrics.render, port=9464),
        Server(MyMilter, "inet:8890", observers=[metrics]) as server,
    ):
        ...

Rules of this file:

- Several processes sum up as `prometheus_client` does it: all have ``PROMETHEUS_MULTIPROC_DIR``
  in their environment ahead of the import, and any of them answers for all.
"""

from __future__ import annotations

import os
import platform

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.exposition import choose_encoder

from aiomilter._version import __version__
from aiomilter.contrib.metrics import METRICS, Metric, MetricsObserver

__all__ = ["PrometheusObserver", "forget_process"]

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class PrometheusObserver(MetricsObserver):
    """Keeps the metrics of all servers that it is given to."""

    def __init__(
        self, registry: CollectorRegistry | None = None, namespace: str = "aiomilter"
    ) -> None:
        """Register the metrics.

        Args:
            registry: None for the one of `prometheus_client`, which also has the metrics of the
                process.
            namespace: What the names begin with.

        Raises:
            ValueError: The registry has such metrics already: one observer is enough for all
                servers of a process.
        """
        self._registry = REGISTRY if registry is None else registry
        self._counters: dict[str, Counter] = {}
        self._levels: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        # Hot path: finding the child of some labels takes a lock and builds a tuple of text.
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}
        for metric in METRICS:
            self._register(metric, namespace)
        build = Gauge(
            "build_info",
            "The version of aiomilter.",
            ("version", "python"),
            namespace=namespace,
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        build.labels(__version__, platform.python_version()).set(1)

    def _register(self, metric: Metric, namespace: str) -> None:
        name, text, labels = metric.name, metric.text, metric.labels
        if metric.kind == "counter":
            self._counters[name] = Counter(
                name, text, labels, namespace=namespace, registry=self._registry
            )
        elif metric.kind == "histogram":
            self._histograms[name] = Histogram(
                name,
                text,
                labels,
                namespace=namespace,
                registry=self._registry,
                buckets=metric.buckets,
            )
        else:
            self._levels[name] = Gauge(
                name,
                text,
                labels,
                namespace=namespace,
                registry=self._registry,
                multiprocess_mode="livesum",
            )

    def add(self, name: str, by: float, *labels: str) -> None:
        """Add to a counter or a level."""
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            metric = self._counters.get(name) or self._levels[name]
            child = self._children[key] = metric.labels(*labels) if labels else metric
        assert not isinstance(child, Histogram)
        child.inc(by)

    def measure(self, name: str, value: float, *labels: str) -> None:
        """Put a value into a histogram."""
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            metric = self._histograms[name]
            child = self._children[key] = metric.labels(*labels) if labels else metric
        assert isinstance(child, Histogram)
        child.observe(value)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics as text, and its media type; may be called in any thread.

        Args:
            accept: The value of the field of an HTTP request; empty for the plain text format.
        """
        registry = self._registry
        if _DIRECTORY in os.environ:
            registry = CollectorRegistry()
            # It has no annotations.
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type


def forget_process(pid: int) -> None:
    """Note that a process is no more, so that its open connections count no longer.

    For the parent of several processes, once one of them has ended.

    Args:
        pid: Its number.
    """
    if _DIRECTORY in os.environ:
        # It has no annotations.
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
