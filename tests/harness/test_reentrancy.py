"""Guests that call back into the cache, or raise, wherever it runs their code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import hostile
from harness.support import new_cache, run_isolated

# ---------------------------------------------------------------------- generated


@pytest.fixture(scope="module")
def runner() -> Iterator[hostile.Runner]:
    runner = hostile.Runner()
    yield runner
    runner.close()


@settings(max_examples=60)
@given(tape=st.binary(min_size=20, max_size=600))
def test_no_program_breaks_the_cache_crashes_it_or_makes_it_leak(
    runner: hostile.Runner, tape: bytes
) -> None:
    runner.run(tape)


def test_random_programs_are_survived(runner: hostile.Runner) -> None:
    visits = 0
    for n in range(60):
        visits += runner.run(hostile.tape_of(0, n))[1]

    assert visits > 5_000, "the guests were hardly asked"


# ---------------------------------------------------------------------- one at a time


# `make matrix` takes all cases; here it is each seventh, and on later interpreters each 21st.
@pytest.mark.parametrize(
    "first", [0, pytest.param(7, marks=pytest.mark.once), pytest.param(14, marks=pytest.mark.once)]
)
def test_each_call_survives_each_thing_done_at_each_place_in_it(first: int) -> None:
    printed = run_isolated(
        f"import sys; sys.argv[1:] = ['--every', '21', '--first', '{first}']; "
        "import harness.matrix as m; m.main()"
    )

    assert int(printed.split()[0].replace(",", "")) > 500


MEDDLER = """
    from flowcache import create_cache
    cache = create_cache(default_ttl=None, max_entries=None)
    place = cache.namespace("tenant")

    class Key:
        armed = None
        def __init__(self, n):
            self.n = n
        def __hash__(self):
            return hash(self.n)
        def __eq__(self, other):
            if Key.armed is not None:
                do, Key.armed = Key.armed, None
                do()
            return self.n == other.n
