# The order of a namespace's entries, and the one that gives way: exact LRU, or TinyLFU.
#
# LRU: a hit makes the entry the newest; the oldest gives way.
#
# TinyLFU, after Einziger, Friedman and Manes, "TinyLFU: A Highly Efficient Cache Admission Policy".
# The order is that of insertion, and a hit raises a mark of two bits. The newest tenth is young.
# The oldest young entry passes to the old ones as the candidate of an eviction. Its rival is the
# oldest of all that has no mark; those with one lose a mark and become the newest of the old. The
# candidate stays if it was hit while it was young, or was stored more often lately than its rival
# by the sketch of the namespace; else the candidate itself goes. A namespace without a sketch,
# which is a small one, keeps one young entry and has no contests.
#
# Every entry from `border` to the newest is young, and no other.

cdef extern from * nogil:
    bint unlikely(bint condition)                 # Cython's own: LRU costs a predicted branch

cdef enum:
    MOST_MARKS = 3
    MOST_PASSED = 64              # entries with marks that one eviction passes over
    SKETCHED = 16                 # entries from which a namespace has a sketch
    WINDOW = 10                   # one of so many entries is young
    OFTEN_STORED = 6              # a count from which a candidate that lost may stay all the same
    DICE = 128                    # once in so many times


cdef inline void order_touch_locked(Core* core, Node* node, Entry* e, uint32_t i) noexcept nogil:
    """Note a hit of entry i, or a store over it."""
    if node.is_tinylfu:
        if e.mark < MOST_MARKS:                   # else nothing is written
            e.mark += 1
    else:
        lru_touch(&core.slab, &node.order, e, i)


cdef inline uint32_t window_locked(Node* node) noexcept nogil:
    """The number of young entries."""
    cdef uint32_t window = node.own // WINDOW
    return window if window else 1


cdef inline uint32_t order_pass_locked(Core* core, Node* node) noexcept nogil:
    """Let the oldest young entry, which there is, be the newest of the old; its index."""
    cdef uint32_t i = node.border
    cdef Entry* e = entry_at(&core.slab, i)
    e.young = False
    node.border = e.newer
    node.young -= 1
    return i


cdef inline void order_enter_locked(Core* core, Node* node, Entry* e, uint32_t i) noexcept nogil:
    """The part of order_push_locked for TinyLFU."""
    e.mark = 0
    e.young = True
    lru_push(&core.slab, &node.order, i)
    if node.young == 0:
        node.border = i
    node.young += 1
    if node.sketch != NULL:
        sketch_add(node.sketch, e.hash)
        if node.young > window_locked(node) + 1:
            order_pass_locked(core, node)
        return
    if node.young > 1:
        order_pass_locked(core, node)
    if node.young > 1:
        order_pass_locked(core, node)


cdef inline void order_push_locked(Core* core, Node* node, Entry* e, uint32_t i) noexcept nogil:
    """Link entry i, which is in no order, has its hash and counts in `own`, as the newest."""
    if unlikely(node.is_tinylfu):
        order_enter_locked(core, node, e, i)
    else:
        e.mark = 0
        e.young = False
        lru_push(&core.slab, &node.order, i)


cdef inline void order_remove_locked(Core* core, Node* node, Entry* e, uint32_t i) noexcept nogil:
    if unlikely(node.young > 0) and e.young:
        node.young -= 1
        if node.border == i:
            node.border = e.newer
        e.young = False
    lru_remove(&core.slab, &node.order, e)


cdef void order_renew_locked(Core* core, Node* node, uint32_t i) noexcept nogil:
    """Make entry i the newest, whatever the order is: a store that grows must not evict it."""
    cdef Entry* e = entry_at(&core.slab, i)
    if not node.is_tinylfu:
        lru_touch(&core.slab, &node.order, e, i)
        return
    order_remove_locked(core, node, e, i)
    e.young = True
    lru_push(&core.slab, &node.order, i)
    if node.young == 0:
        node.border = i
    node.young += 1


