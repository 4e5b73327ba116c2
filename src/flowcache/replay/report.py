"""The report of a replay: tables, a plot, and the same as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from flowcache import Stats

from .extras import ReplayError, need
from .simulate import Outcome
from .trace import Trace

ENTRY_BYTES: Final = {"lru": 80, "tinylfu": 90}
"""The most bytes that flowcache needs for an entry, without key and value."""

ROOMS: Final = {"1.25": 1.25, "1.5": 1.5, "2": 2.0}
"""The room that advice speaks of, beside what there is."""

COLORS: Final = ("tab:blue", "tab:orange", "tab:green")
"""Of the policies in a plot."""

ENOUGH_READS: Final = 100
"""A tenant with fewer reads is never called the worst, because its ratio depends on chance."""


@dataclass(frozen=True, slots=True)
class Run:
    """One replay, its size as given, and the hit ratio of the optimum if it was computed."""

    label: str
    outcome: Outcome
    optimum: float | None = None
    truth: tuple[float, ...] = ()
    """The hit ratios with the room that advice speaks of, where it was asked for."""

    @property
    def eviction(self) -> str:
        """The policy of the cache."""
        return self.outcome.settings.eviction

    @property
    def sharing(self) -> str:
        """How its tenants share."""
        return self.outcome.settings.sharing

    @property
    def hit_ratio(self) -> float:
        """The part of reads that hit, from 0 to 1."""
        return self.outcome.total.hit_rate


def amount(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def counted(number: int, thing: str) -> str:
    """Return a number of things in words."""
    if number == 1:
        return f"1 {thing}"
    return f"{number:,} {thing[:-1]}ies" if thing.endswith("ry") else f"{number:,} {thing}s"


def percent(ratio: float | None) -> str:
    """Return a ratio as a percentage; a dash where there is none."""
    return "-" if ratio is None else f"{100 * ratio:.2f}%"


def hit_ratio(stats: Stats) -> float | None:
    """Return the part of reads that hit, or None if nothing was read."""
    return stats.hit_rate if stats.hits + stats.misses else None


def bound(outcome: Outcome) -> str:
    """Return the cache's limits in words."""
    settings = outcome.settings
    words = []
    if settings.max_entries is not None:
        words.append(counted(settings.max_entries, "entry"))
    if settings.max_weight is not None:
        words.append(amount(settings.max_weight))
    return " and ".join(words) or "no bound"


def by_reads(tenants: dict[str, Stats]) -> list[tuple[str, Stats]]:
    """Return the tenants, those with the most reads first."""
    return sorted(tenants.items(), key=lambda item: -(item[1].hits + item[1].misses))


def worst_tenant(outcome: Outcome) -> tuple[str, float] | None:
    """Return the tenant with the lowest hit ratio, of those with enough reads."""
    ratios = [
        (name, stats.hit_rate)
        for name, stats in outcome.tenants.items()
        if stats.hits + stats.misses >= ENOUGH_READS
    ]
    return min(ratios, key=lambda pair: pair[1]) if len(outcome.tenants) > 1 and ratios else None


def summed(parts: Iterable[Stats]) -> dict[str, float]:
    """Return the sums of several tenants' counters."""
    total: dict[str, float] = {}
    for stats in parts:
        for name, count in stats.as_dict().items():
            total[name] = total.get(name, 0) + count
    asked = total["hits"] + total["misses"]
    total["hit_rate"] = total["hits"] / asked if asked else 0.0
    return total


def print_trace(console: Any, trace: Trace, name: str) -> None:
    """Print the size of the log, and its faults."""
    whose = "" if trace.tenants is None else f" of {counted(len(trace.tenant_names), 'tenant')}"
    span = f" over {trace.times[-1] - trace.times[0]:,.0f} s" if trace.times else ""
    console.print(
        f"{name}: {counted(len(trace), 'request')}{whose}, "
        f"{counted(trace.distinct_keys, 'distinct key')}{span}",
        highlight=False,
        markup=False,
    )
    if trace.skipped:
        console.print(
            f"skipped {trace.skipped:,} malformed; the first: {trace.first_skipped}",
            style="yellow",
            highlight=False,
            markup=False,
        )
    if trace.late:
        console.print(
            "1 request is older than the one before it and counts as simultaneous"
            if trace.late == 1
            else f"{trace.late:,} requests are older than the one before them and count as "
            "simultaneous",
            style="yellow",
            highlight=False,
        )


