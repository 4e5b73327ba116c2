"""`flowcache tier`: what the server of a fleet holds of it. Reads, and changes nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from flowcache.errors import ConfigurationError
from flowcache.watching.snapshot import Ask
from flowcache.watching.sockets import answers, sockets_of

from . import OK
from .top import BAD_USAGE, GONE, lasting, number, printable, rows_of

MOST_MESSAGES: Final = 4096
MOST_SCANNED: Final = 1_000_000
"""Keys of one server that are looked at."""
FIXED_FIELDS: Final = (b"i", b"p", b"s", b"f", b"q", b"w", b"n")
"""Fields of a record that are no markers."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of this verb's options."""
    parser = argparse.ArgumentParser(
        prog="flowcache tier",
        description="Show what a second tier holds: members, bus, records, invalidations.",
        epilog="Only commands that read are sent. No value is shown, and no key without --keys.",
        allow_abbrev=False,
    )
    parser.add_argument("url", help="the server, as in create_cache(tier=...)")
    parser.add_argument("--cache", help="the cache's name, where several lie on the server")
    parser.add_argument("--prefix", default="fc1", help="begins each key there (fc1)")
    parser.add_argument(
        "--shown", metavar="FOLDER",
        help="ask the processes that show themselves there for their leases and breakers, too",
    )  # fmt: skip
    parser.add_argument("-n", "--rows", type=rows_of, default=20, help="tenants shown (20)")
    parser.add_argument("--keys", action="store_true", help="show which keys are dropped most")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


class LookError(Exception):
    """The server cannot be looked at, or there is nothing to see."""


class Looker:
    """Reads from one server, or from the primaries of a cluster."""

    def __init__(self, url: str) -> None:
        from flowcache.tier.breaker import Breaker
        from flowcache.tier.servers import Servers
        from flowcache.tier.wire import Dialer

        self._servers = Servers(Dialer(url), lambda _: Breaker(), 1.0)
        self._servers.discover()
        self._wires = {id(one): one.dial() for one in self._servers.all}

    def close(self) -> None:
        """End the connections."""
        for wire in self._wires.values():
            wire.close()

    @property
    def wires(self) -> list[Any]:
        """A connection to each primary."""
        return list(self._wires.values())

    def wire_of(self, slot: int) -> Any:
        """Return the connection to the primary of a slot."""
        return self._wires[id(self._servers.share_of(slot).server)]

    def ask(self, wire: Any, *command: bytes | int) -> Any:
        """Return one reply; `LookError` for a refusal."""
        from flowcache.tier.resp import ReplyError, pack

        (reply,) = wire.ask(pack(*command), patience=5.0)
        if isinstance(reply, ReplyError):
            raise LookError(f"{command[0]!r}: {reply}")
        return reply

    def keys(self, pattern: bytes) -> Iterator[tuple[Any, bytes]]:
        """Yield the keys of a pattern with their connections; of each server so many at most."""
        for wire in self.wires:
            cursor, seen = b"0", 0
            while seen < MOST_SCANNED:
                command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", 1000)
                cursor, found = self.ask(wire, *command)
                for key in found:
                    yield wire, key
                seen += 1000
                if cursor == b"0":
                    break


def shapes_of(looker: Looker, prefix: str) -> dict[str, dict[str, str]]:
    """Return the caches on the server by name, with what their fleets have agreed on."""
    told = {}
    for wire, key in looker.keys(f"{prefix}:*:shape".encode()):
        name = unquote_to_bytes(key[len(prefix) + 1 : -len(":shape")]).decode(
            "utf-8", "surrogatepass"
        )
        shape = looker.ask(wire, b"GET", key) or b""
        told[name] = dict(part.split("=", 1) for part in shape.decode().split() if "=" in part)
    return told


def look(url: str, prefix: str, name: str | None, *, keys: bool, rows: int) -> dict[str, Any]:
    """Return what the server holds of a cache's fleet."""
    from flowcache.tier.layout import Layout

    looker = Looker(url)
    try:
        shapes = shapes_of(looker, prefix)
        if name is None and len(shapes) > 1:
            listed = ", ".join(sorted(map(printable, shapes)))
            raise LookError(f"there are several caches, --cache says which: {listed}")
        if not shapes or (name is not None and name not in shapes):
            listed = ", ".join(sorted(map(printable, shapes))) or "none"
            raise LookError(f"no such cache on the server; there are: {listed}")
        chosen = next(iter(shapes)) if name is None else name
        shape = shapes[chosen]
        depth, buckets = int(shape["tenant_depth"]), int(shape["buckets"])
        layout = Layout(chosen, buckets=buckets, tenant_depth=depth, prefix=prefix)
        units: dict[str, dict[str, int]] = {}
        dropped: Counter[tuple[tuple[str, ...], object]] = Counter()
        told: dict[str, Any] = {
            "cache": chosen,
            "lease": float(shape["lease"]),
            "servers": [server_of(looker, wire) for wire in looker.wires],
            "buckets": [bucket_of(looker, bucket, depth, units, dropped) for bucket in layout.all],
        }
        count_units(looker, layout, units)
        ordered = sorted(units.items(), key=lambda one: (-one[1]["invalidations"], one[0]))
        told["units"] = [{"name": unit, **figures} for unit, figures in ordered[:rows]]
        told["more_units"] = max(0, len(ordered) - rows)
        if keys:
            told["keys"] = [
                {"path": list(path), "key": repr(key), "drops": count}
                for (path, key), count in dropped.most_common(rows)
            ]
        return told
    finally:
        looker.close()


