# Interned namespace paths: the tree, its limits and counts, and who gives way.
#
# Nothing here runs a user's code. Dictionaries hold exact str keys and int values, of children the
# addresses of their structs, which stay as long as the namespaces do; what a forgotten
# namespace owned is dropped by the caller, once the tree is whole.

cdef extern from *:
    """
    /* -1, with the exception set: no handler, whose traceback could run the collector. */
    static int flowcache_dict_put_number(PyObject *dict, PyObject *name, size_t number) {
        PyObject *value = PyLong_FromSize_t(number);
        int failed = value == NULL ? -1 : PyDict_SetItem(dict, name, value);
        Py_XDECREF(value);
        return failed;
    }
    """
    int dict_put_number "flowcache_dict_put_number"(PyObject* dict, object name,
                                                    size_t number) noexcept
    size_t PyLong_AsSize_t(PyObject* number) noexcept

cdef enum:
    DEEPEST = 64                  # names in a path: recursion follows the tree


cdef inline double space_bound(Space* space) noexcept nogil:
    """The earliest moment at which something may be due in the namespace or below it."""
    cdef double bound = INFINITY
    if space.deadlines.n:
        bound = space.deadlines.keys[0]
    if space.due.n and space.due.keys[0] < bound:
        bound = space.due.keys[0]
    return bound


cdef inline void space_due_by(Core* core, Space* space, double key) noexcept nogil:
    """Let the namespaces above know of something due at `key`."""
    cdef Space* parent = space.parent
    while parent != NULL:
        if space.seat[<int>BY_DUE] == NONE:
            heap_push(core, BY_DUE, &parent.due, key, space.id)
        elif key < parent.due.keys[space.seat[<int>BY_DUE]]:
            heap_rekey(core, BY_DUE, &parent.due, space.seat[<int>BY_DUE], key)
        else:
            return
        space = parent
        parent = space.parent


cdef inline double space_ratio(Space* space, Seating by, int64_t extra) noexcept nogil:
    cdef int64_t held = space.entries if by == BY_ENTRIES else space.weight
    return <double>(held + extra) / space.share


cdef inline void space_raise_by(Core* core, Space* space, Seating by) noexcept nogil:
    cdef Space* parent = space.parent
    cdef Heap* heap = &parent.by_entries if by == BY_ENTRIES else &parent.by_weight
    cdef double key = -space_ratio(space, by, 0)
    cdef uint32_t seat = space.seat[<int>by]
    if seat == NONE:
        if space.entries > space.reserved:
            heap_push(core, by, heap, key, space.id)
    elif key < heap.keys[seat]:
        heap_rekey(core, by, heap, seat, key)


cdef inline void space_add(Core* core, Space* space, int64_t entries,
                           int64_t weight) noexcept nogil:
    """Count what came or went, here and above. The heaps need to know only of what came."""
    poke_u32(&space.own, <uint32_t>(<int64_t>space.own + entries))
    space.own_weight += weight
    while True:
        space.entries += entries
        space.weight += weight
        if space.parent == NULL:
            return
        if entries > 0 or weight > 0:
            space_raise_by(core, space, BY_ENTRIES)
            if core.slab.weighs:
                space_raise_by(core, space, BY_WEIGHT)
        space = space.parent


cdef inline bint space_is_within(Space* space, Space* top) noexcept nogil:
    while space != NULL and space.depth > top.depth:
        space = space.parent
    return space == top


cdef inline Space* space_towards(Space* space, Space* top) noexcept nogil:
    """The child of `top` on the way down to `space`, which lies below it."""
    while space.parent != top:
        space = space.parent
    return space


# ------------------------------------------------------------------------------- who gives way

cdef uint32_t space_fullest(Core* core, Space* node, Seating by) noexcept nogil:
    """The id of the fullest child that pressure from outside may take from; NONE if none."""
    cdef Heap* heap = &node.by_entries if by == BY_ENTRIES else &node.by_weight
    cdef Space* child
    cdef double key
    while heap.n:
        child = core.spaces[heap.ids[0]]
        key = -space_ratio(child, by, 0)
        if child.entries <= child.reserved or key == 0:
            heap_remove(core, by, heap, 0)
        elif key > heap.keys[0]:
            heap_rekey(core, by, heap, 0, key)
        else:
            return child.id
    return NONE


