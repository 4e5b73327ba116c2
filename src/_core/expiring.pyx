# Entries that are due: removed by deadline, a few a call.

cdef enum:
    SETTLE = 1024                 # looks at a heap that one call takes to find what is due
    SETTLE_A_FEW = 8              # the same for a store that has room


cdef bint node_settle_one_locked(Core* core, Node* node, double now, bint below,
                                 uint32_t* steps) noexcept:
    """Expire one due entry of the namespace, or (`below`) under it; False if none is due.

    An entry comes up at its deadline. An entry with a grace counts as stale from then on, and comes
    up once more at the end of its grace. Each look takes one of the `steps`, so a million entries
    that come due at once block no call. Without steps the answer is False.
    """
    cdef Heap* heap = &node.deadlines
    cdef Entry* e
    cdef uint32_t i
    cdef double key
    while heap.n and heap.keys[0] <= now and steps[0]:
        steps[0] -= 1
        i = heap.ids[0]
        e = entry_at(&core.slab, i)
        if e.deadline > now:
            key = e.deadline
        elif entry_last(e) <= now:
            entry_unlink_locked(core, i, EXPIRED)
            return True
        else:
            if not entry_counts_as_stale(e):
                entry_set_grace(e, entry_grace(e), True)
                node.own_stale += 1
            key = entry_last(e)
        if isinf(key):
            heap_remove(&core.slab, ENTRIES, heap, 0)
        else:
            heap_rekey(&core.slab, ENTRIES, heap, 0, key)
    if not below:
        return False
    heap = &node.due
    while heap.n and heap.keys[0] <= now and steps[0]:
        steps[0] -= 1
        i = heap.ids[0]
        if node_settle_one_locked(core, core.nodes[i], now, True, steps):
            return True
        key = node_bound_locked(core.nodes[i])
        if isinf(key):
            heap_remove(core.nodes, BY_DUE, heap, 0)
        else:
            heap_rekey(core.nodes, BY_DUE, heap, 0, key)
    return False


cdef int64_t heap_due_locked(Core* core, Heap* heap, uint32_t index, double now,
                             bint gone) noexcept nogil:
    """Count the entries at the index and below it that are past their TTL and not counted as
    stale, or (`gone`) past all use. Costs O(what is due), by the law of the heaps."""
    cdef Entry* e
    cdef uint32_t child, last
    cdef int64_t due
    if index >= heap.n or heap.keys[index] > now:
        return 0
    e = entry_at(&core.slab, heap.ids[index])
    if gone:
        due = entry_last(e) <= now
    else:
        due = e.deadline <= now and not entry_counts_as_stale(e)
    child = index * ARITY + 1
    last = child + ARITY if child + ARITY < heap.n else heap.n
    while child < last:
        if heap.keys[child] <= now:
            due += heap_due_locked(core, heap, child, now, gone)
        child += 1
    return due


cdef inline void entry_schedule_locked(Core* core, Node* node, uint32_t i) noexcept:
    """Put entry i into the heap. There is room. A deadline later than its key there can wait."""
    cdef Entry* e = entry_at(&core.slab, i)
    if e.heap_index != NONE:
        if e.deadline < node.deadlines.keys[e.heap_index]:
            heap_rekey(&core.slab, ENTRIES, &node.deadlines, e.heap_index, e.deadline)
    elif not isinf(e.deadline):
        node.timing |= TIMED
        heap_push(&core.slab, ENTRIES, &node.deadlines, e.deadline, i)
    else:
        return
    if e.heap_index == 0:
        node_due_by_locked(core, node, node.deadlines.keys[0])


cdef tuple sweep_some(Store store, Node* node):
    """Expire some of the due entries, here and below, and reclaim some debris.

    Returns how many expired, and whether there may be more to do.
    """
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef Py_ssize_t swept = 0
    cdef uint32_t steps = SETTLE
    node_guard_closed(store)
    lock_acquire(&core.lock)
    while node_settle_one_locked(core, node, now, True, &steps):
        swept += 1
    if core.limbo_count < core.at_once:
        debris_reclaim_locked(core, core.at_once - core.limbo_count)
    more = steps == 0 or debris_is_left_locked(core)
    lock_release(&core.lock)
    store_drain(store)
    return swept, more
