"""Times that were measured: percentiles, and a histogram.

Rules of this file:

- Every time is kept, as eight bytes, so that the largest one is exact. A percentile is the
  smallest measured time that so many percent of all do not exceed (the nearest rank).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import ceil, log10

__all__ = ["PERCENTILES", "Bucket", "Latencies", "format_time"]

PERCENTILES = (50, 90, 95, 99)
_STEPS_PER_DECADE = (1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bar of a histogram.

    Attributes:
        below_s: The bound; the bar has the times from the bound before it on.
        count: How many times there are.
    """

    below_s: float
    count: int


class Latencies:
    """Times of one kind, in seconds."""

    __slots__ = ("_times", "add")

    def __init__(self) -> None:
        self._times = array("d")
        # Hot path: no call of our own in between.
        self.add = self._times.append

    def __len__(self) -> int:
        return len(self._times)

    def summary(self) -> dict[str, float]:
        """Return the percentiles, the largest and the mean, in seconds; empty without times."""
        times = sorted(self._times)
        if not times:
            return {}
        summary = {
            f"p{percent}": times[ceil(percent * len(times) / 100) - 1] for percent in PERCENTILES
        }
        return {**summary, "max": times[-1], "mean": sum(times) / len(times)}

    def histogram(self) -> list[Bucket]:
        """Return bars of the bounds 1, 2, 5, 10, ...; from the first to the last that has any."""
        times = sorted(self._times)
        buckets: list[Bucket] = []
        at = 0
        bounds = _bounds(times[0], times[-1]) if times else []
        for bound in bounds:
            start = at
            while at < len(times) and times[at] < bound:
                at += 1
            if at or buckets:
                buckets.append(Bucket(bound, at - start))
        return buckets


def _bounds(least: float, most: float) -> list[float]:
    """Return 1, 2, 5, 10, ... of any decade, so that the last is above all times."""
    first = int(log10(max(least, 1e-6))) - 2
    last = int(log10(max(most, 1e-6))) + 2
    bounds = [
        step * 10.0**decade for decade in range(first, last + 1) for step in _STEPS_PER_DECADE
    ]
    above = next(bound for bound in bounds if bound > most)
    return [bound for bound in bounds if bound <= above]


def format_time(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s"
