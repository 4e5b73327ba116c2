# An intrusive doubly-linked list, one a namespace, from its oldest to its newest entry.

cdef struct Order:
    uint32_t newest
    uint32_t oldest


cdef inline void lru_push(Slab* slab, Order* order, uint32_t i) noexcept nogil:
    """Link entry i, which is in no list, as the newest."""
    cdef Entry* e = entry_at(slab, i)
    e.newer = NONE
    e.older = order.newest
    if order.newest != NONE:
        entry_at(slab, order.newest).newer = i
    else:
        order.oldest = i
    order.newest = i


cdef inline void lru_remove(Slab* slab, Order* order, Entry* e) noexcept nogil:
    if e.newer != NONE:
        entry_at(slab, e.newer).older = e.older
    else:
        order.newest = e.older
    if e.older != NONE:
        entry_at(slab, e.older).newer = e.newer
    else:
        order.oldest = e.newer


cdef inline void lru_touch(Slab* slab, Order* order, Entry* e, uint32_t i) noexcept nogil:
    """Make entry i the newest."""
    if order.newest != i:
        # It has a newer neighbour, so only its older end can be the list's.
        entry_at(slab, e.newer).older = e.older
        if e.older != NONE:
            entry_at(slab, e.older).newer = e.newer
        else:
            order.oldest = e.newer
        e.newer = NONE
        e.older = order.newest
        entry_at(slab, order.newest).newer = i
        order.newest = i
