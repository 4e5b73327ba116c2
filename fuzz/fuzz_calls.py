"""Sequences of calls, chosen by atheris, on the core and on the model side by side.

    make fuzz ARGS="-max_total_time=1800"

An input is a program: its bytes choose the limits of a cache and one call after the other. A run
ends at a result that differs from the model's, at a wrong count in `_check()`, or at a crash. It
leaves the input in a file; a run that names the file repeats it. atheris reads the coverage of the
model and of the Python face. It keeps and varies an input that makes the model evict, expire or
fence in a new way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

with atheris.instrument_imports(
    include=["flowcache", "harness.model", "harness.model_nodes", "harness.ordering"]
):
    from flowcache import Limits
    from harness import model  # noqa: F401 - instrumented here, used by test_model

from harness.support import Colliding
from harness.test_model import SideBySide

PATHS: list[tuple[str, ...]] = [(), ("a",), ("a", "b"), ("a:b",), ("b",), ("b", "a", "c")]
KEYS: list[Any] = ["", "x", "xy", "y", "b:x", b"x", 1, True, 1.0, None, ("x",)]
KEYS += [Colliding("p"), Colliding("q"), Colliding("r")]
VALUES = [None, 0, 1, 2, False, "", "text"]
TAGS: list[Any] = [(), "t", "u", "t:u", ("t", "u"), ["u", "t:u", "u"], ("t", "u", "t:u")]
TTLS = [0, 0.5, 1, 2, 4, 10, None]
WINDOWS = [None, 0, 1, 3, True]
SLIDING = [None, 0.5, 1.5, 3]
BOUNDS = [None, 1, 2, 3, 5, 8]
NAMES = [
    "set",
    "set",
    "set",
    "add",
    "get",
    "get",
    "peek",
    "ttl",
    "__contains__",
    "delete",
    "pop",
    "popitem",
    "touch",
    "incr",
    "set_many",
    "get_many",
    "delete_many",
    "clear",
    "invalidate_tag",
    "invalidate_tags",
    "invalidate_prefix",
    "expire",
    "expire_tag",
    "tags",
    "setdefault",
    "configure",
]
CALLS = 60

Draw = Callable[[list[Any]], Any]


def options(draw: Draw) -> dict[str, Any]:
    """Draw the options of a store."""
    given = {}
    for name, values in (
        ("ttl", TTLS),
        ("tags", TAGS),
        ("stale", WINDOWS),
        ("sliding", SLIDING),
    ):
        if draw([False, True]):
            given[name] = draw(values)
    return given


def call(draw: Draw) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Draw one call."""
    name = draw(NAMES)
    if name in ("set", "add"):
        return name, (draw(KEYS), draw(VALUES)), options(draw)
    if name == "setdefault":
        return name, (draw(KEYS), draw(VALUES)), {}
    if name == "set_many":
        return name, ({draw(KEYS): draw(VALUES) for _ in range(3)},), options(draw)
    if name in ("get_many", "delete_many"):
        return name, ([draw(KEYS) for _ in range(3)],), {}
    if name == "touch":
        return name, (draw(KEYS),), {"ttl": draw(TTLS)}
    if name == "incr":
        return name, (draw(KEYS),), {"delta": draw([1, -1, 5])}
    if name in ("popitem", "clear", "tags"):
        return name, (), {}
    if name in ("invalidate_tag", "expire_tag"):
        return name, (draw(["t", "u", "t:u"]),), {}
    if name == "invalidate_tags":
        return name, (draw(TAGS),), {"match": draw(["any", "all"])}
    if name == "invalidate_prefix":
        return name, (draw(["", "x", "xy", "b:", "z"]),), {}
    if name == "configure":
        settings = {
            "max_entries": draw(BOUNDS),
            "reserved": draw([0, 0, 1, 2]),
            "share": draw([0.5, 1.0, 3.0]),
            "eviction": draw(["lru", "tinylfu"]),
        }
        chosen = draw(list(settings))
        return name, (), {chosen: settings[chosen]}
    return name, (draw(KEYS),), {}


def run(data: bytes) -> None:
    """Run one program."""
    source = atheris.FuzzedDataProvider(data)

    def draw(choices: list[Any]) -> Any:
        return choices[source.ConsumeIntInRange(0, len(choices) - 1)]

    pair = SideBySide.__new__(SideBySide)  # no steps of a Hypothesis machine here
    children = draw([None, None, Limits(max_entries=3), Limits(max_entries=4, share=2.0)])
    pair.start(
        max_entries=draw(BOUNDS),
        default_ttl=draw([None, 3]),
        child_limits=children,
        eviction=draw(["lru", "tinylfu"]),
    )
    pair.core.subscribe(pair.note_eviction, "remove")
    for _ in range(CALLS):
        if not source.remaining_bytes():
            break
        if draw([False, False, False, False, True]):
            pair.clock.advance(draw([0.5, 1, 2]))
            continue
        path = draw(PATHS)
        name, arguments, named = call(draw)
        pair.both(path, name, *arguments, **named)
        pair.core._check()
    expected = [one for one in pair.model.removed if one[2] in ("evicted", "over_limit")]
    assert pair.evicted == expected
    pair.compare_counters(settled=False)
    pair.compare_contents()
    pair.settle()


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-max_len=512", "-len_control=0", *sys.argv[1:]], run)
    atheris.Fuzz()
