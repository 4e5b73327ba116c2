# Removing many at once, and listing. What is removed decides what it costs.

cdef inline int space_guard_closed(Store store) except -1:
    if core_is_closed(&store.core):
        raise closed_error()
    return 0


cdef list list_blank(Py_ssize_t n):
    """A list of n empty places, which nobody finds through the collector until it is finished."""
    cdef list made = PyList_New(n)
    PyObject_GC_UnTrack(<PyObject*>made)
    return made


cdef int list_finish(list made, Py_ssize_t n) except -1:
    """Cut off the places from n on; those before are filled."""
    PyObject_GC_Track(<PyObject*>made)
    return PyList_SetSlice(made, n, PyList_GET_SIZE(made), NULL)


cdef list fresh_keys(View view, Py_ssize_t most):
    """The fresh keys, least recent first; at most `most` of them (-1: all)."""
    cdef Store store = view.store
    cdef Core* core = &store.core
    cdef Space* space = view.space
    cdef double now = store_now(store)
    cdef uint32_t i
    cdef Py_ssize_t n
    cdef list keys
    space_guard_closed(store)
    while True:
        n = peek_u32(&space.own)
        if 0 <= most < n:
            n = most
        keys = list_blank(n)          # may run the collector, so the count may not stand
        lock_acquire(&core.lock)
        if n < (space.own if most < 0 or most > space.own else most):
            lock_release(&core.lock)
            continue
        n = 0
        i = space.order.oldest
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


cdef tuple fresh_items(View view):
    """(keys, values) of the fresh entries, least recent first."""
    cdef Store store = view.store
    cdef Core* core = &store.core
    cdef Space* space = view.space
    cdef double now = store_now(store)
    cdef uint32_t i
    cdef Py_ssize_t n
    cdef list keys, values
    space_guard_closed(store)
    while True:
        n = peek_u32(&space.own)
        keys = list_blank(n)
        values = list_blank(n)
        lock_acquire(&core.lock)
        if n < space.own:
            lock_release(&core.lock)
            continue
        n = 0
        i = space.order.oldest
        while i != NONE:
            if entry_at(&core.slab, i).deadline > now:
                key = <object>entry_at(&core.slab, i).key
                value = <object>entry_at(&core.slab, i).value
                Py_INCREF(key)                    # PyList_SET_ITEM steals both
                Py_INCREF(value)
                PyList_SET_ITEM(keys, n, key)
                PyList_SET_ITEM(values, n, value)
                n += 1
            i = entry_at(&core.slab, i).newer
        lock_release(&core.lock)
        list_finish(keys, n)
        list_finish(values, n)
        return keys, values


cdef int64_t remove_one_locked(Core* core, uint32_t i, Cause cause, double now) noexcept:
    """Remove entry i; 1 if it was held, 0 if it was due to expire anyway."""
    if entry_last(entry_at(&core.slab, i)) <= now:
        entry_unlink_locked(core, i, EXPIRED)
        return 0
    entry_unlink_locked(core, i, cause)
    return 1


# A large namespace is cleared by cutting its entries off: they keep the namespace's id, which the
# namespace gives up for a new one, so that no look-up can meet them again. They are debris then,
# and go a few at a time as the cache is used: clear() takes effect at once and holds nobody up.

cdef enum:
    WORTH_CUTTING = 32            # once the limbo is full, for as many entries it is the less work


cdef inline bint space_may_be_cut(Core* core, Space* space) noexcept:
    if core_hears(core, REMOVE):
        return False
    return space.own > (core.at_once if core.limbo_count < core.at_once
                        or core.at_once < WORTH_CUTTING else WORTH_CUTTING)


cdef int64_t space_cut_off_locked(Store store, Space* space, double now) noexcept:
    """Turn a namespace's own entries into debris; how many of them were held, and not due to
    expire anyway. -1, and nothing done, when memory is out.

    For a namespace whose tags have no records below it.
    """
    cdef Core* core = &store.core
    cdef Space* cut
    cdef uint32_t old = space.id, t, up
    cdef int64_t due
    if space_id_reserve(core) < 0:
        return -1
    cut = <Space*>calloc(1, sizeof(Space))
    if cut == NULL:
        return -1
    due = heap_due(core, &space.deadlines, 0, now, True)
    space.counters.expirations += due
    space.counters.invalidations += space.own - due
    cut.id = old
    cut.order = space.order
    cut.own = space.own
    cut.own_stale = space.own_stale
    cut.own_weight = space.own_weight
    cut.entries = space.own
    cut.weight = space.own_weight
    cut.max_entries = -1
    cut.max_weight = -1
    cut.share = 1.0
    cut.tags = space.tags
    cut.next = core.debris
    core.debris = cut
    core.spaces[old] = cut
    space_take_id(core, space)
    space.order.newest = NONE
    space.order.oldest = NONE
    heap_free(&space.deadlines)
    space.own_stale = 0
    space.tags = NULL
    if space.parent != NULL:
        if space.seat[<int>BY_DUE] != NONE:
            space.parent.due.ids[space.seat[<int>BY_DUE]] = space.id
        if space.seat[<int>BY_ENTRIES] != NONE:
            space.parent.by_entries.ids[space.seat[<int>BY_ENTRIES]] = space.id
        if space.seat[<int>BY_WEIGHT] != NONE:
            space.parent.by_weight.ids[space.seat[<int>BY_WEIGHT]] = space.id
    space_add(core, space, -<int64_t>space.own, -space.own_weight)
    if cut.tags != NULL:
        # Its tags' records go with it, and no longer count above.
        for t in (<dict>cut.tags).values():
            core.tags.records[t].space = cut
            up = core.tags.records[t].parent
            if up != NONE:
                tag_unhang(&core.tags, t)
                tag_release_locked(core, up)
    idle_consider(core, space)
    return cut.own - due