cdef Space* space_victim(Core* core, Space* node, Space* storing, Seating by, int64_t extra,
                         uint32_t spared) noexcept nogil:
    """The namespace, `node` or below it, whose least recent entry gives way; NULL if none may.

    Max-min fairness by share, level by level. `storing` lies at or below `node` (or is NULL): it
    and those above it count `extra` more than they hold, may be taken from whatever is reserved,
    and go first on a tie. `spared` entries of `storing`, its newest, are no victims.
    """
    cdef Space* path = NULL
    cdef Space* best
    cdef Space* found
    cdef Space* full
    cdef double ratio, other
    cdef uint32_t top
    cdef bint here = node == storing
    cdef bint own = node.own > (spared if here else 0)
    if by == BY_WEIGHT and node.own_weight + (extra if here else 0) == 0:
        own = False                               # what weighs nothing makes no room
    if storing != NULL and not here:
        path = space_towards(storing, node)
        if path.entries == 0:
            path = NULL
    while True:
        best = NULL
        ratio = -1
        if path != NULL:
            best = path
            ratio = space_ratio(path, by, extra)
        if own:
            other = <double>((node.own if by == BY_ENTRIES else node.own_weight)
                             + (extra if here else 0))
            if other > ratio:
                best = node
                ratio = other
        full = NULL
        top = space_fullest(core, node, by)
        if top != NONE:
            full = core.spaces[top]
            if full != path:
                other = space_ratio(full, by, 0)
                if other > ratio:
                    best = full
        if best == NULL or best == node:
            return best
        if best == path:
            found = space_victim(core, best, storing, by, extra, spared)
        else:
            found = space_victim(core, best, NULL, by, 0, 0)
        if found != NULL:
            return found
        # Everything below it is reserved. It comes back to the heap when it holds more.
        if best.seat[<int>by] != NONE:
            heap_remove(core, by, &node.by_entries if by == BY_ENTRIES else &node.by_weight,
                        best.seat[<int>by])
        if best == path:
            path = NULL


cdef Space* space_heaviest(Space* node) noexcept nogil:
    """The same by weight, whatever is reserved. Looks at each child: for a limit that shrinks.

    Something here or below weighs more than nothing.
    """
    cdef Space* best
    cdef Space* child
    cdef double ratio, other
    while True:
        best = node
        ratio = <double>node.own_weight
        child = node.child
        while child != NULL:
            other = space_ratio(child, BY_WEIGHT, 0)
            if other > ratio or (other == ratio and best != node and child.rank < best.rank):
                best = child
                ratio = other
            child = child.next
        if best == node:
            return node
        node = best


# ------------------------------------------------------------------------------- the idle

cdef inline void idle_unlink(Core* core, Space* space) noexcept nogil:
    if space.idle_newer != NULL:
        space.idle_newer.idle_older = space.idle_older
    else:
        core.idle_newest = space.idle_older
    if space.idle_older != NULL:
        space.idle_older.idle_newer = space.idle_newer
    else:
        core.idle_oldest = space.idle_newer
    space.is_idle = False
    poke_u32(&core.idle_count, core.idle_count - 1)


cdef inline void idle_consider(Core* core, Space* space) noexcept nogil:
    """List the namespace as the most recent idle one, if nothing holds it any more."""
    if (space.views == 0 and space.entries == 0 and space.pending == 0 and space.child == NULL
            and not space.configured and not space.is_idle and space.parent != NULL):
        space.idle_newer = NULL
        space.idle_older = core.idle_newest
        if core.idle_newest != NULL:
            core.idle_newest.idle_newer = space
        else:
            core.idle_oldest = space
        core.idle_newest = space
        space.is_idle = True
        poke_u32(&core.idle_count, core.idle_count + 1)


cdef inline void space_hold(Core* core, Space* space) noexcept:
    """Hold the namespace as a view does: it is not forgotten."""
    space.views += 1
    if space.is_idle:
        idle_unlink(core, space)


cdef inline void space_let_go(Core* core, Space* space) noexcept:
    space.views -= 1
    if space.views == 0:
        idle_consider(core, space)


cdef inline void counters_add(Counters* into, Counters* what) noexcept nogil:
    into.hits += what.hits
    into.misses += what.misses
    into.stale_hits += what.stale_hits
    into.coalesced += what.coalesced
    into.loads += what.loads
    into.load_failures += what.load_failures
    into.sets += what.sets
    into.evictions += what.evictions
    into.evictions_caused += what.evictions_caused
    into.expirations += what.expirations
    into.invalidations += what.invalidations
    into.load_seconds += what.load_seconds


cdef void space_total(Space* space, Counters* into) noexcept nogil:
    """Add what happened in the namespace and below it. Costs O(namespaces below)."""
    cdef Space* child = space.child
    counters_add(into, &space.counters)
    counters_add(into, &space.forgotten)
    while child != NULL:
        space_total(child, into)
        child = child.next


cdef void space_reset(Space* space) noexcept nogil:
    cdef Space* child = space.child
    memset(&space.counters, 0, sizeof(Counters))
    memset(&space.forgotten, 0, sizeof(Counters))
    while child != NULL:
        space_reset(child)
        child = child.next


cdef inline int64_t space_demand(Space* space) noexcept nogil:
    return space.reserved if space.reserved > space.reserved_below else space.reserved_below


# ------------------------------------------------------------------------------- birth and death

cdef int space_id_reserve(Core* core) noexcept nogil:
    """Make sure that one more id can be taken; -1 when memory is out."""
    cdef void* grown
    cdef uint32_t wanted
    if core.free_count or core.spaces_used < core.spaces_capacity:
        return 0
    wanted = core.spaces_capacity * 2 if core.spaces_capacity else 8
    grown = realloc(core.spaces, wanted * sizeof(Space*))
    if grown == NULL:
        return -1
    core.spaces = <Space**>grown
    grown = realloc(core.free_ids, wanted * sizeof(uint32_t))
    if grown == NULL:
        return -1
    core.free_ids = <uint32_t*>grown
    core.spaces_capacity = wanted
    return 0


