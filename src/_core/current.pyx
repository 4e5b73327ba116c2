# The load that the calling code is part of: a context variable, since tasks and threads that a
# loader starts with a copy of its context are part of it too.

cdef object load_variable = PyContextVar_New(b"flowcache_load", NULL)


@cython.final
@cython.freelist(32)
cdef class LoadScope:
    # Names the load that a context runs for. Emptied at its end: contexts outlive loads, and must
    # not keep its value alive.
    cdef Load load


cdef Load load_current():
    """The load that the calling code is part of, or None."""
    cdef PyObject* value = NULL
    PyContextVar_Get(load_variable, NULL, &value)
    if value == NULL:
        return None
    cdef LoadScope scope = <LoadScope>value
    Py_DECREF(scope)                              # PyContextVar_Get gave one reference
    cdef Load load
    with cython.critical_section(scope):
        load = scope.load
    # An interrupt may have come before the end emptied the scope.
    return None if load is None or load.outcome is not None else load


cdef inline Load load_waiting():
    """The registered load that waits for the one that the calling code begins, or None."""
    cdef Load load = load_current()
    return load.stands_in_for if load is not None and load.stands_in_for is not None else load


cdef inline LoadScope scope_of_load(Load load):
    cdef LoadScope scope = LoadScope.__new__(LoadScope)
    scope.load = load
    return scope


cdef inline int scope_fill(LoadScope scope, Load load) except -1:
    with cython.critical_section(scope):
        scope.load = load
    return 0


# Without memory a change of the variable may fail half way: CPython sets it before it finds that
# there is no token, and counts a token as used before it resets by it. The variable then keeps the
# scope, which from there on names the load around its own.


cdef object scope_enter(LoadScope scope, Load outer):
    """Set the variable to the scope; return the token for one `scope_leave`."""
    try:
        return context_set(load_variable, scope)
    except BaseException:
        scope_fill(scope, outer)
        raise


cdef int scope_leave(LoadScope scope, object token) except -1:
    """Empty the scope, and reset the variable to what it was."""
    scope_fill(scope, None)
    try:
        return context_reset(load_variable, token)
    except BaseException:
        outer = token.old_value
        if type(outer) is LoadScope:
            scope_fill(scope, (<LoadScope>outer).load)
        raise


def current_load():
    """Return the load that the calling code is part of, or None."""
    return load_current()


def enter_load(Load load not None):
    """Make ``load`` the current load of this context; return the arguments of ``leave_load``."""
    cdef LoadScope scope = scope_of_load(load)
    return scope, scope_enter(scope, load_current())


def leave_load(LoadScope scope not None, token):
    """End what ``enter_load`` began; without the token where the context ends as well."""
    if token is None:
        scope_fill(scope, None)
    else:
        scope_leave(scope, token)
