"""Write the table of figures between the README's markers, from the committed results.

    python bench/figures.py [--check]

`--check` changes nothing and fails if the README does not say what the results do.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import RESULTS

README = RESULTS.parent.parent / "README.md"
MARKED = re.compile(r"(<!-- figures: [^\n]*-->\n).*?(\n<!-- /figures -->)", re.DOTALL)


@dataclass(frozen=True)
class Ratio:
    """A row: one contender's median over another's, and what it is meant to be at most."""

    label: str
    case: str
    ours: str
    rival: str
    most: float | None = None


COMPARE = "test_compare.py::"
FETCH = "test_fetch.py::"
SIZES = (1_000, 100_000)


def rows_by_size(label: str, test: str, *rivals: tuple[str, float | None]) -> Iterator[Ratio]:
    for size in SIZES:
        for rival, most in rivals:
            yield Ratio(
                f"{label}, {size:,} keys", f"{COMPARE}{test}[{size}]", "flowcache", rival, most
            )


def rows() -> Iterator[Ratio]:
    yield from rows_by_size(
        "`get`, hit",
        "test_hit_random_keys",
        ("dict", None),
        ("cachebox LRU", 1.0),
        ("cachebox TTL", 0.8),
    )
    yield from rows_by_size("`get`, miss", "test_miss", ("cachebox LRU", 1.1))
    yield from rows_by_size(
        "`set` that overwrites",
        "test_overwrite",
        ("cachebox LRU", 0.85),
        ("cachebox VTTL", 0.5),
    )
    yield from rows_by_size(
        "`set` that evicts",
        "test_insert_that_evicts",
        ("cachebox LRU", 1.0),
        ("cachebox VTTL", 0.4),
    )
    for label, case, ours, rival, most in (
        (
            "`set` with two tags, 100,000 keys",
            f"{COMPARE}test_set_with_two_tags[100000]",
            "set with two tags",
            "set",
            2.5,
        ),
        (
            "`cache.namespace(...).get(...)`",
            f"{COMPARE}test_kept_view_and_view_of_each_request",
            "namespace(...).get",
            "get on a kept view",
            3.0,
        ),
        ("`fetch`, hit", f"{FETCH}test_fetch_hit_beside_get_hit", "fetch", "get", 1.3),
        (
            "`await afetch(...)`, hit",
            f"{FETCH}test_afetch_hit_beside_an_empty_coroutine",
            "afetch",
            "empty_coroutine",
            0.9,
        ),
        (
            "`@cached`, async, hit",
            f"{FETCH}test_cached_async_hit_beside_an_empty_coroutine",
            "cached",
            "empty_coroutine",
            1.5,
        ),
        (
            "`@cached`, hit",
            f"{FETCH}test_cached_sync_hit_beside_lru_cache",
            "cached",
            "lru_cache",
            1.5,
        ),
    ):
        yield Ratio(label, case, ours, rival, most)


NAMES = {
    "get": "our `get`",
    "set": "a `set` without",
    "get on a kept view": "`get` on a kept view",
    "empty_coroutine": "awaiting an empty `async def`",
    "lru_cache": "`functools.lru_cache`",
    "dict": "`dict.get`",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = README.read_text(encoding="utf-8")
    table = "\n".join(lines())
    told = MARKED.sub(lambda match: match[1] + "\n" + table + "\n" + match[2], page)
    if options.check:
        sys.exit("README.md: the figures are not those of bench/results" if told != page else 0)
    README.write_text(told, encoding="utf-8")
    print(table)


def lines() -> Iterator[str]:
    compared, memory = load("compare.json"), load("memory.json")
    with_, cases = compared["environment"], compared["cases"]
    yield (
        f"{with_['python']} on {with_['cpu']} ({with_['cores']} cores), commit {with_['commit']}; "
        f"cachebox {with_['rivals']['cachebox']}. Medians of interleaved rounds in one process, "
        "`str` keys, a namespace's view with a TTL, limits and counters on. "
        "`make bench` measures them all again."
    )
    yield ""
    yield "| case | flowcache | beside it | ratio | meant to be |"
    yield "|---|---|---|---|---|"
    for row in rows():
        figures = cases[row.case]["nanoseconds"]
        ours, rival = figures[row.ours], figures[row.rival]
        yield cells(
            row.label,
            f"{ours:.0f} ns",
            f"{NAMES.get(row.rival, row.rival)}: {rival:.0f} ns",
            f"{ours / rival:.2f}",
            row.most,
        )
    for what in ("invalidate_tag", "clear"):
        few, many = (
            cases[f"{COMPARE}test_removal_beside_others[{what}-{others}]"]["nanoseconds"][
                "an entry removed"
            ]
            for others in (10_000, 1_000_000)
        )
        yield cells(
            f"`{what}`, an entry removed, beside 1,000,000 others",
            f"{many:.0f} ns",
            f"beside 10,000 others: {few:.0f} ns",
            f"{many / few:.2f}",
            1.5,
        )
    yield from memory_lines(memory["caches"])


def memory_lines(caches: dict[str, Any]) -> Iterator[str]:
    ours, ttl = caches["flowcache"], caches["cachebox TTL"]
    rivals = "; ".join(
        f"{name}: {caches[name]['bytes']:.0f}"
        for name in ("cachebox TTL", "cachebox VTTL", "cachetools TTL", "moka-py", "theine")
    )
    yield (
        f"| memory of an entry, its key and value not counted | {ours['bytes']:.0f} bytes "
        f"| {rivals} | | 80 bytes |"
    )
    tag = (caches["flowcache, 3 tags"]["bytes"] - ours["bytes"]) / 3
    yield f"| memory of each tag of an entry | {tag:.0f} bytes | | | 28 bytes |"
    yield (
        f"| what 1,000,000 entries add to `gc.collect()` | {ours['pause_ms']:.0f} ms "
        f"| cachebox TTL: {ttl['pause_ms']:.0f} ms | | no more than that |"
    )


def cells(label: str, ours: str, rival: str, ratio: str, most: float | None) -> str:
    meant = "" if most is None else f"{most:g}"
    if most is not None and float(ratio) > most:
        ratio = f"**{ratio}**"
    return f"| {label} | {ours} | {rival} | {ratio} | {meant} |"


def load(name: str) -> Any:
    path = Path(RESULTS / name)
    if not path.exists():
        sys.exit(f"{path.name}: not there; `make bench` writes it")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
