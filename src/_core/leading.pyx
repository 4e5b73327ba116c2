# A load that compiled code leads: registered, run in the caller's thread and context, stored under
# its fence and removed, with no Python frame but the loader's own.
#
# Other objects are made only for the calls that need them. A call that joins the load finds a
# record of its run (load_leader in loads), and marks the load as joined, under the lock. The end
# reads that mark once no call can join any more. Rare ends go to the Python half: an exception,
# `Loaded`, `store_if=`, a value that may be read once only.

cdef extern from *:
    """
    /* The exception that is set, normalized and with its traceback; takes it away. */
    static PyObject *flowcache_raised(void) {
    #if PY_VERSION_HEX < 0x030C0000
        PyObject *kind, *error, *traceback;
        PyErr_Fetch(&kind, &error, &traceback);
        PyErr_NormalizeException(&kind, &error, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(error, traceback);
        Py_XDECREF(kind);
        Py_XDECREF(traceback);
        return error;
    #else
        return PyErr_GetRaisedException();
    #endif
    }
    """
    object error_raised "flowcache_raised"()

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()
    PyObject* PyObject_Vectorcall(PyObject* function, PyObject** args, size_t nargs,
                                  PyObject* names) noexcept

cdef str GREENLET = "greenlet"

# The loads that block an event loop, by the loop: `deadlock` searches them. A loop's own thread
# alone enters and leaves its edges, so that one step at a time is enough.
cdef dict blocked_loops = {}
globals()["blocked_loops"] = blocked_loops


cdef int loop_block(object loop, Load load) except -1:
    """Enter the edge from a loop to a new load that its own thread runs: it closes no ring."""
    blocking = blocked_loops.get(loop)
    if blocking is None:
        blocked_loops[loop] = [load]
    else:
        (<list>blocking).append(load)
    return 0


cdef int loop_unblock(object loop, Load load) except -1:
    """Take back what loop_block entered, if it did."""
    blocking = blocked_loops.get(loop)
    if blocking is not None and load in <list>blocking:
        (<list>blocking).remove(load)
        if not blocking:
            del blocked_loops[loop]
    return 0


cdef object loader_of(object function, PyObject** args, size_t nargs, PyObject* names):
    """The call as a loader, which takes nothing."""
    cdef Py_ssize_t n
    if nargs == 0 and names == NULL:
        return function
    given = []
    named = {}
    for n in range(<Py_ssize_t>nargs):
        given.append(<object>args[n])
    if names != NULL:
        for n in range(PyTuple_GET_SIZE(names)):
            named[<object>PyTuple_GET_ITEM(names, n)] = <object>args[<Py_ssize_t>nargs + n]
    return partial(function, *given, **named)


cdef Load load_lead_begin(Store store, Node* node, object view, object key, uint32_t hash,
                          Options options):
    """Register a load for compiled code to lead; None if the call needs more than that."""
    cdef Load load
    cdef double now
    if (options.timeout is not None or options.pass_old or store_around_load(store) is not None
            or frames_left() < ROOM + 5):
        return None
    now = store_now(store)
    load = load_new(key, options.tags)
    load.hash = hash
    load.started = now
    load.is_led = True
    load.thread = PyThread_get_thread_ident()
    load.greenlet = asked_of(GREENLET, "getcurrent")
    try:
        return load_register(&store.core, node, view, load, load_waiting(), now, True)
    except TooManyLoadsError:
        return None                               # a stale value may do


cdef int lead_leave(Load load, LoadScope scope, object token, Load outer, object loop) except -1:
    """Undo the preparations of the loader's call, as far as they were made. To be called once."""
    try:
        if token is not None:
            scope_leave(scope, token)
    finally:
        if outer is not None and load in load_edges(outer):
            load_edges(outer).remove(load)
        if loop is not None:
            loop_unblock(loop, load)
    return 0


cdef object load_lead(Store store, Node* node, object view, object key, uint32_t hash,
                      Options options, object function, PyObject** args, size_t nargs,
                      PyObject* names):
    """Load the key by ``function(*args)``, for a sync call that was counted as a miss."""
    cdef Core* core = &store.core
    cdef Load load = load_lead_begin(store, node, view, key, hash, options), outer = None
    cdef LoadScope scope = None
    cdef PyObject* produced
    cdef double seconds
    cdef bint is_kept = False, has_left = False
    loop = token = error = None
    if load is None:
        return face.load_missing(view, key, loader_of(function, args, nargs, names), options)
    # From here on each way out ends the load.
    try:
        # Another load may have ended between the look-up and the registration.
        value = fresh_value(store, node, key, hash)
        if value is not MISSING:
            load_give_up(load)
            return value
        scope = scope_of_load(load)
        outer = load_current()
        loop = running_loop()
        token = scope_enter(scope, outer)
        # The edges that a search for rings follows. These close none: the load has no edge yet.
        if outer is not None:
            load_edges(outer).append(load)
        if loop is not None:
            loop_block(loop, load)
        seconds = clock_read_fine()
        produced = PyObject_Vectorcall(<PyObject*>function, args, nargs, names)
        if produced == NULL:
            error = error_raised()
        else:
            value = <object>produced
            Py_DECREF(value)                      # the reference of the call; `value` has its own
        seconds = clock_read_fine() - seconds
        has_left = True
        lead_leave(load, scope, token, outer, loop)
    except BaseException:
        try:
            if not has_left:
                lead_leave(load, scope, token, outer, loop)
        finally:
            load_give_up(load)
        raise
    if (error is None and options.store_if is None
            and is_plain_object(<PyObject*>value, loaded_type)):
        try:
            load_finish(store, node, load, options, value, UNSET, (), True, seconds)
            is_kept = True
        except BaseException as failure:
            error = failure
    # Out of the handler: the Python half asks which exception the caller handles.
    try:
        if not is_kept:
            return face.finish_led(load, options, value, error, seconds)
        if store_backs_off(store):
            face.forget_failures(view, key)
        if load.joined:
            face.settle_led(load, value)
            if load.leader is not None:
                load.leader.end()
    except BaseException:
        load_give_up(load)
        raise
    if core_hears(core, LOAD):
        emit(store, node, LOAD, key, None, value, None, seconds)
    return value


cdef object fetch_missing(Store store, Node* node, object view, object key, uint32_t hash,
                          Options options, object function, PyObject** args, size_t nargs,
                          PyObject* names, object on_miss, int64_t* misses):
    """Answer a sync call without a fresh entry: from a stale value, or by a load.

    A miss is counted by `on_miss`, a function, and at `misses`; either may be none.
    """
    cdef PyObject* found = NULL
    cdef bint due = False
    if look_up(store, node, view, key, hash, options, False, &found, &due) == MISS:
        if misses != NULL:
            count_up(misses)
        if on_miss is not None:
            on_miss()
        return load_lead(store, node, view, key, hash, options, function, args, nargs, names)
    value = <object>found
    Py_DECREF(value)                              # the reference of look_up
    if due:
        face.load_anew(view, key, loader_of(function, args, nargs, names), options)
    return value
