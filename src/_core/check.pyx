# _check(): every count and link of a cache, recomputed. Tests call it after each step.


cdef int check_that(bint holds, str what) except -1:
    if not holds:
        raise AssertionError(what)
    return 0


cdef int check_heap_locked(Core* core, Ranking kind, Heap* heap, str what) except -1:
    cdef uint32_t n, parent, index
    cdef void* of = <void*>&core.slab if kind == ENTRIES else <void*>core.nodes
    check_that(heap.n <= heap.capacity, f"{what}: more than its capacity")
    for n in range(heap.n):
        if n:
            parent = (n - 1) // ARITY
            check_that(not heap_before(of, kind, heap.keys[n], heap.ids[n],
                                       heap.keys[parent], heap.ids[parent]),
                       f"{what}: out of order")
        index = (entry_at(&core.slab, heap.ids[n]).heap_index if kind == ENTRIES
                 else node_heap_index(core.nodes[heap.ids[n]], kind))
        check_that(index == n, f"{what}: index {n} is not known to what is there")
    return 0


cdef int check_sketch(Sketch* sketch, str label) except -1:
    cdef uint32_t n
    check_that(sketch.wanted & (sketch.wanted - 1) == 0 and sketch.wanted > 0
               and sketch.held >= sketch.wanted and sketch.held >= sketch.filled > 0,
               f"{label}: its sketch has no right number of lines")
    check_that(sketch.mask & (sketch.mask + 1) == 0 and sketch.filled - 1 <= sketch.mask
               and (sketch.mask == 0 or sketch.filled - 1 > sketch.mask >> 1)
               and sketch.cursor < sketch.filled,
               f"{label}: its sketch looks for lines elsewhere")
    for n in range(sketch.filled):
        check_that((sketch.epoch - line_count(&sketch.lines[n], COUNTERS)) % EPOCHS <= 1,
                   f"{label}: a line of its sketch is behind")
    return 0


