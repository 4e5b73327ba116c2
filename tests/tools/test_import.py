"""The modules that `import flowcache` leaves out, and features that import them late."""

from __future__ import annotations

import copy
import dataclasses
import inspect
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

SLOW = (
    "asyncio",
    "concurrent",
    "dataclasses",
    "datetime",
    "inspect",
    "logging",
    "re",
    "traceback",
    "typing",
)
"""Modules of the standard library whose import takes longer than flowcache's own. A program that
does not need them must not wait for them, and `import flowcache` must not take 25 ms."""


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


def imported_by(program: str) -> list[str]:
    said = run(f"{program}\nprint(*sorted(sys.modules))", "-I", "-S").split()
    return [name for name in SLOW if name in said]


def test_the_import_leaves_out_what_is_slow_to_import() -> None:
    assert imported_by("") == [], "the interpreter itself imports one of them by now"
    assert imported_by("import flowcache") == []


def test_calls_of_threads_do_not_import_it_either() -> None:
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
    assert imported_by(program) == []


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


# The classes that are frozen dataclasses, though `dataclasses` did not make them.

EVENT = Event("load", ("a",), "k", None, [1], None, 0.5, "flowcache")
STATS = Stats(*range(15))
RECORDS: list[Any] = [EVENT, STATS, Limits(share=2.0), Loaded([1], ttl=3)]


def standard(record: Any) -> Any:
    """Return the like of it that the standard library makes."""
    made = type(record)
    fields = dataclasses.fields(made)
    body = {name: getattr(made, name) for name in ("__module__", "__qualname__")}
    body["__annotations__"] = {field.name: field.type for field in fields}
    body |= {
        field.name: field.default for field in fields if field.default is not dataclasses.MISSING
    }
    kind: Any = type(made.__name__, (), body)
    kind = dataclasses.dataclass(frozen=True, slots=True, kw_only=fields[0].kw_only)(kind)
    return kind(**{field.name: getattr(record, field.name) for field in fields})


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
class TestRecords:
    def test_it_is_as_the_standard_one(self, record: Any) -> None:
        like = standard(record)
        assert dataclasses.is_dataclass(record)
        assert dataclasses.asdict(record) == dataclasses.asdict(like)
        assert dataclasses.astuple(record) == dataclasses.astuple(like)
        assert type(record).__match_args__ == type(like).__match_args__
        assert type(record).__slots__ == type(like).__slots__
        assert not hasattr(record, "__dict__")
        assert inspect.signature(type(record)) == inspect.signature(type(like))
        assert type(record).__doc__ and type(record).__init__.__qualname__.endswith(".__init__")
        if not isinstance(record, Limits):  # It shows what was given.
            assert repr(record) == repr(like)

    def test_it_is_equal_by_its_fields(self, record: Any) -> None:
        fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        same = type(record)(**fields)
        assert record == same
        assert record != standard(record)
        assert record.__eq__(standard(record)) is NotImplemented
        last = list(fields)[-2 if isinstance(record, Limits) else -1]
        other = dataclasses.replace(record, **{last: 7 if last != "store" else False})
        assert other != record
        assert type(record).__replace__(record, **{last: getattr(other, last)}) == other
        if type(record) in (Stats, Limits):
            assert hash(record) == hash(same) == hash(standard(record))
        else:
            with pytest.raises(TypeError, match="unhashable"):
                hash(record)

    def test_it_is_frozen(self, record: Any) -> None:
        name = dataclasses.fields(record)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError, match="assign to field 'other'"):
            record.other = 1
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"assign to field '{name}'"):
            setattr(record, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"delete field '{name}'"):
            delattr(record, name)

    def test_it_is_copied_and_pickled(self, record: Any) -> None:
        assert copy.copy(record) == copy.deepcopy(record) == record
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(record, protocol)) == record

    def test_a_subclass_has_attributes_of_its_own(self, record: Any) -> None:
        kind = type("Sub", (type(record),), {})
        sub = kind(
            **{field.name: getattr(record, field.name) for field in dataclasses.fields(kind)}
        )
        sub.own = 1
        del sub.own
        assert not hasattr(sub, "own")
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sub, dataclasses.fields(kind)[0].name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(sub, dataclasses.fields(kind)[0].name)


def test_a_subclass_of_a_record_can_be_a_dataclass() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(Stats):
        more: str = "more"

    assert dataclasses.asdict(Mine(*range(15))) == {**dataclasses.asdict(STATS), "more": "more"}
    with pytest.raises(TypeError, match="frozen"):

        @dataclasses.dataclass
        class Thawed(Stats):
            pass


def test_a_record_that_holds_itself_is_shown() -> None:
    value: list[Any] = []
    value.append(Loaded(value))
    assert repr(value[0]).startswith("Loaded(value=[...], ttl=")


def test_named_tuples_and_types_with_parameters() -> None:
    cache, _ = new_cache()
    info = cache.wrap(len).cache_info()
    assert info._asdict() == {"hits": 0, "misses": 0, "maxsize": None, "currsize": 0}
    assert type(info).__doc__ and type(info).__module__ == "flowcache.wrapping"
    assert pickle.loads(pickle.dumps(info)) == info
    assert Loaded[int](1) == Loaded(1)
