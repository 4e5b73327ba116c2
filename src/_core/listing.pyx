# Listing: the entries of a namespace, its settings and its counters.


cdef extern from "Python.h":
    void PyObject_GC_Track(PyObject* made)
    void PyObject_GC_UnTrack(PyObject* made)


cdef list list_blank(Py_ssize_t n):
    """A list of n empty places, which the collector does not show until it is finished."""
    cdef list made = PyList_New(n)
    PyObject_GC_UnTrack(<PyObject*>made)
    return made


cdef int list_finish(list made, Py_ssize_t n) except -1:
    """Cut off the places from n on; those before are filled."""
    PyObject_GC_Track(<PyObject*>made)
    return PyList_SetSlice(made, n, PyList_GET_SIZE(made), NULL)


cdef list fresh_keys(Store store, Node* node, Py_ssize_t most):
    """The fresh keys, least recent first; at most `most` of them (-1: all)."""
    cdef Core* core = &store.core
    cdef double now = store_sees(store, node)
    cdef uint32_t i
    cdef Py_ssize_t n
    cdef list keys
    node_guard_closed(store)
    while True:
        n = relaxed_load_u32(&node.own)
        if 0 <= most < n:
            n = most
        keys = list_blank(n)          # may run the collector, so the count may not stand
        lock_acquire(&core.lock)
        if n < (node.own if most < 0 or most > node.own else most):
            lock_release(&core.lock)
            continue
        n = 0
        i = node.order.oldest
        while i != NONE and (most < 0 or n < most):
            if entry_at(&core.slab, i).deadline > now:
                key = <object>entry_at(&core.slab, i).key
                Py_INCREF(key)                    # PyList_SET_ITEM steals it
                PyList_SET_ITEM(keys, n, key)
                n += 1
            i = entry_at(&core.slab, i).newer
        lock_release(&core.lock)
        list_finish(keys, n)
        return keys


cdef inline void entry_list_locked(Entry* e, list keys, list values, Py_ssize_t n) noexcept:
    """Put the key and the value of an entry into blank lists."""
    key = <object>e.key
    value = <object>e.value
    Py_INCREF(key)                                # PyList_SET_ITEM steals both
    Py_INCREF(value)
    PyList_SET_ITEM(keys, n, key)
    PyList_SET_ITEM(values, n, value)


cdef tuple fresh_items(Store store, Node* node):
    """(keys, values) of the fresh entries, least recent first."""
    cdef Core* core = &store.core
    cdef double now = store_sees(store, node)
    cdef uint32_t i
    cdef Py_ssize_t n
    cdef list keys, values
    node_guard_closed(store)
    while True:
        n = relaxed_load_u32(&node.own)
        keys = list_blank(n)
        values = list_blank(n)
        lock_acquire(&core.lock)
        if n < node.own:
            lock_release(&core.lock)
            continue
        n = 0
        i = node.order.oldest
        while i != NONE:
            if entry_at(&core.slab, i).deadline > now:
                entry_list_locked(entry_at(&core.slab, i), keys, values, n)
                n += 1
            i = entry_at(&core.slab, i).newer
        lock_release(&core.lock)
        list_finish(keys, n)
        list_finish(values, n)
        return keys, values


cdef Py_ssize_t fresh_count(Store store, Node* node) except -1:
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef Py_ssize_t n
    cdef uint32_t steps = SETTLE
    node_guard_closed(store)
    lock_acquire(&core.lock)
    while node_settle_one_locked(core, node, now, False, &steps):
        pass
    n = node.own - node.own_stale
    if steps == 0:
        # Too many are due to remove them here: they are only counted.
        n -= heap_due_locked(core, &node.deadlines, 0, now, False)
    lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return n


cdef object names_below(Store store, Node* node):
    if core_is_closed(&store.core):
        raise closed_error()
    return iter(list((<dict>node.children)))


cdef object limits_of(Store store, Node* node):
    """The settings in force, all of them as one configure() left them."""
    cdef Core* core = &store.core
    cdef Settings now
    cdef double ttl
    cdef bint is_tinylfu
    unchanged = {}
    node_guard_closed(store)
    lock_acquire(&core.lock)
    settings_read_locked(&now, node, unchanged)
    ttl = node.default_ttl
    is_tinylfu = node.is_tinylfu
    lock_release(&core.lock)
    given = {
        "default_ttl": None if isinf(ttl) else ttl,
        "max_entries": None if now.max_entries < 0 else now.max_entries,
        "max_weight": None if now.max_weight < 0 else now.max_weight,
        "max_pending": None if now.max_pending < 0 else now.max_pending,
        "reserved": now.reserved,
        "share": now.share,
        "guaranteed": now.guaranteed,
        "eviction": "tinylfu" if is_tinylfu else "lru",
    }
    return face.Limits(**given)


cdef object stats_made(Counters* total, Held* held):
    return face.Stats(
        total.hits, total.misses, total.stale_hits, total.coalesced, total.loads,
        total.load_failures, total.load_seconds, total.sets, total.evictions,
        total.evictions_caused, total.rejections, total.expirations, total.invalidations,
        held.entries, held.weight, held.pending, total.tier_hits, total.tier_misses,
        total.tier_stores, total.tier_errors, total.untiered, held.fair_entries, held.lent,
        held.borrowed, total.lost_hits)


cdef object stats_of(Store store, Node* node):
    cdef Counters total
    cdef Held held
    cdef Core* core = &store.core
    node_guard_closed(store)
    memset(&total, 0, sizeof(Counters))
    lock_acquire(&core.lock)
    node_total_locked(node, &total)
    node_held_locked(core, node, &held)
    lock_release(&core.lock)
    return stats_made(&total, &held)


cdef object reset_counts(Store store, Node* node):
    cdef Counters total
    cdef Core* core = &store.core
    node_guard_closed(store)
    memset(&total, 0, sizeof(Counters))
    lock_acquire(&core.lock)
    node_total_locked(node, &total)
    node_reset_locked(core, node)
    if node.parent != NULL:
        counters_add(&node.parent.forgotten, &total)
    lock_release(&core.lock)


cdef object bearers_of(Store store, Node* node, str tag):
    """How many entries bear the tag, here and below."""
    cdef uint32_t t
    cdef Core* core = &store.core
    lock_acquire(&core.lock)
    try:
        t = tag_find_locked(node, tag)
        return 0 if t == NONE else core.tags.records[t].total
    finally:
        lock_release(&core.lock)
