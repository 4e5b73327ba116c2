"""The import of flowcache, calls before and after that of `asyncio` or at the exit, and records."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import flowcache
from flowcache import Event, Limits, Loaded, Stats, coroutines
from harness.support import new_cache

BASIS = "asyncio, dataclasses, typing"
"""What an application has imported already. `import flowcache` brings nothing of the standard
library besides, so its own modules are all that it adds: `bench/startup.py` shows the time."""


def run(program: str, *options: str) -> str:
    """Run a program in a fresh interpreter that has imported nothing; return what it printed."""
    place = Path(flowcache.__file__).parent.parent
    finished = subprocess.run(
        [sys.executable, *options, "-c", f"import sys; sys.path.append({str(place)!r})\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


def imported_by(program: str) -> set[str]:
    """Return the modules that a program reads of the standard library, but for private ones."""
    said = run(f"import sys\n{program}\nprint(*sys.modules)", "-I", "-S").split()
    read = sys.stdlib_module_names - set(sys.builtin_module_names)
    return {name for name in said if name in read and not name.startswith("_")}


def test_the_import_brings_only_what_every_application_has_imported() -> None:
    assert imported_by("import flowcache") - imported_by(f"import {BASIS}") == set()


def test_calls_of_threads_bring_nothing_else_either() -> None:
    program = """
from flowcache import Limits, create_cache
with create_cache(weigher=lambda key, value: 1, child_limits=Limits(share=2.0)) as cache:
    seen = []
    cache.subscribe(seen.append)
    ns = cache.namespace("a", max_entries=10)
    ns.set("k", 1, tags="t")
    assert ns.fetch("k", print) == 1
    assert ns.fetch("l", lambda: 2, stale=True, tags="t") == 2
    assert ns.fetch_many([1, 2], lambda keys: dict.fromkeys(keys, 0)) == {1: 0, 2: 0}
    @ns.cached(ttl=60)
    def double(n):
        return 2 * n
    assert double(4) == double(4) == 8
    assert ns.invalidate_tag("t") == 2
    assert cache.stats().as_dict()["hits"] == 2
    assert repr(seen[0]).startswith("Event(kind='set'")
"""
    assert imported_by(program) - imported_by(f"import {BASIS}") == set()


def test_the_first_async_calls_of_two_threads_at_once() -> None:
    program = """
import threading
from flowcache import create_cache
cache = create_cache()
barrier = threading.Barrier(3)
def serve(name):
    barrier.wait()
    import asyncio
    async def load():
        await asyncio.sleep(0)
        return name
    async def ask():
        return await cache.afetch("k", load), await cache.afetch(name, load)
    answers.append(asyncio.run(ask()))
answers = []
threads = [threading.Thread(target=serve, args=(name,)) for name in "ab"]
for thread in threads:
    thread.start()
barrier.wait()
for n in range(1_000):
    assert cache.fetch(n, lambda: n) == n
for thread in threads:
    thread.join()
(one, a), (same, b) = answers
assert one == same and {a, b} == set("ab")
"""
    assert run(program) == ""


def test_a_module_in_the_middle_of_its_import_is_no_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, _ = new_cache()
    for half in (types.ModuleType("asyncio"), None):
        monkeypatch.setitem(sys.modules, "asyncio", half)
        monkeypatch.setitem(sys.modules, "inspect", half)
        assert cache.fetch(half, lambda: 1) == 1
        assert not coroutines.is_async(print)


AT_EXIT = """
from flowcache import create_cache
cache = create_cache()
def load():
    return 3
cached = cache.wrap(load)
def complain(event):
    raise ValueError("never mind")
class Callable:
    def __call__(self):
        return 2
class Last:
    # Its globals are gone by the time that it runs, and so is the machinery of imports.
    def __init__(self, out=print, Callable=Callable):
        self.cache, self.cached, self.out, self.loader = cache, cached, out, Callable()
    def __del__(self):
        try:
            import colorsys
        except ImportError:
            self.out("no imports")
        self.out(self.cached(), self.cached.invalidate(), self.cached.invalidate(1, 2))
        self.out(self.cache.fetch("k", self.loader), self.cache.fetch("k", self.loader))
        self.out(self.cache.fetch("timed", self.loader, stale=True, timeout=None))
        self.out(self.cache.stats().hits, self.cache.clear())
        self.out(self.cache.namespace("a").get("absent"))
import builtins
builtins.last = Last()
"""


@pytest.mark.parametrize("before", ["", "import asyncio, inspect, logging"], ids=["bare", "full"])
def test_a_finalizer_at_the_exit_of_the_interpreter(before: str) -> None:
    said = ["no imports", "3 True False", "2 2", "2", "1 2", "None"]
    assert run(before + AT_EXIT).splitlines() == said


def test_what_cannot_be_logged_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, _ = new_cache()

    def complain(event: Event) -> None:
        raise ValueError("never mind")

    cache.subscribe(complain)
    monkeypatch.setitem(sys.modules, "logging", None)
    cache.set("k", 1)
    assert capsys.readouterr().err == (
        "flowcache: a listener for 'set' raised ValueError('never mind')\n"
    )


# Records

EVENT = Event("load", ("a",), "k", None, [1], None, 0.5, "flowcache")
STATS = Stats(*range(16))
RECORDS: list[Any] = [EVENT, STATS, Limits(share=2.0), Loaded([1], ttl=3)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_a_frozen_dataclass(record: Any) -> None:
    names = [field.name for field in dataclasses.fields(record)]
    assert record.__match_args__ == (() if isinstance(record, Limits) else tuple(names))
    assert hasattr(record, "__dict__") == isinstance(record, Loaded)
    assert dataclasses.replace(record) == record == copy.copy(record) == copy.deepcopy(record)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(record, protocol)) == record
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, names[0], 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(record, names[0])


def test_named_tuples_and_types_with_parameters() -> None:
    cache, _ = new_cache()
    info = cache.wrap(len).cache_info()
    assert info._asdict() == {"hits": 0, "misses": 0, "maxsize": None, "currsize": 0}
    assert type(info).__doc__ and type(info).__module__ == "flowcache.wrapping"
    assert pickle.loads(pickle.dumps(info)) == info
    assert Loaded[int](1) == Loaded(1)
