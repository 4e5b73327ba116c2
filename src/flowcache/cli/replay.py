"""`flowcache replay`: reads a log, replays it, prints a report, and returns an exit status."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from flowcache import Cache, ConfigurationError
from flowcache.replay.extras import ReplayError, need
from flowcache.replay.optimum import next_reads, optimum_hits
from flowcache.replay.progress import Progress, progress_bars
from flowcache.replay.reading import read_trace
from flowcache.replay.report import (
    ROOMS,
    Run,
    as_json,
    draw,
    print_advice,
    print_run,
    print_sizes,
    print_trace,
)
from flowcache.replay.simulate import Policy, Settings, Sharing, replay
from flowcache.replay.source import TraceError
from flowcache.replay.trace import READ, Trace

from . import OK, discard_output
from .replay_options import CURVE, DEFAULT_MAX_ENTRIES, entries_of, layout_of, make_parser

BAD_TRACE: Final = 1
BAD_USAGE: Final = 2


def sizes_of(trace: Trace, options: argparse.Namespace) -> list[str]:
    """Return the sizes to replay at, as given; an empty one means no bound."""
    if options.sizes:
        return list(options.sizes)
    if options.plot:
        # A log of few keys has the same number of entries for several percentages.
        return list({entries_of(label, trace): label for label in CURVE.split(",")}.values())
    if options.max_entries is None and options.max_weight is not None:
        return [""]
    return [options.max_entries or DEFAULT_MAX_ENTRIES]


def replay_all(trace: Trace, options: argparse.Namespace, progress: Progress) -> list[Run]:
    """Replay the trace at every size asked for."""
    several = shows_several(options)
    labels = sizes_of(trace, options)
    settings = Settings(
        max_weight=options.max_weight,
        default_ttl=options.default_ttl,
        child_limits=options.per_tenant,
        tenants=dict(options.tenant),
        fill=not options.no_fill,
        advice=options.advice,
    )
    following = None
    runs: list[Run] = []
    ways = ways_of(options)
    reads = len(trace)
    if trace.operations is not None:
        reads = trace.operations.count(READ)
    for label in labels:
        entries = entries_of(label, trace) if label else None
        outcomes = []
        for policy, sharing in ways:
            chosen = dataclasses.replace(
                settings, max_entries=entries, eviction=policy, sharing=sharing
            )
            words = f"replay {label} {f'{policy} {sharing}' if len(ways) > 1 else ''}"
            with progress.stage(words.strip(), len(trace)) as done:
                outcomes.append(replay(trace, chosen, observe=teller(done)))
        optimum = None
        if several and not options.no_optimum and entries is not None:
            with progress.stage(f"optimum {label}", len(trace)) as done:
                following = following or next_reads(trace)
                hits = optimum_hits(
                    trace,
                    entries,
                    following,
                    default_ttl=options.default_ttl,
                    fill=settings.fill,
                    progress=done,
                )
            optimum = hits / reads if reads else 0.0
        truth: tuple[float, ...] = ()
        if options.advice:
            truth = true_ratios(trace, chosen, label, progress)
        runs += [Run(label, outcome, optimum, truth) for outcome in outcomes]
    return runs


def ways_of(options: argparse.Namespace) -> list[tuple[Policy, Sharing]]:
    """Return the policies with the ways of sharing that each of them can have."""
    return [
        (policy, sharing)
        for policy in options.eviction
        for sharing in options.sharing
        if policy == "lru" or sharing == "fair"
    ]


def true_ratios(
    trace: Trace, settings: Settings, label: str, progress: Progress
) -> tuple[float, ...]:
    """Return the hit ratios of larger caches, those that advice speaks of."""
    ratios = []
    for name, factor in ROOMS.items():
        entries = round((settings.max_entries or 0) * factor)
        larger = dataclasses.replace(settings, max_entries=entries, advice=False)
        with progress.stage(f"replay {label} x {name}", len(trace)) as done:
            ratios.append(replay(trace, larger, observe=teller(done)).total.hit_rate)
    return tuple(ratios)


def shows_several(options: argparse.Namespace) -> bool:
    """Return whether the report compares several replays."""
    return bool(options.sizes or options.plot or len(ways_of(options)) > 1)


def teller(done: Callable[[int], None]) -> Callable[[int, Cache[int]], None]:
    """Return an observer of a replay that moves a progress bar."""

    def tell(requests: int, _cache: Cache[int]) -> None:
        done(requests)

    return tell


def warn(message: str) -> None:
    """Print a message on standard error."""
    print(f"flowcache replay: {message}", file=sys.stderr)


def check_against(trace: Trace, options: argparse.Namespace, parser: Any) -> None:
    """Refuse limits that need a missing column, and warn of those without effect."""
    if options.max_weight is not None and trace.sizes is None:
        parser.error("--max-weight needs a column of sizes: --size-column")
    if options.default_ttl is not None and trace.times is None:
        parser.error("--default-ttl needs a column of times: --time-column")
    if (options.tenant or options.per_tenant) and trace.tenants is None:
        parser.error("limits of tenants need a column of tenants: --tenant-column")
    if "utility" in options.sharing:
        if trace.tenants is None:
            parser.error("--sharing utility needs a column of tenants: --tenant-column")
        if options.max_weight is not None and not options.max_entries and not options.sizes:
            parser.error("--sharing utility needs a bound on entries: --max-entries")
        if options.eviction == ["tinylfu"]:
            parser.error("--sharing utility goes with --eviction lru alone")
    if trace.ttls is not None and trace.times is None:
        warn("there is a column of TTLs but none of times: nothing expires")
    if options.advice and options.eviction != ["lru"]:
        parser.error("--advice is told of --eviction lru alone")
    if options.advice and options.max_weight is not None and not options.max_entries:
        parser.error("--advice needs a bound on entries: --max-entries")
    for name, _ in options.tenant:
        if name not in trace.tenant_names:
            warn(f"no request is of tenant {name!r}")
    if options.no_fill and trace.operations is None:
        warn("all requests are reads and with --no-fill nothing is ever stored")


def file_size(path: str) -> int | None:
    """Return a file's size in bytes; None for a stream or a missing file."""
    try:
        return None if path == "-" else os.path.getsize(path) or None
    except OSError:
        return None


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Run the replays that the command line describes."""
    layout = layout_of(options, parser)
    # Missing libraries are reported before a long log is read.
    if options.plot:
        need("matplotlib.figure", "--plot")
    if not options.json:
        need("rich.table", "the report (--json: none)")
    name = "standard input" if options.trace == "-" else Path(options.trace).name
    with progress_bars(options.quiet) as progress:
        with progress.stage(f"read {name}", file_size(options.trace)) as done:
            trace = read_trace(
                options.trace,
                layout,
                compression=options.compression,
                skip_bad=options.skip_bad,
                progress=done,
            )
        check_against(trace, options, parser)
        runs = replay_all(trace, options, progress)
    print_report(trace, runs, options, name)
    if options.plot:
        draw(options.plot, trace, runs, name)


def print_report(trace: Trace, runs: list[Run], options: argparse.Namespace, name: str) -> None:
    """Print the results; a full disk is an error of one line."""
    try:
        if options.json:
            print(json.dumps(as_json(trace, runs), indent=2))
        else:
            print_tables(trace, runs, options, name)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise ReplayError(f"the report cannot be written: {error.strerror}") from error


def print_tables(trace: Trace, runs: list[Run], options: argparse.Namespace, name: str) -> None:
    """Print the results as tables."""
    console = need("rich.console", "the report").Console()
    if not console.is_terminal:
        # A file or a pipe has no width, so a table must not be squeezed into 80 columns.
        console.width = max(console.width, 120)
    print_trace(console, trace, name)
    if shows_several(options):
        print_sizes(console, trace, runs, options.top)
    else:
        print_run(console, trace, runs[0], options.top)
    if options.advice:
        print_advice(console, runs)


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        run(options, parser)
    except TraceError as error:
        warn(str(error))
        return BAD_TRACE
    except (ReplayError, ConfigurationError) as error:
        warn(str(error))
        return BAD_USAGE
    return OK
