"""Hot keys: for some seconds a recorder samples the look-ups of a namespace, then it is gone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from flowcache import _core

from .families import Keys

__all__ = ["SECONDS", "HotKeys"]

SECONDS = 10.0
"""How long a recording lasts."""
SAMPLES = 4_000
"""Look-ups that a recording keeps at most; each keeps its key alive until it is told."""
SHOWN = 30
KEPT = 120.0
"""Seconds for which a recording is told after its end."""
LOOK_UPS = sum(1 << _core.KINDS.index(kind) for kind in ("hit", "miss", "stale_hit"))


class HotKeys:
    """One recording of one namespace."""

    def __init__(
        self, view: _core.Namespace[Any], keys: Keys, *, rate: float, seconds: float = SECONDS
    ) -> None:
        """Begin to record. ``rate``: look-ups a second, so that the samples last to the end."""
        self._view: _core.Namespace[Any] | None = view
        self._keys = keys
        self._seconds = seconds
        self._every = max(1, int(2 * rate * seconds / SAMPLES))
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._told: dict[str, Any] | None = None
        self._recorder = _core.Recorder(self._every, seconds, SAMPLES, self._stop)
        self._token: Any = view._listen(self._recorder, LOOK_UPS)

    def _stop(self) -> None:
        token, self._token = self._token, None
        if token is not None and self._view is not None:
            self._view._unlisten(token)

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be told of it any more."""
        return time.monotonic() > self._begun + self._seconds + KEPT

    def tell(self) -> dict[str, Any]:
        """Return what has been recorded; once its time is over it is evaluated and dropped."""
        left = self._begun + self._seconds - time.monotonic()
        if left > 0:
            return {"state": "sampling", "left": left, "seen": self._recorder.seen}
        with self._lock:
            if self._told is None:
                self._stop()
                self._told = self._evaluate()
                self._view = None
                self._recorder = _core.Recorder(1, 0, 0, self._stop)
        return self._told | {"age": -left}

    def _evaluate(self) -> dict[str, Any]:
        view = self._view
        assert view is not None
        samples = self._recorder.samples
        depth = len(view.path)
        counts = Counter((path, key) for _, path, key in samples)
        misses = Counter((path, key) for kind, path, key in samples if kind == "miss")
        told = [
            self._row(path[depth:], key, count, misses[path, key])
            for (path, key), count in counts.most_common(SHOWN)
        ]
        families: Counter[str] = Counter()
        if self._keys.has_families:
            families.update(self._keys.family(key) for _, _, key in samples)
        recent = dict.fromkeys((path, key) for _, path, key in reversed(samples[-200:]))
        return {
            "state": "done",
            "seen": self._recorder.seen,
            "kept": len(samples),
            "seconds": self._seconds,
            "keys": told,
            "families": [
                {"family": name, "part": count / len(samples)}
                for name, count in families.most_common()
            ],
            "recent": [
                {"path": list(path[depth:]), "key": self._keys.text(key)}
                for path, key in list(recent)[:15]
            ],
        }

    def _row(self, path: tuple[str, ...], key: Any, count: int, misses: int) -> dict[str, Any]:
        seen = self._recorder.seen
        kept = max(1, len(self._recorder.samples))
        row: dict[str, Any] = {
            "path": list(path),
            "key": self._keys.text(key),
            "part": count / kept,
            "rate": count / kept * seen / self._seconds,
            "misses": misses / count,
            "held": False,
        }
        place = None if self._view is None else _core.existing(self._view, path)
        held = None if place is None else place.inspect(key)
        if held is not None:
            row |= {
                "held": held.held,
                "fresh": held.fresh,
                "ttl": held.ttl,
                "weight": held.weight,
                "tags": list(held.tags)[:8],
                "loading": held.loading,
            }
        return row