def server_of(looker: Looker, wire: Any) -> dict[str, Any]:
    """Return a primary's figures: its replicas, and the subscriber that is furthest behind."""
    host, port = wire.sock.getpeername()[:2] if wire.sock.family.name != "AF_UNIX" else ("unix", 0)
    listed = looker.ask(wire, b"CLIENT", b"LIST", b"TYPE", b"PUBSUB").decode()
    waiting = [
        int(part[len("omem=") :])
        for line in listed.splitlines()
        for part in line.split()
        if part.startswith("omem=")
    ]
    return {
        "address": f"{host}:{port}",
        "version": wire.version,
        "replicas": wire.replicas,
        "subscribers": len(waiting),
        "bytes_behind": max(waiting, default=0),
    }


def bucket_of(
    looker: Looker,
    bucket: Any,
    depth: int,
    units: dict[str, dict[str, int]],
    dropped: Counter[tuple[tuple[str, ...], object]],
) -> dict[str, Any]:
    """Return a bucket's members and its log, and count the log's messages by unit."""
    from flowcache.tier.following import SUSPECT
    from flowcache.tier.message import Kind, Message

    wire = looker.wire_of(bucket.slot)
    seconds, micros = looker.ask(wire, b"TIME")
    now = int(seconds) * 1_000_000 + int(micros)
    flat = looker.ask(wire, b"HGETALL", bucket.members)
    held = as_dict(flat)
    held.pop(b"birth", None)
    inboxes = [bucket.inbox(member) for member in held]
    counted = looker.ask(wire, b"PUBSUB", b"SHARDNUMSUB", *inboxes) if inboxes else []
    pairs = as_dict(counted)
    beat = looker.ask(wire, b"GET", bucket.prefix + b":b")
    entries = looker.ask(wire, b"XREVRANGE", bucket.log, b"+", b"-", b"COUNT", MOST_MESSAGES)
    for _, fields in entries:
        if not fields[1]:
            continue
        message = Message.decode(fields[1])
        if message.kind is Kind.RELEASED:
            continue
        name = " > ".join(message.path[:depth]) if len(message.path) >= depth else "(all)"
        figures_of(units, name)["invalidations"] += 1
        if message.kind in (Kind.DROP, Kind.EXPIRE):
            dropped[message.path, message.data] += 1
    return {
        "number": bucket.number,
        "members": [
            {
                "id": member.decode(),
                "joined": (now - int(since.rstrip(SUSPECT))) / 1e6,
                "hears": bool(pairs.get(bucket.inbox(member))),
            }
            for member, since in sorted(held.items())
        ],
        "messages": len(entries),
        "newest": (now / 1000 - int(entries[0][0].split(b"-")[0])) / 1000 if entries else None,
        "beat": None if beat is None else (now - int(beat)) / 1e6,
    }


def as_dict(reply: Any) -> dict[bytes, Any]:
    """Return pairs, which a server gives as a map or one after the other."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def figures_of(units: dict[str, dict[str, int]], name: str) -> dict[str, int]:
    """Return the figures of a unit, begun now if need be."""
    return units.setdefault(
        name, {"invalidations": 0, "values": 0, "leases": 0, "markers": 0, "listed_bytes": 0}
    )


def count_units(looker: Looker, layout: Any, units: dict[str, dict[str, int]]) -> None:
    """Count what lies there by unit: values, running loads, and the record's markers."""
    start = f"{layout.prefix}:".encode()
    begins = {bucket.prefix: bucket for bucket in layout.all}
    for wire, key in looker.keys(start + b"*"):
        prefix, _, rest = key.partition(b"}:")
        if prefix + b"}" not in begins:
            continue
        kind, _, about = rest.partition(b":")
        if kind == b"g":
            figures = figures_of(units, readable(about))
            fixed = looker.ask(wire, b"HMGET", key, *FIXED_FIELDS)
            figures["markers"] += looker.ask(wire, b"HLEN", key) - sum(
                one is not None for one in fixed
            )
            figures["listed_bytes"] += len(fixed[4] or b"")
        elif kind in (b"v", b"l"):
            unit = readable(about.rpartition(b":")[0])
            figures_of(units, unit)["values" if kind == b"v" else "leases"] += 1


