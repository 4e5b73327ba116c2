"""Loads through the tier: one for the fleet, and its value for all.

A call that misses here reads the tier first. Then it loads as any call does, but with a loader that
goes through the tier: it looks there again and asks for the lease of the key; the process that has
it calls the user's loader and stores what that gave, under the lease; the others wait for that.
A load in the process is running all the while, so that what invalidates its key fences it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flowcache import _core
from flowcache._core import lease_time as monotonic
from flowcache.coroutines import (
    in_this_context,
    is_async,
    is_awaitable,
    plain_result,
    refuse_one_use,
)
from flowcache.errors import EntryTooHeavyError, WouldBlockError
from flowcache.loading import Loaded
from flowcache.loading.deadlock import current_load
from flowcache.loading.load import running_loop
from flowcache.loading.options import MISSING, Options, unpack

from .answers import Grant
from .bus import new_token
from .errors import ServerError, SlowError
from .front import Front, plain, refuse_sliding
from .held import drop
from .items import Found
from .steps import Produce

if TYPE_CHECKING:
    from .items import Item
    from .steps import Steps

__all__ = ["Tier"]

Namespace = _core.Namespace
Space = _core.Namespace[Any]
UNSET: Final[Any] = _core.UNSET


class Terms(NamedTuple):
    """The options of a call that say how its value is kept in the tier."""

    ttl: Any
    tags: Any
    stale: Any
    stale_if_error: float
    refresh_ahead: float | None
    store_if: Callable[[Any], Any] | None
    jitter: Any

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> Terms:
        """Take them from a call's options; the error names the one that is wrong."""
        refuse_sliding(options.get("sliding"))
        checked = Options(name, dict(options))
        stale = options.get("stale")
        error = options.get("stale_if_error")
        return cls(
            options.get("ttl", UNSET),
            checked.tags,
            None if stale is UNSET else stale,
            0.0 if error is None else _core.duration(error, "stale_if_error"),
            options.get("refresh_ahead"),
            checked.store_if,
            options.get("jitter"),
        )

    def window_of(self, found: Found) -> Any:
        """Return for how long what is found may be served past its TTL; UNSET: as the call says.

        A window that `stale_if_error=` alone may have made is served by calls that ask for it.
        """
        if found.until is None or found.last is None:
            return UNSET
        window = round(found.last - found.until, 3)
        return UNSET if 0 < window <= self.stale_if_error else window or None

    def is_due(self, found: Found) -> bool:
        """Tell if a fresh value is to be loaded anew ahead of its end."""
        if self.refresh_ahead is None or found.ttl is None or found.until is None:
            return False
        return found.ttl - (found.until - monotonic()) > self.refresh_ahead * found.ttl


