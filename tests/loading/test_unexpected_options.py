"""The errors about what a loading call cannot take name it, and what is accepted."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from flowcache import create_cache
from flowcache.wrapping import Cached

LOADING = [
    "ttl",
    "tags",
    "stale",
    "stale_if_error",
    "fallback_on",
    "refresh_ahead",
    "sliding",
    "jitter",
    "store_if",
    "timeout",
]


async def load_async(*_: Any) -> Any:
    return {}


CALLS: dict[str, Callable[..., Any]] = {
    "fetch": lambda ns, **options: ns.fetch("k", dict, **options),
    "afetch": lambda ns, **options: asyncio.run(ns.afetch("k", load_async, **options)),
    "refresh": lambda ns, **options: ns.refresh("k", dict, **options),
    "arefresh": lambda ns, **options: asyncio.run(ns.arefresh("k", load_async, **options)),
    "fetch_many": lambda ns, **options: ns.fetch_many(["k"], lambda keys: {}, **options),
    "afetch_many": lambda ns, **options: asyncio.run(ns.afetch_many(["k"], load_async, **options)),
    "wrap": lambda ns, **options: ns.wrap(dict, **options),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_options_that_are_accepted(name: str) -> None:
    ns = create_cache().namespace("a")
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected option 'tll'") as told:
        CALLS[name](ns, tll=5)
    found = re.search("accepted are (.*)$", str(told.value))
    assert found is not None
    accepted = found[1].split(", ")
    takes_old = "many" not in name and name != "wrap"
    of_functions = [
        parameter.name
        for parameter in inspect.signature(Cached).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "tags"
    ]
    expected = {*LOADING, *(["pass_old"] if takes_old else ())}
    assert set(accepted) == expected | set(of_functions if name == "wrap" else ())
    assert len(accepted) == len(set(accepted))


def test_a_key_of_a_function_that_can_be_no_key() -> None:
    with pytest.raises(TypeError, match=r"^key: must be hashable or a callable, got list"):
        create_cache().cached(key=[])(dict)


async def opened(*_: Any) -> None:
    """Make what an application awaits by mistake."""


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (lambda *_: "no manager", "must return a context manager, returned str"),
        (lambda *_: None, "must return a context manager, returned NoneType"),
        (lambda *_: opened(), "must not return an awaitable, returned coroutine"),
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_what_around_load_returns(name: str, made: Callable[..., Any], fault: str) -> None:
    cache: Any = create_cache(around_load=made)

    def load() -> Any:
        result = CALLS[name](cache.namespace("a"))
        return result() if name == "wrap" else result

    with pytest.raises(TypeError, match=rf"^around_load: {fault}"):
        load()
    assert cache.stats().entries == 0
    cache.around_load = None
    assert load() == {}
