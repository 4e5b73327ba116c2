"""The model of contexts and their open blocks, beside which `tenants` runs its programs."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

NO_TENANT = "no tenant"


class Block:
    """A block that is open in the model, in the context where it began."""

    def __init__(self, tenant: str, home: Place) -> None:
        self.tenant = tenant
        self.home = home
        self.ended_elsewhere = False


class Place:
    """The model of one context."""

    def __init__(self, copied: Place | None = None) -> None:
        self.base = NO_TENANT if copied is None else copied.current()
        self.below: Block | None = None
        """The block that the base is the tenant of; None: of none."""
        self.unsure = False
        """A block of the context that this one is a copy of had ended in another."""
        if copied is not None:
            self.unsure = copied.unsure or copied.shows_ended
            self.below = copied.blocks[-1] if copied.blocks else copied.below
        self.blocks: list[Block] = []
        self.shows_ended = False

    def current(self) -> str:
        return self.blocks[-1].tenant if self.blocks else self.base

    def accepts(self) -> set[str]:
        """The tenants that may be current: its own, and none where the right one is uncertain."""
        allowed = {self.current()}
        if not self.blocks:
            ended = self.below is not None and self.below.ended_elsewhere
            if self.unsure or ended:
                allowed.add(NO_TENANT)
        return allowed


here: contextvars.ContextVar[Place] = contextvars.ContextVar("here")


def in_place(place: Place, function: Callable[..., Any], *given: Any) -> Any:
    """Call a function as the first thing in a context that is the place's."""
    here.set(place)
    return function(*given)
