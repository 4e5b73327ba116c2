"""The console command ``flowcache``: a module for each verb, imported when the verb is used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from flowcache import __version__

OK: Final = 0
INTERRUPTED: Final = 130

# A verb is the module of its name beside this file. Its `main(arguments)` returns the exit status.
VERBS: Final = {
    "replay": "replay a request log: how big should the cache be?",
    "tier": "look at the second tier of a fleet: members, bus, invalidations",
    "top": "watch the caches of running processes",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments before the verb's own."""
    width = max(map(len, VERBS))
    parser = argparse.ArgumentParser(
        prog="flowcache",
        usage="%(prog)s [--help] [--version] VERB ...",
        description="Tools for flowcache, a multi-tenant in-process cache.",
        epilog="verbs:\n"
        + "".join(f"  {verb:{width}}  {line}\n" for verb, line in VERBS.items())
        + "\n`flowcache VERB --help` lists the options of a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"flowcache {__version__}")
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help="one of the verbs below")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; wrong usage raises SystemExit with status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # No option before the verb takes a value, so the verb is the first word without a dash.
    verb_at = next((at for at, word in enumerate(given) if not word.startswith("-")), len(given))
    options = make_parser().parse_args(given[: verb_at + 1])
    verb = import_module(f"{__name__}.{options.verb}")
    try:
        status: int = verb.main(given[verb_at + 1 :])
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the report ended early, as `head` does.
        discard_output()
        return OK
    except KeyboardInterrupt:
        print("flowcache: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def discard_output() -> None:
    """Redirect standard output to the null device, so that the flush at exit cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
