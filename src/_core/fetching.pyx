# A load, step by step, for the face.


cdef Load load_begin(Store store, Space* space, object view, Load load, bint background):
    """Register a load; return it, or the one already running that is to be joined."""
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    space_guard(store, space)
    if load.lost is None or load.space != NULL:
        raise ValueError("load: it was begun before, or not initialised")
    load.hash = key_hash(space, load.key)
    load.started = now
    load.background = background
    return load_register(core, space, view, load, now)


cdef bint load_finish(Store store, Space* space, Load load, object value, object ttl, object tags,
                      object stale, object keep) except -1:
    """End a load: store its value if nothing has invalidated it; say whether it was stored."""
    cdef Terms terms
    cdef double kept
    cdef uint32_t hash
    cdef bint registered = peek_flag(&load.registered)
    try:
        if not registered or core_is_closed(&store.core) or peek_flag(&load.fenced):
            return False
        terms_of(store, space, &terms, ttl, stale)
        if keep is not None:
            kept = seconds_of(keep, "stale_if_error", False)
            if kept > terms.keep:
                terms.keep = kept
                # Kept for errors beyond what `stale` allows: serving is the call's to ask.
                terms.serves = False
        tags = None if tags is () else tags_checked(tags)
        hash = key_hash(space, load.key)
        terms.weight = weigh(store, load.key, value)
        if core_is_closed(&store.core):
            return False
        return put(store, space, load.key, value, &terms, <tuple>tags, hash, load)
    finally:
        load_unregister(load)


cdef object count_named(Store store, Space* space, str name, object amount):
    """Add to one of the namespace's own counters."""
    cdef Counters* counters = &space.counters
    cdef Core* core = &store.core
    cdef double seconds = amount
    cdef int64_t n = 0 if name == "load_seconds" else amount
    lock_acquire(&core.lock)
    if name == "misses":
        counters.misses += n
    elif name == "hits":
        counters.hits += n
    elif name == "stale_hits":
        counters.stale_hits += n
    elif name == "coalesced":
        counters.coalesced += n
    elif name == "loads":
        counters.loads += n
    elif name == "load_failures":
        counters.load_failures += n
    elif name == "load_seconds":
        counters.load_seconds += seconds
    lock_release(&core.lock)
