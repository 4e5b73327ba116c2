# The steps of a loading call, each of them one call from the face: look up, begin, finish or fail.

cdef extern from *:
    """
    /* So many calls can be nested from here before the interpreter refuses one. */
    static inline int flowcache_frames_left(void) {
        PyThreadState *state = PyThreadState_Get();
    #if PY_VERSION_HEX < 0x030C0000
        return state->recursion_remaining;
    #elif PY_VERSION_HEX < 0x030E0000
        return state->py_recursion_remaining < state->c_recursion_remaining
            ? state->py_recursion_remaining : state->c_recursion_remaining;
    #else
        return state->py_recursion_remaining;
    #endif
    }
    /* 1: neither awaitable nor an iterator nor of the type, by the slots of its type alone. */
    static inline int flowcache_is_plain(PyObject *produced, PyObject *loaded) {
        PyTypeObject *type = Py_TYPE(produced);
        return type->tp_iternext == NULL
            && (type->tp_as_async == NULL || (type->tp_as_async->am_await == NULL
                                              && type->tp_as_async->am_anext == NULL))
            && type != (PyTypeObject *)loaded
            && (type->tp_base == &PyBaseObject_Type
                || !PyType_IsSubtype(type, (PyTypeObject *)loaded));
    }
    """
    int frames_left "flowcache_frames_left"()
    bint is_plain_object "flowcache_is_plain"(PyObject* produced, PyObject* loaded)

cdef PyObject* loaded_type = NULL              # the face's Loaded, which it owns: see _connect

cdef enum:
    ROOM = 50                         # calls that the end of a load may nest, in Python


def is_plain(produced):
    """Return whether a loader's result is neither an awaitable nor an iterator nor ``Loaded``."""
    return is_plain_object(<PyObject*>produced, loaded_type)


cdef int leave_room() except -1:
    """Raise ``RecursionError`` if the calls that end a load cannot be nested from here."""
    if frames_left() < ROOM:
        raise RecursionError("maximum recursion depth exceeded: no room for the end of a load")
    return 0


cdef Kind look_up(Store store, Node* node, object view, object key, uint32_t hash,
                  Options options, bint anew, PyObject** found, bint* due) except KINDS_COUNT:
    """HIT, STALE_HIT or MISS: whether the entry answers the call. Counted, with its event.

    `found` receives the value, which the caller then owns, and `due` whether a background load is
    due. With `anew`, a due entry is a miss. A key backs off after a failed load that the entry
    covered: it is served the entry that covers the error.
    """
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef double now = store_sees(store, node)
    cdef Kind kind = MISS
    cdef Entry* e
    cdef bint rests = (store_backs_off(store) and options.stale_if_error >= 0
                       and face.is_backing_off(view, key))
    due[0] = False
    lock_acquire(&core.lock)
    try:
        node_guard(store, node)
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if e.deadline > now:
                kind = HIT
                due[0] = entry_is_due(e, now, options.refresh_ahead)
            elif options_take_stale(options, e, now):
                kind = STALE_HIT
                due[0] = True
            elif rests and options_cover(options, e, now, False):
                kind = STALE_HIT
            if due[0] and anew:
                kind = MISS
        if kind == MISS:
            node.counters.misses += 1
            if unlikely(core.notes_misses):
                miss_note_locked(core, node, hash, now)
        else:
            Py_INCREF(<object>e.value)            # the caller's
            found[0] = e.value
            order_touch_locked(core, node, e, i)
            if kind == HIT:
                node.counters.hits += 1
                entry_renew(&core.slab, i, now)
            else:
                node.counters.stale_hits += 1
    finally:
        lock_release(&core.lock)
    if core_hears(core, kind):
        try:
            emit(store, node, kind, key, None, None if kind == MISS else <object>found[0])
        except BaseException:
            Py_XDECREF(found[0])                  # the caller's, which gets none
            found[0] = NULL
            raise
    return kind


cdef object looked_up(Store store, Node* node, object view, object key, Options options,
                      bint in_task):
    """(value, whether it is due) if what is held answers the call; None: a miss.

    False: a miss of a call in a task, which takes the place of a load behind that its event loop
    cut off.
    """
    cdef PyObject* found = NULL
    cdef bint due = False
    cdef bint in_place = in_task and store_backs_off(store) and face.was_cut_off(view, key)
    try:
        if look_up(store, node, view, key, key_hash(node, key), options, in_place, &found,
                   &due) == MISS:
            return False if in_place else None
        return (<object>found, due)
    finally:
        Py_XDECREF(found)


