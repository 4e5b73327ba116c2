"""Recorders: samples of the keys that are looked up, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import create_cache
from flowcache._core import KINDS, Recorder

LOOK_UPS = sum(1 << KINDS.index(kind) for kind in ("hit", "miss", "stale_hit"))


def recording(
    view: Any, every: int = 1, seconds: float = 60, most: int = 10_000
) -> tuple[Recorder, Callable[[], None]]:
    recorder = Recorder(every, seconds, most, lambda: view._unlisten(token))
    token = view._listen(recorder, LOOK_UPS)
    return recorder, lambda: view._unlisten(token)


def test_each_kind_of_look_up_is_seen_with_its_place() -> None:
    cache: Any = create_cache()
    acme = cache.namespace("a")
    recorder, end = recording(cache)
    acme.set("k", 1)
    acme.get("k")
    acme.get("absent")
    acme.fetch("k", lambda: 1)
    acme.fetch("new", lambda: 1)
    acme.get_many(["k", "none"])
    acme.peek("k")
    calls = cache.cached()(lambda n: n)
    calls(1), calls(1)
    end()
    acme.get("k")
    told = [(kind, key) for kind, path, key in recorder.samples if path == ("a",)]
    assert told == [
        ("hit", "k"),
        ("miss", "absent"),
        ("hit", "k"),
        ("miss", "new"),
        ("hit", "k"),
        ("miss", "none"),
    ]
    assert [kind for kind, path, _ in recorder.samples if path == ()] == ["miss", "hit"]
    assert recorder.seen == 8


def test_one_of_many_is_kept_and_each_key_as_often_as_it_is_asked_for() -> None:
    cache: Any = create_cache()
    recorder, end = recording(cache, every=10)
    for number in range(20_000):  # A rhythm of ten, in which every tenth would be one key alone.
        cache.get(number % 10)
    end()
    assert recorder.seen == 20_000
    kept = Counter(key for _, _, key in recorder.samples)
    assert 1_600 < kept.total() < 2_400
    assert len(kept) == 10 and min(kept.values()) > 100


def test_it_keeps_no_more_than_it_may() -> None:
    cache: Any = create_cache()
    recorder, end = recording(cache, most=5)
    for number in range(100):
        cache.get(number)
    end()
    assert [key for *_, key in recorder.samples] == [0, 1, 2, 3, 4]


def test_it_sees_its_own_namespace_and_those_below_alone() -> None:
    cache: Any = create_cache()
    recorder, end = recording(cache.namespace("a"))
    cache.namespace("a", "x").get(1)
    cache.namespace("b").get(2)
    cache.get(3)
    end()
    assert recorder.samples == [("miss", ("a", "x"), 1)]


def test_past_its_time_the_next_look_up_ends_it() -> None:
    cache: Any = create_cache()
    recorder, _ = recording(cache, seconds=0)
    cache.get("k")
    seen = recorder.seen
    cache.get("k")
    assert (seen, recorder.seen, recorder.samples) == (1, 1, [])


def test_a_listener_beside_it_hears_every_event() -> None:
    cache: Any = create_cache()
    heard: list[Any] = []
    recorder, end = recording(cache, every=1_000)
    cache.subscribe(lambda event: heard.append(event.key), kinds="miss")
    for number in range(50):
        cache.get(number)
    end()
    assert heard == list(range(50)) and len(recorder.samples) < 3


def test_its_cache_can_be_collected_with_it() -> None:
    cache: Any = create_cache()
    recorder, _ = recording(cache)
    gone = weakref.ref(cache)
    cache.get(cache)
    del cache, recorder, _
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("every", [0, -3])
def test_every_must_be_a_number_of_look_ups(every: int) -> None:
    with pytest.raises(ValueError, match=f"every: must be at least 1, got {every}"):
        Recorder(every, 1, 1, lambda: None)