class Tier(Front):
    """The tier of one cache: all that its namespaces ask for, loading calls included."""

    # The calls

    def fetch(self, namespace: Space, key: Hashable, loader: Any, /, **options: Any) -> Any:
        """Answer a `fetch` that is no plain hit here."""
        if is_async(loader):
            return self.afetch(namespace, key, loader, **options)
        item = self.read_item(namespace, key)
        if item is None or not callable(loader):
            return Namespace.fetch(namespace, key, loader, **options)
        terms = Terms.of("fetch", options)
        if not self._is_answered(namespace, key, options):
            found = self.read("fetch", self._look(namespace, key, item, terms))
            if found is not None:
                return answered(namespace, key, found)
        elif running_loop() is not None:
            refuse_load(namespace, key, "fetch")
        through = Through(self.engine.run, self._load, namespace, item, loader, terms)
        return Namespace.fetch(namespace, key, through, **without(options))

    def afetch(
        self, namespace: Space, key: Hashable, loader: Any, /, **options: Any
    ) -> Awaitable[Any]:
        """Answer an `afetch` that is no plain hit here."""
        item = self.read_item(namespace, key)
        if item is None or not callable(loader):
            return Namespace.afetch(namespace, key, loader, **options)
        terms = Terms.of("afetch", options)
        through = Through(self.engine.arun, self._load, namespace, item, loader, terms)
        # Made now: the context and the checks are those of the moment of the call.
        loading = Loading(namespace, key, through, without(options))
        if self._is_answered(namespace, key, options):
            return loading.begin()

        async def afetch() -> Any:
            engine = self.engine
            found = await engine.arun(self._look(namespace, key, item, terms))
            if found is not None:
                return answered(namespace, key, found)
            return await loading.begin()

        return in_this_context(afetch())

    def refresh(self, namespace: Space, key: Hashable, loader: Any, /, **options: Any) -> Any:
        """Load a key though it be fresh; the others drop it."""
        if is_async(loader):
            return self.arefresh(namespace, key, loader, **options)
        item = self.read_item(namespace, key)
        if item is None or not callable(loader):
            return Namespace.refresh(namespace, key, loader, **options)
        if running_loop() is not None:
            raise WouldBlockError(
                "refresh: the tier would be waited for on the thread of a running event loop; "
                "await arefresh(...) instead"
            )
        terms = Terms.of("refresh", options)
        through = Through(self.engine.run, self._reload, namespace, item, loader, terms)
        return Namespace.refresh(namespace, key, through, **without(options))

    def arefresh(
        self, namespace: Space, key: Hashable, loader: Any, /, **options: Any
    ) -> Awaitable[Any]:
        """Load a key though it be fresh; the others drop it."""
        item = self.read_item(namespace, key)
        if item is None or not callable(loader):
            return Namespace.arefresh(namespace, key, loader, **options)
        terms = Terms.of("arefresh", options)
        through = Through(self.engine.arun, self._reload, namespace, item, loader, terms)
        return Namespace.arefresh(namespace, key, through, **without(options))

    def fetch_many(
        self,
        namespace: Space,
        keys: Iterable[Hashable],
        loader: Any,
        /,
        **options: Any,
    ) -> Any:
        """Return a dict of keys; the loader is called for those that no other process loads."""
        if is_async(loader):
            return self.afetch_many(namespace, keys, loader, **options)
        if not callable(loader) or _core._is_off(namespace):
            return Namespace.fetch_many(namespace, keys, loader, **options)
        listed, terms = _core.listed_keys(keys), Terms.of("fetch_many", options)
        found = self.read("fetch_many", self._look_many(namespace, listed, terms))
        through = Through(self.engine.run, self._load_many, namespace, loader, terms)
        rest = [key for key in listed if key not in found]
        if rest and running_loop() is not None and not all(key in namespace for key in rest):
            raise WouldBlockError(
                "fetch_many: the tier would be waited for on the thread of a running event loop; "
                "await afetch_many(...) instead"
            )
        loaded = Namespace.fetch_many(namespace, rest, through, **without(options))
        return merged(namespace, listed, found, loaded)

    def afetch_many(
        self,
        namespace: Space,
        keys: Iterable[Hashable],
        loader: Any,
        /,
        **options: Any,
    ) -> Awaitable[dict[Any, Any]]:
        """Await a dict of keys; the loader is called for those that no other process loads."""
        if not callable(loader) or _core._is_off(namespace):
            return Namespace.afetch_many(namespace, keys, loader, **options)
        listed, terms = _core.listed_keys(keys), Terms.of("afetch_many", options)
        through = Through(self.engine.arun, self._load_many, namespace, loader, terms)

        async def afetch_many() -> dict[Any, Any]:
            engine = self.engine
            found = await engine.arun(self._look_many(namespace, listed, terms))
            rest = [key for key in listed if key not in found]
            loaded = await Namespace.afetch_many(namespace, rest, through, **without(options))
            return merged(namespace, listed, found, loaded)

        return in_this_context(afetch_many())

    # Looking there first

    def _is_answered(self, namespace: Space, key: Hashable, options: Mapping[str, Any]) -> bool:
        """Tell if a read of the tier can tell no more than what is here: a value, or a load."""
        held = namespace._held(key)
        return _core._is_loading(namespace, key) or (
            held is not None and (held[1] > 0 or takes_stale(held, options))
        )

    def _look(
        self, namespace: Space, key: Hashable, item: Item, terms: Terms
    ) -> Steps[Found | None]:
        """Read a key there; only what is fresh is an answer."""
        found = yield from self.found(namespace, key, item, terms.tags)
        return found if found is not None and found.is_fresh(monotonic()) else None

    def _look_many(
        self, namespace: Space, keys: list[Hashable], terms: Terms
    ) -> Steps[dict[Hashable, Found]]:
        missing = [key for key in keys if Namespace.peek(namespace, key, UNSET) is UNSET]
        found = yield from self.found_many(namespace, missing, terms.tags)
        now = monotonic()
        return {key: one for key, one in found.items() if one.is_fresh(now)}

    # Loaders that go through the tier

    def _load(
        self,
        namespace: Space,
        item: Item,
        loader: Callable[..., Any],
        terms: Terms,
        *old: Any,
        force: bool = False,
    ) -> Steps[Any]:
        """Load one key for the fleet: its value, with how it is to be held here.

        `old` is what the loader is called with, by `pass_old=True`.
        """
        load = current_load()
        given = yield from self._lead(namespace, item, terms, force=force)
        if isinstance(given, Found):
            return self._take(namespace, load, given, terms)
        try:
            if old and old[0] is MISSING:
                found = yield from self.engine.read(item, terms.tags)
                old = (MISSING if found is None else found.value,)
            produced = yield Produce(loader, old, around(namespace, item.key))
        except GeneratorExit:
            self._renew_no_more((item, given))
            raise
        except BaseException:
            yield from self._give_back((item, given))
            raise
        if is_awaitable(produced):  # For a sync call, which refuses it.
            yield from self._give_back((item, given))
            return produced
        return (yield from self._finish(namespace, item, load, given, produced, terms, drops=force))

    def _reload(
        self,
        namespace: Space,
        item: Item,
        loader: Callable[..., Any],
        terms: Terms,
        *old: Any,
    ) -> Steps[Any]:
        """Load one key though it be fresh."""
        return self._load(namespace, item, loader, terms, *old, force=True)

    def _lead(
        self, namespace: Space, item: Item, terms: Terms, *, force: bool
    ) -> Steps[Found | Grant | None]:
        """Return the value that the fleet has by now, the right to load it, or None: alone."""
        engine = self.engine
        token, attempt, until = new_token(), 0, monotonic() + self.patience
        asked = False
        try:
            yield from engine.live(item.place.bucket)
            while True:
                asked = True
                given = yield from engine.lead(item, token, force=force)
                asked = False
                if isinstance(given, Found) and terms.is_due(given):
                    force = True
                    continue
                if isinstance(given, Grant):
                    engine.bus.hold(item, given.token, until)
                if given is not None:
                    return given
                if monotonic() > until:
                    return None
                yield from engine.wait_for_lease(item, attempt)
                attempt += 1
        except SlowError:
            return Grant(token, b"")  # The server may grant it yet.
        except ServerError:
            return None
        except GeneratorExit:
            raise
        except BaseException:
            if asked:  # The lease may be this call's, which has no use for it.
                yield from engine.release(item, Grant(token, b""))
            raise
        finally:
            self.note_errors(namespace)

    def _give_back(self, *given: tuple[Item, Found | Grant | None]) -> Steps[None]:
        """Give leases back: none of them is renewed from now on, whatever ends this."""
        self._renew_no_more(*given)
        for item, one in given:
            if isinstance(one, Grant):
                yield from self.engine.release(item, one)

    def _renew_no_more(self, *given: tuple[Item, Found | Grant | None]) -> None:
        """Let leases run out: of a call that is closed, which can ask the server for nothing."""
        for _, one in given:
            if isinstance(one, Grant):
                self.engine.bus.hold_no_more(one.token)

    def _take(self, namespace: Space, load: Any, found: Found, terms: Terms) -> Loaded[Any]:
        """Return what another process loaded, to be held here until it ends there."""
        _core._tally(namespace, "hits")
        until = math.inf if found.until is None else found.until
        for one in stored_as(load):
            one.is_fill = True
            one.until = self.ends(until, 0.0)[0]
        return Loaded(found.value, ttl=found.ttl, tags=found.tags, stale=terms.window_of(found))

    def _finish(
        self,
        namespace: Space,
        item: Item,
        load: Any,
        given: Grant | None,
        produced: Any,
        terms: Terms,
        *,
        drops: bool,
    ) -> Steps[Any]:
        """Store what was loaded in the tier; here it is held if the tier has taken it."""
        granted = given if given is not None and given.terms else None
        replaces = False
        try:
            value, ttl, tags, stores, stale = unpacked(produced, terms)
            refuse_one_use(value, "loader")
            if stores and terms.store_if is not None:
                stores = bool(plain_result(terms.store_if(value), "store_if"))
            about = namespace, item.key, value, ttl, tags, stale, terms.jitter
            try:
                seconds, grace, _, tags = _core._terms(*about)
            except EntryTooHeavyError:  # The callers receive it all the same.
                seconds, grace, tags, stores = 0.0, 0.0, _core._tags(tags), False
            if load is not None:
                tags = _core._close_tags(load, tags)
            # With the TTL that was drawn and told here, once.
            loaded = functools.partial(
                Loaded, value, ttl=plain(seconds), tags=tags, stale=unpack(produced)[4]
            )
            sealed = None
            if stores and seconds > 0 and granted is not None:
                sealed = self.sealed(namespace, item, value, tags)
            if sealed is None or granted is None:
                yield from self._give_back((item, given))
                # What cannot travel is held here; what the tier was not asked for is not.
                return loaded(store=stores and granted is not None)
            self.engine.bus.hold_no_more(granted.token)
            replaces = drops
            stored = yield from self.engine.store(
                item, granted, sealed, plain(seconds), max(grace, terms.stale_if_error), drops=drops
            )
        except GeneratorExit:
            if replaces:  # It may be there.
                drop(namespace, item.key)
            raise
        except BaseException:
            if replaces:
                drop(namespace, item.key)
            yield from self._give_back((item, given))
            raise
        if replaces:  # What was read before is old now.
            _core._fence_key(namespace, item.key)
        self.note_errors(namespace)
        if stored is None:
            return loaded(store=False)
        if not stored.is_there:
            _core._tally(namespace, "untiered")
            return loaded()
        _core._tally(namespace, "stores")
        until = math.inf if stored.until is None else stored.until
        for one in stored_as(load):
            one.until = self.ends(until, 0.0)[0]
        return loaded()

    def _load_many(
        self, namespace: Space, loader: Callable[..., Any], terms: Terms, missing: list[Hashable]
    ) -> Steps[Any]:
        """Load keys for the fleet: first those that are led here, then those that others led."""
        loads = own_loads()
        given: dict[Hashable, tuple[Item, Found | Grant | None]] = {}
        found: dict[Hashable, Any] = {}
        waiting: list[Item] = []
        bare: list[Hashable] = []
        try:
            for key in missing:
                item = self.item(namespace, key)
                if item is None:
                    bare.append(key)
                    continue
                one = yield from self._lead_once(namespace, item)
                if one is WAITS:
                    waiting.append(item)
                elif isinstance(one, Found):
                    found[key] = self._take(namespace, loads.get(key), one, terms)
                else:
                    given[key] = item, one
            if led := [*given, *bare]:
                produced = yield Produce(loader, (led,), around(namespace, tuple(led)))
                if is_awaitable(produced) or not isinstance(produced, Mapping):
                    yield from self._give_back(*given.values())
                    return produced
                yield from self._finish_many(namespace, loads, given, produced, found, terms)
                found.update({key: produced[key] for key in bare if key in produced})
        except GeneratorExit:
            self._renew_no_more(*given.values())
            raise
        except BaseException:
            yield from self._give_back(*given.values())
            raise
        for item in waiting:
            one = yield from self._load(namespace, item, OneOf(loader, item.key), terms)
            if one is not OneOf.ABSENT:
                found[item.key] = one
        return found

    def _lead_once(self, namespace: Space, item: Item) -> Steps[Any]:
        engine, token = self.engine, new_token()
        try:
            yield from engine.live(item.place.bucket)
            given = yield from engine.lead(item, token)
        except SlowError:
            return Grant(token, b"")  # The server may grant it yet.
        except ServerError:
            return None
        except GeneratorExit:
            raise
        except BaseException:
            yield from engine.release(item, Grant(token, b""))
            raise
        finally:
            self.note_errors(namespace)
        if isinstance(given, Grant):
            engine.bus.hold(item, given.token, monotonic() + self.patience)
        return WAITS if given is None else given

    def _finish_many(
        self,
        namespace: Space,
        loads: Mapping[Hashable, Any],
        given: dict[Hashable, tuple[Item, Any]],
        produced: Mapping[Hashable, Any],
        found: dict[Hashable, Any],
        terms: Terms,
    ) -> Steps[None]:
        """Store what was loaded; what is left in `given` holds its lease still."""
        for key, (item, one) in list(given.items()):
            del given[key]
            if key not in produced:
                yield from self._give_back((item, one))
                continue
            found[key] = yield from self._finish(
                namespace, item, loads.get(key), one, produced[key], terms, drops=False
            )


