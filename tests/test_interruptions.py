"""What may come in the middle of a call: another call on the same cache, from a key's own code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowcache import create_cache

MANY = 9_000
"""Entries beyond which clear() cuts a namespace's entries off instead of removing them."""


class Key:
    """Equal to its like; asked, it first does what it was told."""

    def __init__(self, action: Callable[[], object] = lambda: None) -> None:
        self.action = action

    def __hash__(self) -> int:
        return -7  # no int below

    def __eq__(self, other: object) -> bool:
        action, self.action = self.action, lambda: None
        action()
        return isinstance(other, Key)


def test_a_key_that_clears_a_large_namespace_while_it_is_looked_up_is_stored_there() -> None:
    cache = create_cache(max_entries=None)
    tenant = cache.namespace("acme")
    tenant[Key(tenant.clear)] = "old"
    tenant.set_many(dict.fromkeys(range(MANY), 0))

    tenant.set(Key(), "new")

    assert tenant.get(Key()) == "new"
    assert len(tenant) == 1
    cache._check()
    cache.sweep()
    assert tenant.get(Key()) == "new"
    cache._check()


def test_a_key_that_clears_a_large_namespace_is_not_found_there() -> None:
    cache = create_cache(max_entries=None)
    tenant = cache.namespace("acme")
    tenant[Key(tenant.clear)] = "old"
    tenant.set_many(dict.fromkeys(range(MANY), 0))

    assert tenant.get(Key()) is None
    assert not tenant.delete(Key())
    cache._check()


def test_tags_outlive_a_clear_that_comes_while_they_are_given() -> None:
    cache = create_cache(max_entries=None)
    tenant = cache.namespace("acme")
    tenant.set(Key(tenant.clear), "old", tags="crm")
    tenant.set_many(dict.fromkeys(range(MANY), 0), tags="crm")

    tenant.set(Key(), "new", tags=("crm", "crm:contacts"))

    cache._check()
    assert tenant.invalidate_tag("crm:contacts") == 1
    assert len(tenant) == 0
    cache._check()


def test_what_was_cleared_of_one_tenant_is_not_told_to_a_tenant_made_meanwhile() -> None:
    cache = create_cache(max_entries=None)
    heard = []

    class Value:
        def __del__(self) -> None:
            other = cache.namespace("globex")
            other.subscribe(heard.append, "remove")
            views.append(other)

    views: list[object] = []
    acme = cache.namespace("acme")
    acme.set_many({n: Value() if n == MANY - 2 else n for n in range(MANY)})
    acme.clear()
    assert not views
    cache.sweep()

    assert len(views) == 1
    assert heard == []
    cache._check()


@pytest.mark.parametrize("call", ["close", "throw"])
def test_a_hit_that_is_put_aside_cannot_be_awaited_any_more(call: str) -> None:
    cache = create_cache()
    cache["plan"] = "gold"

    async def load() -> str:
        raise AssertionError("it is held")

    hit = cache.afetch("plan", load)
    if call == "close":
        hit.close()
    else:
        with pytest.raises(KeyError):
            hit.throw(KeyError("plan"))
    with pytest.raises(RuntimeError, match="already awaited"):
        hit.send(None)
