# An intrusive min-heap, four children each. Each member holds its heap index.
#
# One law holds for every heap of the core: a key is never greater than the true one. A search
# for the least looks at the top. If the top's key is out of date, it is corrected, and the search
# looks again. So a deadline that moves later, or a count that goes down, costs nothing at first.
# Of many children only a few may have a key that is out of date, so that no search is long.
#
# Two kinds of members are in heaps: entries by deadline, and the children of a namespace. Children
# are ordered by their earliest deadline, by entries for their share, or by weight for their share.
# Where they share by utility, they are by entries for their share times their pull as well.
# Between children of one key, the one created first comes first.

cdef struct Heap:
    double* keys
    uint32_t* ids
    uint32_t n
    uint32_t capacity             # of ids, and of keys at least
    uint32_t keys_capacity

cdef enum Ranking:
    BY_DUE, BY_ENTRIES, BY_WEIGHT, BY_PULL, ENTRIES   # all but the last index Member.heap_index

cdef struct Member:               # a child, as heaps know it; a Node begins with one
    uint32_t heap_index[4]        # in its parent's heaps, by Ranking
    uint32_t rank                 # order of creation

cdef enum:
    LAGGING = 64                  # children whose keys may be out of date
    ARITY = 4
    AHEAD = 8                     # entries that are asked for before they are needed


cdef int heap_grow(Heap* heap, uint32_t n) noexcept nogil:
    """The rarer half of heap_reserve."""
    cdef uint32_t wanted
    cdef void* grown
    wanted = heap.capacity + heap.capacity // 2
    if wanted < n:
        wanted = n if n > 4 else 4
    # One after the other: the second may fail, and a block is given back by its own size.
    if heap.keys_capacity < wanted:
        grown = block_grow(heap.keys, heap.keys_capacity * sizeof(double), wanted * sizeof(double))
        if grown == NULL:
            return -1
        heap.keys = <double*>grown
        heap.keys_capacity = wanted
    grown = block_grow(heap.ids, heap.capacity * sizeof(uint32_t), wanted * sizeof(uint32_t))
    if grown == NULL:
        return -1
    heap.ids = <uint32_t*>grown
    heap.capacity = wanted
    return 0


cdef inline int heap_reserve(Heap* heap, uint32_t n) noexcept nogil:
    """Make sure that n fit in all; -1, and nothing changed, when memory is out."""
    return 0 if n <= heap.capacity else heap_grow(heap, n)


cdef inline void heap_free(Heap* heap) noexcept nogil:
    block_free(heap.keys, heap.keys_capacity * sizeof(double))
    block_free(heap.ids, heap.capacity * sizeof(uint32_t))
    memset(heap, 0, sizeof(Heap))


cdef inline void heap_place(void* of, Ranking kind, uint32_t id, uint32_t index) noexcept nogil:
    if kind == ENTRIES:
        entry_at(<Slab*>of, id).heap_index = index
    else:
        (<Member**>of)[id].heap_index[<int>kind] = index


cdef inline bint heap_before(void* of, Ranking kind, double key, uint32_t id,
                             double other_key, uint32_t other) noexcept nogil:
    if key != other_key or kind == ENTRIES:
        return key < other_key
    return (<Member**>of)[id].rank < (<Member**>of)[other].rank


cdef inline void heap_up(void* of, Ranking kind, Heap* heap, uint32_t index,
                         double key, uint32_t id) noexcept nogil:
    """Put (key, id) at the vacant index or above it."""
    cdef uint32_t parent
    while index > 0:
        parent = (index - 1) // ARITY
        if not heap_before(of, kind, key, id, heap.keys[parent], heap.ids[parent]):
            break
        heap.keys[index] = heap.keys[parent]
        heap.ids[index] = heap.ids[parent]
        heap_place(of, kind, heap.ids[index], index)
        index = parent
    heap.keys[index] = key
    heap.ids[index] = id
    heap_place(of, kind, id, index)


cdef inline void heap_down(void* of, Ranking kind, Heap* heap, uint32_t index,
                           double key, uint32_t id) noexcept nogil:
    """Put (key, id) at the vacant index or below it."""
    cdef uint32_t child, best, last
    while True:
        child = index * ARITY + 1
        if child >= heap.n:
            break
        last = child + ARITY if child + ARITY < heap.n else heap.n
        best = child
        child += 1
        while child < last:
            if heap_before(of, kind, heap.keys[child], heap.ids[child],
                           heap.keys[best], heap.ids[best]):
                best = child
            child += 1
        if not heap_before(of, kind, heap.keys[best], heap.ids[best], key, id):
            break
        heap.keys[index] = heap.keys[best]
        heap.ids[index] = heap.ids[best]
        heap_place(of, kind, heap.ids[index], index)
        index = best
    heap.keys[index] = key
    heap.ids[index] = id
    heap_place(of, kind, id, index)


cdef inline void heap_push(void* of, Ranking kind, Heap* heap, double key,
                           uint32_t id) noexcept nogil:
    """Insert. There is room: heap_reserve came before."""
    heap.n += 1
    heap_up(of, kind, heap, heap.n - 1, key, id)


cdef void heap_compact(Slab* slab, Heap* heap) noexcept nogil:
    """Take out of a heap of entries those that gave up their heap index, in one pass. O(heap)."""
    cdef uint32_t index, child, last, kept = 0
    cdef Entry* e
    for index in range(heap.n):
        if index + AHEAD < heap.n:
            prefetch(&entry_at(slab, heap.ids[index + AHEAD]).heap_index)
        e = entry_at(slab, heap.ids[index])
        if e.heap_index == index:
            heap.keys[kept] = heap.keys[index]
            heap.ids[kept] = heap.ids[index]
            e.heap_index = kept
            kept += 1
    heap.n = kept
    # Keys in rising order, which is the usual case, are a heap still.
    index = (kept + ARITY - 2) // ARITY if kept else 0       # those with children
    while index > 0:
        index -= 1
        child = index * ARITY + 1
        last = child + ARITY if child + ARITY < kept else kept
        while child < last:
            if heap.keys[child] < heap.keys[index]:
                heap_down(slab, ENTRIES, heap, index, heap.keys[index], heap.ids[index])
                break
            child += 1


cdef inline void heap_rekey(void* of, Ranking kind, Heap* heap, uint32_t index,
                            double key) noexcept nogil:
    cdef uint32_t id = heap.ids[index]
    if key < heap.keys[index]:
        heap_up(of, kind, heap, index, key, id)
    else:
        heap_down(of, kind, heap, index, key, id)


cdef inline void heap_remove(void* of, Ranking kind, Heap* heap, uint32_t index) noexcept nogil:
    cdef double removed = heap.keys[index], key
    cdef uint32_t id
    heap_place(of, kind, heap.ids[index], NONE)
    heap.n -= 1
    if index == heap.n:
        return
    key = heap.keys[heap.n]
    id = heap.ids[heap.n]
    if key < removed:
        heap_up(of, kind, heap, index, key, id)
    elif key > removed or kind == ENTRIES:
        heap_down(of, kind, heap, index, key, id)
    else:
        # Equal keys may differ in rank either way; only one of the two moves it.
        heap.keys[index] = key
        heap.ids[index] = id
        heap_up(of, kind, heap, index, key, id)
        if (<Member**>of)[id].heap_index[<int>kind] == index:
            heap_down(of, kind, heap, index, key, id)
