# The namespace that gives way: max-min fairness by share, level by level.


cdef inline Node* node_towards_locked(Node* node, Node* top) noexcept nogil:
    """The child of `top` on the way down to `node`, which lies below it."""
    while node.parent != top:
        node = node.parent
    return node


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
