"""A line plot as SVG, and the slope of a line through points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["line_plot", "slope"]

_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 56, 56
_TICKS = 5
_STYLE = (
    "text{font:13px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}"
    ".grid{stroke:#ddd}.line{fill:none;stroke:#1f6fb4;stroke-width:1.6}"
    ".fit{stroke:#c0392b;stroke-width:1.4;stroke-dasharray:6 4}"
)

Point = tuple[float, float]


def slope(points: Sequence[Point]) -> float:
    """Return the slope of the straight line that fits the points best (least squares)."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def line_plot(points: Sequence[Point], *, title: str, note: str, x_label: str, y_label: str) -> str:
    """Return an SVG of points joined by a line, with the best line through its second half.

    Args:
        points: At least two, by rising x; y starts at 0 in the picture.
        title: Above.
        note: Below the title.
        x_label: Under the horizontal axis.
        y_label: On top of the vertical axis.
    """
    most_x = points[-1][0]
    most_y = _round_up(1.2 * max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + x / most_x * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - y / most_y * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="title" x="{_LEFT}" y="22">{title}</text>',
        f'<text x="{_LEFT}" y="42">{note}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 12}" text-anchor="end">{x_label}</text>',
        f'<text x="{_LEFT - 8}" y="{_TOP - 14}" text-anchor="end">{y_label}</text>',
    ]
    for tick in range(_TICKS + 1):
        x, y = most_x * tick / _TICKS, most_y * tick / _TICKS
        left, at = place(0, y)
        parts.append(f'<path class="grid" d="M{left} {at}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4}" text-anchor="end">{y:g}</text>')
        across, foot = place(x, 0)
        anchor = "end" if tick == _TICKS else "middle"
        parts.append(f'<text x="{across}" y="{foot + 18}" text-anchor="{anchor}">{x:,.0f}</text>')
    path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
    parts.append(f'<polyline class="line" points="{path}"/>')
    parts.append(_fit(points[len(points) // 2 :], place))
    return "\n".join([*parts, "</svg>", ""])


def _round_up(value: float) -> float:
    """Return the next number whose ticks are round."""
    unit = 10.0 ** math.floor(math.log10(value)) / 2
    return math.ceil(value / unit) * unit


def _fit(points: Sequence[Point], place: Callable[[float, float], Point]) -> str:
    by = slope(points)
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    (x1, y1), (x2, y2) = (
        place(x, mean_y + by * (x - mean_x)) for x in (points[0][0], points[-1][0])
    )
    return f'<line class="fit" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