WAITS: Final = object()


class Through:
    """A loader that goes through the tier, and calls the user's if the fleet has no value."""

    __slots__ = ("_load", "_run")
    enters_around_load = True

    def __init__(
        self, run: Callable[[Steps[Any]], Any], load: Callable[..., Steps[Any]], *about: Any
    ) -> None:
        self._run = run
        self._load = functools.partial(load, *about)

    def __call__(self, *given: Any) -> Any:
        """Return the value, or an awaitable of it."""
        return self._run(self._load(*given))


class OneOf:
    """Calls a loader of many keys for one of them."""

    ABSENT: Final = Loaded(None, store=False)

    def __init__(self, loader: Callable[..., Any], key: Hashable) -> None:
        self._loader = loader
        self._key = key

    def __call__(self) -> Any:
        """Return the key's value, or an awaitable of it."""
        produced = self._loader([self._key])
        return self._await(produced) if is_awaitable(produced) else self._of(produced)

    async def _await(self, produced: Awaitable[Any]) -> Any:
        return self._of(await produced)

    def _of(self, produced: Any) -> Any:
        if not isinstance(produced, Mapping):
            raise TypeError(
                "loader_many: must return a mapping of keys to values, "
                f"got {type(produced).__name__}"
            )
        return produced.get(self._key, self.ABSENT)


