# _check(): every count and link of a cache, recomputed. Tests call it after each step.


cdef int check_that(bint holds, str what) except -1:
    if not holds:
        raise AssertionError(what)
    return 0


cdef int check_heap(Core* core, Seating kind, Heap* heap, str what) except -1:
    cdef uint32_t n, parent, seat
    cdef void* of = <void*>&core.slab if kind == ENTRIES else <void*>core.spaces
    check_that(heap.n <= heap.capacity, f"{what}: more than its capacity")
    for n in range(heap.n):
        if n:
            parent = (n - 1) // ARITY
            check_that(not heap_before(of, kind, heap.keys[n], heap.ids[n],
                                       heap.keys[parent], heap.ids[parent]),
                       f"{what}: out of order")
        seat = (entry_at(&core.slab, heap.ids[n]).seat if kind == ENTRIES
                else core.spaces[heap.ids[n]].member.seat[<int>kind])
        check_that(seat == n, f"{what}: seat {n} is not known to who sits there")
    return 0


cdef int check_space(Store store, Space* space, int64_t* links) except -1:
    """One namespace and those below it."""
    cdef Core* core = &store.core
    cdef uint32_t i = space.order.oldest, before = NONE, own = 0, stale = 0, seated = 0, link, t
    cdef int64_t weight = 0, own_weight = 0, entries, pending = space.own_pending, demand = 0
    cdef int64_t n_children = 0
    cdef Space* child = space.child
    cdef Entry* e
    cdef PyObject* at = space.running
    label = space_label(space)
    while at != NULL:
        pending -= 1
        check_that((<Load>at).registered and (<Load>at).space == space,
                   f"{label}: a load runs elsewhere")
        at = (<Load>at).older
    check_that(pending == 0, f"{label}: own_pending is wrong")
    pending = space.own_pending
    check_that(core.spaces[space.id] == space, f"{label}: its id is another's")
    while i != NONE:
        e = entry_at(&core.slab, i)
        check_that(e.key != NULL and e.value != NULL, f"{label}: a free slot is in the order")
        check_that(e.space == space.id, f"{label}: another's entry is in its order")
        check_that(e.older == before, f"{label}: the order's links disagree")
        check_that(check_table_holds(core, e.hash, i), f"{label}: an entry is not in the table")
        own += 1
        own_weight += entry_weight(&core.slab, i)
        stale += entry_counts_as_stale(e)
        if space.parent == NULL and space != core.root:
            pass                                  # cut off: nothing of it is due any more
        elif e.seat != NONE:
            seated += 1
            check_that(space.deadlines.ids[e.seat] == i, f"{label}: a seat is another's")
            if not entry_counts_as_stale(e):
                check_that(space.deadlines.keys[e.seat] <= e.deadline, f"{label}: seated too late")
        else:
            check_that(isinf(e.deadline) or (entry_counts_as_stale(e) and isinf(e.keep)),
                       f"{label}: an entry that expires has no seat")
        link = e.links
        while link != NONE:
            check_that(link_at(&core.tags, link).entry == i, f"{label}: a link is another's")
            check_that(core.tags.records[link_at(&core.tags, link).tag].space == space.id,
                       f"{label}: a tag of another namespace")
            links[0] += 1
            link = link_at(&core.tags, link).next
        before = i
        i = e.newer
    check_that(space.order.newest == before, f"{label}: the order's end is wrong")
    check_that(space.sieving == 0, f"{label}: its heap was not put right")
    check_that(own == space.own, f"{label}: own is {space.own}, counted {own}")
    check_that(stale == space.own_stale, f"{label}: own_stale {space.own_stale}, counted {stale}")
    check_that(own_weight == space.own_weight, f"{label}: own_weight is wrong")
    check_that(seated == space.deadlines.n, f"{label}: somebody else sits in its heap")
    check_heap(core, ENTRIES, &space.deadlines, f"{label}: deadlines")
    check_heap(core, BY_DUE, &space.due, f"{label}: due")
    check_heap(core, BY_ENTRIES, &space.by_entries, f"{label}: by_entries")
    check_heap(core, BY_WEIGHT, &space.by_weight, f"{label}: by_weight")
    entries = own
    weight = own_weight
    while child != NULL:
        check_that(child.parent == space, f"{label}: a child has another parent")
        check_space(store, child, links)
        n_children += 1
        check_that(space_child(space, child.name) == child,
                   f"{label}: a child's name leads elsewhere")
        entries += child.entries
        weight += child.weight
        pending += child.pending
        demand += space_demand(child)
        check_that(space_bound(child) == INFINITY or child.member.seat[<int>BY_DUE] != NONE,
                   f"{label}: a child with something due has no seat")
        if child.member.seat[<int>BY_DUE] != NONE:
            check_that(space.due.keys[child.member.seat[<int>BY_DUE]] <= space_bound(child),
                       f"{label}: a child is seated too late")
        if child.member.seat[<int>BY_ENTRIES] != NONE:
            check_that(space.by_entries.keys[child.member.seat[<int>BY_ENTRIES]]
                       <= -space_ratio(child, BY_ENTRIES, 0),
                       f"{label}: a child is fuller than seated")
        child = child.next
    check_that(n_children == space.children_count
               and (space.children == NULL or n_children == len(<dict>space.children)),
               f"{label}: children miscounted")
    check_that(entries == space.entries, f"{label}: entries is {space.entries}, counted {entries}")
    check_that(weight == space.weight, f"{label}: weight is {space.weight}, counted {weight}")
    check_that(pending == space.pending, f"{label}: pending is wrong")
    check_that(demand == space.reserved_below, f"{label}: reserved_below is wrong")
    check_that(space.max_entries < 0 or entries <= space.max_entries, f"{label}: over max_entries")
    check_that(space.max_weight < 0 or weight <= space.max_weight, f"{label}: over max_weight")
    if space.tags != NULL:
        for name, t in (<dict>space.tags).items():
            check_that(core.tags.records[t].space == space.id and core.tags.records[t].total > 0
                       and <object>core.tags.records[t].name == name,
                       f"{label}: a tag outlives its entries")
    if space.is_idle:
        check_that(not (space.views or space.entries or space.pending or space.child != NULL),
                   f"{label}: idle and in use")
    return 0


