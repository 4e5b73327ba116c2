"""The calls of Django's cache backend that load, await, match patterns or lock."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from django.core.cache import cache, caches
from django.core.cache.backends.base import BaseCache

from contrib.django_project import CURRENT, caches_of, drive
from flowcache.contrib.django import FlowCache, LockError, root
from flowcache.contrib.django.patterns import escape, prefix_of, regex_of
from flowcache.tenancy import tenant

pytestmark = pytest.mark.usefixtures("stores_begin_empty")


class TestLoading:
    def test_a_callable_runs_once_for_all_threads(self) -> None:
        ran: list[int] = []
        inside, go = threading.Event(), threading.Event()

        def load() -> list[int]:
            ran.append(1)
            inside.set()
            assert go.wait(30)
            return ran

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(cache.get_or_set, "k", load) for _ in range(4)]
            assert inside.wait(30)
            go.set()
            answers = [one.result() for one in asking]
        assert answers == [[1]] * 4
        assert len({id(answer) for answer in answers}) == 4, "each has a copy of its own"

    @pytest.mark.parametrize(
        "invalidate",
        [
            lambda: cache.delete("key"),
            lambda: cache.set("key", "set meanwhile") or cache.delete("key"),
            lambda: cache.clear(),  # noqa: PLW0108 - of the backend at the time of the call
            lambda: cache.delete_pattern("ke*"),
            lambda: cache.delete_pattern("k?y"),
            lambda: cache.delete_pattern("*"),
            lambda: cache.invalidate_tag("t"),
        ],
    )
    def test_what_is_invalidated_while_it_loads_is_not_stored(
        self, invalidate: Callable[[], Any]
    ) -> None:
        def load() -> str:
            invalidate()
            return "old"

        assert cache.get_or_set("key", load, tags="t") == "old"
        assert cache.get("key") is None

        async def aload() -> str:
            await asyncio.sleep(0)
            invalidate()
            return "old"

        assert asyncio.run(cache.aget_or_set("key", aload, tags="t")) == "old"
        assert cache.get("key") is None
        assert caches["default"]._loading.keys_of(root().namespace("shared", "[]")) == []

    def test_what_a_callable_raises_is_raised_and_not_stored(self) -> None:
        def load() -> str:
            raise ConnectionError("no database")

        with pytest.raises(ConnectionError):
            cache.get_or_set("k", load)
        assert cache.get_or_set("k", lambda: "later") == "later"

    def test_a_timeout_of_zero_stores_nothing(self) -> None:
        assert cache.get_or_set("k", lambda: "value", 0) == "value"
        assert cache.get_or_set("l", "value", 0) == "value"
        assert cache.get_many("kl") == {}


class TestAsync:
    def test_no_call_waits_or_goes_to_another_thread(self) -> None:
        drive(cache.aset("a", 1, tags="t"))
        assert drive(cache.aget("a")) == 1
        assert drive(cache.aadd("a", 2)) is False
        assert drive(cache.atouch("a", 50)) is True
        assert drive(cache.ahas_key("a")) is True
        assert drive(cache.aincr("a")) == 2
        assert drive(cache.adecr("a")) == 1
        assert drive(cache.aset_many({"b": [2]}, 50, tags="t")) == []
        assert drive(cache.aget_many("abc")) == {"a": 1, "b": [2]}
        assert drive(cache.aget_or_set("c", 3)) == 3
        assert drive(cache.aadd("d", 4)) is True
        assert drive(cache.aincr_version("d")) == 2
        assert drive(cache.adecr_version("d", version=2)) == 1
        assert drive(cache.ainvalidate_tag("t")) == 2
        assert drive(cache.adelete("c")) is True
        assert drive(cache.adelete_pattern("d*")) == 1
        drive(cache.adelete_many(["e"]))
        drive(cache.aset("e", 5))
        drive(cache.aclear())
        assert drive(cache.aget("e")) is None
        drive(cache.aclose())

    def test_each_async_call_of_django_is_covered(self) -> None:
        theirs = {name for name, _ in inspect.getmembers(BaseCache, inspect.iscoroutinefunction)}
        assert theirs - set(vars(FlowCache)) == set()

    def test_signatures_are_djangos_and_more(self) -> None:
        for name, function in inspect.getmembers(BaseCache, inspect.isfunction):
            if name.startswith("_") or name not in vars(FlowCache):
                continue
            theirs = list(inspect.signature(function).parameters)
            ours = inspect.signature(getattr(FlowCache, name)).parameters
            positional = [one for one in ours if ours[one].kind is not ours[one].KEYWORD_ONLY]
            assert positional == theirs or name == "aclose", name


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "matching", "others"),
        [
            ("a*", ["a", "ab", "a\nb"], ["b", "ba"]),
            ("*", ["", "a"], []),
            ("a?c", ["abc", "a*c"], ["ac", "abbc"]),
            ("h[ae]llo", ["hallo", "hello"], ["hillo", "h[ae]llo"]),
            ("h[^e]llo", ["hallo"], ["hello"]),
            ("h[a-c]llo", ["hbllo"], ["hdllo"]),
            ("h[c-a]llo", ["hbllo"], ["hdllo"]),
            ("h[a-]llo", ["ha", "h_", "hl"], ["h-llo", "hallo", "hb"]),
            (r"h[\]]llo", ["h]llo"], ["h\\llo"]),
            ("h[!a]llo", ["h!llo", "hallo"], ["hbllo"]),
            (r"a\*", ["a*"], ["ab", "a\\*"]),
            (r"a\?b", ["a?b"], ["acb"]),
            ("a.b+", ["a.b+"], ["axb+", "a.bb"]),
            ("x[]y", [], ["xy", "x]y"]),
            ("x[^]y", ["xay"], ["xy"]),
            ("a[bc", ["ab", "ac"], ["a[bc"]),
            ("a\\", ["a\\"], ["a"]),
            ("*b*d*f", ["abcdef", "bdf"], ["abcde", "fdb"]),
            ("a**c", ["ac", "abc"], ["ab"]),
        ],
    )
    def test_a_pattern_matches_as_in_redis(
        self, pattern: str, matching: list[str], others: list[str]
    ) -> None:
        fullmatch = regex_of(pattern).fullmatch
        assert [text for text in [*matching, *others] if fullmatch(text)] == matching

    def test_a_prefix_is_told_from_other_patterns(self) -> None:
        assert prefix_of("abc*") == "abc"
        assert prefix_of(r"a\*b*") == "a*b"
        assert prefix_of("a]b*") == "a]b"
        for other in ("abc", "a?c*", "a*c*", "[a]*", r"abc\*", "*a"):
            assert prefix_of(other) is None
        assert prefix_of("*") == ""
        assert prefix_of(escape("a*?[^]\\b") + "*") == "a*?[^]\\b"

    def test_many_stars_take_no_time_that_grows_with_their_number(self) -> None:
        assert not regex_of("*a" * 30 + "*b").fullmatch("a" * 5_000)

    def test_delete_pattern_keeps_to_prefix_and_version(self) -> None:
        with caches_of(default={"KEY_PREFIX": "p*"}, other={"KEY_PREFIX": "pq"}):
            for alias in ("default", "other"):
                for version in (1, 2):
                    caches[alias].set_many({"user:1": 1, "user:2": 2, "item:1": 3}, version=version)
            assert cache.delete_pattern("user:*") == 2
            assert cache.delete_pattern("?tem:[0-9]", version=2) == 1
            names = ["user:1", "user:2", "item:1"]
            assert cache.get_many(names) == {"item:1": 3}
            assert cache.get_many(names, version=2) == {"user:1": 1, "user:2": 2}
            assert len(caches["other"].get_many(names)) == 3
            assert cache.delete_pattern("*") == 1
            assert cache.delete_pattern("nothing*", itersize=1_000) == 0
            with pytest.raises(TypeError, match=r"^pattern: "):
                cache.delete_pattern(7)


class TestLocks:
    def test_one_thread_at_a_time(self) -> None:
        inside: list[int] = []

        def work(number: int) -> None:
            with cache.lock("k", timeout=60, sleep=0.1):
                inside.append(number)
                assert len(inside) == 1
                inside.remove(number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(400)))

    def test_a_lock_belongs_to_its_tenant_and_its_key(self) -> None:
        with caches_of(default=CURRENT), ExitStack() as held:
            for name in ("acme", "beta"):
                with tenant(name):
                    held.enter_context(cache.lock("k", blocking=False))
                    held.enter_context(cache.lock("l", blocking=False))
            with tenant("acme"):
                assert cache.lock("k").locked()
                assert not cache.lock("k").owned()
                assert not cache.lock("k", version=2).locked()

    def test_calls_of_a_lock(self) -> None:
        lock, other = cache.lock("k", timeout=60), cache.lock("k", blocking=False)
        assert not lock.locked()
        assert lock.acquire() is True
        assert lock.locked() and lock.owned()
        assert other.locked() and not other.owned()
        assert other.acquire() is False
        assert cache.lock("k", blocking_timeout=0.01).acquire() is False
        assert cache.lock("k").acquire(blocking_timeout=0) is False
        assert cache.lock("k").acquire(blocking=False) is False
        assert lock.extend(10) is True
        assert lock.reacquire() is True
        with pytest.raises(LockError, match="not acquired"):
            other.release()
        with (
            pytest.raises(LockError, match="blocking_timeout"),
            cache.lock("k", blocking_timeout=0),
        ):
            pytest.fail("two held it")
        lock.release()
        assert not lock.locked()
        with pytest.raises(LockError, match="not acquired"):
            lock.release()
        with cache.lock("k") as forever:
            for call in (forever.reacquire, lambda: forever.extend(1)):
                with pytest.raises(LockError, match="without a timeout"):
                    call()

    def test_a_lock_whose_time_is_over_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1_000.0]
        monkeypatch.setattr("flowcache.contrib.django.locks.time.monotonic", lambda: now[0])
        first, second = cache.lock("k", timeout=5), cache.lock("k", timeout=5, blocking=False)
        assert first.acquire()
        now[0] += 4
        assert first.extend(3)
        now[0] += 3
        assert not second.acquire()
        assert first.extend(2, replace_ttl=True)
        now[0] += 2
        assert not first.owned()
        assert second.acquire()
        for call in (first.release, lambda: first.extend(1)):
            with pytest.raises(LockError, match="its timeout is over"):
                call()
        assert second.owned()

    def test_locks_that_end_by_themselves_are_dropped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1_000.0]
        monkeypatch.setattr("flowcache.contrib.django.locks.time.monotonic", lambda: now[0])
        for number in range(5_000):
            assert cache.lock(str(number), timeout=10).acquire()
            now[0] += 1
        assert len(caches["default"]._held_locks.holders) < 100

    def test_a_lock_that_is_not_of_one_thread(self) -> None:
        mine, anyones = cache.lock("k"), cache.lock("l", thread_local=False)
        assert mine.acquire() and anyones.acquire()
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(LockError):
                pool.submit(mine.release).result()
            pool.submit(anyones.release).result()
        assert mine.locked() and not anyones.locked()
        mine.release()

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"timeout": 0}, ValueError),
            ({"timeout": -1}, ValueError),
            ({"timeout": float("nan")}, ValueError),
            ({"timeout": "5"}, TypeError),
            ({"blocking_timeout": -1}, ValueError),
            ({"blocking_timeout": True}, TypeError),
        ],
    )
    def test_an_unsound_argument_is_named(
        self, arguments: dict[str, Any], error: type[Exception]
    ) -> None:
        (name,) = arguments
        with pytest.raises(error, match=f"^{name}: "):
            cache.lock("k", **arguments)