cdef tuple stand_in(Store store, Node* node, object key, Options options, bint timed_out):
    """(value,) if it may stand in for a load that raised or takes too long, or None."""
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef double now = store_sees(store, node)
    value = MISSING
    lock_acquire(&core.lock)
    try:
        node_guard(store, node)
        i = store_find_locked(core, node, key, hash)
        if i != NONE and options_cover(options, entry_at(&core.slab, i), now, timed_out):
            value = <object>entry_at(&core.slab, i).value
    finally:
        lock_release(&core.lock)
    # Made here: a tuple's allocation may run the collector, and with it code that removes e.
    return None if value is MISSING else (value,)


cdef object fresh_value(Store store, Node* node, object key, uint32_t hash):
    """The fresh value, or MISSING; neither counted nor made the newest."""
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef double now = store_sees(store, node)
    value = MISSING
    lock_acquire(&core.lock)
    try:
        i = store_find_locked(core, node, key, hash)
        if i != NONE and entry_at(&core.slab, i).deadline > now:
            value = <object>entry_at(&core.slab, i).value
    finally:
        lock_release(&core.lock)
    return value


cdef bint is_still_due(Store store, Node* node, object key, uint32_t hash,
                       Options options) except -1:
    """Whether the entry is due for a background load by a call with these options."""
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef double now = store_sees(store, node)
    cdef bint due = False
    cdef Entry* e
    lock_acquire(&core.lock)
    try:
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            due = (entry_is_due(e, now, options.refresh_ahead) if e.deadline > now
                   else options_take_stale(options, e, now))
    finally:
        lock_release(&core.lock)
    return due


cdef object load_begin(Store store, Node* node, object view, object key, Options options,
                       object run, list loads, bint behind, bint anew):
    """Register a load for a run, and return it, or the running one to join.

    The run's own is put into `loads`, its list, in the same step: no interrupt comes between.
    Another load may have ended since the look-up. If what is held now answers the call, nothing is
    registered and (value,) returned, or None from a load `behind` the call; not with `anew`. None
    also from a load `behind` while the key backs off.
    """
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef Load load, running
    cdef bint needless = False
    leave_room()
    node_guard(store, node)
    if behind and store_backs_off(store) and face.is_backing_off(view, key):
        return None
    load = load_new(key, options.tags)
    load.hash = key_hash(node, key)
    load.started = now
    load.background = behind
    load.leader = run
    load.around_load = store_around_load(store)
    # No call waits for a background load: it takes a place even within another load.
    running = load_register(core, node, view, load, None if behind else load_waiting(), now)
    if running is not load:
        return running
    value = None
    try:
        # First: a clock or a key may let another thread run, which forks. By its run the child
        # tells that the load's thread was left behind.
        loads.append(load)
        if behind:
            needless = not is_still_due(store, node, key, load.hash, options)
        elif not anew:
            value = fresh_value(store, node, key, load.hash)
            needless = value is not MISSING
            if needless:
                value = (value,)
        if not needless:
            return load
    except BaseException:
        load_withdraw(load, loads)
        raise
    # A call that has joined it looks again: the entry that made it needless may have been
    # invalidated since, by a tag that this load does not bear.
    load_withdraw(load, loads)
    return value


cdef int load_withdraw(Load load, list loads) except -1:
    """Take back a load that was just registered for a run with these `loads`."""
    load_unregister(load)
    if load in loads:
        loads.remove(load)
    return load_settle(load, face.ABANDONED)


