"""Servers, settings and values of a tier that are wrong, and a fleet that is out of reach."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flowcache import (
    ConfigurationError,
    TierUnavailableError,
    _core,
    create_cache,
)
from flowcache.tier import JsonCodec, MsgpackCodec, PickleCodec, ValkeyTier
from flowcache.tier.bus import Bus
from harness.fleet import Make, confirmed, run
from harness.servers import Server, server, wait_until

# What goes wrong


INVALIDATIONS: dict[str, Callable[[Any], Any]] = {
    "clear": lambda ns: ns.clear(),
    "invalidate_tags": lambda ns: ns.invalidate_tag("t"),
    "invalidate_prefix": lambda ns: ns.invalidate_prefix("k"),
    "expire_tags": lambda ns: ns.expire_tag("t"),
    "delete_many": lambda ns: ns.delete("k"),
    "expire": lambda ns: ns.expire("k"),
    "touch": lambda ns: ns.touch("k", 5),
    "pop": lambda ns: ns.pop("k"),
}


@pytest.mark.parametrize("name", INVALIDATIONS)
def test_what_is_filled_while_an_invalidation_is_under_way_goes(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one, _ = pair
    one.set("k", 1, tags=("t",))
    engine = _core._tier_of(one).engine
    real = getattr(engine, name)

    def late(*args: Any, **kwargs: Any) -> Any:
        assert one.get("k") == 1  # After the drop here, and before the tier has heard of it.
        assert "k" in one
        return (yield from real(*args, **kwargs))

    monkeypatch.setattr(engine, name, late)
    INVALIDATIONS[name](one)
    assert "k" not in one
    monkeypatch.undo()
    assert one.get("k") == (1 if name == "touch" else None)


def test_nothing_is_opened_before_it_is_needed(new_server: Server, make: Make) -> None:
    before = set(threading.enumerate())
    cache = make("valkey://127.0.0.1:1/0", connects=False)
    namespace = cache.namespace("tenant:acme", default_ttl=5)
    namespace.stats()
    assert cache.tier is not None
    assert cache.tier.state == "idle"
    assert set(threading.enumerate()) <= before
    real = make(new_server)
    assert real.tier is not None
    assert real.tier.state == "live"
    real.close()
    assert real.tier.state == "closed" if not real._is_closed() else True


def test_a_server_that_cannot_be_reached(make: Make) -> None:
    timeouts = {"soft_timeout": 0.05, "hard_timeout": 0.1}
    cache = make("valkey://127.0.0.1:1/0", connects=False, tier=timeouts)
    with pytest.raises(TierUnavailableError, match=r"connect: .*127\.0\.0\.1:1"):
        cache.connect()
    with pytest.raises(TierUnavailableError, match="connect: "):
        run(cache.aconnect())
    namespace = cache.namespace("tenant:acme")
    assert namespace.get("k") is None
    assert namespace.fetch("k", lambda: 1) == 1
    assert run(namespace.afetch("k", lambda: 2)) == 2  # Nothing is kept.
    for call in (
        lambda: namespace.set("k", 1),
        lambda: namespace.add("k", 1),
        lambda: namespace.incr("k"),
        lambda: namespace.delete("k"),
        namespace.clear,
        lambda: namespace.invalidate_tag("t"),
        lambda: run(namespace.aset("k", 1)),
    ):
        with pytest.raises(TierUnavailableError):
            call()
    assert "k" not in namespace
    assert cache.stats().tier_errors > 0


@pytest.mark.parametrize("late", ["greeting", "heart-beat"])
def test_connect_waits_for_a_server_that_is_late(
    late: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowcache.tier.front.CONNECTS_WITHIN", 60.0)
    stops = threading.Event()
    if late == "heart-beat":
        attached = Bus._attached

        def stop(self: Any, *rest: Any) -> None:
            attached(self, *rest)
            if not stops.is_set():
                slow.signal(signal.SIGSTOP)
                stops.set()

        monkeypatch.setattr(Bus, "_attached", stop)
    with server() as slow, ThreadPoolExecutor(1) as pool:
        cache = make(slow, connects=False)
        assert cache.tier is not None
        bus = cache.tier.engine.bus
        if late == "greeting":
            slow.signal(signal.SIGSTOP)
        connected = pool.submit(cache.connect)
        try:
            wait_until(lambda: bus.trouble is not None)
            assert not connected.done()
        finally:
            slow.signal(signal.SIGCONT)
        connected.result()
        assert cache.tier.state == "live"


def test_a_wrong_password_is_told_and_not_shown(make: Make) -> None:
    with server(None, "--requirepass", "right") as locked:
        url = f"valkey://:wrong-secret@127.0.0.1:{locked.port}/0"
        cache = make(url, connects=False)
        with pytest.raises(TierUnavailableError) as caught:
            cache.connect()
        assert "wrong-secret" not in str(caught.value)
        with_password = make(f"valkey://:right@127.0.0.1:{locked.port}/0")
        with_password.namespace("tenant:acme").set("k", 1)


def test_processes_have_to_agree(new_server: Server, make: Make) -> None:
    make(new_server, name="agreed")
    for settings in ({"tier": {"buckets": 2}}, {"tenant_depth": 2}, {"tier": {"lease": 3.0}}):
        other = make(new_server, name="agreed", connects=False, **settings)
        with pytest.raises(ConfigurationError, match="other settings"):
            other.connect()
        with pytest.raises(ConfigurationError, match="other settings"):
            other.namespace("tenant:acme").get("k")
        other.close()


class OnlySigns(JsonCodec):
    def sign(self, name: bytes, header: bytes, body: bytes, /) -> bytes:
        return body


class Misnamed(JsonCodec):
    name: Any = 7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"url_or_client": "http://127.0.0.1"}, ConfigurationError, "url_or_client: must begin"),
        ({"url_or_client": 7}, ConfigurationError, "url_or_client: must be a URL"),
        ({"codec": object()}, TypeError, "codec: must have methods"),
        ({"codec": OnlySigns()}, TypeError, "codec: must have both of the methods sign and verify"),
        ({"codec": Misnamed()}, TypeError, "codec: its name must be a str, got int"),
        ({"buckets": 0}, ValueError, "buckets: must be an int from 1"),
        ({"buckets": True}, TypeError, "buckets: must be an int"),
        ({"lease": 0.1}, ValueError, "lease: must be at least 1.5 seconds"),
        ({"lease": "2"}, TypeError, "lease: must be seconds"),
        ({"local_ttl": -1}, ValueError, "local_ttl: must not be negative"),
        ({"on_partition": "hope"}, ValueError, "on_partition: must be"),
        ({"on_partition": ("stale", -1)}, ValueError, "on_partition: must not be negative"),
        ({"on_primary_change": "x"}, ValueError, "on_primary_change: must be"),
        ({"replicas": -1}, ValueError, "replicas: must be an int from 0"),
        ({"prefix": "a b"}, ValueError, "prefix: must be letters"),
        ({"prefix": 1}, TypeError, "prefix: must be a str"),
        ({"soft_timeout": 1, "hard_timeout": 0.5}, ValueError, "soft_timeout: must not be longer"),
        ({"limit": 0}, ValueError, "limit: must be an int from 1"),
        ({"limit": None}, TypeError, "limit: must be an int"),
        ({"compress_from": "x"}, TypeError, "compress_from: must be an int"),
    ],
)
def test_bad_settings_name_the_argument(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings = dict(arguments)
    with pytest.raises(error, match=rf"^{message}"):
        ValkeyTier(settings.pop("url_or_client", "valkey://127.0.0.1:1"), **settings)


def test_create_cache_checks_its_tier() -> None:
    with pytest.raises(ConfigurationError, match=r"^tier: must be a ValkeyTier or a URL"):
        create_cache(tier=7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"^clock: a cache with a tier"):
        create_cache(tier="valkey://127.0.0.1:1", clock=time.monotonic)
    for depth, error in ((0, ValueError), (65, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^tenant_depth: must be an int"):
            create_cache(tenant_depth=depth)  # type: ignore[arg-type]


def test_a_value_that_was_tampered_with_is_a_miss(new_server: Server, make: Make) -> None:
    codec = PickleCodec(keys=[b"k" * 16])
    one, other = (make(new_server, tier={"codec": codec}) for _ in range(2))
    here, there = one.namespace("tenant:acme"), other.namespace("tenant:acme")
    here.set("k", {1, 2})
    (name,) = new_server.call("KEYS", f"fc1:{one.name}*:v:*".replace("[", "\\["))
    data = new_server.call("GET", name)
    new_server.call("SET", name, data[:-1] + bytes([data[-1] ^ 1]))
    assert there.get("k") is None
    assert there.stats().tier_errors == 1
    assert new_server.call("EXISTS", name) == 0


def test_a_codec_that_raises(new_server: Server, make: Make) -> None:
    class Broken:
        name = "broken"

        def encode(self, value: Any, /) -> bytes:
            if value == "in":
                raise RuntimeError("encode")
            return MsgpackCodec().encode(value)

        def decode(self, data: bytes, /) -> Any:
            raise RuntimeError("decode")

    one, other = (make(new_server, tier={"codec": Broken()}) for _ in range(2))
    here, there = one.namespace("tenant:acme"), other.namespace("tenant:acme")
    here.set("in", "in")
    assert (here.get("in"), here.stats().untiered, there.get("in")) == ("in", 1, None)
    here.set("out", "out")
    assert (here.get("out"), there.get("out")) == ("out", None)
    assert there.fetch("out", lambda: "loaded") == "loaded"


class Signing(MsgpackCodec):
    """A codec whose signatures fail, or are none, as its test says."""

    name = "signing"
    signs: Any = b"signed:"
    verifies: Any = 7

    def sign(self, name: bytes, header: bytes, body: bytes, /) -> Any:
        return self._give(self.signs) or self.signs + body

    def verify(self, name: bytes, header: bytes, signed: bytes, /) -> Any:
        return self._give(self.verifies) or signed[self.verifies :]

    def _give(self, told: Any) -> Any:
        if isinstance(told, Exception):
            raise told
        return told if isinstance(told, str) else None


@pytest.mark.parametrize("fault", [LookupError("the vault is sealed"), "text"], ids=repr)
def test_a_signature_that_cannot_be_made_or_checked(
    new_server: Server, make: Make, fault: Any
) -> None:
    codec, reads = Signing(), Signing()
    here = make(new_server, tier={"codec": codec}).namespace("tenant:acme")
    there = make(new_server, tier={"codec": reads}).namespace("tenant:acme")
    here.set("k", "sound")
    assert there.get("k") == "sound"
    codec.signs = fault
    here.set("in", "in")
    assert here.fetch("loaded", lambda: "in") == "in"
    assert here.add("added", "in")
    assert [here.get(key) for key in ("in", "loaded", "added")] == ["in"] * 3
    assert [there.get(key) for key in ("in", "loaded", "added")] == [None] * 3
    assert here.stats().untiered == 3
    there.clear()
    codec.signs = b"signed:"
    here.set_many({"k": 1.5, "l": 2.5, "m": 3.5})
    reads.verifies = fault
    assert there.get("k") is None
    assert there.fetch("l", lambda: "anew") == "anew"
    assert there.pop("m", "none") == "none"
    assert there.stats().tier_errors >= 2


@pytest.mark.parametrize("codec", [MsgpackCodec(), JsonCodec(), PickleCodec(keys=[b"0" * 16])])
def test_each_codec_gives_back_what_was_stored(new_server: Server, make: Make, codec: Any) -> None:
    one, other = (make(new_server, tier={"codec": codec}) for _ in range(2))
    value = {"name": "é" * 3000, "list": [1, 2.5, None, True]}
    one.namespace("tenant:acme").set("k", value)
    assert other.namespace("tenant:acme").get("k") == value


# Without the fleet


def test_without_a_lease_nothing_that_may_be_old_is_served(make: Make) -> None:
    timeouts = {"soft_timeout": 0.5, "hard_timeout": 1.0, "lease": 2.0}
    with server() as stopping:
        load = make(stopping, tier=timeouts).namespace("tenant:acme")
        stale = make(stopping, tier={"on_partition": ("stale", 60), **timeouts})
        strict = make(stopping, tier={"on_partition": "raise", **timeouts})
        stale_ns, strict_ns = stale.namespace("tenant:acme"), strict.namespace("tenant:acme")
        # Or its message would drop what is read now.
        confirmed(lambda: load.set("k", 1, wait="fleet"))
        for namespace in (stale_ns, strict_ns):
            wait_until(lambda namespace=namespace: confirmed(lambda: namespace.get("k")) == 1)
        with stopping.stopped():
            wait_until(lambda: stale.tier is not None and stale.tier.state == "apart")
            wait_until(lambda: "k" not in load)
            assert load.get("k") is None
            assert load.fetch("k", lambda: 2) == 2
            assert load.fetch("k", lambda: 3) == 3
            assert stale_ns.get("k") == 1
            assert stale.tier is not None
            assert stale.tier.stale_served > 0
            with pytest.raises(TierUnavailableError):
                strict_ns.get("k")
        wait_until(lambda: load.get("k") == 1)
        wait_until(lambda: confirmed(lambda: strict_ns.get("k")) == 1)
        for one in (stale, strict):
            one.close()


def test_an_invalidation_that_is_not_confirmed_is_done_here(make: Make) -> None:
    timeouts = {"soft_timeout": 0.5, "hard_timeout": 1.0}
    with server() as stopping:
        namespace = make(stopping, tier=timeouts).namespace("tenant:acme")
        confirmed(lambda: namespace.set("k", 1))
        confirmed(lambda: namespace.set("m", 1))
        with stopping.stopped():
            with pytest.raises(TierUnavailableError):
                namespace.invalidate_prefix("k")
            with pytest.raises(TierUnavailableError):
                namespace.set("m", 2)
            assert "k" not in namespace
            assert "m" not in namespace