"""


@pytest.mark.parametrize(
    "call",
    [
        "place.get(Key(49_999))",
        "place.set(Key(49_999), 1)",
        "place.set(Key(49_999), 1, tags=('red', 'blue'))",
        "place.pop(Key(49_999), None)",
        "place.touch(Key(49_999), 5)",
        "place.fetch(Key(49_999), object)",
    ],
)
def test_a_key_that_clears_a_large_namespace_as_it_is_compared(call: str) -> None:
    # The table does not change as a large namespace is cut off, so that alone would not show.
    run_isolated(
        MEDDLER
        + f"""
    for n in range(50_000):
        place.set(Key(n), n, tags="red")
    Key.armed = place.clear
    {call}
    cache._check()
    """
    )


def test_a_view_made_by_hand_is_refused() -> None:
    printed = run_isolated(
        """
    import flowcache
    from flowcache import Cache, Namespace
    for make in (lambda: Namespace.__new__(Namespace), Namespace, lambda: object.__new__(Namespace),
                 lambda: Namespace.__mro__[1].__new__(Namespace)):
        try:
            make()
        except TypeError as error:
            print(error)
    """
    )
    assert printed.count("a Namespace is made by namespace() of a cache") == 2
    assert len(printed.splitlines()) == 4


def test_a_cache_that_was_never_initialised_is_closed() -> None:
    run_isolated(
        """
    import flowcache
    cache = flowcache.Cache.__new__(flowcache.Cache)
    for call in (lambda: cache.get(1), lambda: cache.set(1, 1), lambda: cache.namespace("a"),
                 lambda: len(cache), cache.clear, cache.stats, lambda: cache.fetch(1, int)):
        try:
            call()
        except flowcache.CacheClosedError:
            continue
        raise AssertionError("it was open")
    cache.close()
    cache._check()
    """
    )


def test_a_cache_is_initialised_once_even_from_within_a_call() -> None:
    run_isolated(
        """
    from flowcache import create_cache
    cache = create_cache()
    cache.set("kept", 1)

    class Key:
        def __hash__(self):
            cache.__init__()
            return 1

    for call in (cache.get, cache.ttl, cache._held):
        try:
            call(Key())
        except RuntimeError as error:
            assert str(error) == "a Cache is initialised once", error
        else:
            raise AssertionError("initialised twice")
    assert cache.get("kept") == 1
    """
    )


def test_a_namespace_that_is_dropped_while_an_exception_is_in_flight() -> None:
    run_isolated(
        """
    from flowcache import create_cache
    from flowcache._core import _testing
    cache = create_cache(max_idle_namespaces=0)

    def fail(name):
        view = cache.namespace(name)
        raise ValueError(name)

    for n in range(100):
        try:
            fail(f"n{n}")
        except ValueError as error:
            assert str(error) == f"n{n}"
            error.__traceback__ = None
    cache._check()
    assert _testing.namespaces_held(cache) < 10
    """
    )


def test_setdefault_comes_back_where_all_room_is_reserved() -> None:
    cache, _ = new_cache(max_entries=2)
    rich = cache.namespace("rich", reserved=2)
    rich.update(a=1, b=2)

    assert cache.namespace("poor").setdefault("key", "mine") == "mine"

    assert len(rich) == 2


@pytest.mark.parametrize("options", ["", ", timeout=60"])
def test_a_key_that_asks_for_itself_while_its_load_begins_is_refused(options: str) -> None:
    run_isolated(
        f"""
    import flowcache
    now = 0
    cache = flowcache.create_cache(clock=lambda: now)
    refused = []

    class Key:
        asked = 0
        def ask(self):
            Key.asked += 1
            if Key.asked == moment:
                try:
                    cache.fetch(self, int, stale=False{options})
                except flowcache.RecursiveLoadError:
                    refused.append(moment)
        def __hash__(self):
            self.ask()
            return 1
        def __eq__(self, other):
            self.ask()
            return isinstance(other, Key)

    for moment in range(1, 30):
        Key.asked = 0
        key = Key()
        cache.set(Key(), "held", ttl=1, stale=60)
        now += 2
        loaded = cache.fetch(key, lambda: "loaded", stale=False{options})
        assert loaded in ("loaded", 0), moment
        cache.clear()
        cache._check()
    assert refused
    """
    )


def test_what_an_int_says_of_itself_decides_nothing() -> None:
    run_isolated(
        """
    from flowcache import create_cache, Limits, WeigherError

    class Number(int):
        def __le__(self, other): return True
        __lt__ = __ge__ = __gt__ = __le__

    cache = create_cache(weigher=lambda key, value: Number(-1))
    for call, error in ((lambda: cache.set(1, 1), WeigherError),
                        (lambda: cache.configure(max_entries=Number(-5)), ValueError),
                        (lambda: cache.configure(reserved=Number(-5)), ValueError),
                        (lambda: cache.configure(share=Number(0)), ValueError),
                        (lambda: Limits(max_entries=Number(0)), ValueError)):
        try:
            call()
        except error:
            continue
        raise AssertionError("believed")
    cache._check()
    """
    )


def test_weights_do_not_overflow() -> None:
    run_isolated(
        """
    from flowcache import create_cache, EntryTooHeavyError
    cache = create_cache(weigher=lambda key, value: (1 << 62) - 1)
    cache.set(1, 1)
    try:
        for key in range(2, 9):
            cache.set(key, 1)
    except EntryTooHeavyError:
        pass
    else:
        raise AssertionError("not refused")
    cache._check()
    assert cache.stats().weight == (1 << 62) - 1
    """
    )


def test_a_clock_must_tell_a_finite_time() -> None:
    cache, clock = new_cache()
    for odd in (float("inf"), float("-inf"), float("nan"), "now", None):
        clock.now = odd
        with pytest.raises((TypeError, ValueError), match="clock: must return"):
            cache.set("key", 1)
        cache._check()


def test_limits_within_limits_without_end_are_refused() -> None:
    run_isolated(
        """
    from flowcache import create_cache, Limits, ConfigurationError

    class Endless(Limits):
        def as_settings(self):
            return {"child_limits": self}

    try:
        create_cache().configure(child_limits=object.__new__(Endless))
    except ConfigurationError as error:
        assert "child_limits" in str(error)
    """
    )


def test_a_listener_that_is_interrupted_leaves_nothing_behind() -> None:
    run_isolated(
        """
    import weakref
    from flowcache import create_cache
    cache = create_cache()

    class Value:
        pass

    def listener(event):
        raise KeyboardInterrupt

    values = [Value() for _ in range(5)]
    gone = [weakref.ref(value) for value in values]
    cache.set_many(dict(enumerate(values)))
    cache.subscribe(listener, "remove")
    values.clear()
    try:
        cache.clear()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("swallowed")
    cache._check()
    assert [ref() for ref in gone] == [None] * 5
    """
    )


def test_a_load_made_by_hand_is_no_load_of_any_namespace() -> None:
    run_isolated(
        """
    from flowcache import create_cache
    from flowcache._core import Load, Options
    cache = create_cache()
    a, b = cache.namespace("a"), cache.namespace("b")
    options, loads = Options("fetch", {}), []
    for stray in (Load("key"), Load.__new__(Load)):
        for place in (a, b):
            place._leave_out(stray, options)
            place._finish(stray, options, "value", 0, 0)
            place._abandon(stray)
            place._abandon(stray)
            assert len(place) == 0
        assert stray.run is None and not stray.waiters
    try:
        Load("key").__init__("other")
    except RuntimeError:
        pass
    else:
        raise AssertionError("initialised twice")
    load = a._begin("key", options, None, loads)
    assert loads == [load]
    b._finish(load, options, "value", 0, 0)
    cache._check()
    a._abandon(load)
    assert cache.stats().pending == len(a) == len(b) == 0
    """
    )


def test_a_finalizer_that_asks_for_the_key_as_its_thread_is_made_is_refused() -> None:
    run_isolated(
        """
    import threading
    import flowcache
    cache = flowcache.create_cache()
    refused = []

    class Meddling(threading.Thread):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            try:  # As a finalizer would, in a collection that comes here.
                cache.fetch_many(["key"], dict.fromkeys)
            except flowcache.RecursiveLoadError:
                refused.append(self)

    threading.Thread = Meddling
    assert cache.fetch("key", lambda: "loaded", timeout=30) == "loaded"
    assert len(refused) == 1
    """,
        seconds=60,
    )