class Loading:
    """An `afetch` that is begun later, with the context of the moment at which it was asked for."""

    def __init__(
        self,
        namespace: Space,
        key: Hashable,
        through: Callable[..., Any],
        options: dict[str, Any],
    ) -> None:
        from contextvars import copy_context

        self._context = copy_context()
        self._call: tuple[Any, ...] = (namespace, key, through)
        self._options = options

    def begin(self) -> Awaitable[Any]:
        """Return what is to be awaited."""
        begin: Any = Namespace.afetch
        begun: Awaitable[Any] = self._context.run(begin, *self._call, **self._options)
        return begun


def stored_as(load: Any) -> Iterable[Any]:
    """Return a running load, and the registered one in whose place it is stored."""
    if load is None:
        return ()
    return (load,) if load.stands_in_for is None else (load, load.stands_in_for)


def own_loads() -> dict[Hashable, Any]:
    """Return the running loads of the batch that the calling loader is run for, by key."""
    load = current_load()
    return {} if load is None else {one.key: one for one in tuple(load.run.loads)}


def unpacked(produced: Any, terms: Terms) -> tuple[Any, Any, Any, bool, Any]:
    """Return the value, TTL and tags that a loader asks for, whether to store it, and `stale`."""
    value, ttl, tags, stores, stale = unpack(produced)
    every = (*terms.tags, *_core._tags(tags))
    return (
        value,
        terms.ttl if ttl is UNSET else ttl,
        every,
        stores,
        terms.stale if stale is UNSET else stale,
    )


