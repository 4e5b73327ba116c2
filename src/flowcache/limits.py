"""Limits: the settings that a namespace can start with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from . import _core

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Limits"]

UNSET: Final[Any] = _core.UNSET


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a namespace, and its treatment under pressure; omitted fields are inherited.

    ``default_ttl``: seconds, a ``timedelta``, or ``None`` for never. ``max_entries``,
    ``max_weight``, ``max_pending``: the most entries, weight and running loads; ``None``: no limit
    of its own. ``reserved``: entries that pressure from outside never takes. ``share``: its weight
    against its siblings. ``guaranteed``: the part of its fair share that it never lends, where
    tenants share by utility. ``child_limits``: the limits that namespaces right below it start
    with. ``eviction``: which entry of it gives way, ``"lru"`` or ``"tinylfu"``. Raises
    ``TypeError`` or ``ValueError`` that names the field.
    """

    default_ttl: float | timedelta | None = UNSET
    max_entries: int | None = UNSET
    max_weight: int | None = UNSET
    max_pending: int | None = UNSET
    reserved: int = UNSET
    share: float = UNSET
    child_limits: Limits | None = UNSET
    eviction: Literal["lru", "tinylfu"] = UNSET
    guaranteed: float = UNSET

    def __post_init__(self) -> None:
        _core.check_settings(self.as_settings())

    def as_settings(self) -> dict[str, Any]:
        """Return the given fields, by name."""
        given = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in given if value is not UNSET}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.as_settings().items())
        return f"Limits({given})"
