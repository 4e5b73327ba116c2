"""`flowcache top`: what running processes show of their caches, once or again and again."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from flowcache import _core
from flowcache.watching.history import History
from flowcache.watching.merging import Answer, merged
from flowcache.watching.snapshot import Ask
from flowcache.watching.sockets import SocketError, answers, sockets_of

from . import OK

GONE: Final = 1
BAD_USAGE: Final = 2
COLUMNS: Final = (
    ("entries", "entries"),
    ("fair", "fair share"),
    ("hit_rate", "hit ratio"),
    ("hits", "hits"),
    ("misses", "misses"),
    ("evictions", "evicted"),
    ("evictions_caused", "evicts"),
    ("pending", "loading"),
)
LONGEST = 40
"""Characters of a name that a row shows."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb's options."""
    parser = argparse.ArgumentParser(
        prog="flowcache top",
        description="Watch the caches that processes show by flowcache.page.show(cache, folder).",
        epilog="While it runs: s sorts by the next column, / filters by name, q ends it.",
        allow_abbrev=False,
    )
    parser.add_argument("place", help="the folder of the sockets, or the socket of one process")
    parser.add_argument("--cache", help="the name of the cache, where processes show several")
    parser.add_argument(
        "--by", default="entries", choices=_core.FIGURES, metavar="FIGURE",
        help=f"sort by {', '.join(_core.FIGURES)}; default: entries",
    )  # fmt: skip
    parser.add_argument("--search", default="", metavar="TEXT", help="only names with this text")
    parser.add_argument(
        "--at", action="append", default=[], metavar="NAME",
        help="below this namespace; again for a deeper one",
    )  # fmt: skip
    parser.add_argument("-n", "--rows", type=rows_of, default=20, help="tenants shown (20)")
    parser.add_argument(
        "-d", "--delay", type=seconds_of, default=2.0, metavar="SECONDS",
        help="between two looks (2)",
    )  # fmt: skip
    parser.add_argument("-1", "--once", action="store_true", help="look once, print, and end")
    parser.add_argument("--json", action="store_true", help="print one snapshot as JSON, and end")
    return parser


def rows_of(text: str) -> int:
    """Return a number of rows."""
    if not text.isdecimal() or not 1 <= int(text) <= 500:
        raise argparse.ArgumentTypeError(f"must be from 1 to 500, got {text!r}")
    return int(text)


def seconds_of(text: str) -> float:
    """Return a delay."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be from 0.1 to 3600 seconds, got {text!r}")
    return seconds


@dataclass(slots=True)
class Look:
    """What the reader has chosen, and the snapshots so far."""

    place: str
    cache: str | None
    ask: Ask
    history: History

    def take(self) -> Answer:
        """Ask all processes; `SocketError` if there are none, or several caches."""
        paths = sockets_of(self.place)
        if not paths:
            raise SocketError(f"{self.place}: no process shows itself here")

        def answers_of(ask: Ask) -> list[Answer]:
            told = answers(paths, ask)
            names = {one["cache"] for one in told if one["state"] != "gone"}
            wanted = self.cache
            if wanted is None and len(names) > 1:
                listed = ", ".join(sorted(map(printable, names)))
                raise SocketError(f"there are several caches, --cache says which: {listed}")
            if wanted is not None and names and wanted not in names:
                listed = ", ".join(sorted(map(printable, names)))
                raise SocketError(f"no cache is named {printable(wanted)}; there are: {listed}")
            return [
                one for one in told
                if one["state"] == "gone" or wanted in (None, one["cache"])
            ]  # fmt: skip

        told = merged(self.ask, answers_of)
        if told["state"] == "live":
            self.history.add(told["at"], told["stats"])
        return told


def printable(name: object) -> str:
    """Return a name as a terminal may get it: no control characters, none that turn text around."""
    text = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(name)
    )
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def number(value: float | None) -> str:
    """Return a figure with thousands apart; a large one in short."""
    if value is None:
        return "-"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e7, "M")):
        if value >= limit:
            return f"{value / limit * (10 if unit == 'M' else 1):,.1f}{unit}"
    return f"{value:,.0f}"


def percent(part: float) -> str:
    """Return a part of one."""
    return f"{part:.1%}"


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the figures of a row as text."""
    asked = row["hits"] + row["stale_hits"] + row["misses"]
    told = []
    for column, _ in COLUMNS:
        if column == "hit_rate":
            told.append(percent(row["hit_rate"]) if asked else "-")
        else:
            told.append(number(row.get(column)))
    return told


