"""No choice of paths and keys lets a value be seen under another, through several processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcache import create_cache
from flowcache.cache import Cache
from flowcache.tier import ValkeyTier
from harness.fleet import LONG, PATIENT, Process, know_the_fleet
from harness.servers import Server, wait_until

LOOK_ALIKES = [
    "a",
    "a:b",
    "b",
    "{a}",
    "}{",
    "\0",
    "a\0b",
    "a/b",
    "/a",
    "%61",
    "é",
    "e\u0301",
    "@",
    "~",
]
NAMES = st.sampled_from(LOOK_ALIKES) | st.text(min_size=1, max_size=12).filter(
    lambda name: name == name.strip()
)
PATHS = st.lists(NAMES, max_size=3).map(tuple)
ATOMS: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [*LOOK_ALIKES, 1, 1.0, True, 0, 0.0, -0.0, False, None, b"a", "1", b"1", "", b""]
    ),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.integers(),
    st.floats(allow_nan=False),
)
KEYS: st.SearchStrategy[Any] = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4
)


@pytest.fixture(scope="module")
def caches(new_server: Server) -> Iterator[tuple[Cache[Any], Cache[Any]]]:
    """Two processes of one fleet, as far as a cache can tell."""
    tier = ValkeyTier(new_server.url, buckets=3, lease=LONG, **PATIENT)
    with create_cache(tier=tier, name="one{}") as one, create_cache(tier=tier, name="one{}") as two:
        know_the_fleet(one)
        know_the_fleet(two)
        yield one, two


@pytest.fixture(scope="module")
def elsewhere(new_server: Server) -> Iterator[Process]:
    """Another process of the same fleet."""
    process = Process(new_server.url, "one{}", buckets=3, lease=LONG)
    yield process
    process.close()


@given(places=st.lists(st.tuples(PATHS, KEYS), min_size=2, max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_value_is_seen_under_another_path_or_key(
    caches: tuple[Cache[Any], Cache[Any]],
    elsewhere: Process,
    places: list[tuple[tuple[str, ...], Any]],
) -> None:
    one, other = caches
    one.clear(wait="fleet")
    expected: dict[Any, int] = {}
    for number, (path, key) in enumerate(places):
        expected[path, key] = number  # Two keys that are equal are one key.
        space(one, path).set(key, number, tags=(f"t{number}",))
    for (path, key), number in expected.items():
        assert space(other, path).get(key) == number
        found = space(other, path).get_many([key])
        assert found == {key: number}
        assert elsewhere.call(path, "get", key) == number
    (path, key), number = next(iter(expected.items()))
    space(other, path).invalidate_tag(f"t{number}")
    space(other, path).delete(key)
    wait_until(lambda: elsewhere.call(path, "get", key) is None)
    for (path, key), number in list(expected.items())[1:]:
        assert space(one, path).get(key) == number
        assert elsewhere.call(path, "get", key) == number
        assert space(other, path).get(key) == number


def space(cache: Cache[Any], path: tuple[str, ...]) -> Any:
    return cache.namespace(*path) if path else cache


def test_a_value_that_lies_under_anothers_name_is_refused(
    caches: tuple[Cache[Any], Cache[Any]], new_server: Server
) -> None:
    """As if the server, or a reply that was counted wrong, handed one tenant another's value."""
    one, other = caches
    for name in ("tenant:acme", "tenant:evil"):
        one.namespace(name).set("k", name)
    layout = one.tier.layout  # type: ignore[union-attr]
    names = {}
    for name in ("tenant:acme", "tenant:evil"):
        item = one.tier.engine.items.item((name,), "k")  # type: ignore[union-attr]
        assert item is not None
        names[name] = item.name
    assert layout.buckets == 3
    stolen = new_server.call("GET", names["tenant:acme"])
    new_server.call("SET", names["tenant:evil"], stolen)
    assert other.namespace("tenant:evil").get("k") is None
    assert other.namespace("tenant:evil").fetch("k", lambda: "own") == "own"
    assert other.namespace("tenant:acme").get("k") == "tenant:acme"
