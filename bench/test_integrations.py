"""A hit through a framework's own calls, beside the cache that the framework brings along.

    make bench ARGS="--only integrations"

Keys are new strings in each round, so each is hashed anew, as the keys of requests are. Values are
small dicts, which Django's `LocMemCache` pickles. The calls are those of the framework's objects:
`caches[alias]`, a region, a cached function.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.cache import caches
from dogpile.cache import make_region
from rounds import Timed, compare_timed, timed

from flowcache import create_cache
from flowcache.tenancy import tenant

SIZE = 1_000
VALUE = {"id": 7, "name": "Ada", "tags": ["a", "b"]}
FLOWCACHE = "flowcache.contrib.django.FlowCache"
ALIASES = {
    "LocMemCache": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 10 * SIZE},
    },
    "flowcache": {"BACKEND": FLOWCACHE, "LOCATION": "pickled"},
    "flowcache, SERIALIZER None": {
        "BACKEND": FLOWCACHE,
        "LOCATION": "objects",
        "OPTIONS": {"SERIALIZER": None},
    },
    "flowcache, of the current tenant": {
        "BACKEND": FLOWCACHE,
        "LOCATION": "tenants",
        "OPTIONS": {"TENANT": "current"},
    },
}


@pytest.fixture(scope="module", autouse=True)
def a_tenant() -> Iterator[None]:
    settings.configure(CACHES={"default": ALIASES["LocMemCache"], **ALIASES})
    django.setup()
    with tenant("acme"):
        yield


def asking(call: Callable[[str], object]) -> Timed:
    """A contestant that makes its keys first, and is timed while it asks for them."""

    def run() -> int:
        keys = [f"contacts:{number}" for number in random.sample(range(SIZE), SIZE)]

        def ask() -> None:
            for key in keys:
                call(key)

        return timed(ask)

    return run


def test_django_get(benchmark: Any, rounds: int) -> None:
    runs = {}
    for alias in ALIASES:
        backend = caches[alias]
        for number in range(SIZE):
            backend.set(f"contacts:{number}", VALUE)
        assert backend.get("contacts:7") == VALUE
        runs[alias] = asking(backend.get)
    runs["making and checking a key"] = asking(caches["LocMemCache"].make_and_validate_key)
    compare_timed(benchmark, runs, SIZE, rounds)


REGIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "dogpile.cache.memory": ("dogpile.cache.memory", {}),
    "flowcache": ("flowcache", {}),
    "flowcache, of the current tenant": ("flowcache", {"tenant": "current"}),
}


def regions() -> dict[str, Any]:
    made = {}
    for name, (backend, arguments) in REGIONS.items():
        region = make_region().configure(backend, expiration_time=3600, arguments=arguments)
        for number in range(SIZE):
            region.set(f"contacts:{number}", VALUE)
        assert region.get("contacts:7") == VALUE
        made[name] = region
    return made


def test_dogpile_get(benchmark: Any, rounds: int) -> None:
    runs = {name: asking(region.get) for name, region in regions().items()}
    compare_timed(benchmark, runs, SIZE, rounds)


def test_dogpile_get_or_create(benchmark: Any, rounds: int) -> None:
    runs = {
        name: asking(lambda key, region=region: region.get_or_create(key, never))
        for name, region in regions().items()
    }
    compare_timed(benchmark, runs, SIZE, rounds)


def never() -> None:
    raise AssertionError("a hit makes no value")


def test_cached_function(benchmark: Any, rounds: int) -> None:
    cache = create_cache()
    functions = {
        "of a fixed namespace": cache.namespace("tenant:acme").cached()(identity),
        "of the current tenant": cache.for_current_tenant().cached()(identity),
    }
    for function in functions.values():
        for number in range(SIZE):
            function(f"contacts:{number}")
    runs = {name: asking(function) for name, function in functions.items()}
    compare_timed(benchmark, runs, SIZE, rounds)


def identity(key: str) -> str:
    return key