# Each removal from a large heap costs a few misses of the processor's caches. Where much of a heap
# goes, its entries only give up their seats, and one pass puts the rest together again.

cdef inline void sieve_begin(Core* core, Space* space, int64_t removals) noexcept:
    """Expect so many removals here, and until sieve_end nothing else that asks the heap."""
    if removals * 4 >= space.deadlines.n:
        space.sieving = space.own


cdef inline void sieve_end(Core* core, Space* space) noexcept:
    if space.own == 0:
        space.deadlines.n = 0
    elif space.own < space.sieving:
        heap_sieve(core, &space.deadlines)
    space.sieving = 0


cdef int64_t clear_locked(Store store, Space* space, double now) noexcept:
    """Remove all of a namespace and of those below it, and let its running loads end in vain."""
    cdef Core* core = &store.core
    cdef int64_t removed = 0, cut
    cdef uint32_t scout
    cdef Space* child = space.child
    if space_has_loads(space):
        fence_all_locked(space)
    while child != NULL:                          # first those below: see space_cut_off_locked
        if child.entries or child.pending:
            removed += clear_locked(store, child, now)
        child = child.next
    if space_may_be_cut(core, space):
        cut = space_cut_off_locked(store, space, now)
        if cut >= 0:
            return removed + cut
    sieve_begin(core, space, space.own)
    scout = scout_begin(core, space.order.oldest)
    while space.order.oldest != NONE:
        scout = scout_move(core, scout)
        removed += remove_one_locked(core, space.order.oldest, CLEARED, now)
    sieve_end(core, space)
    if space.deadlines.capacity > 64:
        heap_free(&space.deadlines)
    return removed


cdef int64_t tag_invalidate_locked(Store store, uint32_t t, list others, double now) noexcept:
    """Remove the entries that bear tag record t, here and below; with `others`: these tags too."""
    cdef Core* core = &store.core
    cdef int64_t removed = 0
    cdef int64_t own
    cdef uint32_t link, near, far, child, next, i, k
    cdef Tag* tag = &core.tags.records[t]
    cdef Space* space = tag.space
    if (others is None and space.child == NULL and tag.total == space.own
            and space_may_be_cut(core, space)):
        # All that the namespace holds bears the tag.
        removed = space_cut_off_locked(store, space, now)
        if removed >= 0:
            return removed
        removed = 0
    own = tag.total
    child = tag.child
    while child != NONE:
        own -= core.tags.records[child].total
        child = core.tags.records[child].next
    sieve_begin(core, space, own)
    # Pinned: the last removal must not free the record under the walk.
    tag.total += 1
    link = tag.first
    # Two scouts run ahead of the walk: one asks for the entries, the other for their neighbours.
    near = link
    far = link
    for k in range(2 * AHEAD):
        if far != NONE:
            prefetch(&entry_at(&core.slab, link_at(&core.tags, far).entry).hash)
            far = link_at(&core.tags, far).older
        if k >= AHEAD and near != NONE:
            entry_prefetch(core, link_at(&core.tags, near).entry)
            near = link_at(&core.tags, near).older
    while link != NONE:
        if far != NONE:
            prefetch(&entry_at(&core.slab, link_at(&core.tags, far).entry).hash)
            far = link_at(&core.tags, far).older
        if near != NONE:
            entry_prefetch(core, link_at(&core.tags, near).entry)
            near = link_at(&core.tags, near).older
        i = link_at(&core.tags, link).entry
        link = link_at(&core.tags, link).older
        if others is None or bears_all(core, i, others):
            removed += remove_one_locked(core, i, TAG, now)
    sieve_end(core, space)
    child = core.tags.records[t].child
    while child != NONE:
        next = core.tags.records[child].next
        removed += tag_invalidate_locked(store, child, others, now)
        child = next
    core.tags.records[t].total -= 1
    tag_release_locked(core, t)
    return removed


cdef bint bears_all(Core* core, uint32_t i, list tags) noexcept:
    cdef Entry* e = entry_at(&core.slab, i)
    cdef uint32_t t
    for name in tags:
        t = tag_find(core.spaces[e.space], <str>name)
        if t == NONE or not entry_bears(&core.tags, e, t):
            return False
    return True


cdef int64_t invalidate(View view, tuple tags, bint every) except -1:
    """invalidate_tag and invalidate_tags: `every`: only entries that bear all of them."""
    cdef Store store = view.store
    cdef Core* core = &store.core
    cdef Space* space = view.space
    cdef double now = store_now(store)
    cdef int64_t removed = 0
    cdef uint32_t t, rarest = NONE
    space_guard_closed(store)
    if tags is None:
        return 0
    others = [tag for tag in tags] if every else None
    lock_acquire(&core.lock)
    try:
        if space.pending:
            fence_tags_locked(space, tags, every)
        for tag in tags:
            t = tag_find(space, <str>tag)
            if every:
                if t == NONE:
                    rarest = NONE
                    break
                if rarest == NONE or core.tags.records[t].total < core.tags.records[rarest].total:
                    rarest = t
            elif t != NONE:
                removed += tag_invalidate_locked(store, t, None, now)
        if rarest != NONE:
            removed += tag_invalidate_locked(store, rarest, others, now)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return removed
