"""Mistakes that a checker must report. Checked, never run.

Each line with a mistake names the error that it must give. A mistake that passes leaves its mark
unused, which mypy and pyright report in turn.
"""

from flowcache import Cache, Limits, Namespace, create_cache


def load() -> int:
    return 1


async def aload() -> int:
    return 1


def aloads(missing: list[str]) -> dict[str, str]:
    return {}


create_cache(max_entries="many")  # type: ignore[arg-type]
create_cache(ttl=3)  # type: ignore[call-arg]
Limits(share="half")  # type: ignore[arg-type]

cache: Cache[int] = create_cache()
ns: Namespace[int] = cache.namespace("a")
elsewhere: Namespace[str] = cache.namespace("a")  # type: ignore[assignment]

cache.namespace(b"a")  # type: ignore[arg-type]
cache.namespace("a", max_entries="5")  # type: ignore[arg-type]
cache.namespace("a", bound=5)  # type: ignore[call-arg]
ns.configure(reserved=None)  # type: ignore[arg-type]

ns.set("k", "no int")  # type: ignore[arg-type]
ns.set("k", 1, ttl="5")  # type: ignore[arg-type]
ns.set("k", 1, tags=3)  # type: ignore[arg-type]
ns.set("k", 1, 5)  # type: ignore[call-arg]
ns["k"] = "no int"  # type: ignore[assignment]
ns.get(["not hashable"])  # type: ignore[call-overload]
ns.delete({})  # type: ignore[arg-type]
ns.set_many({"k": "no int"})  # type: ignore[arg-type]
ns.invalidate_tags("t", match="some")  # type: ignore[arg-type]
value: int = ns.get("k")  # type: ignore[assignment]

ns.fetch("k", load()).bit_length()  # type: ignore[call-overload]
ns.refresh("k", key=3)  # type: ignore[call-overload]
ns.fetch("k", load, tll=5)  # type: ignore[call-overload]
ns.fetch("k", load).upper()  # type: ignore[attr-defined]
ns.fetch("k", aload).bit_length()  # type: ignore[attr-defined]
ns.fetch_many(["a"], aloads)  # type: ignore[arg-type, unused-coroutine]


@ns.cached(ttl=60)
def contacts(tenant: str, limit: int = 10) -> list[str]:
    return [tenant] * limit


@ns.cached()
async def acontacts(tenant: str) -> list[str]:
    return [tenant]


class Client:
    @ns.cached(key=lambda self, name: name)
    def find(self, name: str) -> int:
        return len(name)


ns.cached(time_to_live=60)  # type: ignore[call-overload]
contacts(3)  # type: ignore[arg-type]
contacts("acme", bound=3)  # type: ignore[call-arg]
contacts.invalidate()  # type: ignore[call-arg]
contacts("acme").items()  # type: ignore[attr-defined]
Client().find(3)  # type: ignore[arg-type]
Client().find.invalidate("a", "b")  # type: ignore[call-arg]


async def awaiting() -> None:
    (await ns.afetch("k", aload)).upper()  # type: ignore[attr-defined]
    await ns.afetch("k", aloads)  # type: ignore[arg-type]
    await ns.fetch("k", load)  # type: ignore[misc]
    await acontacts(3)  # type: ignore[arg-type]
    (await acontacts("acme")).items()  # type: ignore[attr-defined]
