"""Stand-ins for what we use of `typing` and `dataclasses`, whose imports take longer than all else.

Type checkers see the standard ones. When the program runs, a class that is made by these behaves as
one that is made by those; what `dataclasses` itself wants to know of it (for `fields`, `asdict`, a
subclass that is one in turn) is found out when it asks, for it is imported by then.
"""

from __future__ import annotations

from collections import namedtuple
from reprlib import recursive_repr
from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any
else:
    Any, P, Q, R, S, V = "Any", *"PQRSV"  # They matter to type checkers alone.

__all__ = ["Any", "Generic", "NamedTuple", "P", "Q", "R", "S", "V", "dataclass", "overload"]


class Generic:
    """The base of classes whose parameters matter to type checkers alone."""

    __slots__ = ()
    # Not annotated: from 3.14 on each cached function would show that as its own.
    __class_getitem__ = classmethod(GenericAlias)  # type: ignore[var-annotated]


def overload(function: Any) -> Any:
    """Return the function, whose definition that counts comes last."""
    return function


class NamedTupleMeta(type):
    """Makes a named tuple of a class statement."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        """Return the named tuple, or `NamedTuple` itself."""
        if not bases:
            return super().__new__(cls, name, bases, body)
        make: Any = namedtuple  # Checkers ask for names that they can read.
        made = make(name, body["__annotations__"], module=body["__module__"])
        made.__doc__ = body.get("__doc__")
        return made


class NamedTuple(metaclass=NamedTupleMeta):
    """The base of named tuples, of which it is none."""


def dataclass(*, frozen: bool, slots: bool, kw_only: bool = False) -> Callable[[type], Any]:
    """Return a decorator that makes a class frozen, with slots, and equal by its fields."""
    assert frozen
    assert slots

    def decorate(plain: type) -> Any:
        names = tuple(plain.__annotations__)
        body = body_of(plain)
        defaults = {name: body.pop(name) for name in names if name in body}

        def values(self: object) -> list[Any]:
            return [getattr(self, name) for name in names]

        class Methods:
            __init__ = init_of(plain, defaults, kw_only=kw_only)

            @recursive_repr()
            def __repr__(self) -> str:
                named = zip(names, values(self), strict=True)
                fields = ", ".join([f"{name}={value!r}" for name, value in named])
                return f"{type(self).__qualname__}({fields})"

            def __eq__(self, other: object) -> bool:
                if type(other) is not type(self):
                    return NotImplemented
                return values(self) == values(other)

            def __hash__(self) -> int:
                return hash(tuple(values(self)))

            def __setattr__(self, name: str, value: Any) -> None:
                if type(self) is made or name in names:
                    refuse(f"cannot assign to field {name!r}")
                super(made, self).__setattr__(name, value)

            def __delattr__(self, name: str) -> None:
                if type(self) is made or name in names:
                    refuse(f"cannot delete field {name!r}")
                super(made, self).__delattr__(name)

            def __getstate__(self) -> list[Any]:
                return values(self)

            def __setstate__(self, state: list[Any]) -> None:
                for name, value in zip(names, state, strict=True):
                    object.__setattr__(self, name, value)

            def __replace__(self, /, **changes: Any) -> Any:
                return type(self)(**dict(zip(names, values(self), strict=True)) | changes)

        for name, method in vars(Methods).items():
            if callable(method) and name not in body:
                method.__qualname__ = f"{plain.__qualname__}.{name}"
                method.__module__ = plain.__module__
                body[name] = method
        body["__match_args__"] = () if kw_only else names
        body["__slots__"] = names
        for asked in ("__dataclass_fields__", "__dataclass_params__"):
            body[asked] = Asked(plain, asked, kw_only=kw_only)
        made: Any = type(plain)(plain.__name__, plain.__bases__, body)
        return made

    return decorate


def init_of(plain: type, defaults: dict[str, Any], *, kw_only: bool) -> Callable[..., None]:
    """Return a record's `__init__`. Written out, as `dataclasses` does: an event is made by it."""
    names = plain.__annotations__
    lines = [f"def __init__(self, {'*, ' * kw_only}{', '.join(names)}):"]
    lines += [f"  set_field(self, {name!r}, {name})" for name in names]
    if hasattr(plain, "__post_init__"):
        lines.append("  self.__post_init__()")
    made: dict[str, Any] = {}
    exec("\n".join(lines), {"set_field": object.__setattr__}, made)
    init: Any = made["__init__"]
    if kw_only:
        init.__kwdefaults__ = defaults
    else:
        init.__defaults__ = tuple(defaults.values())
    init.__annotations__ = {**names, "return": None}
    function: Callable[..., None] = init
    return function


def refuse(message: str) -> None:
    """Raise what `dataclasses` raises: an `AttributeError`."""
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(message)


class Asked:
    """An attribute by which `dataclasses` knows its own, made when it is first asked for."""

    def __init__(self, plain: type, name: str, *, kw_only: bool) -> None:
        self.plain = plain
        self.name = name
        self.kw_only = kw_only
        self.value: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        """Return what the standard decorator gives a class of the same fields."""
        if self.value is None:
            from dataclasses import dataclass

            plain = self.plain
            same = type(plain)(plain.__name__, plain.__bases__, body_of(plain))
            self.value = getattr(dataclass(frozen=True, kw_only=self.kw_only)(same), self.name)
        return self.value


def body_of(plain: type) -> dict[str, Any]:
    """Return what the class statement said, without what belongs to the class that it made."""
    return {k: v for k, v in vars(plain).items() if k not in ("__dict__", "__weakref__")}
