# The Entry and the slab that entries live in. An entry is known by its index, which never moves:
# pages are added and never reallocated, so that growth copies nothing.

from cpython.ref cimport PyObject

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <math.h>
    #define FLOWCACHE_NONE UINT32_MAX
    #define FLOWCACHE_PAGE_BITS 13
    #define FLOWCACHE_PAGE (1u << FLOWCACHE_PAGE_BITS)
    #if defined(__GNUC__)
    #define flowcache_prefetch(place) __builtin_prefetch(place)
    #else
    #define flowcache_prefetch(place) ((void)(place))
    #endif
    """
    void prefetch "flowcache_prefetch"(const void* place)   # harmless for any address
    const uint32_t NONE "FLOWCACHE_NONE"          # "no entry", "no link", "no seat"
    const uint32_t PAGE "FLOWCACHE_PAGE"
    const uint32_t PAGE_BITS "FLOWCACHE_PAGE_BITS"
    const double INFINITY
    bint signbit(double)
    double fabs(double)
    bint isnan(double)
    bint isinf(double)

cdef enum:
    PAGE_WORDS = 128                              # one bit an entry: PAGE / 64

# Why an entry went away. The order is that of CAUSES in events.pyx.
cdef enum Cause:
    DELETED, REPLACED, EXPIRED, EVICTED, OVER_LIMIT, TAG, PREFIX, CLEARED

cdef struct Entry:
    PyObject* key       # owned, from store to drop; NULL while the slot is free
    PyObject* value     # owned, likewise
    double deadline     # cache clock; INFINITY: never
    uint32_t hash       # what the table mixed from the key's hash and the namespace's salt
    uint32_t space      # id of its namespace; NONE: debris, which no look-up can meet
    uint32_t newer      # LRU neighbours; `newer` also chains free slots, limbo and debris
    uint32_t older
    uint32_t seat       # its place in its namespace's expiry heap, or NONE
    uint32_t links      # first tag link, or NONE; in limbo: the Cause
    float ttl           # seconds; sign bit: what it is kept for was asked for by `stale=`
    # seconds held past the deadline; sign bit: that time has begun, and the namespace counts it
    # among its stale entries
    float keep

cdef struct Page:
    Entry entries[8192]            # each in a cache line of its own
    uint64_t tracked[PAGE_WORDS]   # entries whose key or value the collector must see
    void* block                    # what the page lies in

cdef struct Slab:
    Page** pages
    int64_t** weights   # one array a page, only with a weigher
    uint32_t n_pages
    uint32_t capacity   # of the two directories
    uint32_t used       # slots ever handed out
    uint32_t free       # chain of slots handed back
    uint32_t n_free
    bint surplus        # the last pages were filled once, and are not any more
    bint weighs


cdef inline Entry* entry_at(Slab* slab, uint32_t i) noexcept nogil:
    return &slab.pages[i >> PAGE_BITS].entries[i & (PAGE - 1)]


cdef inline int64_t entry_weight(Slab* slab, uint32_t i) noexcept nogil:
    return slab.weights[i >> PAGE_BITS][i & (PAGE - 1)] if slab.weighs else 0


cdef inline double entry_keep(Entry* e) noexcept nogil:
    return fabs(e.keep)


cdef inline bint entry_counts_as_stale(Entry* e) noexcept nogil:
    return signbit(e.keep) != 0                   # C promises no more than "not zero" of the bit


cdef inline double entry_last(Entry* e) noexcept nogil:
    """The moment from which nothing may be made of the entry any more."""
    return e.deadline + fabs(e.keep)


cdef inline void entry_set_tracked(Slab* slab, uint32_t i, bint tracked) noexcept nogil:
    cdef uint64_t* word = &slab.pages[i >> PAGE_BITS].tracked[(i & (PAGE - 1)) >> 6]
    cdef uint64_t bit = (<uint64_t>1) << (i & 63)
    if ((word[0] & bit) != 0) != tracked:
        word[0] ^= bit


cdef inline int slab_init(Slab* slab, bint weighs) noexcept nogil:
    memset(slab, 0, sizeof(Slab))
    slab.free = NONE
    slab.weighs = weighs
    return 0


cdef inline Page* page_new() noexcept nogil:
    """A zeroed page; NULL when memory is out."""
    # Zeroed, for the collector reads `tracked`, and may read it at once. The system hands zeroed
    # memory over without touching it.
    cdef void* block = block_new(sizeof(Page) + LINE)
    cdef Page* page = <Page*>line_above(block)
    if block == NULL:
        return NULL
    page.block = block
    return page


cdef inline void page_free(Page* page) noexcept nogil:
    block_free(page.block, sizeof(Page) + LINE)


cdef inline int slab_add_page(Slab* slab) noexcept nogil:
    cdef uint32_t wanted
    cdef void* grown
    if slab.n_pages == (1 << 19) - 1:             # indices are 32 bits, and NONE is one of them
        return -1
    if slab.n_pages == slab.capacity:
        wanted = slab.capacity * 2 if slab.capacity else 4
        grown = realloc(slab.pages, wanted * sizeof(Page*))
        if grown == NULL:
            return -1
        slab.pages = <Page**>grown
        if slab.weighs:
            grown = realloc(slab.weights, wanted * sizeof(int64_t*))
            if grown == NULL:
                return -1
            slab.weights = <int64_t**>grown
        slab.capacity = wanted
    cdef Page* page = page_new()
    if page == NULL:
        return -1
    if slab.weighs:
        slab.weights[slab.n_pages] = <int64_t*>malloc(PAGE * sizeof(int64_t))
        if slab.weights[slab.n_pages] == NULL:
            page_free(page)
            return -1
    slab.pages[slab.n_pages] = page
    slab.n_pages += 1
    return 0


cdef inline int slab_reserve(Slab* slab) noexcept nogil:
    """Make sure that the next slab_take succeeds; -1 when memory is out."""
    if slab.free != NONE or slab.used < (slab.n_pages << PAGE_BITS):
        return 0
    return slab_add_page(slab)


cdef inline uint32_t slab_take(Slab* slab) noexcept nogil:
    cdef uint32_t i = slab.free
    if i != NONE:
        slab.free = entry_at(slab, i).newer
        slab.n_free -= 1
        return i
    i = slab.used
    slab.used += 1
    return i


cdef inline void slab_give(Slab* slab, uint32_t i) noexcept nogil:
    cdef Entry* e = entry_at(slab, i)
    e.key = NULL
    e.value = NULL
    e.newer = slab.free
    slab.free = i
    slab.n_free += 1


cdef inline void slab_trim(Slab* slab) noexcept nogil:
    """Begin anew with a slab that holds nothing, in limbo neither. Its pages are surplus then."""
    slab.used = 0
    slab.free = NONE
    slab.n_free = 0
    slab.surplus = slab.n_pages > 1


cdef inline void slab_give_page(Slab* slab) noexcept nogil:
    """Hand the last page back to the system if it is still surplus."""
    if slab.used <= ((slab.n_pages - 1) << PAGE_BITS):
        slab.n_pages -= 1
        page_free(slab.pages[slab.n_pages])
        if slab.weighs:
            free(slab.weights[slab.n_pages])
    slab.surplus = slab.n_pages > 1 and slab.used <= ((slab.n_pages - 1) << PAGE_BITS)


cdef inline void slab_free(Slab* slab) noexcept nogil:
    cdef uint32_t p
    for p in range(slab.n_pages):
        page_free(slab.pages[p])
        if slab.weighs:
            free(slab.weights[p])
    free(slab.pages)
    free(slab.weights)
    memset(slab, 0, sizeof(Slab))
    slab.free = NONE
