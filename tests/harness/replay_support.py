"""Shared by the tests of the replay: traces made by hand, logs that are packed, the command."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from array import array
from typing import Any

import pytest

from flowcache.cli import OK
from flowcache.cli import main as flowcache
from flowcache.replay.extras import ReplayError
from flowcache.replay.source import need_zstd
from flowcache.replay.trace import READ, Trace, TraceBuilder

HEADER = "time,key,tenant,size,operation,ttl\n"
PACKINGS = ("gz", "xz", "zst")


def main(arguments: list[str]) -> int:
    """Run `flowcache replay` and return its exit status."""
    return flowcache(["replay", *arguments])


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json", "--quiet"]) == OK
    return json.loads(capsys.readouterr().out)


def zstd() -> Any:
    """The module for zstandard; the test is skipped where there is none."""
    try:
        return need_zstd()
    except ReplayError as error:
        pytest.skip(f"{error}: the extra `replay` is not installed")


def packed(content: bytes, packing: str) -> bytes:
    """The content as a file of this kind holds it; "" is the content itself."""
    match packing:
        case "gz":
            return gzip.compress(content, 1, mtime=0)
        case "xz":
            return lzma.compress(content, preset=0)
        case "zst":
            return zstd().compress(content)
    return content


def trace_of(*requests: tuple[Any, ...], **columns: bool) -> Trace:
    """A trace of (key, operation, time, ttl, size, tenant), each as far as it is given."""
    builder = TraceBuilder(
        with_operations=True,
        with_times=True,
        with_ttls=True,
        with_sizes=columns.get("sizes", False),
        with_tenants=columns.get("tenants", False),
    )
    for request in requests:
        key, operation, time, ttl, size, tenant = (
            *request,
            *(READ, 0.0, 0.0, 0, "all")[len(request) - 1 :],
        )
        builder.add(key, operation=operation, time=time, ttl=ttl, size=size, tenant=tenant)
    return builder.finish()


def keys_only(keys: list[int]) -> Trace:
    builder = TraceBuilder()
    builder.add_keys(array("i", keys))
    return builder.finish()


def skewed_keys(seed: int, requests: int = 3_000, keys: int = 300) -> list[int]:
    draw = random.Random(seed)
    return [int(keys * draw.random() ** 3) for _ in range(requests)]
