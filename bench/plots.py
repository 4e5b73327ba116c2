"""Draw bench/results/compare.json and memory.json: bars a case, and cost against size.

python bench/plots.py
"""

from __future__ import annotations

import json
from typing import Any

import matplotlib as mpl
from machine import RESULTS

mpl.use("agg")

import matplotlib.pyplot as plt

CASES = {
    "test_hit_random_keys": "get, hit",
    "test_miss": "get, miss",
    "test_overwrite": "set that overwrites",
    "test_insert_that_evicts": "set that evicts",
}
OURS, OTHERS = "#c2410c", "#94a3b8"
MOST = 6.0
"""Times what flowcache takes, beyond which a bar is cut and bears its figure."""


def main() -> None:
    compared = json.loads((RESULTS / "compare.json").read_text(encoding="utf-8"))
    memory = json.loads((RESULTS / "memory.json").read_text(encoding="utf-8"))
    draw_bars(compared, 100_000)
    draw_curves(compared)
    draw_memory(memory)


def nanoseconds(compared: Any, case: str, size: int) -> dict[str, float]:
    found = compared["cases"].get(f"test_compare.py::{case}[{size}]", {})
    result: dict[str, float] = found.get("nanoseconds", {})
    return result


def caption(figure: Any, environment: dict[str, Any]) -> None:
    figure.text(
        0.01,
        0.01,
        f"{environment['python']}, {environment['cpu']}, commit {environment['commit']}; medians of"
        " interleaved rounds in one process",
        fontsize=7,
        color="#64748b",
    )


def bars(axes: Any, figures: dict[str, float], unit: str) -> None:
    """Draw one bar a contender, least first; those that would dwarf all others are cut."""
    ordered = sorted(figures.items(), key=lambda item: -item[1])
    limit = MOST * figures["flowcache"]
    names = [name for name, _ in ordered]
    axes.barh(
        names,
        [min(value, limit) for _, value in ordered],
        color=[OURS if name.startswith("flowcache") else OTHERS for name in names],
    )
    for position, (_, value) in enumerate(ordered):
        text = f" {value:,.0f}" + (" (cut)" if value > limit else "")
        axes.text(min(value, limit), position, text, va="center", fontsize=7)
    axes.set_xlim(0, limit * 1.18)
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_bars(compared: Any, size: int) -> None:
    figure, grid = plt.subplots(2, 2, figsize=(10, 7))
    for axes, (case, label) in zip(grid.flat, CASES.items(), strict=True):
        bars(axes, nanoseconds(compared, case, size), "nanoseconds a call, less is better")
        axes.set_title(f"{label}, {size:,} keys", fontsize=10, loc="left")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    caption(figure, compared["environment"])
    figure.savefig(RESULTS / "cases.png", dpi=130)


def draw_curves(compared: Any) -> None:
    figure, grid = plt.subplots(2, 2, figsize=(10, 7))
    sizes = (1_000, 100_000, 1_000_000)
    for axes, (case, label) in zip(grid.flat, CASES.items(), strict=True):
        by_size = {size: nanoseconds(compared, case, size) for size in sizes}
        known = [size for size in sizes if by_size[size]]
        for name in by_size[known[0]]:
            is_ours = name == "flowcache"
            axes.plot(
                known,
                [by_size[size][name] for size in known],
                marker="o",
                markersize=4,
                linewidth=2.5 if is_ours else 1,
                color=OURS if is_ours else None,
                zorder=3 if is_ours else 2,
                label=name,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(label, fontsize=10, loc="left")
        axes.set_xlabel("entries", fontsize=8)
        axes.set_ylabel("nanoseconds a call", fontsize=8)
        axes.tick_params(labelsize=8)
    grid.flat[0].legend(fontsize=7, ncols=2)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    caption(figure, compared["environment"])
    figure.savefig(RESULTS / "sizes.png", dpi=130)


def draw_memory(memory: Any) -> None:
    figure, axes = plt.subplots(figsize=(8, 4))
    used = {name: figure["bytes"] for name, figure in memory["caches"].items()}
    bars(axes, used, "bytes an entry, its key and value not counted")
    axes.set_title(f"memory, {memory['entries']:,} entries", fontsize=10, loc="left")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    caption(figure, memory["environment"])
    figure.savefig(RESULTS / "memory.png", dpi=130)


if __name__ == "__main__":
    main()
