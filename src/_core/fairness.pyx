# The namespace that gives way: max-min fairness by share, level by level.


cdef inline double node_ratio_locked(Node* node, Ranking by, int64_t extra) noexcept nogil:
    cdef int64_t held = node.entries if by == BY_ENTRIES else node.weight
    return <double>(held + extra) / node.share


cdef inline void node_raise_by_locked(Core* core, Node* node, Ranking by) noexcept nogil:
    """Let the parent know that the namespace holds more."""
    cdef Node* parent = node.parent
    cdef Heap* heap = &parent.by_entries if by == BY_ENTRIES else &parent.by_weight
    cdef double key = -node_ratio_locked(node, by, 0)
    cdef uint32_t index = node_heap_index(node, by)
    if index == NONE:
        if node.entries > node.reserved and key < 0:
            heap_push(core.nodes, by, heap, key, node.id)
    elif key < heap.keys[index]:
        heap_rekey(core.nodes, by, heap, index, key)


cdef void node_lower_by_locked(Core* core, Node* node, Ranking by) noexcept nogil:
    """Let the parent, which has many children, know that the namespace holds less.

    With few children the search for the fullest corrects the keys that it meets. With many, one
    search could meet a hundred thousand of them.
    """
    cdef Node* parent = node.parent
    cdef Heap* heap = &parent.by_entries if by == BY_ENTRIES else &parent.by_weight
    cdef double key = -node_ratio_locked(node, by, 0)
    cdef uint32_t index = node_heap_index(node, by)
    if index == NONE:
        return
    if node.entries <= node.reserved or key == 0:
        heap_remove(core.nodes, by, heap, index)
    else:
        heap_rekey(core.nodes, by, heap, index, key)


cdef void node_empty_heaps_locked(Core* core, Node* node) noexcept nogil:
    """Take the children, all of which are to be emptied, out of the heaps by what they hold."""
    cdef uint32_t k
    for k in range(node.by_entries.n):
        heap_place(core.nodes, BY_ENTRIES, node.by_entries.ids[k], NONE)
    for k in range(node.by_weight.n):
        heap_place(core.nodes, BY_WEIGHT, node.by_weight.ids[k], NONE)
    node.by_entries.n = 0
    node.by_weight.n = 0


cdef inline void node_add_locked(Core* core, Node* node, int64_t entries,
                                 int64_t weight) noexcept nogil:
    """Count what came or went, here and above."""
    cdef Node* below = node
    relaxed_store_u32(&node.own, <uint32_t>(<int64_t>node.own + entries))
    node.own_weight += weight
    while True:
        node.entries += entries
        node.weight += weight
        if node.parent == NULL:
            break
        if entries > 0 or weight > 0:
            node_raise_by_locked(core, node, BY_ENTRIES)
            if core.slab.weighs:
                node_raise_by_locked(core, node, BY_WEIGHT)
        elif unlikely(node.parent.children_count > LAGGING):
            node_lower_by_locked(core, node, BY_ENTRIES)
            if core.slab.weighs:
                node_lower_by_locked(core, node, BY_WEIGHT)
        node = node.parent
    if unlikely(core.tenant_depth > 0):
        ledger_add_locked(core, below, entries)


cdef uint32_t node_fullest_locked(Core* core, Node* node, Ranking by) noexcept nogil:
    """The id of the fullest child that pressure from outside may take from; NONE if none."""
    cdef Heap* heap = &node.by_entries if by == BY_ENTRIES else &node.by_weight
    cdef Node* child
    cdef double key
    while heap.n:
        child = core.nodes[heap.ids[0]]
        key = -node_ratio_locked(child, by, 0)
        if child.entries <= child.reserved or key == 0:
            heap_remove(core.nodes, by, heap, 0)
        elif key > heap.keys[0]:
            heap_rekey(core.nodes, by, heap, 0, key)
        else:
            return child.id
    return NONE


