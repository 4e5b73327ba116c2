# A load, step by step, for the face.


cdef Load load_begin(Store store, Node* node, object view, Load load, bint background, Load outer):
    """Register a load; return it, or the one already running that is to be joined.

    `outer`: the load that waits for it, or None.
    """
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    node_guard(store, node)
    if load.lost is None or load.node != NULL:
        raise ValueError("load: it was begun before, or not initialised")
    load.hash = key_hash(node, load.key)
    load.started = now
    load.background = background
    return load_register(core, node, view, load, outer, now)


cdef bint load_finish(Store store, Node* node, Load load, object value, object ttl, object tags,
                      object stale, object keep) except -1:
    """End a load: store its value if nothing has invalidated it; say whether it was stored.

    A value that is not to be kept (`ttl` of 0), that is too heavy, or that bears too many tags with
    those of the calls that joined, takes away what the load was to replace.
    """
    cdef Terms terms
    cdef double kept
    cdef uint32_t hash
    cdef bint registered = relaxed_load_flag(&load.registered)
    try:
        if not registered or core_is_closed(&store.core) or relaxed_load_flag(&load.fenced):
            return False
        terms_of(store, node, &terms, ttl, stale)
        if keep is not None:
            kept = seconds_of(keep, "stale_if_error", False)
            if kept > terms.grace:
                terms.grace = kept
                # Kept for errors beyond what `stale` allows: serving is the call's to ask.
                terms.stale_ok = False
        tags = None if tags is () else tags_checked(tags, False)
        hash = key_hash(node, load.key)
        terms.weight = weigh(store, load.key, value) if terms.ttl > 0 else 0
        if core_is_closed(&store.core):
            return False
        tags = load_close_tags(load, <tuple>tags)
        if tags is not None and len(<tuple>tags) > MOST_TAGS:
            terms.ttl = 0
        try:
            return put(store, node, load.key, value, &terms, <tuple>tags, hash, load)
        except EntryTooHeavyError:
            terms.ttl = 0
            put(store, node, load.key, value, &terms, <tuple>tags, hash, load)
            raise
    finally:
        load_unregister(load)


cdef object count_named(Store store, Node* node, str name, object amount):
    """Add to one of the namespace's own counters."""
    cdef Counters* counters = &node.counters
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
