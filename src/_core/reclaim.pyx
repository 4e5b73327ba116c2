# Entries that leave a cache: out of every structure at once, their memory later.

cdef enum:
    A_FEW = 4                     # entries of debris that a store reclaims

# -------------------------------------------------------------------------- a heap that loses much

# Each removal from a large heap costs a few misses of the processor's caches. Where a call removes
# much of a heap, entries only give up their heap index, and one pass compacts the heap.


cdef inline void compaction_begin_locked(Core* core, Node* node, int64_t removals) noexcept:
    """Expect so many removals here, and until compaction_end_locked no other use of the heap."""
    if removals * 4 >= node.deadlines.n:
        node.compacting = node.own


cdef inline void compaction_end_locked(Core* core, Node* node) noexcept:
    if node.own == 0:
        node.deadlines.n = 0
    elif node.own < node.compacting:
        heap_compact(&core.slab, &node.deadlines)
    node.compacting = 0


# ----------------------------------------------------------------------------------------- leaving

cdef inline void limbo_push_locked(Core* core, uint32_t i, Cause cause) noexcept:
    """Take entry i, which only the table still knows, out of it."""
    cdef Entry* e = entry_at(&core.slab, i)
    table_remove(&core.table, e.hash, i)
    e.links = cause
    e.newer = NONE
    if core.limbo_last == NONE:
        relaxed_store_u32(&core.limbo_first, i)
    else:
        entry_at(&core.slab, core.limbo_last).newer = i
    core.limbo_last = i
    core.limbo_count += 1


cdef inline void debris_push_locked(Core* core, uint32_t i) noexcept:
    """Leave entry i in the table for now, under the id of no namespace."""
    cdef Entry* e = entry_at(&core.slab, i)
    e.node = NO_NODE
    e.newer = NONE
    if core.debris_last == NONE:
        core.debris_first = i
    else:
        entry_at(&core.slab, core.debris_last).newer = i
    core.debris_last = i
    core.debris_count += 1


cdef void entry_unlink_locked(Core* core, uint32_t i, Cause cause) noexcept:
    """Take entry i out of every structure, count it, and leave it in limbo with its references.

    Beyond `at_once` entries, those that one call removes become debris. They are out of reach and
    out of every count at once. Their slots of the table and their references, most of the work, are
    released later, a few at a time. Not so while there is a listener, which is called before the
    call ends.
    """
    cdef Entry* e = entry_at(&core.slab, i)
    cdef Node* node = core.nodes[e.node]
    order_remove_locked(core, node, e, i)
    if e.heap_index != NONE:
        if node.compacting:
            e.heap_index = NONE
        else:
            heap_remove(&core.slab, ENTRIES, &node.deadlines, e.heap_index)
    entry_drop_tags_locked(core, e)
    if entry_counts_as_stale(e):
        node.own_stale -= 1
    node_add_locked(core, node, -1, -entry_weight(&core.slab, i))
    if cause == EXPIRED:
        node.counters.expirations += 1
    elif cause == EVICTED or cause == OVER_LIMIT:
        node.counters.evictions += 1
        if unlikely(core.ghosts != NULL):
            ghost_leave_locked(core, node, e)
    elif cause != REPLACED:
        node.counters.invalidations += 1
    if core.limbo_count < core.at_once or core_hears(core, REMOVE):
        limbo_push_locked(core, i, cause)
    else:
        debris_push_locked(core, i)
    idle_consider_locked(core, node)


# ------------------------------------------------------------------------- asking for memory ahead

cdef inline void entry_prefetch_locked(Core* core, uint32_t i) noexcept nogil:
    """Prefetch the memory that the removal of entry i will touch: its bucket and its neighbours."""
    cdef Entry* e = entry_at(&core.slab, i)
    cdef Part* part
    cdef Heap* heap
    if core.limbo_count < core.at_once:
        part = table_part(&core.table, e.hash)
        prefetch(&part.buckets[part_home(part, e.hash)])
    if e.node != NO_NODE and e.heap_index != NONE and not core.nodes[e.node].compacting:
        heap = &core.nodes[e.node].deadlines
        prefetch(&heap.keys[e.heap_index])
        prefetch(&heap.ids[e.heap_index])
    if e.newer != NONE:
        prefetch(entry_at(&core.slab, e.newer))
    if e.older != NONE:
        prefetch(entry_at(&core.slab, e.older))


cdef inline uint32_t prefetcher_move_locked(Core* core, uint32_t prefetcher) noexcept nogil:
    """Let a prefetcher, which goes ahead of a walk over an order or the debris, take a step."""
    if prefetcher == NONE:
        return NONE
    entry_prefetch_locked(core, prefetcher)
    return entry_at(&core.slab, prefetcher).newer


cdef inline uint32_t prefetcher_begin_locked(Core* core, uint32_t first) noexcept nogil:
    """Send a prefetcher ahead of the first entry of a walk."""
    cdef uint32_t _
    for _ in range(AHEAD):
        first = prefetcher_move_locked(core, first)
    return first


# -------------------------------------------------------------------------------- debris and limbo