def without(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without those that the loader through the tier has taken care of."""
    return {
        name: value
        for name, value in options.items()
        if name not in ("store_if", "jitter") and not (name == "ttl" and callable(value))
    }


def around(namespace: Space, keys: Hashable) -> Callable[[], Any] | None:
    """Return what makes the context manager around a loader, or None."""
    enter = namespace._store().around_load
    return None if enter is None else functools.partial(enter, namespace.path, keys)


def takes_stale(held: tuple[Any, float, float, float, bool], options: Mapping[str, Any]) -> bool:
    """Tell if a call is served what is held past its TTL."""
    _, left, _, grace, stale_ok = held
    stale = options.get("stale", UNSET)
    if stale is UNSET:
        seconds = grace if stale_ok else 0.0
    elif stale is None or stale is False:
        seconds = 0.0
    else:
        seconds = math.inf if stale is True else _core.duration(stale, "stale")
    return -left <= min(grace, seconds) > 0


def refuse_load(namespace: Space, key: Hashable, name: str) -> None:
    """Raise `WouldBlockError` unless what is held here answers without a load."""
    if namespace._held(key) is None:
        raise WouldBlockError(
            f"{name}: a load would be waited for on the thread of a running event loop; "
            f"await a{name}(...) instead"
        )


def answered(namespace: Space, key: Hashable, found: Found) -> Any:
    """Count a call that the tier answered, and return its value."""
    _core._tally(namespace, "misses", 1, key)
    namespace._emit("miss", key, None, None, None, 0.0)
    return found.value


def merged(
    namespace: Space,
    keys: list[Hashable],
    found: Mapping[Hashable, Found],
    loaded: Mapping[Hashable, Any],
) -> dict[Any, Any]:
    """Return what was found and loaded, in the order of the keys."""
    for key in found:
        _core._tally(namespace, "misses", 1, key)
    together = {key: one.value for key, one in found.items()} | dict(loaded)
    return {key: together[key] for key in dict.fromkeys(keys) if key in together}