def head_of(told: Answer, history: History) -> list[str]:
    """Return the lines above the table."""
    stats, limits = told["stats"], told["limits"]
    living = [one for one in told["workers"] if one["state"] != "gone"]
    place = " > ".join([printable(told["cache"]), *map(printable, told["path"])])
    processes = f"{len(living)} process{'es' if len(living) != 1 else ''}"
    lines = [f"{place}   {processes}   shown for {lasting(told['uptime'])}"]
    bound = limits["max_entries"]
    held = f"{number(stats['entries'])} entries"
    if bound is None:
        held += ", no limit is set"
    else:
        held += f" of {number(bound)} ({percent(stats['entries'] / bound)})"
    if stats["weight"] or limits["max_weight"]:
        held += f", weight {number(stats['weight'])}"
        if limits["max_weight"]:
            held += f" of {number(limits['max_weight'])}"
    lines.append(held)
    asked = stats["hits"] + stats["stale_hits"] + stats["misses"]
    if asked:
        line = f"{percent(stats['hit_rate'])} hits of {number(asked)} look-ups"
        line += f", {number(history.rate())} a second" if len(history.since(0)) > 1 else ""
    else:
        line = "nothing has been asked yet"
    ended = stats["loads"] + stats["load_failures"]
    line += f"   {number(ended)} loads"
    if ended:
        line += f" of {lasting(stats['load_seconds'] / ended)}"
    line += f", {number(stats['load_failures'])} failed, {number(stats['pending'])} running"
    lines.append(line)
    return lines


def notes_of(told: Answer) -> list[str]:
    """Return what the reader must know of: what is gone, off or empty."""
    notes = [
        f"worker {one['pid'] or '?'} is gone: {one['why']}"
        for one in told["workers"]
        if one["state"] == "gone"
    ]
    if told["state"] == "gone":
        notes.append("no worker answers")
    elif told["state"] == "closed":
        notes.append("the cache is closed")
    elif told["state"] == "absent":
        notes.append("there is nothing here yet")
    elif not told["enabled"]:
        notes.append("switched off: nothing is stored, every look-up misses")
    tenants = told["tenants"]
    if told["state"] == "live" and not tenants["rows"]:
        notes.append("no name matches" if tenants["matches"] is not None else "no tenants yet")
    return notes


def rows_of_tenants(told: Answer) -> list[list[str]]:
    """Return the rows of the table as text, and the sum of all others last."""
    tenants = told["tenants"]
    rows = [[printable(row["name"]), *cells_of(row)] for row in tenants["rows"]]
    if rows and (tenants["others"] > 0 or tenants["own"] > 0):
        label = f"({number(max(0, tenants['others']))} more)"
        rows.append([label, *cells_of(tenants["rest"] | {"fair": None})])
    return rows


