"""The options of `flowcache replay`, and their meaning."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from flowcache import Limits
from flowcache.replay.reading import BINARY_KEYS, ROLES, TIME_UNITS, TWITTER, BinaryKeys, Layout
from flowcache.replay.source import COMPRESSIONS
from flowcache.replay.trace import OPERATIONS, Trace

DEFAULT_MAX_ENTRIES: Final = "10000"
CURVE: Final = "0.1%,0.2%,0.5%,1%,2%,5%,10%,20%,50%,100%"
WEIGHT_UNITS: Final = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}

DESCRIPTION: Final = """\
Replay a request log against a cache, and show the hit ratio of each tenant at each size.

Each line of the log is one request. A read that misses stores the value, as an application behind
fetch() does. A write or delete of the log is replayed as such. The times are those of the log.
"""

EPILOG: Final = """\
examples:
  flowcache replay requests.csv --key-column url --tenant-column customer
  flowcache replay requests.csv.zst --max-entries 5% --per-tenant max_entries=500
  flowcache replay cluster52.csv.xz --preset twitter --sizes 1%,5%,20% --plot curve.png
  flowcache replay requests.csv --max-entries 20000 --eviction lru,tinylfu
  flowcache replay requests.csv --max-entries 20000 --advice
  zcat access.csv.gz | flowcache replay - --tenant acme:reserved=1000,share=2

The optimum is that of one cache of the same number of entries that knows all later reads, without
tenants and their limits.

exit status: 0 done; 1 the log cannot be read, a line of it is malformed or its times cannot be
true; 2 wrong usage, a missing library of the extra "replay", or a report that cannot be written;
130 interrupted.
"""


ROLE_HELP: Final = {
    "time": "time of the request",
    "key": "key",
    "tenant": "tenant, a namespace of its own each",
    "size": "value's size in bytes (empty or 0: unknown)",
    "operation": f"operation, one of {', '.join(OPERATIONS)} (without it all are reads)",
    "ttl": "TTL in seconds (empty or 0: the default's)",
}


def size(text: str) -> str:
    """Check a size: a number of entries, or a percentage of the log's distinct keys."""
    try:
        valid = 0 < float(text[:-1]) <= 100 if text.endswith("%") else 0 < int(text) < 1 << 62
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor a percentage")
    return text


def sizes(text: str) -> list[str]:
    """Parse several sizes with commas between them."""
    return [size(part.strip()) for part in text.split(",")]


def policies(text: str) -> list[str]:
    """Parse one or several policies of eviction with commas between them."""
    named = [part.strip() for part in text.split(",")]
    if not set(named) <= {"lru", "tinylfu"} or len(set(named)) < len(named):
        raise argparse.ArgumentTypeError(f"{text!r} is not lru, tinylfu or lru,tinylfu")
    return named


def ways(text: str) -> list[str]:
    """Parse one or both ways of sharing with a comma between them."""
    named = [part.strip() for part in text.split(",")]
    if not set(named) <= {"fair", "utility"} or len(set(named)) < len(named):
        raise argparse.ArgumentTypeError(f"{text!r} is not fair, utility or fair,utility")
    return named


def weight(text: str) -> int:
    """Parse a number of bytes, such as 500k, 64M, 2G."""
    factor = WEIGHT_UNITS.get(text[-1:].lower(), 1)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
        if 1 <= number < 1 << 62 and number.is_integer():
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes such as 500k, 64M or 2G")


def seconds(text: str) -> float:
    """Parse a TTL in seconds."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def limits(text: str) -> Limits:
    """Parse a tenant's settings, such as reserved=100,share=2."""
    parse: dict[str, Callable[[str], Any]] = {
        "max_entries": int,
        "max_weight": weight,
        "reserved": int,
        "share": float,
        "default_ttl": seconds,
    }
    settings = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        if not equals or name not in parse:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not one of " + ", ".join(f"{known}=" for known in parse)
            )
        try:
            settings[name] = parse[name](number)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r}: not a number") from None
    try:
        return Limits(**settings)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def tenant_limits(text: str) -> tuple[str, Limits]:
    """Parse one tenant's name and settings."""
    # The settings hold no colon, a tenant's name may.
    name, colon, settings = text.rpartition(":")
    if not colon or not name or name != name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:SETTING=NUMBER,...")
    return name, limits(settings)


def delimiter(text: str) -> str:
    """Parse the character between fields; a backslash and a t are a tab."""
    text = "\t" if text == "\\t" else text
    if len(text) != 1 or text in '\0\r\n"\ufeff':
        raise argparse.ArgumentTypeError(f"{text!r} is not one character")
    return text


