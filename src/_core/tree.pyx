# The tree of namespaces. A Space is what the core keeps of one namespace; Core is what it keeps of
# one cache.
#
# Nothing here runs a user's code. Dictionaries hold exact str keys and int values, of children the
# addresses of their structs, which stay as long as the namespaces do; what a forgotten
# namespace owned is dropped by the caller, once the tree is whole.

cdef struct Counters:
    int64_t hits
    int64_t misses
    int64_t stale_hits
    int64_t coalesced
    int64_t loads
    int64_t load_failures
    int64_t sets
    int64_t evictions             # entries of this namespace that pressure took
    int64_t evictions_caused      # entries, anybody's, that went so that one here could be stored
    int64_t expirations
    int64_t invalidations
    double load_seconds

# Kinds of events, in the order of KINDS in events.pyx.
cdef enum Kind:
    HIT, MISS, STALE_HIT, SET, REMOVE, LOAD, LOAD_ERROR, REFRESH, SWEEP, KINDS_COUNT

cdef struct Space:
    Member member                 # comes first: heaps know it by that
    # What a hit touches shares a cache line.
    Order order                   # its entries, oldest to newest
    uint64_t salt                 # mixed into each key's hash
    uint32_t id                   # Entry.space; index into Core.spaces
    uint32_t own                  # entries, stale ones included
    uint32_t own_stale            # those of them past their deadline
    uint32_t views                # live Namespace objects, and listeners
    bint expires                  # an entry with an end to its TTL has been here
    bint is_idle                  # here, for whoever makes or drops a view asks
    Counters counters             # its own
    Counters forgotten            # of namespaces below that are no more

    Space* parent                 # NULL: the root, or a namespace that is no more
    Space* child                  # first child
    Space* next                   # siblings
    Space* previous
    uint32_t children_count
    uint32_t depth                # 0: the root
    PyObject* name                # owned; an exact str, the root: None
    PyObject* children            # owned dict: name -> id
    PyObject* tags                # owned dict: tag -> record; NULL until the first
    PyObject* running             # first of the running Loads; the list owns those in it
    PyObject* listeners           # owned list of (mask, listener); NULL until the first
    PyObject* child_limits        # owned dict of settings that children start with; NULL: none

    int64_t entries               # here and below
    int64_t weight                # here and below
    int64_t own_weight
    int64_t pending               # running loads, here and below
    int64_t own_pending

    double default_ttl            # in force here, inherited or set
    bint own_ttl                  # it was set here
    bint configured               # something was set here by name, so that it is never idle
    int64_t max_entries           # -1: no limit
    int64_t max_weight            # -1: no limit
    int64_t max_pending           # -1: no limit
    int64_t reserved              # entries
    int64_t reserved_below        # the sum of what the children demand
    double share

    Heap deadlines                # its own entries
    uint32_t sieving              # entries when heap_sieve became due (see reclaim); 0: it is not
    Heap due                      # children by the earliest deadline in them
    Heap by_entries               # children by -entries / share
    Heap by_weight                # children by -weight / share; only with a weigher

    Space* idle_newer
    Space* idle_older

cdef struct Core:
    Slab slab
    Table table
    Tags tags
    Space* root
    Space** spaces                # by id; NULL: free
    uint32_t spaces_used
    uint32_t spaces_capacity
    uint32_t* free_ids
    uint32_t free_count
    uint32_t next_rank
    uint64_t secret               # makes this cache's salts its own
    uint64_t salts                # salts handed out
    Space* idle_newest
    Space* idle_oldest
    uint32_t idle_count
    uint32_t max_idle
    uint32_t limbo_first          # entries that are out of every structure and wait to be dropped
    uint32_t limbo_last
    uint32_t limbo_count
    uint32_t at_once              # entries that one call may put in limbo: what is more is debris
    uint32_t debris_first         # entries that nobody can reach and whose memory goes later
    uint32_t debris_last
    uint32_t debris_count
    Space* debris                 # the same, cut off from a namespace all together: see removing
    uint32_t mask                 # kinds of events that somebody listens to
    uint32_t listening[KINDS_COUNT]   # how many listeners, by kind
    bint opened                   # false: closed, and nobody's yet
    bint closed
    bint require_namespace
    double max_pending_age
    PyObject** loads              # buckets of running loads by hash, borrowed: see loads
    uint32_t loads_size           # buckets; a power of two, or 0
    uint32_t loads_count
    uint64_t loads_begun          # loads registered so far
    uint64_t loads_changes        # goes up with each that begins or ends
    Lock lock


cdef inline bint core_hears(Core* core, int kind) noexcept nogil:
    """Whether somebody listens to the kind of event."""
    return peek_u32(&core.mask) & (<uint32_t>1 << kind) != 0


cdef inline bint core_is_closed(Core* core) noexcept nogil:
    return peek_flag(&core.closed)


cdef inline bint core_has_limbo(Core* core) noexcept nogil:
    """Whether something waits to be dropped: true for whoever has just put it there."""
    return peek_u32(&core.limbo_first) != NONE


cdef inline bint space_has_loads(Space* space) noexcept nogil:
    return peek_i64(&space.own_pending) != 0


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
        if space.member.seat[<int>BY_DUE] == NONE:
            heap_push(core.spaces, BY_DUE, &parent.due, key, space.id)
        elif key < parent.due.keys[space.member.seat[<int>BY_DUE]]:
            heap_rekey(core.spaces, BY_DUE, &parent.due, space.member.seat[<int>BY_DUE], key)
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
    cdef uint32_t seat = space.member.seat[<int>by]
    if seat == NONE:
        if space.entries > space.reserved:
            heap_push(core.spaces, by, heap, key, space.id)
    elif key < heap.keys[seat]:
        heap_rekey(core.spaces, by, heap, seat, key)


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


cdef inline object closed_error():
    return CacheClosedError("the cache is closed")


cdef object space_path(Space* space):
    """The names from the root down, as a tuple."""
    names = []
    while space.parent != NULL:
        names.append(<object>space.name)
        space = space.parent
    names.reverse()
    return tuple(names)


cdef object space_label(Space* space):
    return "/".join(map(repr, space_path(space))) if space.parent != NULL else "(the root)"


# ---------------------------------------------------------------------------------------- the idle

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


# ------------------------------------------------------------------------------------------ counts

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


# --------------------------------------------------------------------------------- birth and death

cdef inline int64_t space_demand(Space* space) noexcept nogil:
    return space.reserved if space.reserved > space.reserved_below else space.reserved_below


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
    space.member.rank = core.next_rank
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
    space.member.seat[0] = NONE
    space.member.seat[1] = NONE
    space.member.seat[2] = NONE
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
    if space.member.seat[<int>BY_DUE] != NONE:
        heap_remove(core.spaces, BY_DUE, &parent.due, space.member.seat[<int>BY_DUE])
    if space.member.seat[<int>BY_ENTRIES] != NONE:
        heap_remove(core.spaces, BY_ENTRIES, &parent.by_entries, space.member.seat[<int>BY_ENTRIES])
    if space.member.seat[<int>BY_WEIGHT] != NONE:
        heap_remove(core.spaces, BY_WEIGHT, &parent.by_weight, space.member.seat[<int>BY_WEIGHT])
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


cdef void spaces_free(Space* gone) noexcept:
    """Free namespaces that were forgotten, a list of them by `next`."""
    cdef Space* space
    while gone != NULL:
        space = gone
        gone = space.next
        space_free(space)
