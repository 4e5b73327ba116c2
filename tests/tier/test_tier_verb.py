"""`flowcache tier` on a real server: what it shows, what it hides, and that it only reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flowcache import cli
from flowcache.page import show
from harness.fleet import Make
from harness.servers import Cluster, Server, server, wait_until

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tier(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the verb; its exit status, and what it printed."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["tier", *arguments])
        return status, *capsys.readouterr()

    return call


def test_it_shows_a_fleet(any_server: Server, make: Make, tier: Run, tmp_path: Path) -> None:
    # A lease that no pause of a slow machine ends.
    settings = {"name": "crm {a}", "tier": {"lease": 60}}
    one, _ = make(any_server, **settings), make(any_server, **settings)
    acme, other = one.namespace("tenant:acme"), one.namespace("tenant/[b]")
    acme.set_many({"secret-key": "secret-value", "k": 1})
    other.set("k", 1)
    for number in range(5):
        acme.invalidate_tag(f"t{number}")
    acme.invalidate_prefix("p")
    one.clear()
    shown = show(one, str(tmp_path))
    try:
        status, out, err = tier(
            any_server.url, "--cache", "crm {a}", "--json", "--shown", str(tmp_path)
        )
    finally:
        shown.close()
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert (told["cache"], told["lease"]) == ("crm {a}", 60.0)
    (bucket,) = told["buckets"]
    assert [member["hears"] for member in bucket["members"]] == [True, True]
    assert bucket["messages"] >= 10
    units = {unit["name"]: unit for unit in told["units"]}
    assert units["tenant:acme"]["invalidations"] == 8
    assert units["tenant:acme"]["values"] == 2
    assert units["tenant:acme"]["markers"] == 5
    assert units["tenant:acme"]["listed_bytes"] > 0
    assert units["tenant/[b]"]["invalidations"] == 1
    assert units["(all)"]["invalidations"] == 1
    (process,) = told["processes"]
    assert (process["state"], process["open_breakers"]) == ("live", 0)
    assert "secret" not in out


def test_no_key_is_shown_unless_it_is_asked_for(any_server: Server, make: Make, tier: Run) -> None:
    space = make(any_server, name="keys").namespace("tenant:acme")
    space.set("secret-\x1b[2J", "value")
    space.delete("secret-\x1b[2J")
    _, out, _ = tier(any_server.url, "--cache", "keys")
    assert "tenant:acme" in out
    assert "secret" not in out
    status, out, _ = tier(any_server.url, "--cache", "keys", "--keys")
    assert status == 0
    assert "secret-" in out
    assert "value" not in out.replace("values", "")
    assert "\x1b" not in out


def test_it_sends_only_commands_that_read(make: Make, tier: Run) -> None:
    with server() as own:
        cache = make(own, name="reads")
        cache.namespace("tenant:acme").set("k", 1)
        rights = "on >x ~* &* +@read +@connection +info +time +pubsub|shardnumsub +client|list"
        own.call("ACL", "SETUSER", "reader", *rights.split())
        status, out, err = tier(own.url.replace("//", "//reader:x@"), "--keys")
        assert (status, err) == (0, "")
        assert "tenant:acme" in out
        cache.close()


def test_a_member_that_was_killed_hears_no_more(make: Make, tier: Run) -> None:
    with server() as own:
        settings = {"name": "gone", "tier": {"lease": 60}}
        one, other = make(own, **settings), make(own, **settings)
        bus = other.tier.engine.bus
        bus._leave = lambda: None
        other.close()  # It ends without a word.
        bucket = one.tier.layout.all[0]
        wait_until(lambda: bucket.inbox(bus.member) not in own.call("PUBSUB", "SHARDCHANNELS"))
        _, out, _ = tier(own.url, "--json")
        hears = {one["id"]: one["hears"] for one in json.loads(out)["buckets"][0]["members"]}
        assert hears == {one.tier.engine.bus.member.decode(): True, bus.member.decode(): False}
        one.close()


def test_a_cluster(three: Cluster, make: Make, tier: Run) -> None:
    cache = make(three, name="spread", tier={"buckets": 6})
    for number in range(12):
        cache.namespace(f"tenant:{number}").set("k", number)
    status, out, _ = tier(three.url, "--cache", "spread", "--json", "-n", "5")
    told = json.loads(out)
    assert status == 0
    assert len(told["servers"]) == 3
    assert len(told["buckets"]) == 6
    assert (len(told["units"]), told["more_units"]) == (5, 7)


def test_what_it_cannot_show(new_server: Server, make: Make, tier: Run) -> None:
    status, out, err = tier("valkey://127.0.0.1:1/0")
    assert (status, out) == (1, "")
    assert err.startswith("flowcache tier: ")
    for arguments, said in (
        (("nonsense://x",), "url_or_client"),
        ((new_server.url, "--cache", "nothing"), "no such cache"),
    ):
        status, out, err = tier(*arguments)
        assert (status, out) == (2, "")
        assert said in err
    make(new_server, name="first")
    make(new_server, name="second")
    status, _, err = tier(new_server.url)
    assert status == 2
    assert "several caches" in err
