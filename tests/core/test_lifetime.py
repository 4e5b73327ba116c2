"""A cache's end, in any order and at any moment; and its state after a fork."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import sys
import threading
import weakref
from typing import Any

import pytest

from flowcache import create_cache
from harness.loading_support import Gate
from harness.support import new_cache, run_isolated


class Value:
    """Can be watched."""


def test_views_keep_the_entries_until_the_last_of_them_is_gone() -> None:
    cache = create_cache()
    value = Value()
    gone = weakref.ref(value)
    first, second = cache.namespace("a"), cache.namespace("b", "c")
    first.set("key", value)
    del value

    del cache
    gc.collect()
    assert first.get("key") is gone()
    del first
    assert gone() is not None, "it is still within reach of the other view"
    del second
    gc.collect()

    assert gone() is None


def test_a_cache_dropped_while_a_load_runs_is_freed_when_the_load_ends() -> None:
    cache = create_cache()
    gone = weakref.ref(cache)
    gate = Gate(Value())
    answers: list[Any] = []

    def ask(place: Any) -> None:
        answers.append(place.fetch("key", gate))

    thread = threading.Thread(target=ask, args=(cache.namespace("tenant"),))
    thread.start()
    gate.begun.wait()
    store = weakref.ref(cache._store())

    del cache
    gc.collect()
    gate.open.set()
    thread.join()
    del thread
    gc.collect()

    assert answers == [gate.value]
    assert gone() is None
    assert store() is None


def test_a_cache_can_be_referred_to_weakly_and_says_when_it_ends() -> None:
    ended: list[Any] = []
    cache = create_cache(sweep_interval=1000)
    ref = weakref.ref(cache, ended.append)
    assert ref() is cache

    del cache
    gc.collect()

    assert ended == [ref]


def test_a_finalizer_may_use_the_cache_that_ends_with_it() -> None:
    run_isolated(
        """
    import gc
    from flowcache import create_cache
    seen = []

    class Last:
        def __init__(self, view):
            self.view, self.me = view, self
        def __del__(self):
            self.view.set("late", 1, tags="red")
            seen.append((self.view.get("key"), self.view.get("late"), len(self.view)))
            self.view.namespace("new").fetch("key", lambda: 1)
            self.view.clear()

    def build():
        view = create_cache().namespace("tenant")
        view.set("key", "value")
        view.set("last", Last(view))

    build()
    gc.collect()
    assert seen == [("value", 1, 3)], seen
    """
    )


def test_a_finalizer_may_bring_the_cache_back() -> None:
    run_isolated(
        """
    import gc
    from flowcache import create_cache
    saved = []

    class Last:
        def __init__(self, view):
            self.view = view
        def __del__(self):
            saved.append(self.view)

    view = create_cache().namespace("tenant")
    view.set("last", Last(view))
    view.set("key", "value")
    del view
    gc.collect()
    saved[0].set("key", "new")
    assert saved[0].get("key") == "new"
    saved[0]._check()
    saved.clear()
    gc.collect()
    """
    )


@pytest.mark.parametrize("link", ["cache", "cache.namespace('view')"])
def test_a_deep_chain_of_caches_ends_without_a_deep_stack(link: str) -> None:
    run_isolated(
        f"""
    import gc
    from flowcache import create_cache
    held = None
    for _ in range(30_000):
        cache = create_cache(max_entries=1)
        cache.set("next", held)
        held = {link}
    gc.collect()
    del cache
    held = None

    kept = create_cache(max_entries=1)
    for _ in range(300_000):
        kept.set("ready", kept.afetch("ready", object) if "ready" in kept else 1)
    kept.clear()
    """
    )


def test_a_program_may_end_with_caches_loads_and_sweepers_in_any_state() -> None:
    printed = run_isolated(
        """
    import asyncio, atexit, threading
    from flowcache import create_cache

    class Last:
        def __del__(self):
            try:
                kept.set("late", 1)
                kept.namespace("late").get("key")
            except (TypeError, AttributeError, NameError):
                pass  # The module's names are gone.

    kept = create_cache(sweep_interval=0.001)
    kept.subscribe(lambda event: None)
    kept.set("last", Last())
    kept.set("me", kept)
    begun = threading.Event()
    threading.Thread(
        target=lambda: kept.fetch("slow", lambda: (begun.set(), threading.Event().wait())),
        daemon=True,
    ).start()
    begun.wait()
    atexit.register(lambda: print(len(kept)))
    """
    )
    assert printed.strip() == "2"


# ---------------------------------------------------------------------- copies and sizes


def test_a_copy_is_the_same_view_and_a_deep_copy_or_pickle_is_refused() -> None:
    cache = create_cache()
    for view in (cache, cache.namespace("tenant")):
        assert copy.copy(view) is view
        with pytest.raises(TypeError, match="cannot be copied"):
            copy.deepcopy(view)
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(view)


def test_the_size_of_a_cache_counts_the_memory_of_its_entries() -> None:
    cache, _ = new_cache()
    empty = sys.getsizeof(cache)
    for n in range(50_000):
        cache.set(n, n, tags="red")
    full = sys.getsizeof(cache)

    assert 40 * 50_000 < full - empty < 200 * 50_000
    assert sys.getsizeof(cache.namespace("tenant")) < 200, "a view is two pointers"
    cache.clear()
    cache.sweep()
    assert sys.getsizeof(cache) < full


# ---------------------------------------------------------------------- fork and interpreters

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_a_child_process_has_the_entries_and_a_cache_that_works() -> None:
    run_isolated(
        """
    import os, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork while threads run
    from flowcache import create_cache
    cache = create_cache(sweep_interval=0.01)
    place = cache.namespace("tenant")
    place.set("key", "value", tags="red")
    place.set("brief", 1, ttl=0.05)
    begun, stop = threading.Event(), threading.Event()

    def load():
        begun.set()
        stop.wait()

    threads = [threading.Thread(target=lambda: place.fetch("slow", load)) for _ in range(3)]
    def busy():
        while not stop.is_set():
            place.set("busy", 1, tags="blue")
            place.invalidate_tag("blue")
    threads += [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                # What a call of a thread that is not here had yet to drop goes with the next.
                place.set("first", 1)
                cache._check()
                assert place.get("key") == "value"
                # The load's thread is not here: whoever asks leads.
                assert place.fetch("slow", lambda: "mine") == "mine"
                place.set("new", 1, tags="red")
                assert place.invalidate_tag("red") == 2
                swept = threading.Event()
                cache.subscribe(lambda event: swept.set(), "sweep")
                assert swept.wait(30), "no sweeper in the child"
                cache.close()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert place.get("new") is None
    cache._check()
    """
    )


def test_a_second_interpreter_is_refused_with_a_clear_error() -> None:
    printed = run_isolated(
        """
    import flowcache
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    PROGRAM = '''
    try:
        import flowcache
    except ImportError as error:
        assert "interpreter" in str(error), error
    else:
        raise AssertionError("it was let in")
    '''
    import textwrap
    try:
        fresh = interpreters.create("legacy")
    except TypeError:
        fresh = interpreters.create()
    failed = interpreters.run_string(fresh, textwrap.dedent(PROGRAM))
    assert not failed, failed
    interpreters.destroy(fresh)
    flowcache.create_cache().set("key", 1)
    print("refused")
    """
    )
    assert printed.strip() == "refused"