def readable(name: bytes) -> str:
    """Return a unit's name as its application writes it; a long one has only its digest there."""
    if name == b"@":
        return "(all)"
    if not name.startswith(b"/"):
        return name.decode()
    parts = name.decode().split("/")[1:]
    return " > ".join(unquote_to_bytes(part).decode("utf-8", "surrogatepass") for part in parts)


def processes_of(folder: str, name: str) -> list[dict[str, Any]]:
    """Return the tier's state in each process that shows itself in a folder."""
    told = []
    for one in answers(sockets_of(folder), Ask()):
        if one["state"] == "gone":
            told.append({"pid": one["pid"], "state": "gone"})
        elif one["cache"] == name and one["tier"]:
            told.append({"pid": one["pid"], **one["tier"]})
    return told


# Showing


def tables_of(told: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return everything as tables: a title, its columns, and rows of text."""

    def ago(seconds: float | None) -> str:
        return "-" if seconds is None else f"{lasting(max(0.0, seconds))} ago"

    servers = [
        [one["address"], one["version"], number(one["replicas"]), number(one["subscribers"]),
         number(one["bytes_behind"])]
        for one in told["servers"]
    ]  # fmt: skip
    buckets = [
        [str(one["number"]), number(len(one["members"])),
         number(sum(member["hears"] for member in one["members"])),
         ago(one["beat"]), number(one["messages"]), ago(one["newest"])]
        for one in told["buckets"]
    ]  # fmt: skip
    members = [
        [member["id"], str(one["number"]), ago(member["joined"]),
         "yes" if member["hears"] else "no: its lease ends"]
        for one in told["buckets"] for member in one["members"]
    ]  # fmt: skip
    units = [
        [printable(one["name"]), *(number(one[name]) for name in
         ("invalidations", "values", "leases", "markers", "listed_bytes"))]
        for one in told["units"]
    ]  # fmt: skip
    if told["more_units"]:
        units.append([f"({number(told['more_units'])} more)", *[""] * 5])
    tables = [
        ("servers", ["address", "version", "replicas", "subscribers", "bytes behind"], servers),
        (
            "buckets",
            ["bucket", "members", "hear", "last beat", "messages kept", "last message"],
            buckets,
        ),
        ("members", ["member", "bucket", "joined", "hears"], members),
        (
            "tenants by invalidations",
            ["tenant", "invalidations", "values", "loads", "markers", "listed bytes"],
            units,
        ),
    ]
    if "keys" in told:
        keys = [
            [" > ".join(map(printable, one["path"])), printable(one["key"]), number(one["drops"])]
            for one in told["keys"]
        ]
        tables.append(("keys by drops", ["namespace", "key", "drops"], keys))
    if "processes" in told:
        processes = [
            [str(one["pid"] or "?"), one["state"], number(one.get("open_breakers")),
             number(one.get("tier_hits")), number(one.get("tier_errors"))]
            for one in told["processes"]
        ]  # fmt: skip
        titles = ["process", "tier", "open breakers", "hits there", "errors"]
        tables.append(("processes", titles, processes))
    return tables


def plain(told: dict[str, Any]) -> str:
    """Return everything as text without any control characters."""
    lines = [f"{printable(told['cache'])}   a lease of {told['lease']:g} s"]
    for title, titles, rows in tables_of(told):
        lines += ["", title]
        widths = [max(len(row[n]) for row in [titles, *rows]) for n in range(len(titles))]
        for row in [titles, *rows]:
            cells = [one.ljust(width) for one, width in zip(row, widths, strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def print_tables(told: dict[str, Any]) -> None:
    """Print everything to a terminal."""
    console = import_module("rich.console").Console()
    console.print(f"{printable(told['cache'])}   a lease of {told['lease']:g} s", markup=False)
    for title, titles, rows in tables_of(told):
        table = import_module("rich.table").Table(title=title, title_justify="left")
        for at, one in enumerate(titles):
            table.add_column(one, justify="right" if at else "left")
        for row in rows:
            # As text: a name in brackets is no markup.
            table.add_row(*map(import_module("rich.text").Text, row))
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit status: 1 without a server, 2 with nothing to show."""
    options = make_parser().parse_args(arguments)
    if find_spec("valkey") is None or find_spec("msgspec") is None:
        print('flowcache tier: needs pip install "flowcache[valkey]"', file=sys.stderr)
        return BAD_USAGE
    from flowcache.tier.errors import ServerError

    try:
        told = look(
            options.url, options.prefix, options.cache, keys=options.keys, rows=options.rows
        )
    except ServerError as error:
        print(f"flowcache tier: {error}", file=sys.stderr)
        return GONE
    except (LookError, ConfigurationError, ValueError) as error:
        print(f"flowcache tier: {error}", file=sys.stderr)
        return BAD_USAGE
    if options.shown is not None:
        told["processes"] = processes_of(options.shown, told["cache"])
    if options.json:
        print(json.dumps(told, indent=2))
    elif sys.stdout.isatty() and find_spec("rich") is not None:
        print_tables(told)
    else:
        print(plain(told))
    return OK