cdef inline uint32_t space_next_id(Core* core) noexcept nogil:
    return core.free_ids[core.free_count - 1] if core.free_count else core.spaces_used


cdef inline void space_take_id(Core* core, Space* space) noexcept nogil:
    space.id = space_next_id(core)
    if core.free_count:
        core.free_count -= 1
    else:
        core.spaces_used += 1
    core.spaces[space.id] = space


cdef inline void space_give_id(Core* core, uint32_t id) noexcept nogil:
    core.spaces[id] = NULL
    core.free_ids[core.free_count] = id
    core.free_count += 1


cdef Space* space_new(Core* core, Space* parent, object name, dict children) except NULL:
    """Make a namespace without settings below `parent` (NULL: the root). Every allocation first.

    `children` is its new dictionary: to make it here could run the collector, and user code.
    """
    cdef Space* space = NULL
    cdef uint32_t wanted
    if space_id_reserve(core) < 0:
        raise MemoryError()
    if parent != NULL:
        wanted = parent.children_count + 1
        if (heap_reserve(&parent.due, wanted) < 0
                or heap_reserve(&parent.by_entries, wanted) < 0
                or (core.slab.weighs and heap_reserve(&parent.by_weight, wanted) < 0)):
            raise MemoryError()
    space = <Space*>calloc(1, sizeof(Space))
    if space == NULL:
        raise MemoryError()
    if parent != NULL and dict_put_number(parent.children, name, <size_t>space) < 0:
        free(space)
        return NULL
    space_take_id(core, space)
    space.order.newest = NONE
    space.order.oldest = NONE
    space.parent = parent
    space.rank = core.next_rank
    core.next_rank += 1
    core.salts += 1
    space.salt = (core.secret ^ core.salts) * <uint64_t>0x9E3779B97F4A7C15
    space.salt ^= space.salt >> 29
    Py_INCREF(name)                               # Space.name owns it
    space.name = <PyObject*>name
    Py_INCREF(children)                           # Space.children owns it
    space.children = <PyObject*>children
    space.max_entries = -1
    space.max_weight = -1
    space.max_pending = -1
    space.share = 1.0
    space.seat[0] = NONE
    space.seat[1] = NONE
    space.seat[2] = NONE
    if parent != NULL:
        space.depth = parent.depth + 1
        poke_double(&space.default_ttl, parent.default_ttl)
        space.next = parent.child
        if parent.child != NULL:
            parent.child.previous = space
        parent.child = space
        parent.children_count += 1
        if parent.is_idle:
            idle_unlink(core, parent)
    return space


cdef inline Space* space_child(Space* space, PyObject* name) noexcept:
    """The namespace of this name, an exact str, right below; NULL if there is none."""
    cdef PyObject* found = PyDict_GetItemWithError(<object>space.children, <object>name)
    return NULL if found == NULL else <Space*>PyLong_AsSize_t(found)


cdef void space_forget(Core* core, Space* space) noexcept:
    """Take a namespace that nothing holds out of the tree; its counts stay with its parent.

    The caller frees it once the lock is let go.
    """
    cdef Space* parent = space.parent
    cdef int64_t before = space_demand(parent)
    if space.is_idle:
        idle_unlink(core, space)
    space_total(space, &parent.forgotten)
    parent.reserved_below -= space_demand(space)
    space_demand_changed(parent, before)
    if space.seat[<int>BY_DUE] != NONE:
        heap_remove(core, BY_DUE, &parent.due, space.seat[<int>BY_DUE])
    if space.seat[<int>BY_ENTRIES] != NONE:
        heap_remove(core, BY_ENTRIES, &parent.by_entries, space.seat[<int>BY_ENTRIES])
    if space.seat[<int>BY_WEIGHT] != NONE:
        heap_remove(core, BY_WEIGHT, &parent.by_weight, space.seat[<int>BY_WEIGHT])
    if space.previous != NULL:
        space.previous.next = space.next
    else:
        parent.child = space.next
    if space.next != NULL:
        space.next.previous = space.previous
    parent.children_count -= 1
    del (<object>parent.children)[<object>space.name]
    space_give_id(core, space.id)
    idle_consider(core, parent)


cdef void space_demand_changed(Space* space, int64_t before) noexcept nogil:
    """Pass a change of what a namespace demands (`before`: until now) on to those above it."""
    cdef int64_t after, above
    while space.parent != NULL:
        after = space_demand(space)
        if after == before:
            return
        above = space_demand(space.parent)
        space.parent.reserved_below += after - before
        before = above
        space = space.parent


cdef void space_free(Space* space) noexcept:
    """Free the struct and what it owns. Entries, loads and the tree are gone or go with it."""
    heap_free(&space.deadlines)
    heap_free(&space.due)
    heap_free(&space.by_entries)
    heap_free(&space.by_weight)
    Py_XDECREF(space.name)
    Py_XDECREF(space.children)
    Py_XDECREF(space.tags)
    Py_XDECREF(space.listeners)
    Py_XDECREF(space.child_limits)
    free(space)
