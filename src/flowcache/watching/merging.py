"""One snapshot of several processes: sums, with each process listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .snapshot import LOADS, TAGS, TOP, Ask, nothing, rest_of

__all__ = ["Answer", "merge", "merged"]

Answer = dict[str, Any]
"""A snapshot, or ``{"state": "gone", "pid": ..., "why": ...}`` of a process that did not answer."""


def merged(ask: Ask, answers_of: Callable[[Ask], list[Answer]]) -> Answer:
    """Ask every process, and merge.

    The leading tenants of one need not be those of another, so all are asked for the same ones.
    """
    answers = answers_of(ask)
    names = {
        row["name"] for answer in alive(answers) for row in answer["tenants"]["rows"]
    }  # fmt: skip
    if len(alive(answers)) > 1 and any(
        len(names) > len(answer["tenants"]["rows"]) for answer in alive(answers)
    ):
        again = replace(ask, names=tuple(sorted(names)[:500]), search="", top=0, record=False)
        found = {answer["pid"]: answer for answer in answers_of(again)}
        for answer in alive(answers):
            other = found.get(answer["pid"])
            if other is not None and other["state"] != "gone":
                for part in ("stats", "tenants", "at"):
                    matches = answer["tenants"]["matches"]
                    answer[part] = other[part]
                    answer["tenants"]["matches"] = matches
    return merge(ask, answers)


def alive(answers: list[Answer]) -> list[Answer]:
    """Return those that are snapshots."""
    return [answer for answer in answers if answer["state"] != "gone"]


def merge(ask: Ask, answers: list[Answer]) -> Answer:
    """Merge the answers of processes into one snapshot."""
    workers: list[dict[str, Any]] = [
        {name: answer.get(name) for name in ("pid", "state", "uptime", "why", "cache")}
        | ({"stats": answer["stats"]} if answer["state"] != "gone" else {})
        for answer in answers
    ]
    workers.sort(key=lambda one: int(one["pid"]))
    living = alive(answers)
    if not living:
        whole: Answer = {"state": "gone", "cache": "", "path": list(ask.path), "by": ask.by}
        return whole | nothing() | {"uptime": 0, "at": 0, "revealed": False, "workers": workers}
    states = {answer["state"] for answer in living}
    first = living[0]
    told = dict(first)
    told["state"] = next(one for one in ("live", "absent", "closed") if one in states)
    told["workers"] = workers
    told["at"] = max(answer["at"] for answer in living)
    if len(living) == 1:
        return told
    told["stats"] = summed([answer["stats"] for answer in living])
    told["limits"] = {
        name: total_of([answer["limits"][name] for answer in living]) for name in first["limits"]
    }
    told["tenants"] = merged_tenants(ask, living, told["stats"])
    loads = [load | {"pid": answer["pid"]} for answer in living for load in answer["loads"]]
    loads.sort(key=lambda load: -load["age"])
    told["loads"] = loads[:LOADS]
    told["failures"] = counted([answer["failures"] for answer in living])
    tags = counted([{one["tag"]: one["entries"] for one in answer["tags"]} for answer in living])
    told["tags"] = [{"tag": tag, "entries": count} for tag, count in list(tags.items())[:TAGS]]
    told["functions"] = merged_functions(living)
    told["tier"] = merged_tier([answer["tier"] for answer in living if answer["tier"]])
    told["hot"] = merged_hot([answer["hot"] for answer in living if answer["hot"] is not None])
    return told


def total_of(values: list[Any]) -> Any:
    """Return the sum of bounds; without a bound on one there is none on all."""
    return None if any(value is None for value in values) else sum(values)


def counted(counts: list[dict[str, int]]) -> dict[str, int]:
    """Return the sums of counts, the most first."""
    told: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            told[name] = told.get(name, 0) + count
    return dict(sorted(told.items(), key=lambda one: (-one[1], one[0])))


def summed(several: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of figures, with the hit rate of all."""
    told = {name: sum(one.get(name, 0) for one in several) for name in several[0]}
    if "hit_rate" in told:
        asked = told["hits"] + told["stale_hits"] + told["misses"]
        told["hit_rate"] = (told["hits"] + told["stale_hits"]) / asked if asked else 0.0
    return told


def merged_tier(several: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counters of the second tier added up, with every state that it has."""
    if not several:
        return {}
    figures = [{name: value for name, value in one.items() if name != "state"} for one in several]
    return {"state": ", ".join(sorted({one["state"] for one in several})), **summed(figures)}


def merged_tenants(ask: Ask, living: list[Answer], stats: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of several processes, added up by name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for answer in living:
        for row in answer["tenants"]["rows"]:
            rows.setdefault(row["name"], []).append(row)
    together: list[dict[str, Any]] = []
    for name, several in rows.items():
        figures = [
            {key: value for key, value in row.items() if key not in ("name", "fair")}
            for row in several
        ]
        fair = [row["fair"] for row in several if row["fair"] is not None]
        together.append({"name": name, "fair": sum(fair) if fair else None, **summed(figures)})
    together.sort(key=lambda row: (-row[ask.by], row["name"]))
    together = together[: max(ask.top or TOP, len(ask.names))]
    counts = [answer["tenants"] for answer in living]
    matches = [one["matches"] for one in counts if one["matches"] is not None]
    count = max(one["count"] for one in counts)
    return {
        # The processes know mostly the same tenants; how many there are together is not known.
        "count": max(count, len(together)),
        "matches": max(matches) if matches else None,
        "own": sum(one["own"] for one in counts),
        "rows": together,
        "rest": rest_of(stats, together),
        "others": max(0, count - len(together)),
    }


def merged_functions(living: list[Answer]) -> list[dict[str, Any]]:
    """Return the functions of several processes, added up by name."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for answer in living:
        for one in answer["functions"]:
            rows.setdefault(one["function"], []).append(one)
    told: list[dict[str, Any]] = []
    for name, several in rows.items():
        fields = [{key: one[key] for key in ("calls", "misses", "entries")} for one in several]
        told.append({"function": name, **summed(fields)})
    return sorted(told, key=lambda one: (-one["calls"], one["function"]))


def merged_hot(several: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the recordings of several processes as one: its keys by their look-ups a second."""
    if not several:
        return None
    sampling = [one for one in several if one["state"] == "sampling"]
    if sampling:
        return {
            "state": "sampling",
            "left": max(one["left"] for one in sampling),
            "seen": sum(one["seen"] for one in several),
        }
    seen = sum(one["seen"] for one in several)
    keys: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in several:
        for row in one["keys"]:
            place = (*row["path"], row["key"])
            known = keys.setdefault(place, dict(row, rate=0.0))
            known["rate"] += row["rate"]
    rate = sum(one["seen"] / one["seconds"] for one in several)
    for row in keys.values():
        row["part"] = row["rate"] / rate if rate else 0.0
    families: dict[str, float] = {}
    for one in several:
        for row in one["families"]:
            weight = one["seen"] / seen if seen else 0.0
            families[row["family"]] = families.get(row["family"], 0.0) + row["part"] * weight
    return {
        "state": "done",
        "seen": seen,
        "kept": sum(one["kept"] for one in several),
        "seconds": several[0]["seconds"],
        "age": min(one["age"] for one in several),
        "keys": sorted(keys.values(), key=lambda row: -row["rate"])[:30],
        "families": [
            {"family": name, "part": part}
            for name, part in sorted(families.items(), key=lambda one: -one[1])
        ],
        "recent": [row for one in several for row in one["recent"]][:15],
    }