cdef int check_node_locked(Store store, Node* node, int64_t* links) except -1:
    """One namespace and those below it."""
    cdef Core* core = &store.core
    cdef uint32_t i = node.order.oldest, before = NONE, own = 0, stale = 0, in_heap = 0, link, t
    cdef uint32_t young = 0, lagging = 0, lagging_weight = 0
    cdef int64_t weight = 0, own_weight = 0, entries, pending = node.own_pending, demand = 0
    cdef int64_t places = 0
    cdef int64_t n_children = 0
    cdef Node* child = node.child
    cdef Entry* e
    cdef PyObject* at = node.running
    label = node_label(node)
    while at != NULL:
        pending -= 1
        places += (<Load>at).has_place
        check_that((<Load>at).registered and (<Load>at).node == node,
                   f"{label}: a load runs elsewhere")
        at = (<Load>at).older
    check_that(pending == 0, f"{label}: own_pending is wrong")
    pending = node.own_pending
    check_that(core.nodes[node.id] == node, f"{label}: its id is another's")
    while i != NONE:
        e = entry_at(&core.slab, i)
        check_that(e.key != NULL and e.value != NULL, f"{label}: a free slot is in the order")
        check_that(e.node == node.id, f"{label}: another's entry is in its order")
        check_that(e.older == before, f"{label}: the order's links disagree")
        check_that(table_holds(&core.table, e.hash, i),
                   f"{label}: an entry is not in the table")
        young += young > 0 or node.border == i
        check_that((young > 0) == e.young or (node.parent == NULL and node != core.root),
                   f"{label}: the young are not those from the border on")
        own += 1
        own_weight += entry_weight(&core.slab, i)
        stale += entry_counts_as_stale(e)
        if entry_slide(&core.slab, i) != NULL:
            check_that(e.deadline <= entry_slide(&core.slab, i).limit,
                       f"{label}: an entry slides beyond its TTL")
            check_that(node.timing & SLIDING or (node.parent == NULL and node != core.root),
                       f"{label}: no hit renews an entry that slides")
        if node.parent == NULL and node != core.root:
            pass                                  # cut off: nothing of it is due any more
        elif e.heap_index != NONE:
            in_heap += 1
            check_that(node.deadlines.ids[e.heap_index] == i, f"{label}: a heap index is another's")
            if not entry_counts_as_stale(e):
                check_that(node.deadlines.keys[e.heap_index] <= e.deadline,
                           f"{label}: in the heap too late")
        else:
            check_that(isinf(e.deadline) or (entry_counts_as_stale(e) and isinf(entry_grace(e))),
                       f"{label}: an entry that expires is in no heap")
        link = e.links
        while link != NONE:
            check_that(link_at(&core.tags, link).entry == i, f"{label}: a link is another's")
            check_that(core.tags.records[link_at(&core.tags, link).tag].node == node.id,
                       f"{label}: a tag of another namespace")
            links[0] += 1
            link = link_at(&core.tags, link).next
        before = i
        i = e.newer
    check_that(node.order.newest == before, f"{label}: the order's end is wrong")
    check_that(young == node.young and (young > 0) == (node.border != NONE),
               f"{label}: young is {node.young}, counted {young}")
    check_that(node.is_tinylfu or (young == 0 and node.sketch == NULL),
               f"{label}: an LRU with young entries or a sketch")
    if node.sketch != NULL:
        check_sketch(node.sketch, label)
    check_that(node.is_off == (node.own_off or (node.parent != NULL and node.parent.is_off)),
               f"{label}: is_off is wrong")
    check_that(not node.is_off or own == 0, f"{label}: holds entries and is off")
    check_that(node.compacting == 0, f"{label}: its heap was not put right")
    check_that(own == node.own, f"{label}: own is {node.own}, counted {own}")
    check_that(stale == node.own_stale, f"{label}: own_stale {node.own_stale}, counted {stale}")
    check_that(own_weight == node.own_weight, f"{label}: own_weight is wrong")
    check_that(in_heap == node.deadlines.n, f"{label}: its heap holds something else")
    check_heap_locked(core, ENTRIES, &node.deadlines, f"{label}: deadlines")
    check_heap_locked(core, BY_DUE, &node.due, f"{label}: due")
    check_heap_locked(core, BY_ENTRIES, &node.by_entries, f"{label}: by_entries")
    check_heap_locked(core, BY_WEIGHT, &node.by_weight, f"{label}: by_weight")
    check_that((node.ledger != NULL) == (node.depth + 1 == core.tenant_depth
                                         and (node.parent != NULL or node == core.root))
               and (node.account != NULL) == (node.parent != NULL and node.parent.ledger != NULL),
               f"{label}: a ledger or an account is amiss")
    if node.ledger != NULL:
        check_ledger_locked(core, node)
    entries = own
    weight = own_weight
    while child != NULL:
        check_that(child.parent == node, f"{label}: a child has another parent")
        check_node_locked(store, child, links)
        n_children += 1
        check_that(node_child_locked(node, child.name) == child,
                   f"{label}: a child's name leads elsewhere")
        entries += child.entries
        weight += child.weight
        pending += child.pending
        places += child.places
        demand += node_demand_locked(child)
        check_that(node_bound_locked(child) == INFINITY or node_heap_index(child, BY_DUE) != NONE,
                   f"{label}: a child with something due is in no heap")
        if node_heap_index(child, BY_DUE) != NONE:
            check_that(node.due.keys[node_heap_index(child, BY_DUE)] <= node_bound_locked(child),
                       f"{label}: a child is in the heap too late")
        if node_heap_index(child, BY_ENTRIES) != NONE:
            check_that(node.by_entries.keys[node_heap_index(child, BY_ENTRIES)]
                       <= -node_ratio_locked(child, BY_ENTRIES, 0),
                       f"{label}: a child is fuller than its key")
            lagging += (node.by_entries.keys[node_heap_index(child, BY_ENTRIES)]
                        < -node_ratio_locked(child, BY_ENTRIES, 0))
        if node_heap_index(child, BY_WEIGHT) != NONE:
            check_that(node.by_weight.keys[node_heap_index(child, BY_WEIGHT)]
                       <= -node_ratio_locked(child, BY_WEIGHT, 0),
                       f"{label}: a child is heavier than its key")
            lagging_weight += (node.by_weight.keys[node_heap_index(child, BY_WEIGHT)]
                               < -node_ratio_locked(child, BY_WEIGHT, 0))
        child = child.next
    check_that(lagging <= LAGGING and lagging_weight <= LAGGING,
               f"{label}: {lagging} children are less full than their keys, by weight "
               f"{lagging_weight}")
    check_that(n_children == node.children_count
               and (node.children == NULL or n_children == len(<dict>node.children)),
               f"{label}: children miscounted")
    check_that(entries == node.entries, f"{label}: entries is {node.entries}, counted {entries}")
    check_that(weight == node.weight, f"{label}: weight is {node.weight}, counted {weight}")
    check_that(pending == node.pending, f"{label}: pending is wrong")
    check_that(places == node.places, f"{label}: places is {node.places}, counted {places}")
    check_that(demand == node.reserved_below, f"{label}: reserved_below is wrong")
    if node.parent != NULL:
        check_that(not is_above(node.max_entries, node.given.max_entries)
                   and not is_above(node.max_weight, node.given.max_weight)
                   and not is_above(node.max_pending, node.given.max_pending)
                   and node.reserved <= node.given.reserved and node.share <= node.given.share
                   and node.guaranteed <= node.given.guaranteed,
                   f"{label}: more than it was given")
        check_that(node.reserved_below <= node.reserved,
                   f"{label}: more is reserved below than here")
    check_that(node.max_entries < 0 or entries <= node.max_entries, f"{label}: over max_entries")
    check_that(node.max_weight < 0 or weight <= node.max_weight, f"{label}: over max_weight")
    if node.tags != NULL:
        for name, t in (<dict>node.tags).items():
            check_that(core.tags.records[t].node == node.id and core.tags.records[t].total > 0
                       and <object>core.tags.records[t].name == name,
                       f"{label}: a tag outlives its entries")
    if node.is_idle:
        check_that(not (node.views or node.entries or node.pending or node.child != NULL),
                   f"{label}: idle and in use")
    return 0