cdef bint load_finish(Store store, Node* node, Load load, Options options, object value,
                      object ttl, object tags, bint keep, double seconds,
                      object stale=UNSET) except -1:
    """End a load: store its value if nothing has invalidated it, and count it. True: stored.

    `ttl`, `tags` and `stale` are those of its loader, beside the options. A value is not stored
    without `keep`, with a TTL of 0, if it is too heavy, or with too many tags, those of joined
    calls included. Then the entry that the load was to replace is removed. A load that took no
    `seconds`, but a negative number, is not counted.
    """
    cdef Terms terms
    cdef bint stored = False
    cdef tuple every = options.tags, borne
    try:
        if tags is not ():
            every = tags_once(every + (tags_checked(tags) or ()))
        terms_of_options(node, &terms, options, ttl, stale)
        if not keep:
            terms.ttl = 0
        elif ttl is UNSET and options.ttl_of is not None:
            terms.ttl = ttl_told(options.ttl_of, value)
        terms.ttl = ttl_drawn(&store.core, terms.ttl, options.jitter)
        if terms.ttl > 0 and load.until < INFINITY:
            terms_end(&terms, load.until, store_now(store))
        if (load.node == node and relaxed_load_flag(&load.registered)
                and not relaxed_load_flag(&load.is_fenced) and not core_is_closed(&store.core)):
            if terms.ttl > 0 and store.weigher is not None:
                terms.weight = weigh(store, load.key, value)
            borne = load_close_tags(load, every)
            if borne is not None and len(borne) > MOST_TAGS:
                terms.ttl = 0
            try:
                stored = put(store, node, load.key, value, &terms, borne, load.hash, load,
                             options.sliding)
            except EntryTooHeavyError:
                terms.ttl = 0
                put(store, node, load.key, value, &terms, borne, load.hash, load)
    except CacheClosedError:
        pass                                      # the waiters receive it all the same
    finally:
        load_unregister(load)
    if every:
        load.loss = load_first_loss(load, every)
    if seconds >= 0 and not load.is_fill:
        load_count(&store.core, node, seconds, False)
    return stored


cdef int load_complete(Store store, Node* node, object view, Load load, Options options,
                       object produced, double seconds, double counted, bint anew) except -1:
    """End a load that its run led: store what the loader produced, and hand it to the waiters.

    A failure before the waiters have it leaves the load without an outcome.
    """
    cdef Load target = load if load.stands_in_for is None else load.stands_in_for
    cdef bint keep = True
    value, ttl, tags, stale = produced, UNSET, (), UNSET
    if not is_plain_object(<PyObject*>produced, loaded_type):
        value, ttl, tags, keep, stale = face.unpack_checked(produced)
    if keep and options.store_if is not None:
        keep = face.plain_result(options.store_if(value), "store_if")
    if keep or target is load:
        load_finish(store, node, target, options, value, ttl, tags, keep, counted, stale)
    elif not load.is_fill:                        # beside a load that keeps the entry as it is
        load_count(&store.core, node, counted, False)
    if store_backs_off(store):
        face.forget_failures(view, load.key)
    # Now that no call can join it any more.
    load_settle(load, outcome_of(value, load.loss))
    if not load.is_fill and core_hears(&store.core, LOAD):
        emit(store, node, LOAD, load.key, None, value, None, seconds)
    if anew and core_hears(&store.core, REFRESH):
        emit(store, node, REFRESH, load.key, None, value, None, seconds)
    return 0


cdef int terms_of_options(Node* node, Terms* terms, Options options, object ttl,
                          object stale) except -1:
    cdef double window
    if ttl is not UNSET:
        terms.ttl = seconds_of(ttl, "ttl", True)
    elif options.has_ttl:
        terms.ttl = options.ttl
    else:
        terms.ttl = relaxed_load_double(&node.default_ttl)
    terms.age = 0
    terms.grace = options_grace(options)
    terms.stale_ok = options_stale_ok(options)
    if stale is not UNSET:
        window = 0 if stale is None else seconds_of(stale, "stale", False, True)
        terms.grace = fmax(window, options.stale_if_error)
        terms.stale_ok = 0 < window >= options.stale_if_error
        if terms.grace < 0:
            terms.grace = 0
    terms.only_absent = False
    terms.found = False
    terms.weight = 0
    return 0


cdef void load_count(Core* core, Node* node, double seconds, bint failed) noexcept:
    lock_acquire(&core.lock)
    if failed:
        node.counters.load_failures += 1
    else:
        node.counters.loads += 1
    node.counters.load_seconds += seconds
    lock_release(&core.lock)


cdef object load_abandon(Core* core, Node* node, Load load, double seconds, bint failed):
    """End a load without a value; one that took some seconds, 0 or more, is counted."""
    load_unregister(load)
    if seconds >= 0:
        load_count(core, node, seconds, failed)


cdef object count_joined(Store store, Node* node):
    """Count a miss that joins a running load."""
    lock_acquire(&store.core.lock)
    node.counters.coalesced += 1
    lock_release(&store.core.lock)