cdef inline bint debris_is_left_locked(Core* core) noexcept nogil:
    return core.debris_count or core.debris != NULL or core.slab.surplus or core.tags.links_surplus


cdef void debris_reclaim_locked(Core* core, uint32_t most) noexcept:
    """Put at most so many entries of debris in limbo, oldest first, and give a page back."""
    cdef uint32_t i, prefetcher
    cdef Node* cut
    cdef Entry* e
    prefetcher = prefetcher_begin_locked(core, core.debris_first) if most > 1 else NONE
    while most > 0 and core.debris_count:
        prefetcher = prefetcher_move_locked(core, prefetcher)
        i = core.debris_first
        core.debris_first = entry_at(&core.slab, i).newer
        if core.debris_first == NONE:
            core.debris_last = NONE
        core.debris_count -= 1
        limbo_push_locked(core, i, CLEARED)
        most -= 1
    prefetcher = NONE
    if most > 1 and core.debris != NULL:
        prefetcher = prefetcher_begin_locked(core, core.debris.order.oldest)
    while most > 0 and core.debris != NULL:
        cut = core.debris
        i = cut.order.oldest
        if i != NONE:
            prefetcher = prefetcher_move_locked(core, prefetcher)
            e = entry_at(&core.slab, i)
            cut.order.oldest = e.newer
            if e.newer != NONE:
                entry_at(&core.slab, e.newer).older = NONE
            else:
                cut.order.newest = NONE
            entry_drop_tags_locked(core, e)
            if entry_counts_as_stale(e):
                cut.own_stale -= 1
            node_add_locked(core, cut, -1, -entry_weight(&core.slab, i))
            # Its id may be another namespace's before the limbo is drained.
            e.node = NO_NODE
            limbo_push_locked(core, i, CLEARED)
            most -= 1
        else:
            core.debris = cut.next
            node_give_id_locked(core, cut.id)
            node_free(cut)
    if core.slab.surplus:
        slab_give_page(&core.slab)
    if core.tags.links_surplus:
        links_give_page(&core.tags)


cdef void store_trim_idle(Store store, Py_ssize_t most) noexcept:
    """Forget the least recent idle namespaces beyond max_idle_namespaces, at most so many.

    Runs as views are dropped, perhaps with an exception set, so it neither raises nor checks
    errors.
    """
    cdef Core* core = &store.core
    cdef Node* node
    cdef Node* gone = NULL
    lock_acquire(&core.lock)
    # An entry in limbo still has the id of its namespace, for the listeners.
    while most > 0 and core.idle_count > core.max_idle and core.limbo_count == 0:
        most -= 1
        node = core.idle_oldest
        node_forget_locked(core, node)
        node.next = gone
        gone = node
    lock_release(&core.lock)
    nodes_free(gone)


cdef int store_drain(Store store) except -1:
    """Drop what is in limbo, one entry at a time, oldest first; tell listeners. Lock not held.

    Runs user code (listeners, __del__), which may put more there or drain it itself. A listener's
    exception that is no Exception is raised at the end, when the limbo is empty.
    """
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef Entry* e
    cdef Cause cause
    cdef Node* node
    cdef uint32_t where, prefetcher, ahead
    cdef Py_ssize_t drained = 0
    error = None
    while core_has_limbo(core):
        lock_acquire(&core.lock)
        i = core.limbo_first
        if i == NONE:
            lock_release(&core.lock)
            break
        e = entry_at(&core.slab, i)
        relaxed_store_u32(&core.limbo_first, e.newer)
        if core.limbo_first == NONE:
            core.limbo_last = NONE
        # Dropped entries have mostly left the processor's caches long ago.
        prefetcher = core.limbo_first
        for ahead in range(4):
            if prefetcher == NONE:
                break
            if ahead == 3:
                prefetch(entry_at(&core.slab, prefetcher).key)
                prefetch(entry_at(&core.slab, prefetcher).value)
            prefetcher = entry_at(&core.slab, prefetcher).newer
        key = <object>e.key
        value = <object>e.value
        Py_DECREF(key)                            # the entry's own; the locals hold theirs
        Py_DECREF(value)
        cause = <Cause>e.links
        where = e.node
        slab_give(&core.slab, i)
        if core.table.count == 0 and core.limbo_first == NONE and core.slab.n_pages > 1:
            slab_trim(&core.slab)
            links_trim(&core.tags)                # records may be pinned by a call under way
        core.limbo_count -= 1
        drained += 1
        node = NULL
        if core_hears(core, REMOVE) and where != NO_NODE:
            node = core.nodes[where]
            if node.parent == NULL and node != core.root:
                node = NULL                      # cut off since then, without a listener
            else:
                node_hold_locked(core, node)           # not to be forgotten before it is told
        lock_release(&core.lock)
        if node != NULL:
            try:
                emit(store, node, REMOVE, key, CAUSES[<int>cause], value)
            except BaseException as failure:
                error = failure if error is None else error
            lock_acquire(&core.lock)
            node_let_go_locked(core, node)
            lock_release(&core.lock)
        key = None
        value = None
    if relaxed_load_u32(&core.idle_count) > core.max_idle:
        store_trim_idle(store, drained + 4)
    if error is not None:
        raise error
    return 0