cdef void order_lower_locked(Core* core, Node* node, uint32_t i, uint32_t spare) noexcept nogil:
    """Take a mark of old entry i and make it the newest of the old, but for `spare`."""
    cdef Slab* slab = &core.slab
    cdef Entry* e = entry_at(slab, i)
    cdef uint32_t newer = spare if spare != NONE else node.border
    cdef uint32_t older = entry_at(slab, newer).older if newer != NONE else node.order.newest
    if node.sketch != NULL:
        sketch_add(node.sketch, e.hash)
    e.mark -= 1
    if older == i:
        return                                    # it is there
    # It has a newer neighbour, and is the oldest.
    node.order.oldest = e.newer
    entry_at(slab, e.newer).older = NONE
    e.older = older
    e.newer = newer
    entry_at(slab, older).newer = i
    if newer != NONE:
        entry_at(slab, newer).older = i
    else:
        node.order.newest = i


cdef inline void order_ask_locked(Core* core, Node* node, uint32_t i) noexcept nogil:
    """Prefetch for a contest to come of entry i, or for its eviction, and the entry after it.

    The entry itself was asked for when this was done for the one before.
    """
    cdef Entry* e
    if core.table.count <= FITS or i == NONE or node.sketch == NULL:
        return
    e = entry_at(&core.slab, i)
    sketch_ask(node.sketch, e.hash)
    table_ask(&core.table, e.hash)
    prefetch(e.key)
    if e.newer != NONE:
        prefetch(entry_at(&core.slab, e.newer))


cdef uint32_t rival_marked_locked(Core* core, Node* node, uint32_t spare) noexcept nogil:
    """The part of rival_locked where the oldest has a mark, or is `spare`."""
    cdef uint32_t left = MOST_PASSED, i
    cdef Entry* e
    while True:
        i = node.order.oldest
        if i == spare:
            return NONE
        e = entry_at(&core.slab, i)
        if i == node.border or left == 0 or e.mark == 0:
            return i
        left -= 1
        order_ask_locked(core, node, e.newer)
        order_lower_locked(core, node, i, spare)


cdef inline uint32_t rival_locked(Core* core, Node* node, uint32_t spare) noexcept nogil:
    """The old entry that goes, unless `spare`, the newest of them, does; NONE: there is no other.

    Where none is old: the oldest of the young.
    """
    cdef uint32_t i = node.order.oldest
    if i != spare and entry_at(&core.slab, i).mark == 0:
        return i
    return rival_marked_locked(core, node, spare)


cdef uint32_t tinylfu_victim_locked(Core* core, Node* node, uint32_t spared) noexcept nogil:
    cdef uint32_t most = window_locked(node), candidate, rival
    cdef bint seen, admitted
    cdef uint32_t hash
    cdef unsigned int count
    cdef Entry* e
    if node.own >= SKETCHED:
        if node.sketch == NULL:
            node.sketch = sketch_new(node.own)
        else:
            sketch_fit(node.sketch, node.own)
    if node.sketch == NULL or node.young <= (most if most > spared else spared):
        return rival_locked(core, node, NONE)
    candidate = order_pass_locked(core, node)
    order_ask_locked(core, node, node.border)     # the next candidate
    e = entry_at(&core.slab, candidate)
    hash = e.hash
    seen = e.mark > 0
    if seen:
        sketch_add(node.sketch, hash)
    rival = rival_locked(core, node, candidate)
    if rival == NONE:
        return candidate
    count = sketch_count(node.sketch, hash)
    admitted = seen or (
        count > 1 and count > sketch_count(node.sketch, entry_at(&core.slab, rival).hash))
    if not admitted and count >= OFTEN_STORED:
        # Keys that collide with one that is asked for often cannot keep it out for ever.
        node.sketch.dice += 1
        admitted = node.sketch.dice % DICE == 0
    e.mark = 0
    if admitted:
        order_ask_locked(core, node, entry_at(&core.slab, rival).newer)       # the next rival
        return rival
    node.counters.rejections += 1
    return candidate


cdef inline uint32_t order_victim_locked(Core* core, Node* node, uint32_t spared) noexcept nogil:
    """The entry of the namespace that gives way, whatever its order is; the namespace has one.

    Not one of the `spared` newest. The caller evicts it: the choice itself may change the order.
    """
    if unlikely(node.is_tinylfu):
        return tinylfu_victim_locked(core, node, spared)
    return node.order.oldest


cdef void order_switch_locked(Core* core, Node* node, bint is_tinylfu) noexcept nogil:
    """Go on by the other policy. To LRU this costs O(young entries), to TinyLFU O(1)."""
    if node.is_tinylfu == is_tinylfu:
        return
    while node.young:
        order_pass_locked(core, node)
    node.is_tinylfu = is_tinylfu
    order_forget_locked(node)
