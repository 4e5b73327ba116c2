"""A fill that was registered is ended, also where the next one fails."""

from __future__ import annotations

import pytest

from flowcache import _core, create_cache


def test_a_fill_that_fails_leaves_no_other_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, end = _core._fill, _core._fill_end
    begun: list[_core.Load] = []

    def fill(namespace: _core.Namespace[int], key: str) -> _core.Load:
        if begun:
            raise KeyboardInterrupt
        begun.append(begin(namespace, key))
        return begun[0]

    ended: list[_core.Load] = []

    def fill_end(load: _core.Load) -> None:
        ended.append(load)
        end(load)

    monkeypatch.setattr(_core, "_fill", fill)
    monkeypatch.setattr(_core, "_fill_end", fill_end)
    cache = create_cache(tier="valkey://127.0.0.1:1/0")
    with pytest.raises(KeyboardInterrupt):
        cache.set_many({"a": 1, "b": 2})
    assert ended == begun
    cache.close()