cdef int check_ledger_locked(Core* core, Node* node) except -1:
    """The rings, the sums, the heap and the ghosts of tenants that share by utility."""
    cdef Ledger* ledger = node.ledger
    cdef Account* account = ledger.cursor
    cdef Node* child = node.child
    cdef uint32_t _, n, limited = 0, lenders = 0, parked = 0, lagging = 0, hash
    cdef int64_t held = 0
    cdef double shares = 0, pulled = 0, utility = 0, sizes = 0
    label = node_label(node)
    for _ in range(ledger.visited):
        check_that(account.next.previous == account and account.previous.next == account,
                   f"{label}: the ring of its ledger is broken")
        if account.limited:
            limited += 1
            held += account_held_locked(account)
            shares += account.share
            pulled += account.share * account.pull
            utility += account.utility * account.size
            sizes += account.size
        else:
            check_that(account.size == 0, f"{label}: the utility of an unlimited tenant counts")
        account = account.next
    check_that(account == ledger.cursor, f"{label}: the accounts of its ledger are miscounted")
    check_that(limited == ledger.limited and held == ledger.held,
               f"{label}: its ledger has {ledger.limited} limited with {ledger.held} entries, "
               f"counted {limited} with {held}")
    check_that(fabs(shares - ledger.shares) <= 1e-6 * shares
               and fabs(pulled - ledger.pulled) <= 1e-6 * pulled,
               f"{label}: the shares of its ledger are {ledger.shares}, counted {shares}")
    check_that(fabs(utility - ledger.utility) <= 1e-6 * (utility + 1)
               and fabs(sizes - ledger.sizes) <= 1e-6 * (sizes + 1),
               f"{label}: the utility of its ledger is {ledger.utility}, counted {utility}")
    account = ledger.parked
    while account != NULL:
        parked += 1
        check_that(account.parked_next.parked_previous == account,
                   f"{label}: the ring of the parked is broken")
        account = account.parked_next if account.parked_next != ledger.parked else NULL
    check_heap_locked(core, BY_PULL, &ledger.by_pull, f"{label}: by_pull")
    while child != NULL:
        account = child.account
        check_that(account.share == child.share and account.pull > 0,
                   f"{label}: an account has another share")
        lenders += child.guaranteed < 1
        parked -= account.parked_next != NULL
        check_that(not account.limited or account.next != NULL,
                   f"{label}: a limited tenant is never visited")
        if node_heap_index(child, BY_PULL) != NONE:
            check_that(account.parked_next == NULL, f"{label}: a tenant is in the heap and parked")
            check_that(ledger.by_pull.keys[node_heap_index(child, BY_PULL)]
                       <= -account_ratio_locked(account, 0),
                       f"{label}: a tenant is fuller than its key by pull")
            lagging += (ledger.by_pull.keys[node_heap_index(child, BY_PULL)]
                        < -account_ratio_locked(account, 0))
        else:
            check_that(child.entries == 0 or account.parked_next != NULL,
                       f"{label}: a tenant is neither in the heap nor parked")
        child = child.next
    check_that(parked == 0, f"{label}: the parked are miscounted")
    check_that(lagging <= LAGGING, f"{label}: {lagging} tenants are less full than their keys")
    check_that(lenders == ledger.lenders, f"{label}: the lenders are miscounted")
    for n in range(ledger.ghosts.buckets * GHOSTS_A_BUCKET if ledger.ghosts != NULL else 0):
        hash = ledger.ghosts.slots[n].hash
        check_that(hash == 0 or (hash % ledger.ghosts.sample == 0
                                 and ghosts_bucket(ledger.ghosts, hash)
                                 == &ledger.ghosts.slots[n - n % GHOSTS_A_BUCKET]),
                   f"{label}: a ghost is where no look-up finds it")
    return 0


