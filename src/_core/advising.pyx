# Advice: the hit rate that more room would give.


cdef void node_haunted_total_locked(Core* core, Node* node, Haunted* into,
                                    bint* is_tinylfu) noexcept nogil:
    """Add what was noted in the namespace and below it. Costs O(namespaces below)."""
    cdef Node* child = node.child
    cdef int k
    cdef Haunted* haunted = node_haunted_locked(core, node)
    is_tinylfu[0] = is_tinylfu[0] or node.is_tinylfu
    into.misses += haunted.misses
    for k in range(3):
        into.near[k] += haunted.near[k]
    while child != NULL:
        node_haunted_total_locked(core, child, into, is_tinylfu)
        child = child.next


cdef object advice_of(Store store, Node* node):
    cdef Core* core = &store.core
    cdef Counters total
    cdef Haunted haunted
    cdef bint is_tinylfu = False
    cdef double now, served, asked, rate
    cdef double[3] gained
    cdef int k
    memset(&total, 0, sizeof(Counters))
    memset(&haunted, 0, sizeof(Haunted))
    node_guard_closed(store)
    now = store_now(store)
    lock_acquire(&core.lock)
    try:
        if core_is_closed(core):
            raise closed_error()
        node_haunted_total_locked(core, node, &haunted, &is_tinylfu)
        if is_tinylfu:
            raise ConfigurationError(
                'advice: is told of eviction="lru" alone; a namespace here or below has "tinylfu"')
        if ghosts_fit_locked(core, now) < 0:
            raise MemoryError()
        node_total_locked(node, &total)
    finally:
        lock_release(&core.lock)
    served = <double>(total.hits + total.stale_hits)
    asked = served + <double>total.misses
    rate = served / asked if asked else 0
    if haunted.misses == 0:
        return face.Advice(rate, None, None, None)
    for k in range(3):
        gained[k] = <double>haunted.near[k] / <double>haunted.misses
        if k:
            gained[k] += gained[k - 1]
    for k in range(3):
        gained[k] = rate + (1 - rate) * fmin(gained[k], 1)
    return face.Advice(rate, gained[0], gained[1], gained[2])