def print_run(console: Any, trace: Trace, run: Run, top: int) -> None:
    """Print one replay: a row a tenant, and all together."""
    table = need("rich.table", "the report").Table(title=f"A cache of {bound(run.outcome)}")
    columns = ["reads", "hit ratio", "stored", "evicted", "caused", "expired", "entries"]
    table.add_column("tenant")
    for column in columns:
        table.add_column(column, justify="right")
    if trace.sizes is not None:
        table.add_column("data", justify="right")
    if trace.tenants is not None:
        ordered = by_reads(run.outcome.tenants)
        for name, stats in ordered[:top]:
            table.add_row(escaped(name), *cells(stats.as_dict(), trace))
        if rest := [stats for _, stats in ordered[top:]]:
            table.add_row(f"{len(rest):,} others", *cells(summed(rest), trace), style="dim")
        table.add_section()
    table.add_row("all", *cells(run.outcome.total.as_dict(), trace), style="bold")
    console.print(table)
    print_memory(console, trace, run)


def cells(counts: dict[str, float], trace: Trace) -> list[str]:
    """Return a row of `print_run`, without its name."""
    reads = counts["hits"] + counts["misses"]
    row = [
        f"{reads:,.0f}",
        percent(counts["hit_rate"] if reads else None),
        *(
            f"{counts[name]:,.0f}"
            for name in ("sets", "evictions", "evictions_caused", "expirations", "entries")
        ),
    ]
    return row if trace.sizes is None else [*row, amount(counts["weight"])]


def print_memory(console: Any, trace: Trace, run: Run) -> None:
    """Print the peak sizes of the cache, and the number of refused values."""
    outcome = run.outcome
    data = "" if trace.sizes is None else f"{amount(outcome.peak_weight)} of data and "
    console.print(
        f"At its fullest: {counted(outcome.peak_entries, 'entry')}, {data}at most "
        f"{amount(outcome.peak_entries * ENTRY_BYTES[run.eviction])} of flowcache's own.",
        highlight=False,
    )
    if outcome.refused:
        console.print(
            f"{outcome.refused:,} values were heavier than a limit and not stored.",
            style="yellow",
            highlight=False,
        )


def varied_of(runs: list[Run]) -> list[str]:
    """Return the names of the settings in which the replays differ, or are not the default."""
    defaults = {"eviction": "lru", "sharing": "fair"}
    return [
        name
        for name, default in defaults.items()
        if {getattr(run, name) for run in runs} != {default}
    ]


def print_sizes(console: Any, trace: Trace, runs: list[Run], top: int) -> None:
    """Print several sizes: a row each, then the hit ratio of each tenant at each size."""
    table_type = need("rich.table", "the report").Table
    table = table_type(title="Hit ratio against size")
    varied = varied_of(runs)
    columns = ["size", "entries", *varied, "hit ratio"]
    columns += ["optimum", "evicted", "expired", "peak entries"]
    for column in columns:
        table.add_column(column, justify="right")
    if trace.sizes is not None:
        table.add_column("peak data", justify="right")
    if trace.tenants is not None:
        table.add_column("worst tenant")
    for run in runs:
        total = run.outcome.total
        row = [
            run.label,
            bound_in_entries(run),
            *(getattr(run, name) for name in varied),
            percent(run.hit_ratio),
            percent(run.optimum),
            f"{total.evictions:,}",
            f"{total.expirations:,}",
            f"{run.outcome.peak_entries:,}",
        ]
        if trace.sizes is not None:
            row.append(amount(run.outcome.peak_weight))
        if trace.tenants is not None:
            worst = worst_tenant(run.outcome)
            row.append(f"{escaped(worst[0])} {percent(worst[1])}" if worst else "-")
        table.add_row(*row)
    console.print(table)
    if trace.tenants is None:
        return
    tenants = by_reads(runs[-1].outcome.tenants)
    shown = tenants[:top]
    which = "" if len(shown) == len(tenants) else f" ({len(shown)} of {len(tenants):,})"
    table = table_type(title=f"Hit ratio by tenant{which}")
    table.add_column("tenant")
    table.add_column("reads", justify="right")
    apart = [name for name in varied if len({getattr(run, name) for run in runs}) > 1]
    for run in runs:
        words = [run.label, *(getattr(run, name) for name in apart)]
        table.add_column(" ".join(filter(None, words)), justify="right")
    for name, stats in shown:
        ratios = [percent(hit_ratio(run.outcome.tenants[name])) for run in runs]
        table.add_row(escaped(name), f"{stats.hits + stats.misses:,}", *ratios)
    console.print(table)