cdef int check_store(Store store) except -1:
    """The whole cache. No other thread is in it, and no call is under way."""
    cdef Core* core = &store.core
    cdef int64_t links = 0, entries, places = 0
    cdef PyObject* load
    cdef PyObject* newer = NULL
    cdef uint32_t p, b, slot, in_part, in_table = 0, idle = 0, i, left = 0
    cdef Node* node
    lock_acquire(&core.lock)
    try:
        check_node_locked(store, core.root, &links)
        entries = core.root.entries
        node = core.debris
        while node != NULL:
            check_node_locked(store, node, &links)
            entries += node.own
            node = node.next
        for p in range(core.ghosts.buckets * GHOSTS_A_BUCKET if core.ghosts != NULL else 0):
            i = core.ghosts.slots[p].hash
            check_that(i == 0 or (i % core.ghosts.sample == 0 and ghosts_bucket(core.ghosts, i)
                                  == &core.ghosts.slots[p - p % GHOSTS_A_BUCKET]),
                       "a ghost is where no look-up finds it")
        i = core.debris_first
        while i != NONE:
            check_that(entry_at(&core.slab, i).node == NO_NODE, "debris can be reached")
            check_that(table_holds(&core.table, entry_at(&core.slab, i).hash, i),
                       "debris is not in the table")
            left += 1
            i = entry_at(&core.slab, i).newer
        check_that(left == core.debris_count, "the debris is miscounted")
        entries += left
        load = core.place_newest
        while load != NULL:
            check_that((<Load>load).has_place and (<Load>load).place_newer == newer,
                       "a load without a place is among those that have one")
            places += 1
            newer = load
            load = (<Load>load).place_older
        check_that(core.place_oldest == newer and places == core.root.places,
                   "the loads that have a place are miscounted")
        check_that(core.limbo_first == NONE and core.limbo_count == 0, "entries are left in limbo")
        check_that(links == core.tags.links_live, "links miscounted")
        # Two namespaces of one salt would share every collision.
        salts = [core.nodes[p].salt for p in range(core.nodes_used)
                 if core.nodes[p] != NULL and core.nodes[p].parent != NULL]
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
        node = core.idle_newest
        while node != NULL:
            check_that(node.is_idle, "a busy namespace is listed as idle")
            idle += 1
            node = node.idle_older
        check_that(idle == core.idle_count, "the idle are miscounted")
    finally:
        lock_release(&core.lock)
    return 0
