"""Copies of exceptions: each caller of a failed load raises one of its own.

A raise writes to the exception: its traceback grows, the exception being handled becomes its
`__context__`, and handlers add notes. Callers of one load may belong to different tenants, so what
one of them adds must not reach the others.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from types import BuiltinMethodType, GetSetDescriptorType, MemberDescriptorType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Copies = dict[int, tuple[BaseException, BaseException | None]]
    """Each exception and its copy, by the identity of the first."""

__all__ = ["copy_error"]

UNSET = object()
LINKS = ("__cause__", "__context__")
NOT_FIELDS = frozenset(("__dict__", "__traceback__", "__suppress_context__", *LINKS))
"""Descriptors whose value is copied in another way."""


def copy_error(error: BaseException, handled: BaseException | None = None) -> BaseException:
    """Return a copy of an exception and of the exceptions that it is linked to.

    A copy has the type, arguments, attributes, notes and traceback of the original; values of
    attributes are shared. No code of the exception's class runs, unless it must be copied as
    `copy.copy` does. An exception that cannot be copied either way stands for itself.

    `handled`: an exception that was being handled around the code that raised; links to it are
    left out.
    """
    copies: Copies = {}
    if handled is not None and handled is not error:
        copies[id(handled)] = handled, None
    copy_all(error, copies)
    for original, made in copies.values():
        if made is original or made is None:
            continue
        for name in LINKS:
            linked = getattr(original, name)
            setattr(made, name, None if linked is None else copies[id(linked)][1])
        made.__suppress_context__ = original.__suppress_context__  # After the cause, which sets it.
        made.__traceback__ = original.__traceback__
    return copies[id(error)][1] or error


def copy_all(error: BaseException, copies: Copies) -> None:
    """Add copies, not yet linked, of the exception and of those that can be reached from it."""
    ahead = [error]
    while ahead:
        one = ahead.pop()
        if id(one) in copies:
            continue
        copies[id(one)] = one, one  # A member of a group may be linked to the group.
        if isinstance(one, BaseExceptionGroup):
            for member in one.exceptions:
                copy_all(member, copies)
        copies[id(one)] = one, copy_one(one, copies)
        ahead += [linked for name in LINKS if (linked := getattr(one, name)) is not None]


def copy_one(error: BaseException, copies: Copies) -> BaseException:
    """Return a copy without links, or the exception itself if it cannot be copied."""
    try:
        made = new_like(error, copies)
        copy_fields(error, made)
    except Exception:  # noqa: BLE001  an extension type that is made by a function of its own
        try:
            made = copy.copy(error)
        except Exception:  # noqa: BLE001  it need not be able to
            return error
    return made if type(made) is type(error) else error


def new_like(error: BaseException, copies: Copies) -> BaseException:
    """Return a new exception of the same type, made without its constructor."""
    arguments: tuple[Any, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        members = [copies[id(member)][1] or member for member in error.exceptions]
        arguments = error.message, members
    for base in type(error).__mro__:
        make = vars(base).get("__new__")
        if isinstance(make, BuiltinMethodType):  # One that is written in Python may ask for more.
            made: BaseException = make(type(error), *arguments)
            return made
    raise TypeError


def copy_fields(error: BaseException, made: BaseException) -> None:
    """Copy the attributes, those in slots and those of the interpreter's own types included."""
    for base in type(error).__mro__:
        for name, field in vars(base).items():
            if isinstance(field, (GetSetDescriptorType, MemberDescriptorType)):
                if name in NOT_FIELDS:
                    continue
                with suppress(AttributeError, TypeError):  # Not set, or read-only.
                    value = field.__get__(error)
                    # To an OSError, a second file name of None is not the same as none.
                    if value is not None or getattr(made, name, UNSET) is not None:
                        field.__set__(made, value)
    made.__dict__.update(error.__dict__)
    notes = error.__dict__.get("__notes__")
    if isinstance(notes, list):
        made.__dict__["__notes__"] = notes.copy()