def advised(run: Run) -> list[tuple[str, float | None, float]]:
    """Return the advice of a replay, and the truth: of how much room, told, true."""
    advice = run.outcome.advice
    if advice is None:
        return []
    told = (advice.at_125, advice.at_150, advice.at_200)
    return list(zip(ROOMS, told, run.truth, strict=True))


def print_advice(console: Any, runs: list[Run]) -> None:
    """Print what each cache tells of more room, beside the truth."""
    table = need("rich.table", "the report").Table(title="More room: told, and true")
    table.add_column("entries")
    for column in ("hit ratio", *(f"{room} x" for room in ROOMS)):
        table.add_column(column, justify="right")
    for run in runs:
        told = (f"{percent(told)}, {percent(true)}" for _, told, true in advised(run))
        table.add_row(bound_in_entries(run), percent(run.hit_ratio), *told)
    console.print(table)


def bound_in_entries(run: Run) -> str:
    """Return the bound on entries; a dash where there is none."""
    entries = run.outcome.settings.max_entries
    return "-" if entries is None else f"{entries:,}"


def escaped(name: str) -> str:
    """Return a tenant's name as rich prints it literally, control characters made visible."""
    visible = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
    return str(need("rich.markup", "the report").escape(visible))


def as_json(trace: Trace, runs: list[Run]) -> dict[str, Any]:
    """Return all results, for programs."""
    return {
        "requests": len(trace),
        "tenants": len(trace.tenant_names),
        "distinct_keys": trace.distinct_keys,
        "skipped": trace.skipped,
        "late": trace.late,
        "runs": [
            {
                "size": run.label,
                "eviction": run.eviction,
                "sharing": run.sharing,
                "max_entries": run.outcome.settings.max_entries,
                "max_weight": run.outcome.settings.max_weight,
                "hit_ratio": run.hit_ratio,
                "optimum": run.optimum,
                "advice": {room: {"told": told, "true": true} for room, told, true in advised(run)},
                "refused": run.outcome.refused,
                "peak_entries": run.outcome.peak_entries,
                "peak_weight": run.outcome.peak_weight,
                "total": run.outcome.total.as_dict(),
                "tenants": {name: stats.as_dict() for name, stats in by_reads(run.outcome.tenants)},
            }
            for run in runs
        ],
    }


def way_of(run: Run) -> str:
    """Return the policy of a replay, and its sharing where that is not the default."""
    return run.eviction if run.sharing == "fair" else f"{run.eviction}, {run.sharing}"


def draw(path: str, trace: Trace, runs: list[Run], name: str) -> None:
    """Draw hit ratio against size, beside the optimum, to a file of any kind matplotlib knows."""
    figure = need("matplotlib.figure", "--plot").Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    runs = sorted(runs, key=lambda run: run.outcome.settings.max_entries or 0)
    by_policy = [
        (policy, [run for run in runs if way_of(run) == policy])
        for policy in dict.fromkeys(map(way_of, runs))
    ]
    sizes = [run.outcome.settings.max_entries or 0 for run in by_policy[0][1]]
    if all(run.optimum is not None for run in runs):
        optima = [100 * (run.optimum or 0.0) for run in by_policy[0][1]]
        axes.plot(sizes, optima, "--", color="0.45", marker=".", label="optimum (Belady)")
    for number, (policy, same) in enumerate(by_policy):
        after = f", {policy}" if len(by_policy) > 1 else ""
        ratios = [100 * run.hit_ratio for run in same]
        axes.plot(sizes, ratios, color=COLORS[number], marker="o", label=f"flowcache{after}")
        worst = [worst_tenant(run.outcome) for run in same]
        if all(worst):
            axes.plot(
                sizes,
                [100 * pair[1] for pair in worst if pair],
                color=COLORS[number],
                marker="v",
                linestyle=":",
                linewidth=1,
                label=f"worst tenant of {ENOUGH_READS} reads or more{after}",
            )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("size (entries)")
    axes.set_ylabel("hit ratio (%)")
    axes.set_title(f"{name}: {len(trace):,} requests, {trace.distinct_keys:,} distinct keys")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ReplayError(f"--plot: cannot write {path}: {error}") from error
