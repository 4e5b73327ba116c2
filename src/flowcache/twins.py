"""The awaitable twins of the calls that can reach a second tier.

They are there without a tier too, and then do not suspend, so that code does not change when a tier
is added. Nothing happens before the await. The tenant and the context are those of the call.
"""

from __future__ import annotations

from . import _core
from .coroutines import at_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from typing import Any

    Space = _core.Namespace[Any]

__all__ = ["TWINS"]

UNSET: Any = _core.UNSET


@at_call
async def aget(self: Space, key: Hashable, /, default: Any = None) -> Any:
    """Await what `get` returns."""
    return self.get(key, default)


@at_call
async def aset(
    self: Space,
    key: Hashable,
    value: Any,
    /,
    *,
    ttl: Any = UNSET,
    tags: Any = (),
    stale: Any = None,
    sliding: Any = None,
    jitter: Any = None,
    wait: Any = None,
) -> None:
    """Await the end of `set`."""
    self.set(
        key,
        value,
        ttl=ttl,
        tags=tags,
        stale=stale,
        sliding=sliding,
        jitter=jitter,
        wait=wait,
    )


@at_call
async def aadd(
    self: Space,
    key: Hashable,
    value: Any,
    /,
    *,
    ttl: Any = UNSET,
    tags: Any = (),
    stale: Any = None,
    sliding: Any = None,
    jitter: Any = None,
) -> bool:
    """Await what `add` returns."""
    return self.add(key, value, ttl=ttl, tags=tags, stale=stale, sliding=sliding, jitter=jitter)


@at_call
async def adelete(self: Space, key: Hashable, /, *, wait: Any = None) -> bool:
    """Await what `delete` returns."""
    return self.delete(key, wait=wait)


@at_call
async def apop(self: Space, key: Hashable, /, default: Any = UNSET) -> Any:
    """Await what `pop` returns."""
    return self.pop(key, default)


@at_call
async def atouch(self: Space, key: Hashable, /, ttl: Any = UNSET) -> bool:
    """Await what `touch` returns."""
    return self.touch(key, ttl)


@at_call
async def attl(self: Space, key: Hashable, /) -> float | None:
    """Await what `ttl` returns."""
    return self.ttl(key)


@at_call
async def aincr(
    self: Space, key: Hashable, /, delta: int = 1, *, default: int = 0, ttl: Any = UNSET
) -> int:
    """Await what `incr` returns."""
    return self.incr(key, delta, default=default, ttl=ttl)


@at_call
async def asetdefault(self: Space, key: Hashable, /, default: Any = None) -> Any:
    """Await what `setdefault` returns."""
    return self.setdefault(key, default)


@at_call
async def aget_many(self: Space, keys: Iterable[Hashable], /) -> dict[Any, Any]:
    """Await what `get_many` returns."""
    return self.get_many(keys)


@at_call
async def aset_many(
    self: Space,
    mapping: Any,
    /,
    *,
    ttl: Any = UNSET,
    tags: Any = (),
    stale: Any = None,
    sliding: Any = None,
    jitter: Any = None,
) -> None:
    """Await the end of `set_many`."""
    self.set_many(mapping, ttl=ttl, tags=tags, stale=stale, sliding=sliding, jitter=jitter)


@at_call
async def adelete_many(self: Space, keys: Iterable[Hashable], /) -> int:
    """Await what `delete_many` returns."""
    return self.delete_many(keys)


@at_call
async def aclear(self: Space, /, *, wait: Any = None) -> int:
    """Await what `clear` returns."""
    return self.clear(wait=wait)


@at_call
async def ainvalidate_tag(self: Space, tag: str, /, *, wait: Any = None) -> int:
    """Await what `invalidate_tag` returns."""
    return self.invalidate_tag(tag, wait=wait)


@at_call
async def ainvalidate_tags(
    self: Space, tags: Any, /, *, match: Any = "any", wait: Any = None
) -> int:
    """Await what `invalidate_tags` returns."""
    return self.invalidate_tags(tags, match=match, wait=wait)


@at_call
async def ainvalidate_prefix(self: Space, prefix: str, /, *, wait: Any = None) -> int:
    """Await what `invalidate_prefix` returns."""
    return self.invalidate_prefix(prefix, wait=wait)


@at_call
async def aexpire(self: Space, key: Hashable, /) -> bool:
    """Await what `expire` returns."""
    return self.expire(key)


@at_call
async def aexpire_tag(self: Space, tag: str, /) -> int:
    """Await what `expire_tag` returns."""
    return self.expire_tag(tag)


TWINS: tuple[Callable[..., Any], ...] = (
    aget,
    aset,
    aadd,
    adelete,
    apop,
    atouch,
    attl,
    aincr,
    asetdefault,
    aget_many,
    aset_many,
    adelete_many,
    aclear,
    ainvalidate_tag,
    ainvalidate_tags,
    ainvalidate_prefix,
    aexpire,
    aexpire_tag,
)

for _twin in TWINS:
    _name = f"Namespace.{_twin.__name__}"
    _twin.__qualname__ = _twin.__wrapped__.__qualname__ = _name  # type: ignore[attr-defined]
_core._add_methods(TWINS)