cdef Node* node_victim_locked(Core* core, Node* node, Node* storing, Ranking by, int64_t extra,
                              uint32_t spared) noexcept nogil:
    """The namespace, `node` or below it, whose least recent entry gives way; NULL if none may.

    Max-min fairness by share, level by level. `storing` lies at or below `node` (or is NULL). It
    and those above it count `extra` more than they hold. Their reservations do not protect them
    here, and they go first on a tie. `spared` entries of `storing`, its newest, are no victims.
    """
    cdef Node* path = NULL
    cdef Node* best
    cdef Node* found
    cdef Node* full
    cdef double ratio, other
    cdef uint32_t top
    cdef bint here = node == storing
    cdef bint own = node.own > (spared if here else 0)
    if by == BY_WEIGHT and node.own_weight + (extra if here else 0) == 0:
        own = False                               # entries of weight 0 make no room
    if storing != NULL and not here:
        path = node_towards_locked(storing, node)
        if path.entries == 0:
            path = NULL
    while True:
        best = NULL
        ratio = -1
        if path != NULL:
            best = path
            ratio = node_ratio_locked(path, by, extra)
        if own:
            other = <double>((node.own if by == BY_ENTRIES else node.own_weight)
                             + (extra if here else 0))
            if other > ratio:
                best = node
                ratio = other
        full = NULL
        top = node_fullest_locked(core, node, by)
        if top != NONE:
            full = core.nodes[top]
            if full != path:
                other = node_ratio_locked(full, by, 0)
                if other > ratio:
                    best = full
        if best == NULL or best == node:
            return best
        if best == path:
            found = node_victim_locked(core, best, storing, by, extra, spared)
        else:
            found = node_victim_locked(core, best, NULL, by, 0, 0)
        if found != NULL:
            return found
        # Everything below it is reserved. It comes back to the heap when it holds more.
        if node_heap_index(best, by) != NONE:
            heap_remove(core.nodes, by, &node.by_entries if by == BY_ENTRIES else &node.by_weight,
                        node_heap_index(best, by))
        if best == path:
            path = NULL


cdef Node* ledger_victim_locked(Core* core, Node* top, Node* storing, int64_t extra,
                                uint32_t spared, Node* fair) noexcept nogil:
    """The namespace that gives way where the children of `top` share by utility. `fair`: the one
    that would by fair shares.

    Of the children above their floor it is the one that holds most for its share times its pull; at
    a tie as by fair shares. Where none is known to be above its floor, it is `fair`.
    """
    cdef Ledger* ledger = top.ledger
    cdef Node* path = NULL
    cdef Node* first = node_towards_locked(fair, top) if fair != top else NULL
    cdef Node* best
    cdef Node* found
    cdef double ratio, most
    cdef int64_t own = 0
    accounts_unpark_locked(core, top)
    if storing == top:
        own = top.own + extra if top.own > spared else 0
    else:
        own = top.own
        if storing != NULL:
            path = node_towards_locked(storing, top)
            if path.entries == 0:
                path = NULL
    while True:
        best = NULL
        most = -1
        # Its reservation protects it from others only.
        if path != NULL and path.entries + extra > account_part_locked(top, path.account):
            best = path
            most = account_ratio_locked(path.account, extra)
        if own > account_part_locked(top, &ledger.own) and own > most:
            best = top
            most = <double>own
        if first != NULL and first != path:
            ratio = account_ratio_locked(first.account, 0)
            if ratio > most and first.entries > account_floor_locked(top, first.account):
                best = first
                most = ratio
        found = account_fullest_locked(core, top)
        if found != NULL and found != path and account_ratio_locked(found.account, 0) > most:
            best = found
        if best == NULL or best == first or best == fair:
            return fair
        if best == top:
            return top
        if best == path:
            found = node_victim_locked(core, best, storing, BY_ENTRIES, extra, spared)
            path = NULL
        else:
            found = node_victim_locked(core, best, NULL, BY_ENTRIES, 0, 0)
        if found != NULL:
            return found
        if node_heap_index(best, BY_PULL) != NONE:
            account_drop_locked(core, top, best)


cdef inline Node* victim_locked(Core* core, Node* top, Node* storing, Ranking by, int64_t extra,
                                uint32_t spared) noexcept nogil:
    """The namespace whose entry gives way for the limit of `top`; NULL if none may.

    The arguments are those of node_victim_locked.
    """
    cdef Node* fair = node_victim_locked(core, top, storing, by, extra, spared)
    if unlikely(top.ledger != NULL) and by == BY_ENTRIES and fair != NULL:
        return ledger_victim_locked(core, top, storing, extra, spared, fair)
    return fair


cdef Node* node_heaviest_locked(Node* node) noexcept nogil:
    """The same by weight, without regard to reservations. Looks at each child: for a lower limit.

    Something here or below weighs more than nothing.
    """
    cdef Node* best
    cdef Node* child
    cdef double ratio, other
    while True:
        best = node
        ratio = <double>node.own_weight
        child = node.child
        while child != NULL:
            other = node_ratio_locked(child, BY_WEIGHT, 0)
            if (other > ratio or (other == ratio and best != node
                                  and child.member.rank < best.member.rank)):
                best = child
                ratio = other
            child = child.next
        if best == node:
            return node
        node = best
