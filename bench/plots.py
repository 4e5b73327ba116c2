"""Plots of the results: bars for each case, curves of cost against size, memory of an entry."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
from figures import Results

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

# Equal pictures give equal files, so a new run changes the files of its own results alone.
mpl.rcParams["svg.hashsalt"] = "flowcache"
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})

OURS = "#c2410c"
OTHERS = "#94a3b8"
TITLES = {
    "hit_random_keys": "get, hit",
    "hit_hot_keys": "get, hit, 100 hot keys",
    "miss": "get, miss",
    "overwrite": "set, overwriting",
    "insert_that_evicts": "set, evicting",
    "insert_that_evicts_with_own_ttl": "set, evicting, own TTL",
}
BARS_AT = 100_000
SIZED = re.compile(r"test_(\w+)\[(\d+)\]")


def draw(folder: Path) -> list[Path]:
    """Draw each plot that the folder has results for; return the files."""
    results = Results(folder)
    sizes: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for name, kept in results.parts.get("compare", {}).get("cases", {}).items():
        found = SIZED.fullmatch(name)
        if found and "nanoseconds" in kept:
            sizes[found[1]][int(found[2])] = kept["nanoseconds"]
    drawn = []
    bars = {case: of[BARS_AT] for case, of in sizes.items() if case in TITLES and BARS_AT in of}
    if bars:
        drawn.append(draw_bars(bars, folder / "bars.svg"))
    curves = {case: of for case, of in sizes.items() if case in TITLES and len(of) > 1}
    if curves:
        drawn.append(draw_curves(curves, folder / "curves.svg"))
    caches = results.parts.get("memory", {}).get("caches")
    if caches:
        drawn.append(draw_memory(caches, folder / "memory.svg"))
    return drawn


def save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def in_order(cases: dict[str, object]) -> list[str]:
    return [case for case in TITLES if case in cases]


def draw_bars(cases: dict[str, dict[str, float]], path: Path) -> Path:
    """One panel a case: nanoseconds a call, the fastest on top."""
    rows = math.ceil(len(cases) / 2)
    figure, panels = plt.subplots(rows, 2, figsize=(9, 2.6 * rows), squeeze=False)
    for panel in panels.flat[len(cases) :]:
        panel.set_visible(False)
    for panel, case in zip(panels.flat, in_order(dict(cases)), strict=False):
        times = sorted(cases[case].items(), key=lambda item: -item[1])
        names, values = zip(*times, strict=True)
        colours = [OURS if name == "flowcache" else OTHERS for name in names]
        bars = panel.barh(names, values, color=colours)
        panel.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
        panel.set_xlim(0, max(values) * 1.15)
        panel.set_title(f"{TITLES[case]}, {BARS_AT:,} entries (ns)", loc="left")
    return save(figure, path)


def draw_curves(cases: dict[str, dict[int, dict[str, float]]], path: Path) -> Path:
    """One panel a case: nanoseconds a call against the number of entries."""
    rows = math.ceil(len(cases) / 2)
    figure, panels = plt.subplots(rows, 2, figsize=(9, 3 * rows), squeeze=False)
    names = sorted({name for of in cases.values() for times in of.values() for name in times})
    shades = plt.get_cmap("tab10")
    for panel in panels.flat[len(cases) :]:
        panel.set_visible(False)
    for panel, case in zip(panels.flat, in_order(dict(cases)), strict=False):
        for number, name in enumerate(names):
            points = [(size, of[name]) for size, of in sorted(cases[case].items()) if name in of]
            if not points:
                continue
            ours = name == "flowcache"
            panel.plot(
                *zip(*points, strict=True),
                marker="o",
                markersize=3,
                label=name,
                color=OURS if ours else shades(number % 10),
                linewidth=2.5 if ours else 1,
                zorder=3 if ours else 2,
            )
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(f"{TITLES[case]} (ns a call)", loc="left")
        panel.set_xlabel("entries")
    panels.flat[0].legend(fontsize=7, ncols=2)
    return save(figure, path)


def draw_memory(caches: dict[str, dict[str, float]], path: Path) -> Path:
    """Bytes an entry, key and value not counted."""
    used = sorted(((name, of["bytes"]) for name, of in caches.items()), key=lambda item: -item[1])
    names, values = zip(*used, strict=True)
    figure, panel = plt.subplots(figsize=(7, 0.3 * len(names) + 1))
    colours = [OURS if name.startswith("flowcache") else OTHERS for name in names]
    bars = panel.barh(names, values, color=colours)
    panel.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
    panel.set_xlim(0, max(values) * 1.12)
    panel.set_title("bytes an entry, key and value not counted", loc="left")
    return save(figure, path)