def count(text: str) -> int:
    """Parse a number of rows."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="flowcache replay",
        usage="%(prog)s [options] TRACE",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    log = parser.add_argument_group("the log")
    log.add_argument(
        "trace", metavar="TRACE", help="a file, plain or .xz, .gz, .zst; - for standard input"
    )
    log.add_argument(
        "--preset",
        choices=("twitter", *BINARY_KEYS),
        help="a known format: twitter (the cache traces that Twitter published, no header, clients "
        "as tenants), int32be or int64be (keys alone, big-endian numbers of 32 or 64 bits)",
    )
    log.add_argument(
        "--columns",
        metavar="NAMES",
        help="the columns' names with commas between them, for a CSV without a header",
    )
    for role in ROLES:
        log.add_argument(
            f"--{role}-column",
            metavar="NAME",
            help=f"the column that holds the {ROLE_HELP[role]}; default: {role!r}"
            + (", which must be there" if role == "key" else " if there is one"),
        )
    log.add_argument(
        "--time-unit", choices=tuple(TIME_UNITS), default="s", help="of the time column (s)"
    )
    log.add_argument(
        "--delimiter", type=delimiter, default=",", help="between fields (,); \\t is a tab"
    )
    log.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        help="default: the first bytes of the log decide",
    )
    log.add_argument(
        "--skip-bad",
        action="store_true",
        help="count malformed lines and go on; default: stop at the first",
    )
    allowed = parser.add_argument_group("the limits")
    allowed.add_argument(
        "--max-entries",
        metavar="N",
        type=size,
        help="the cache's bound, in entries or as a percentage of the log's distinct keys "
        f"({DEFAULT_MAX_ENTRIES}; with --max-weight: none)",
    )
    allowed.add_argument(
        "--max-weight",
        metavar="BYTES",
        type=weight,
        help="its bound in bytes of the size column: 64M",
    )
    allowed.add_argument(
        "--default-ttl",
        metavar="SECONDS",
        type=seconds,
        help="of entries without a TTL in the log; default: for ever",
    )
    allowed.add_argument(
        "--per-tenant",
        metavar="SETTINGS",
        type=limits,
        help="the limits of each tenant: max_entries=, max_weight=, reserved=, share=, "
        "default_ttl=",
    )
    allowed.add_argument(
        "--tenant",
        metavar="NAME:SETTINGS",
        type=tenant_limits,
        action="append",
        default=[],
        help="one tenant's limits, in place of those; may be repeated: acme:reserved=100,share=2",
    )
    allowed.add_argument(
        "--eviction",
        metavar="POLICY,...",
        type=policies,
        default=["lru"],
        help="which entry gives way: lru (the default) or tinylfu; both, with a comma between "
        "them, are replayed side by side",
    )
    allowed.add_argument(
        "--sharing",
        metavar="WAY,...",
        type=ways,
        default=["fair"],
        help="which tenant gives way: fair (the default) or utility; both, with a comma between "
        "them, are replayed side by side",
    )
    allowed.add_argument(
        "--no-fill",
        action="store_true",
        help="a read that misses stores nothing: only the log's writes do",
    )
    shown = parser.add_argument_group("the report")
    shown.add_argument(
        "--sizes", metavar="N,N,...", type=sizes, help="replay at each of these: 1%%,5%%,20%%"
    )
    shown.add_argument(
        "--plot",
        metavar="FILE",
        help=f"draw hit ratio against size; default sizes: {CURVE.replace('%', '%%')}",
    )
    shown.add_argument(
        "--advice",
        action="store_true",
        help="show what the cache itself tells of 1.25, 1.5 and 2 times the room, beside the truth",
    )
    shown.add_argument(
        "--no-optimum", action="store_true", help="with several sizes, leave Belady's optimum out"
    )
    shown.add_argument("--top", metavar="N", type=count, default=20, help="tenants shown (20)")
    shown.add_argument("--json", action="store_true", help="print JSON, all tenants, no tables")
    shown.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def layout_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Layout | BinaryKeys:
    """Return how the log is laid out."""
    roles = {
        role: column for role in ROLES if (column := getattr(options, f"{role}_column")) is not None
    }
    if options.preset and (roles or options.columns):
        parser.error(f"--preset {options.preset} names the columns: leave the others out")
    if options.preset in BINARY_KEYS:
        return BinaryKeys(BINARY_KEYS[options.preset])
    if options.preset == "twitter":
        return TWITTER
    columns = None
    if options.columns is not None:
        columns = tuple(column.strip() for column in options.columns.split(","))
    return Layout(
        columns=columns, roles=roles, delimiter=options.delimiter, time_unit=options.time_unit
    )


def entries_of(text: str, trace: Trace) -> int:
    """Return a size in entries, at least 1."""
    if text.endswith("%"):
        return max(1, round(float(text[:-1]) / 100 * trace.distinct_keys))
    return int(text)