def lasting(seconds: float) -> str:
    """Return a duration in its largest units."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def plain(told: Answer, history: History) -> str:
    """Return everything as text without any control characters."""
    lines = [*head_of(told, history), *notes_of(told)]
    rows = rows_of_tenants(told)
    if rows:
        titles = ["tenant", *(title for _, title in COLUMNS)]
        widths = [max(len(row[n]) for row in [titles, *rows]) for n in range(len(titles))]
        lines.append("")
        for row in [titles, *rows]:
            cells = [row[0].ljust(widths[0])]
            cells += [one.rjust(width) for one, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
    for load in told["loads"][:5]:
        place = " > ".join([*map(printable, load["path"]), printable(load["key"])])
        lines.append(f"loading for {lasting(load['age'])}: {place}")
    return "\n".join(lines)


def rich(module: str) -> Any:
    """Return a module of rich: a terminal needs it, a pipe does not."""
    return import_module(f"rich.{module}")


def rich_view(told: Answer, look: Look, typed: str | None) -> Any:
    """Return everything for a terminal."""
    Group, Table, Text = rich("console").Group, rich("table").Table, rich("text").Text  # noqa: N806
    head, *others = head_of(told, look.history)
    lines = [Text(head, "bold"), *map(Text, others)]
    lines += [Text(note, "bold red") for note in notes_of(told)]
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("tenant", no_wrap=True, ratio=1)
    for column, title in COLUMNS:
        marked = f"{title} ↓" if column == look.ask.by else title
        table.add_column(marked, justify="right", no_wrap=True)
    rows = rows_of_tenants(told)
    for cells, row in zip(rows, [*told["tenants"]["rows"], None], strict=False):
        suffers = (
            row is not None
            and row["evictions"] > row["evictions_caused"]
            and (row["fair"] is not None and row["entries"] <= row["fair"])
        )
        style = "dim italic" if row is None else ""
        table.add_row(
            *(Text(cell, "red" if suffers and n == 6 else style) for n, cell in enumerate(cells))
        )
    below = [
        Text(f"loading for {lasting(load['age'])}: {printable(load['key'])}", "dim")
        for load in told["loads"][:5]
    ]
    keys = "s sort   / filter   q quit" if typed is None else f"filter: {typed}█"
    if typed is None and look.ask.search:
        keys += f"   filtered by {printable(look.ask.search)!r}"
    return Group(*lines, Text(), table, *below, Text(keys, "dim"))


@contextmanager
def keys_of_terminal() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits for a key for some seconds; an empty text: none came."""
    import termios  # Windows has none, and no Unix sockets for this verb either.
    import tty

    def sleep(seconds: float) -> str:
        time.sleep(seconds)
        return ""

    if not sys.stdin.isatty():
        yield sleep
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([number], [], [], seconds)
        return os.read(number, 32).decode("utf-8", "replace") if ready else ""

    try:
        tty.setcbreak(number)
        yield wait
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def choose(look: Look, key: str, typed: str | None) -> str | None:
    """Act on a key; return the text of a filter that is being typed."""
    by, search = look.ask.by, look.ask.search
    if typed is not None:
        if key in ("\r", "\n"):
            search, typed = typed, None
        elif key == "\x1b":
            typed = None
        elif key in ("\x7f", "\b"):
            typed = typed[:-1]
        elif key.isprintable():
            typed += key
    elif key == "s":
        figures = [column for column, _ in COLUMNS if column in _core.FIGURES]
        at = figures.index(by) if by in figures else -1
        by = figures[(at + 1) % len(figures)]
    elif key == "/":
        typed = ""
    elif key == "\x1b":
        search = ""
    look.ask = Ask(look.ask.path, by, search, look.ask.top)
    return typed


def watch(look: Look, delay: float) -> int:
    """Show it on the terminal until it is ended."""
    typed: str | None = None
    told = look.take()
    with (
        keys_of_terminal() as wait,
        rich("live").Live(screen=True, auto_refresh=False) as live,
    ):
        due = time.monotonic() + delay
        while True:
            live.update(rich_view(told, look, typed), refresh=True)
            read = wait(max(0.0, due - time.monotonic()))
            # An arrow is several characters, and so are letters that are typed fast.
            for key in [read] if read.startswith("\x1b") else read:
                if typed is None and key in ("q", "Q"):
                    return OK
                typed = choose(look, key, typed)
            if not read or typed is None:
                told = look.take()
                due = time.monotonic() + delay


def run(options: argparse.Namespace) -> int:
    """Look as the options say, and return the exit status."""
    ask = Ask(tuple(options.at), options.by, options.search, options.rows)
    look = Look(options.place, options.cache, ask, History())
    if options.json:
        told = look.take()
        print(json.dumps(told, indent=2))
        return GONE if told["state"] == "gone" else OK
    if options.once or not sys.stdout.isatty():
        told = look.take()
        print(plain(told, look.history))
        return GONE if told["state"] == "gone" else OK
    if find_spec("rich") is None:
        print('flowcache top: tables need rich: pip install "flowcache[top]"', file=sys.stderr)
        return BAD_USAGE
    return watch(look, options.delay)


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit status."""
    options = make_parser().parse_args(arguments)
    try:
        return run(options)
    except SocketError as error:
        print(f"flowcache top: {error}", file=sys.stderr)
        return BAD_USAGE
