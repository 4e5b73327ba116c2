"""The README's table of figures, made from the results.

    make bench ARGS="--only figures"

Each row is one claim: the case, the rival, the target, and the figure. A row without a result says
so.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MISSING = "not measured"


class Results:
    """The results in a folder; None for those that it does not hold."""

    def __init__(self, folder: Path) -> None:
        self.parts: dict[str, dict[str, Any]] = {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("*.json"))
        }

    def case(self, part: str, name: str) -> dict[str, Any] | None:
        """Return the record of one benchmark."""
        found = self.parts.get(part, {}).get("cases", {}).get(name)
        return found if found is None else dict(found)

    def ns(self, part: str, name: str, contender: str) -> float | None:
        """Return a contender's nanoseconds a call."""
        case = self.case(part, name) or {}
        taken: float | None = case.get("nanoseconds", {}).get(contender)
        return taken

    def memory(self, cache: str, what: str) -> float | None:
        """Return bytes an entry (``bytes``) or the extra time of a collection (``pause_ms``)."""
        figures = self.parts.get("memory", {}).get("caches", {}).get(cache, {})
        figure: float | None = figures.get(what)
        return figure

    def environments(self) -> list[dict[str, Any]]:
        """Return the environment of each part."""
        return [part["environment"] for part in self.parts.values() if "environment" in part]


def ratio_cell(ours: float | None, other: float | None, most: float) -> tuple[str, str]:
    """Return a ratio, marked if it misses its target, and the two times."""
    if ours is None or other is None:
        return MISSING, ""
    return marked(ours / other, most, "x"), f"{ours:,.0f} ns to {other:,.0f} ns"


def marked(value: float, most: float, unit: str) -> str:
    text = f"{value:.2f}x" if unit == "x" else f"{value:,.{1 if unit else 0}f} {unit}".rstrip()
    return text if value <= most else f"**{text}**"


def rows(results: Results) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield each claim: the case, the rival, the target, the figure, and the two times."""
    for size in (1_000, 100_000):
        for rival, most in (("cachebox LRU", 1.0), ("cachebox TTL", 0.8)):
            yield compared(results, "hit_random_keys", size, "`get`, hit", rival, "get", most)
    for size in (1_000, 100_000):
        yield compared(results, "miss", size, "`get`, miss", "cachebox LRU", "get", 1.1)
    for size in (1_000, 100_000):
        for rival, most in (("cachebox LRU", 0.85), ("cachebox VTTL", 0.5)):
            yield compared(results, "overwrite", size, "`set`, overwriting", rival, "insert", most)
    for size in (1_000, 100_000):
        for rival, most in (("cachebox LRU", 1.0), ("cachebox VTTL", 0.4)):
            what = "`set`, evicting"
            yield compared(results, "insert_that_evicts", size, what, rival, "insert", most)
    for size in (1_000, 100_000):
        case = f"test_tags_on_a_set[{size}]"
        ours, plain = (results.ns("ops", case, who) for who in ("set with two tags", "set"))
        figure, times = ratio_cell(ours, plain, 2.5)
        yield f"`set` with two tags, {size:,} entries", "a `set` without", "2.5x", figure, times
    for tenants in (1_000, 100_000):
        case = f"test_view_of_each_request[{tenants}]"
        owners = ("namespace(...).get", "get on a kept view")
        figure, times = ratio_cell(*(results.ns("ops", case, who) for who in owners), 3.0)
        what = f"`cache.namespace(name).get(key)`, {tenants:,} tenants"
        yield what, "`get` on a kept view", "3.0x", figure, times
    for call in ("invalidate_tag", "clear"):
        case = f"test_removal_beside_others[{call}]"
        many, few = (results.ns("ops", case, f"beside {n} others") for n in ("1,000,000", "10,000"))
        figure, times = ratio_cell(many, few, 1.5)
        what = f"`{call}`, an entry removed, beside 1,000,000 others"
        yield what, "beside 10,000", "1.5x", figure, times
    yield from memory_rows(results)
    imports = results.parts.get("startup", {}).get("milliseconds", {})
    basis, ours = (imports.get(name) for name in ("asyncio, dataclasses, typing", "flowcache"))
    beside = "importing `asyncio`, `dataclasses`, `typing`, and 10 ms"
    if basis is None or ours is None:
        yield "`import flowcache`", beside, MISSING, MISSING, ""
    else:
        most = basis + 10
        yield "`import flowcache`", beside, f"{most:.1f} ms", marked(ours, most, "ms"), ""
    yield from loading_rows(results)
    yield from integration_rows(results)
    yield from eviction_rows(results)
    yield from fleet_rows(results)


def compared(
    results: Results, case: str, size: int, what: str, rival: str, call: str, most: float
) -> tuple[str, str, str, str, str]:
    """Return the row of one case of test_compare.py."""
    name = f"test_{case}[{size}]"
    ours, other = (results.ns("compare", name, who) for who in ("flowcache", rival))
    figure, times = ratio_cell(ours, other, most)
    beside = f"cachebox `{rival.removeprefix('cachebox ')}Cache.{call}`"
    return f"{what}, {size:,} entries", beside, f"{most}x", figure, times


def memory_rows(results: Results) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the cost of entries in memory, and in the collector's time."""
    entries = results.parts.get("memory", {}).get("entries", 1_000_000)
    plain, tagged = (results.memory(f"flowcache{tags}", "bytes") for tags in ("", ", 2 tags"))
    figure = MISSING if plain is None else marked(plain, 80, "bytes")
    others = ", ".join(
        f"{name} {used:.0f}"
        for name in ("dict", "cachebox TTL", "cachebox VTTL", "cachetools TTL", "moka-py", "theine")
        if (used := results.memory(name, "bytes")) is not None
    )
    what = f"memory of an entry without key and value, of {entries:,}"
    yield what, others, "80 bytes", figure, ""
    figure = (
        MISSING if plain is None or tagged is None else marked((tagged - plain) / 2, 28, "bytes")
    )
    yield "memory of each tag of an entry", "", "28 bytes", figure, ""
    ours, other = (results.memory(name, "pause_ms") for name in ("flowcache", "cachebox TTL"))
    figure = MISSING if ours is None or other is None else marked(ours, max(other, 0), "ms")
    most = "" if other is None else f"{other:,.1f} ms"
    what = f"time that {entries:,} entries add to `gc.collect()`"
    yield what, "cachebox `TTLCache`", most, figure, ""


