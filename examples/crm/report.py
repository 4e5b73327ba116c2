"""The report that a run prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from crm.checks import Check, Checks
from crm.load import Load

SHOWN_FAILURES = 5


@dataclass(frozen=True)
class Row:
    """Sum up one tenant. Without a cache, every dashboard costs two upstream calls."""

    tenant: str
    reads: int
    latencies: list[float]
    hit_rate: float
    calls: int
    calls_saved: int
    seconds_saved: float
    evictions: int

    def cells(self) -> tuple[str, ...]:
        """Return the columns as text; p50 and p99 in milliseconds."""
        p50, p99 = percentiles(self.latencies)
        return (
            self.tenant,
            f"{self.reads:,}",
            f"{self.hit_rate:.1%}",
            f"{self.calls:,}",
            f"{self.calls_saved:,}",
            f"{self.seconds_saved:,.1f}",
            f"{p50 * 1000:,.0f} ms",
            f"{p99 * 1000:,.0f} ms",
            f"{self.evictions:,}",
        )


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    if len(seconds) < 2:
        return (seconds[0], seconds[0]) if seconds else (0.0, 0.0)
    cuts = quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[98]


def rows(load: Load) -> list[Row]:
    """Return a row for each tenant, and the total as the last one."""
    spent: dict[str, list[float]] = {"contacts": [], "stats": []}
    for call in load.upstream.calls:
        spent[call.key.partition(":")[0]].append(call.seconds)
    result = []
    for tenant in load.names:
        reads, stats = load.reads[tenant], load.cache_stats[tenant]
        keys = [call.key for call in load.upstream.calls if call.tenant == tenant]
        avoided = {
            "contacts": reads - sum(key != "stats" for key in keys),
            "stats": reads - keys.count("stats"),
        }
        result.append(
            Row(
                tenant=tenant,
                reads=reads,
                latencies=load.latencies[tenant],
                hit_rate=stats["hit_rate"],
                calls=len(keys),
                calls_saved=sum(avoided.values()),
                seconds_saved=sum(avoided[part] * fmean(spent[part]) for part in avoided),
                evictions=stats["evictions"],
            )
        )
    return [*result, total(load, result)]


def total(load: Load, parts: list[Row]) -> Row:
    """Return the sum of the tenants' rows."""
    stats = load.cache_stats.values()
    served = sum(each["hits"] + each["stale_hits"] for each in stats)
    asked = served + sum(each["misses"] for each in stats)
    return Row(
        tenant="together",
        reads=load.reads.total(),
        latencies=[latency for part in parts for latency in part.latencies],
        hit_rate=served / asked if asked else 0.0,
        calls=sum(part.calls for part in parts),
        calls_saved=sum(part.calls_saved for part in parts),
        seconds_saved=sum(part.seconds_saved for part in parts),
        evictions=sum(part.evictions for part in parts),
    )


def results_table(load: Load) -> Table:
    """Return the table of the tenants. It fits a terminal of 80 columns."""
    table = Table(
        title="What each tenant saw",
        title_justify="left",
        caption="calls: to the CRM; p50, p99: of a dashboard, leaving out the cold start",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("\ntenant", style="bold", no_wrap=True)
    for header, style in (
        ("dash-\nboards", ""),
        ("hit\nrate", "green"),
        ("calls\nmade", "yellow"),
        ("calls\nsaved", "green"),
        ("seconds\nsaved", "green"),
        ("\np50", ""),
        ("\np99", ""),
        ("\nevicted", "yellow"),
    ):
        table.add_column(header, style=style, justify="right", no_wrap=True)
    *tenants, together = rows(load)
    for row in tenants:
        table.add_row(*row.cells())
    table.add_section()
    table.add_row(*together.cells(), style="bold")
    return table


def sources_table(load: Load) -> Table:
    """Return where the answers of a fleet came from."""
    table = Table(
        title="Where the answers came from, in the workers that are up",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("tenant", style="bold", no_wrap=True)
    for header in ("hits here", "hits in the tier", "loads", "stored in the tier", "tier errors"):
        table.add_column(header, justify="right")
    names = ("hits", "stale_hits", "tier_hits", "loads", "tier_stores", "tier_errors")
    sums = dict.fromkeys(names, 0)
    for tenant in load.names:
        stats = load.cache_stats[tenant]
        for name in names:
            sums[name] += stats[name]
        table.add_row(tenant, *sources(stats))
    table.add_section()
    table.add_row("together", *sources(sums), style="bold")
    return table


def sources(stats: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one row."""
    here = stats["hits"] + stats["stale_hits"]
    rest = (stats[name] for name in ("tier_hits", "loads", "tier_stores", "tier_errors"))
    return (f"{here:,}", *(f"{count:,}" for count in rest))


def checks_table(checks: Checks) -> Table:
    """Return the promises, each with the number of its checks."""
    table = Table(title="What was checked", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("")
    table.add_column("times", justify="right")
    for check in checks:
        mark = "[green]kept[/]" if check.passed else "[bold red]BROKEN[/]"
        table.add_row(mark, check.title, f"{check.examined:,}")
    return table


def print_report(console: Console, load: Load) -> None:
    """Print the tables, the savings of the cache, and each failure."""
    *_, together = rows(load)
    console.print()
    console.print(results_table(load))
    console.print(
        f"The CRM answered {together.calls:,} reads. Without the cache it would have answered "
        f"{together.calls + together.calls_saved:,}, and worked {together.seconds_saved:,.0f} "
        "seconds longer.",
        highlight=False,
    )
    console.print()
    if load.fleet is not None:
        console.print(sources_table(load))
        console.print(
            "One worker was killed and replaced, and the Valkey server was restarted, while the "
            "load ran.\n"
        )
    console.print(checks_table(load.checks))
    console.print()
    for check in load.checks:
        if not check.passed:
            print_failure(console, check)


def print_failure(console: Console, check: Check) -> None:
    """Print a broken promise with the first observations that broke it."""
    console.print(f"[bold red]Failed:[/] {check.title}", highlight=False)
    for failure in check.failures[:SHOWN_FAILURES] or ["no observation tested it"]:
        console.print(f"  {failure}", markup=False, highlight=False)
    if len(check.failures) > SHOWN_FAILURES:
        console.print(f"  and {len(check.failures) - SHOWN_FAILURES:,} more", highlight=False)
