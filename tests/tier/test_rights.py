"""The user of docs/running-a-fleet.md: each call of a cache works, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcache import TierUnavailableError
from flowcache.cli.tier import look
from harness.fleet import Make, run
from harness.servers import Server, cluster

DOCS = Path(__file__).parents[2] / "docs" / "running-a-fleet.md"
LOOKS = "+scan +client|list +pubsub|shardnumsub"
"""What `flowcache tier` needs besides."""


def rights(binary: str) -> list[str]:
    """Return the rights of the documented line, as that server knows them."""
    text = DOCS.read_text()
    assert f"`{LOOKS}`" in text
    line = text.partition("ACL SETUSER flowcache on >secret ")[2].partition("```")[0].split()
    assert "+client|setinfo" in line
    if binary.startswith("redis-7.0"):
        line.remove("+client|setinfo")
    return line


def refusals(server: Server) -> list[Any]:
    """Return what the server has refused to a user."""
    entries = server.call("ACL", "LOG")
    return [
        one if isinstance(one, dict) else dict(zip(one[::2], one[1::2], strict=True))
        for one in entries
    ]


@pytest.fixture
def limited(any_server: Server) -> Iterator[Server]:
    """A server with that user, and without a record of refusals."""
    any_server.call(
        "ACL", "SETUSER", "flowcache", "reset", "on", ">secret", *rights(any_server.binary.name)
    )
    any_server.call("ACL", "LOG", "RESET")
    yield any_server
    any_server.call("ACL", "DELUSER", "flowcache")


def url_of(server: Server, database: int = 0) -> str:
    return f"valkey://flowcache:secret@127.0.0.1:{server.port}/{database}"


@pytest.mark.parametrize("database", [0, 3])
def test_each_call_works(limited: Server, make: Make, database: int) -> None:
    settings = {"tier": {"unit_stores": 1000}}
    use(*(make(url_of(limited, database) + "?client_name=mine", **settings) for _ in range(2)))
    assert refusals(limited) == []


def use(cache: Any, beside: Any) -> None:
    """Make each call that reaches the tier, in two processes."""
    one, other = cache.namespace("tenant:acme"), beside.namespace("tenant:acme")
    one.set("k", 1, ttl=60, tags="t", stale=5)
    assert other.get("k") == 1
    one.set_many({"l": "2", "m": "3"}, ttl=None)
    assert other.get_many(["l", "m"]) == {"l": "2", "m": "3"}
    assert other.fetch("n", lambda: 4, tags=("u", "v")) == 4
    assert one.ttl("m") is None
    assert other.add("o", 1) and not one.add("o", 2)
    assert one.setdefault("o", 3) == 1
    assert one.incr("count") == 1 and other.incr("count", 2) == 3
    assert one.touch("k", 30) and one.touch("l", None) and one.expire("k")
    assert other.pop("o") == 1
    assert one.delete("m", wait="fleet") and one.delete_many(["l", "x"]) == 1
    one.invalidate_tags(["u", "v"], match="all", wait="fleet")
    one.invalidate_tag("t", wait="fleet")
    one.invalidate_prefix("p", wait="fleet")
    one.expire_tag("t")
    assert other.refresh("n", lambda: 5) == 5
    assert other.fetch_many(["y", "z"], lambda keys: dict.fromkeys(keys, 6)) == {"y": 6, "z": 6}

    async def on_a_loop() -> None:
        await one.aset("k", 7)
        assert await other.afetch("k", lambda: 8) == 7
        await other.aclear(wait="fleet")

    run(on_a_loop())
    with pytest.raises(RuntimeError, match="upstream"):
        one.fetch("failed", upstream)  # Gives the lease back.
    cache.clear(wait="fleet")


def upstream() -> int:
    raise RuntimeError("upstream")


def test_nothing_else_does(limited: Server) -> None:
    from valkey.exceptions import NoPermissionError

    limited.call("SET", "theirs", "value")
    with limited.client(username="flowcache", password="secret") as client:
        for command in (
            "FLUSHALL",
            "FLUSHDB",
            "KEYS *",
            "SCAN 0",
            "RANDOMKEY",
            "DBSIZE",
            "SWAPDB 0 1",
            "GET theirs",
            "SET theirs x",
            "DEL fc1:a theirs",
            "COPY fc1:a theirs",
            "MOVE fc1:a 1",
            "SPUBLISH theirs x",
            "SSUBSCRIBE theirs",
            "PUBLISH fc1:a x",
            "PUBSUB CHANNELS",
            "SCRIPT FLUSH",
            "SCRIPT KILL",
            "FUNCTION FLUSH",
            "CONFIG GET *",
            "CLIENT LIST",
            "CLIENT KILL ID 1",
            "MONITOR",
            "SHUTDOWN",
            "REPLICAOF NO ONE",
            "CLUSTER RESET",
            "ACL LIST",
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())
    assert limited.call("GET", "theirs") == b"value"
    limited.call("DEL", "theirs")


def test_a_counter_that_may_not_be_counted_is_no_overflow(limited: Server, make: Make) -> None:
    limited.call("ACL", "SETUSER", "flowcache", "-incrby")
    namespace = make(url_of(limited)).namespace("tenant:acme")
    namespace.set("count", 7)
    with pytest.raises(TierUnavailableError, match=r"^incr: "):
        namespace.incr("count")
    assert namespace.get("count") == 7
    limited.call("ACL", "SETUSER", "flowcache", "+incrby")
    with pytest.raises(OverflowError):
        namespace.incr("count", 1 << 63)
    assert namespace.incr("count") == 8


def test_the_look_at_a_fleet_needs_three_more(limited: Server, make: Make) -> None:
    cache = make(url_of(limited))
    cache.namespace("tenant:acme").set("k", 1)
    limited.call("ACL", "SETUSER", "flowcache", *LOOKS.split())
    told = look(url_of(limited), "fc1", cache.name, keys=True, rows=10)
    assert told["buckets"]
    assert refusals(limited) == []


@pytest.mark.once  # Of servers, and not of interpreters.
def test_in_a_cluster(make: Make) -> None:
    with cluster() as three:
        for node in three.primaries:
            line = rights(node.binary.name)
            node.call("ACL", "SETUSER", "flowcache", "on", ">secret", *line)
        made = [make(url_of(three.primaries[0]), tier={"buckets": 3}) for _ in range(2)]
        use(*made)
        for one in made:
            one.close()
        assert [refusals(node) for node in three.primaries] == [[], [], []]