MISS = "`@cachebox.cached` that loads, in a full `TTLCache`"
LOADING = {
    "test_fetch_hit_beside_get_hit": ("`fetch`, hit", "our own `get`"),
    "test_refresh_ahead_hit_beside_fetch": (
        "`fetch(refresh_ahead=0.5)`, hit",
        "`fetch` without",
    ),
    "test_afetch_hit_beside_an_empty_coroutine": (
        "`await afetch(...)`, hit",
        "awaiting an empty `async def`",
    ),
    "test_cached_async_hit_beside_an_empty_coroutine": (
        "`@ns.cached()` of an async function, hit",
        "awaiting an empty `async def`",
    ),
    "test_cached_sync_hit_beside_lru_cache": (
        "`@ns.cached()` of a function of one argument, hit",
        "`functools.lru_cache`",
    ),
    "test_current_tenant_get_beside_a_kept_namespace": (
        "`get` of the current tenant, hit",
        "`get` of a kept namespace",
    ),
    "test_current_tenant_fetch_beside_a_kept_namespace": (
        "`fetch` of the current tenant, hit",
        "`get` of a kept namespace",
    ),
    "test_current_tenant_cached_hit_beside_a_kept_namespace": (
        "a cached function of the current tenant, hit",
        "of a kept namespace",
    ),
    "test_tenant_argument_hit_beside_a_kept_namespace": (
        '`@crm.cached(tenant="tenant_id")`, hit',
        "a cached function of a kept namespace",
    ),
    "test_cached_hit_with_a_keyword_beside_lru_cache": (
        "`@ns.cached()`, called with a keyword, hit",
        "`functools.lru_cache`",
    ),
    "test_get_many_beside_a_loop_of_get[1000-0.65]": (
        "`get_many` of 100, a key",
        "`{key: ns.get(key) for key in keys}`",
    ),
    "test_get_many_beside_a_loop_of_get[100000-0.5]": (
        "`get_many` of 100, a key, 100,000 entries",
        "`{key: ns.get(key) for key in keys}`",
    ),
    "test_fetch_many_of_fresh_keys_beside_get_many": (
        "`fetch_many` of 100, all fresh, a key",
        "`get_many`",
    ),
    "test_afetch_many_of_fresh_keys_beside_get_many": (
        "`await afetch_many(...)` of 100, all fresh, a key",
        "`get_many`",
    ),
    "test_set_many_beside_a_loop_of_set[1000]": ("`set_many` of 100, a key", "a loop of `set`"),
    "test_set_many_beside_a_loop_of_set[100000]": (
        "`set_many` of 100, a key, 100,000 entries",
        "a loop of `set`",
    ),
    "test_sync_miss_beside_others[fetch]": ("`fetch` that loads", MISS),
    "test_sync_miss_beside_others[cached]": ("`@ns.cached()` that loads", MISS),
    "test_async_miss_beside_async_lru": (
        "`await afetch(...)` that loads",
        "`alru_cache(ttl=)` that loads",
    ),
}