cdef bint check_table_holds(Core* core, uint32_t hash, uint32_t i) noexcept:
    cdef Part* part = table_part(&core.table, hash)
    cdef uint32_t b = part_home(part, hash), slot, tried = 1
    while tried <= part_most(part):
        for slot in range(SLOTS):
            if part.buckets[b].hash[slot] == hash and part.buckets[b].entry[slot] == i:
                return True
        if part.buckets[b].overflow == 0:
            return False
        b = part_next(part, hash, tried)
        tried += 1
    return False


cdef int check_store(Store store) except -1:
    """The whole cache. No other thread is in it, and no call is under way."""
    cdef Core* core = &store.core
    cdef int64_t links = 0, entries
    cdef uint32_t p, b, slot, in_part, in_table = 0, idle = 0, i, left = 0
    cdef Space* space
    lock_acquire(&core.lock)
    try:
        check_space(store, core.root, &links)
        entries = core.root.entries
        space = core.debris
        while space != NULL:
            check_space(store, space, &links)
            entries += space.own
            space = space.next
        i = core.debris_first
        while i != NONE:
            check_that(entry_at(&core.slab, i).space == NONE, "debris can be reached")
            check_that(check_table_holds(core, entry_at(&core.slab, i).hash, i),
                       "debris is not in the table")
            left += 1
            i = entry_at(&core.slab, i).newer
        check_that(left == core.debris_count, "the debris is miscounted")
        entries += left
        check_that(core.limbo_first == NONE and core.limbo_count == 0, "entries are left in limbo")
        check_that(links == core.tags.links_live, "links miscounted")
        # Two namespaces of one salt would share every collision.
        salts = [core.spaces[p].salt for p in range(core.spaces_used)
                 if core.spaces[p] != NULL and core.spaces[p].parent != NULL]
        check_that(len(salts) == len(set(salts)), "two namespaces have one salt")
        p = 0
        while p < (<uint32_t>1) << core.table.bits:
            in_part = 0
            for b in range(p + 1, p + (1 << (core.table.bits - core.table.parts[p].bits))):
                check_that(core.table.parts[b].buckets == core.table.parts[p].buckets
                           and core.table.parts[b].n == core.table.parts[p].n
                           and core.table.parts[b].bits == core.table.parts[p].bits,
                           "a part of the table has two minds")
            for b in range(core.table.parts[p].n):
                for slot in range(SLOTS):
                    in_part += core.table.parts[p].buckets[b].hash[slot] != 0
            check_that(in_part == core.table.parts[p].count, "a part of the table is miscounted")
            in_table += in_part
            p += (<uint32_t>1) << (core.table.bits - core.table.parts[p].bits)
        check_that(in_table == core.table.count == entries, "table and namespaces disagree")
        check_that(core.slab.used - core.slab.n_free == in_table,
                   "the slab and the table disagree")
        space = core.idle_newest
        while space != NULL:
            check_that(space.is_idle, "somebody busy is listed as idle")
            idle += 1
            space = space.idle_older
        check_that(idle == core.idle_count, "the idle are miscounted")
    finally:
        lock_release(&core.lock)
    return 0
