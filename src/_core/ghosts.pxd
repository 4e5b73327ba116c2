# Ghosts: what is left of entries that were evicted, to tell what more room would have kept.
#
# LRU is a stack: with room for n entries more a namespace would still hold the n that it evicted
# last. So a ghost needs no list. It has the number of its namespace's evictions at its own, and the
# difference from their number now tells how deep it lies. Of a large cache only the keys whose hash
# is a multiple of `sample` have ghosts.

cdef enum:
    GHOSTS_A_BUCKET = 4
    MOST_GHOSTS = 16384           # from which only a part of the keys is sampled
    MOST_SAMPLE = 16
    APART = 1 << 30               # evictions that part the ghosts of before and after a clear()

cdef struct Ghost:
    uint32_t hash                 # 0: none
    uint32_t node                 # its namespace's id
    uint32_t out                  # evictions of the namespace when it was evicted
    float deadline                # seconds since `begun`; INFINITY: never

# What ghosts tell of a namespace: see haunting. All 0 while the cache has none.
cdef struct Haunted:
    int64_t misses                # those that tell something
    int64_t[3] near               # those with a ghost in the next quarter, quarter, half of room
    uint32_t out                  # evictions, by which ghosts tell how deep they lie
    uint32_t of                   # the ghosts that tell it, as Core.ghosts_made numbers them

cdef struct Ghosts:
    Ghost* slots                  # buckets of four
    uint32_t buckets              # a power of two
    uint32_t sample               # one of so many hashes; a power of two
    double begun                  # the time of the cache's clock


cdef inline uint32_t ghosts_sample(int64_t entries) noexcept nogil:
    """One of how many keys has ghosts in a cache of so many entries."""
    cdef uint32_t sample = 1
    while sample < MOST_SAMPLE and 2 * entries // sample > MOST_GHOSTS:
        sample *= 2
    return sample


cdef inline uint32_t ghosts_buckets(int64_t entries) noexcept nogil:
    """The buckets for ghosts of twice as many entries."""
    cdef uint32_t buckets = 1
    cdef int64_t wanted = 2 * entries // ghosts_sample(entries) // GHOSTS_A_BUCKET
    while buckets < wanted and buckets < <uint32_t>1 << 28:
        buckets *= 2
    return buckets


cdef inline size_t ghosts_bytes(uint32_t buckets) noexcept nogil:
    return <size_t>buckets * GHOSTS_A_BUCKET * sizeof(Ghost)


cdef Ghosts* ghosts_new(int64_t entries, double now) noexcept nogil:
    """Room for ghosts of a cache of so many entries, or NULL: memory is out."""
    cdef Ghosts* ghosts = <Ghosts*>calloc(1, sizeof(Ghosts))
    if ghosts == NULL:
        return NULL
    ghosts.buckets = ghosts_buckets(entries)
    ghosts.sample = ghosts_sample(entries)
    ghosts.begun = now
    ghosts.slots = <Ghost*>block_new(ghosts_bytes(ghosts.buckets))
    if ghosts.slots == NULL:
        free(ghosts)
        return NULL
    return ghosts


cdef void ghosts_free(Ghosts* ghosts) noexcept nogil:
    """Free them; NULL is none."""
    if ghosts != NULL:
        block_free(ghosts.slots, ghosts_bytes(ghosts.buckets))
        free(ghosts)


cdef inline size_t ghosts_size(Ghosts* ghosts) noexcept nogil:
    return 0 if ghosts == NULL else sizeof(Ghosts) + ghosts_bytes(ghosts.buckets)


cdef inline bint ghosts_take_part(Ghosts* ghosts, uint32_t hash) noexcept nogil:
    return hash & (ghosts.sample - 1) == 0


cdef inline Ghost* ghosts_bucket(Ghosts* ghosts, uint32_t hash) noexcept nogil:
    # The low bits of sampled hashes are all zero.
    return &ghosts.slots[((hash // ghosts.sample) & (ghosts.buckets - 1)) * GHOSTS_A_BUCKET]


cdef inline Ghost* ghosts_find(Ghosts* ghosts, uint32_t hash, uint32_t node) noexcept nogil:
    """The ghost of the key of that hash in the namespace of that id; NULL: there is none."""
    cdef Ghost* bucket = ghosts_bucket(ghosts, hash)
    cdef uint32_t k
    for k in range(GHOSTS_A_BUCKET):
        if bucket[k].hash == hash and bucket[k].node == node:
            return &bucket[k]
    return NULL