def loading_rows(results: Results) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the claims of test_fetch.py, which records the target beside the ratio."""
    for name, (what, beside) in LOADING.items():
        case = results.case("fetch", name)
        claim = what if "entries" in what else f"{what}, 1,000 entries"
        if case is None or "ratio" not in case:
            yield claim, beside, "", MISSING, ""
            continue
        times = case.get("nanoseconds", {})
        other = times.get(case["of"])
        ours = case["ratio"] * other
        yield (
            claim,
            beside,
            f"{case['most']}x",
            marked(case["ratio"], case["most"], "x"),
            f"{ours:,.0f} ns to {other:,.0f} ns",
        )


INTEGRATIONS = (
    ("django_get", "flowcache, SERIALIZER None", "LocMemCache", 0.5),
    ("django_get", "flowcache", "LocMemCache", 0.65),
    ("dogpile_get", "flowcache", "dogpile.cache.memory", 1.0),
    ("dogpile_get_or_create", "flowcache", "dogpile.cache.memory", 1.0),
    ("cached_function", "of the current tenant", "of a fixed namespace", 2.0),
)
CALLS = {
    "django_get": "Django's `cache.get`",
    "dogpile_get": "`get` of a region of dogpile",
    "dogpile_get_or_create": "`get_or_create` of a region of dogpile",
    "cached_function": "a cached function",
}


def integration_rows(results: Results) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the claims of test_integrations.py: hits, with keys that are new strings."""
    for case, ours, other, most in INTEGRATIONS:
        times = [results.ns("integrations", f"test_{case}", who) for who in (ours, other)]
        figure, taken = ratio_cell(*times, most)
        yield f"{CALLS[case]}, hit, {ours}", other, f"{most}x", figure, taken


EVICTION = (
    ("hit", "`get`, hit", {1_000: 1.02, 100_000: 1.0, 1_000_000: 0.97}),
    ("miss", "`get`, miss", {1_000: 1.02}),
    ("fetch_hit", "`fetch`, hit", {1_000: 1.02}),
    ("delete_and_set", "`delete` and `set`", {1_000: 1.02}),
    ("overwrite", "`set`, overwriting", {1_000: 1.0, 100_000: 1.0, 1_000_000: 1.0}),
    ("insert_that_evicts", "`set`, evicting", {1_000: 1.6, 100_000: 1.3, 1_000_000: 1.3}),
)


def eviction_rows(results: Results) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the claims of test_eviction.py, and the memory of its sketch."""
    for case, what, targets in EVICTION:
        for size, most in targets.items():
            name = f"test_{case}[{size}]"
            times = [results.ns("eviction", name, mode) for mode in ("tinylfu", "lru")]
            figure, taken = ratio_cell(*times, most)
            claim = f'`eviction="tinylfu"`: {what}, {size:,} entries'
            yield claim, '`"lru"`', f"{most}x", figure, taken
    plain, more = (results.memory(f"flowcache{mode}", "bytes") for mode in ("", ", tinylfu"))
    figure = MISSING if plain is None or more is None else marked(more - plain, 9, "bytes")
    yield '`eviction="tinylfu"`: memory of an entry', '`"lru"`', "9 bytes more", figure, ""


def fleet_rows(results: Results) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the claims of fleet.py: a second tier on the loopback."""
    fleet = results.parts.get("fleet", {})
    measured = fleet.get("seconds", {}) | fleet.get("ratios", {})
    for name, most in fleet.get("targets", {}).items():
        what, _, beside = name.partition(" / ")
        if name not in measured:
            yield f"second tier: {what}", beside, "", MISSING, ""
            continue
        unit, scale = unit_of(name)
        figure = marked(measured[name] * scale, most * scale, unit)
        target = f"{most}x" if unit == "x" else f"{most * scale:,.0f} {unit}".rstrip()
        yield f"second tier: {what}", beside, target, figure, ""


def unit_of(name: str) -> tuple[str, float]:
    """Return the unit of a figure of fleet.py, and what its number is to be multiplied by."""
    if " / " in name:
        return "x", 1.0
    if name.startswith(("round trips", "messages")):
        return "", 1.0
    return ("kB", 1e-3) if name.endswith("bytes") else ("ms", 1e3)


def table(results: Results) -> str:
    """Return the table in Markdown, with the environments above it."""
    lines = [
        "| case | beside | target: at most | figure | |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(results)),
    ]
    return "\n".join([measured_with(results), "", *lines])


def measured_with(results: Results) -> str:
    environments = results.environments()
    if not environments:
        return "Nothing has been measured yet."
    one = environments[-1]
    commits = ", ".join(sorted({f"`{each['commit']}`" for each in environments}))
    versions = ", ".join(f"{name} {number}" for name, number in one["rivals"].items() if number)
    paragraph = (
        f"{one['python']}, {one['cpu']}, {one['cores']} cores, {one['system']}; commit {commits}, "
        f"{one['date']}; {versions}. Medians of rounds that are interleaved in one process, plain "
        "calls in a loop, with `str` keys equal to those stored but not the same objects. "
        "flowcache is a namespace's view with `default_ttl=3600`, limits and counters on. "
        "**Bold**: misses its target."
    )
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)


def write_readme(folder: Path, readme: Path, *, write: bool) -> str:
    """Return the table; with ``write``, put it between the README's two markers as well."""
    made = table(Results(folder))
    if write:
        text = readme.read_text(encoding="utf-8")
        changed, times = re.subn(
            r"(<!-- figures:[^>]*-->\n)(.*?)(<!-- /figures -->)",
            lambda found: f"{found[1]}\n{made}\n\n{found[3]}",
            text,
            flags=re.DOTALL,
        )
        if times != 1:
            raise SystemExit(f"{readme}: found {times} places for the figures, not 1")
        readme.write_text(changed, encoding="utf-8")
    return made
