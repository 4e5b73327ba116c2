# An intrusive min-heap, four children a node. Who sits in it keeps the number of its seat.
#
# One law holds for every heap of the core: a key is never greater than the true one. Whoever wants
# the least looks at the top; when the top's key is out of date, it is put right and the look is
# repeated. So a deadline that moves later, or a count that goes down, costs nothing as it happens.
#
# Two kinds of things sit in heaps: entries by deadline, and the children of a namespace (by what
# is due in them, by entries for their share, by weight for their share). Between children of one
# key, the one created first comes first.

cdef struct Heap:
    double* keys
    uint32_t* ids
    uint32_t n
    uint32_t capacity             # of ids, and of keys at least
    uint32_t keys_capacity

cdef enum Seating:
    BY_DUE, BY_ENTRIES, BY_WEIGHT, ENTRIES       # the first three index Member.seat

cdef struct Member:               # a child, as heaps know it; a Space begins with one
    uint32_t seat[3]              # in its parent's heaps, by Seating
    uint32_t rank                 # order of creation

cdef enum:
    ARITY = 4
    AHEAD = 8                     # entries that are asked for before they are needed


cdef inline int heap_reserve(Heap* heap, uint32_t n) noexcept nogil:
    """Make sure that n fit in all; -1, and nothing changed, when memory is out."""
    cdef uint32_t wanted
    cdef void* grown
    if n <= heap.capacity:
        return 0
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


cdef inline void heap_free(Heap* heap) noexcept nogil:
    block_free(heap.keys, heap.keys_capacity * sizeof(double))
    block_free(heap.ids, heap.capacity * sizeof(uint32_t))
    memset(heap, 0, sizeof(Heap))


cdef inline void heap_seat(void* of, Seating kind, uint32_t id, uint32_t seat) noexcept nogil:
    if kind == ENTRIES:
        entry_at(<Slab*>of, id).seat = seat
    else:
        (<Member**>of)[id].seat[<int>kind] = seat


cdef inline bint heap_before(void* of, Seating kind, double key, uint32_t id,
                             double other_key, uint32_t other) noexcept nogil:
    if key != other_key or kind == ENTRIES:
        return key < other_key
    return (<Member**>of)[id].rank < (<Member**>of)[other].rank


cdef inline void heap_up(void* of, Seating kind, Heap* heap, uint32_t seat,
                         double key, uint32_t id) noexcept nogil:
    """Seat (key, id) at the hole `seat` or above it."""
    cdef uint32_t parent
    while seat > 0:
        parent = (seat - 1) // ARITY
        if not heap_before(of, kind, key, id, heap.keys[parent], heap.ids[parent]):
            break
        heap.keys[seat] = heap.keys[parent]
        heap.ids[seat] = heap.ids[parent]
        heap_seat(of, kind, heap.ids[seat], seat)
        seat = parent
    heap.keys[seat] = key
    heap.ids[seat] = id
    heap_seat(of, kind, id, seat)


cdef inline void heap_down(void* of, Seating kind, Heap* heap, uint32_t seat,
                           double key, uint32_t id) noexcept nogil:
    """Seat (key, id) at the hole `seat` or below it."""
    cdef uint32_t child, best, last
    while True:
        child = seat * ARITY + 1
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
        heap.keys[seat] = heap.keys[best]
        heap.ids[seat] = heap.ids[best]
        heap_seat(of, kind, heap.ids[seat], seat)
        seat = best
    heap.keys[seat] = key
    heap.ids[seat] = id
    heap_seat(of, kind, id, seat)


cdef inline void heap_push(void* of, Seating kind, Heap* heap, double key,
                           uint32_t id) noexcept nogil:
    """Seat a newcomer. There is room: heap_reserve came before."""
    heap.n += 1
    heap_up(of, kind, heap, heap.n - 1, key, id)


cdef void heap_sieve(Slab* slab, Heap* heap) noexcept nogil:
    """Take from a heap of entries all that have given up their seats, in one pass. O(heap)."""
    cdef uint32_t seat, child, last, kept = 0
    cdef Entry* e
    for seat in range(heap.n):
        if seat + AHEAD < heap.n:
            prefetch(&entry_at(slab, heap.ids[seat + AHEAD]).seat)
        e = entry_at(slab, heap.ids[seat])
        if e.seat == seat:
            heap.keys[kept] = heap.keys[seat]
            heap.ids[kept] = heap.ids[seat]
            e.seat = kept
            kept += 1
    heap.n = kept
    # What was in rising order, as it mostly is, is a heap still.
    seat = (kept + ARITY - 2) // ARITY if kept else 0       # who has children
    while seat > 0:
        seat -= 1
        child = seat * ARITY + 1
        last = child + ARITY if child + ARITY < kept else kept
        while child < last:
            if heap.keys[child] < heap.keys[seat]:
                heap_down(slab, ENTRIES, heap, seat, heap.keys[seat], heap.ids[seat])
                break
            child += 1


cdef inline void heap_rekey(void* of, Seating kind, Heap* heap, uint32_t seat,
                            double key) noexcept nogil:
    cdef uint32_t id = heap.ids[seat]
    if key < heap.keys[seat]:
        heap_up(of, kind, heap, seat, key, id)
    else:
        heap_down(of, kind, heap, seat, key, id)


cdef inline void heap_remove(void* of, Seating kind, Heap* heap, uint32_t seat) noexcept nogil:
    cdef double removed = heap.keys[seat], key
    cdef uint32_t id
    heap_seat(of, kind, heap.ids[seat], NONE)
    heap.n -= 1
    if seat == heap.n:
        return
    key = heap.keys[heap.n]
    id = heap.ids[heap.n]
    if key < removed:
        heap_up(of, kind, heap, seat, key, id)
    elif key > removed or kind == ENTRIES:
        heap_down(of, kind, heap, seat, key, id)
    else:
        # Equal keys may differ in rank either way; only one of the two moves it.
        heap.keys[seat] = key
        heap.ids[seat] = id
        heap_up(of, kind, heap, seat, key, id)
        if (<Member**>of)[id].seat[<int>kind] == seat:
            heap_down(of, kind, heap, seat, key, id)
