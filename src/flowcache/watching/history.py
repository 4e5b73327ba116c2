"""The last minutes of a cache, recorded while a page looks, and rates from them."""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["COLUMNS", "History"]

COLUMNS = (
    "at",
    "entries",
    "weight",
    "hits",
    "stale_hits",
    "misses",
    "loads",
    "load_failures",
    "load_seconds",
    "evictions",
    "sets",
    "pending",
)
SPACED = 1.0
"""Seconds between two points at least, however many look."""
POINTS = 600


class History:
    """The points of one scope."""

    def __init__(self) -> None:
        self._points: deque[list[float]] = deque(maxlen=POINTS)
        self.reset_at: float | None = None

    def add(self, at: float, stats: dict[str, Any]) -> None:
        """Add a point, unless the last one is recent."""
        point = [at, *(stats[name] for name in COLUMNS[1:])]
        if self._points:
            last = self._points[-1]
            if any(point[n] < last[n] for n in (3, 4, 5, 6, 10)):
                # `reset_stats()`, or a worker that is gone: no rate spans that.
                self._points.clear()
                self.reset_at = at
            elif at - last[0] < SPACED:
                return
        self._points.append(point)

    def since(self, at: float) -> list[list[float]]:
        """Return the points later than that."""
        return [point for point in list(self._points) if point[0] > at]

    def rate(self) -> float:
        """Return the look-ups a second over the last points; 0 without two."""
        points = list(self._points)[-5:]
        if len(points) < 2 or points[-1][0] <= points[0][0]:
            return 0.0
        asked = sum(points[-1][n] - points[0][n] for n in (3, 4, 5))
        return asked / (points[-1][0] - points[0][0])
