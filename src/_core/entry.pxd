# The Entry and the slab that entries live in. An entry is known by its index, which never moves:
# pages are added and never reallocated, so that growth copies nothing. The first page is alone, for
# most caches are small; the others come in regions.

from cpython.ref cimport PyObject

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <math.h>
    #define FLOWCACHE_NONE UINT32_MAX
    #define FLOWCACHE_PAGE_BITS 13
    #define FLOWCACHE_PAGE (1u << FLOWCACHE_PAGE_BITS)
    /* A look-up reads the namespace of an entry anyway, so a mark beside it costs a hit no line of
       memory, and no entry a byte. */
    #define FLOWCACHE_NO_NODE ((1u << 29) - 1)
    typedef struct {
        PyObject *key;      /* owned, from store to drop; NULL while the slot is free */
        PyObject *value;    /* owned, likewise */
        double deadline;    /* cache clock; INFINITY: never */
        uint32_t hash;      /* mixed from the key's hash and the namespace's salt */
        uint32_t node : 29; /* id of its namespace; NO_NODE: debris, which no look-up can meet */
        uint32_t mark : 2;  /* of TinyLFU: hits since it was passed over, 3 at most */
        uint32_t young : 1; /* of TinyLFU */
        uint32_t newer;     /* LRU neighbours; `newer` also chains free slots, limbo and debris */
        uint32_t older;
        uint32_t heap_index; /* in its namespace's heap of deadlines, or NONE */
        uint32_t links;     /* first tag link, or NONE; in limbo: the Cause */
        /* Each with a flag in its sign bit: only the accessors below look at them. */
        float ttl;          /* seconds; flag: its grace was asked for by `stale=` */
        float grace;        /* seconds held past the deadline; flag: counted as stale */
    } flowcache_entry;
    #if defined(__GNUC__)
    #define flowcache_prefetch(at) __builtin_prefetch(at)
    #else
    #define flowcache_prefetch(at) ((void)(at))
    #endif
    """
    void prefetch "flowcache_prefetch"(const void* at)   # harmless for any address
    const uint32_t NONE "FLOWCACHE_NONE"          # "no entry", "no link", "in no heap"
    const uint32_t PAGE "FLOWCACHE_PAGE"
    const uint32_t PAGE_BITS "FLOWCACHE_PAGE_BITS"
    const uint32_t NO_NODE "FLOWCACHE_NO_NODE"    # more than any namespace's id
    ctypedef struct Entry "flowcache_entry":
        PyObject* key
        PyObject* value
        double deadline
        uint32_t hash
        uint32_t node
        uint32_t mark
        bint young
        uint32_t newer
        uint32_t older
        uint32_t heap_index
        uint32_t links
        float ttl
        float grace
    const double INFINITY
    bint signbit(double)
    double fabs(double)
    double fmax(double, double)
    double exp2(double)
    double fmin(double, double)
    bint isnan(double)
    bint isinf(double)

cdef enum:
    PAGE_WORDS = 128                              # one bit an entry: PAGE / 64

# Why an entry was removed. The order is that of CAUSES in events.pyx.
cdef enum Cause:
    DELETED, REPLACED, EXPIRED, EVICTED, OVER_LIMIT, TAG, PREFIX, CLEARED

cdef struct Slide:                # of an entry whose deadline each hit renews
    double limit        # the end of its TTL, beyond which no hit renews it
    float seconds       # for which a hit renews it; 0: the entry does not slide
    float ttl           # the seconds that end there

cdef struct Slab:
    Entry** pages
    Slide** slides      # by page; NULL: no entry of the page, or of all, has slid yet
    uint64_t* tracked   # a bit an entry: whether the collector must see its key or value
    int64_t** weights   # one array a page, only with a weigher
    uint32_t n_pages    # that may be used
    uint32_t n_held     # that have an address: as many, or more to the end of a region
    uint32_t capacity   # of what is kept by page
    uint32_t used       # slots ever handed out
    uint32_t free       # chain of slots handed back
    uint32_t n_free
    bint surplus        # the last pages were filled once, and are not any more
    bint weighs


cdef inline Entry* entry_at(Slab* slab, uint32_t i) noexcept nogil:
    return &slab.pages[i >> PAGE_BITS][i & (PAGE - 1)]


cdef inline int64_t entry_weight(Slab* slab, uint32_t i) noexcept nogil:
    return slab.weights[i >> PAGE_BITS][i & (PAGE - 1)] if slab.weighs else 0


cdef inline double entry_ttl(Entry* e) noexcept nogil:
    return fabs(e.ttl)


cdef inline bint entry_stale_ok(Entry* e) noexcept nogil:
    """Whether `fetch` may serve it past its TTL without an option of the call."""
    return signbit(e.ttl) != 0                    # C promises no more than "not zero" of the bit


cdef inline void entry_set_ttl(Entry* e, double ttl, bint stale_ok) noexcept nogil:
    e.ttl = -<float>ttl if stale_ok else <float>ttl


cdef inline double entry_grace(Entry* e) noexcept nogil:
    return fabs(e.grace)


cdef inline bint entry_counts_as_stale(Entry* e) noexcept nogil:
    """Whether its grace has begun, and its namespace counts it among its stale entries."""
    return signbit(e.grace) != 0


cdef inline void entry_set_grace(Entry* e, double grace, bint counts_as_stale) noexcept nogil:
    e.grace = -<float>grace if counts_as_stale else <float>grace


cdef inline double entry_last(Entry* e) noexcept nogil:
    """The moment from which the entry is of no more use."""
    return e.deadline + entry_grace(e)


cdef inline void entry_set_tracked(Slab* slab, uint32_t i, bint tracked) noexcept nogil:
    cdef uint64_t* word = &slab.tracked[i >> 6]
    cdef uint64_t bit = (<uint64_t>1) << (i & 63)
    if ((word[0] & bit) != 0) != tracked:
        word[0] ^= bit


cdef inline int slab_init(Slab* slab, bint weighs) noexcept nogil:
    memset(slab, 0, sizeof(Slab))
    slab.free = NONE
    slab.weighs = weighs
    return 0


cdef inline size_t page_bytes() noexcept nogil:
    return PAGE * sizeof(Entry)                   # 32 pages make 7 huge ones of 2 MiB


cdef inline bint page_begins_region(uint32_t p) noexcept nogil:
    return p > 0 and (p - 1) % REGION == 0


cdef inline int slab_make_room(Slab* slab, uint32_t pages) noexcept nogil:
    """Grow all arrays by page; -1, and nothing changed, when memory is out."""
    cdef uint32_t wanted = slab.capacity * 2
    cdef void* grown
    if pages <= slab.capacity:
        return 0
    if wanted < pages:
        wanted = pages
    grown = realloc(slab.pages, wanted * sizeof(Entry*))
    if grown == NULL:
        return -1
    slab.pages = <Entry**>grown
    if slab.weighs:
        grown = realloc(slab.weights, wanted * sizeof(int64_t*))
        if grown == NULL:
            return -1
        slab.weights = <int64_t**>grown
    grown = block_grow(slab.tracked, slab.capacity * PAGE_WORDS * sizeof(uint64_t),
                       wanted * PAGE_WORDS * sizeof(uint64_t))
    if grown == NULL:
        return -1
    slab.tracked = <uint64_t*>grown
    if slab.slides != NULL:
        grown = realloc(slab.slides, wanted * sizeof(Slide*))
        if grown == NULL:
            return -1
        slab.slides = <Slide**>grown
        memset(&slab.slides[slab.capacity], 0, (wanted - slab.capacity) * sizeof(Slide*))
    slab.capacity = wanted
    return 0


cdef int slab_hold(Slab* slab) noexcept nogil:
    """Get an address for one page more, or for a region of them; -1 when memory is out."""
    cdef uint32_t n = REGION if slab.n_held else 1, k
    cdef void* memory
    if slab_make_room(slab, slab.n_held + n) < 0:
        return -1
    memory = region_new(n * page_bytes()) if slab.n_held else block_new(page_bytes())
    if memory == NULL:
        return -1
    for k in range(n):
        slab.pages[slab.n_held + k] = <Entry*>memory + k * PAGE
    slab.n_held += n
    return 0


cdef int slab_add_page(Slab* slab, int64_t most) noexcept nogil:
    """Make one page more usable; -1 when memory is out. `most`: entries to come in all; -1: any."""
    cdef uint32_t p = slab.n_pages, k
    cdef int64_t first
    if p == (1 << 19) - 1:                        # indices are 32 bits, and NONE is one of them
        return -1
    if p == slab.n_held and slab_hold(slab) < 0:
        return -1
    if slab.weighs:
        slab.weights[p] = <int64_t*>malloc(PAGE * sizeof(int64_t))
        if slab.weights[p] == NULL:
            return -1
    memset(&slab.tracked[p * PAGE_WORDS], 0, PAGE_WORDS * sizeof(uint64_t))
    slab.n_pages += 1
    if p > 0:
        k = (p - 1) % REGION                      # its place in its region
        first = <int64_t>(p - k) << PAGE_BITS
        if most < 0 or most > first + (REGION << PAGE_BITS):
            most = first + (REGION << PAGE_BITS)
        if most > first:
            region_use(slab.pages[p - k], k * page_bytes(), (k + 1) * page_bytes(),
                       <size_t>(most - first) * sizeof(Entry))
    return 0


cdef inline void slab_drop_page(Slab* slab) noexcept nogil:
    """Release the last page; its region is released with the last of its pages."""
    cdef uint32_t p = slab.n_pages - 1
    slab.n_pages = p
    if slab.weighs:
        free(slab.weights[p])
    if slab.slides != NULL:
        free(slab.slides[p])
        slab.slides[p] = NULL
    if page_begins_region(p):
        region_free(slab.pages[p], REGION * page_bytes())
        slab.n_held = p
    elif p == 0:
        block_free(slab.pages[p], page_bytes())
        slab.n_held = 0


cdef inline int slab_reserve(Slab* slab, int64_t most) noexcept nogil:
    """Make sure that the next slab_take succeeds; -1 when memory is out."""
    if slab.free != NONE or slab.used < (slab.n_pages << PAGE_BITS):
        return 0
    return slab_add_page(slab, most)


cdef inline uint32_t slab_next(Slab* slab) noexcept nogil:
    """What the next slab_take returns."""
    return slab.free if slab.free != NONE else slab.used


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
    """Give the last page back to the system if it is still surplus."""
    if slab.used <= ((slab.n_pages - 1) << PAGE_BITS):
        slab_drop_page(slab)
        if slab.n_held > slab.n_pages:
            region_idle(slab.pages[slab.n_pages], page_bytes())
    slab.surplus = slab.n_pages > 1 and slab.used <= ((slab.n_pages - 1) << PAGE_BITS)


cdef inline void slab_free(Slab* slab) noexcept nogil:
    while slab.n_pages:
        slab_drop_page(slab)
    block_free(slab.tracked, slab.capacity * PAGE_WORDS * sizeof(uint64_t))
    free(slab.pages)
    free(slab.weights)
    free(slab.slides)
    memset(slab, 0, sizeof(Slab))
    slab.free = NONE


# -------------------------------------------------------------------------------- sliding deadlines

cdef inline Slide* entry_slide(Slab* slab, uint32_t i) noexcept nogil:
    """What renews entry i; NULL: it does not slide."""
    if slab.slides == NULL or slab.slides[i >> PAGE_BITS] == NULL:
        return NULL
    if slab.slides[i >> PAGE_BITS][i & (PAGE - 1)].seconds == 0:
        return NULL
    return &slab.slides[i >> PAGE_BITS][i & (PAGE - 1)]


cdef inline int slide_reserve(Slab* slab, uint32_t i) noexcept nogil:
    """Make sure that entry i can slide, whose page may be used; -1 when memory is out."""
    if slab.slides == NULL:
        slab.slides = <Slide**>calloc(slab.capacity, sizeof(Slide*))
        if slab.slides == NULL:
            return -1
    if slab.slides[i >> PAGE_BITS] == NULL:
        slab.slides[i >> PAGE_BITS] = <Slide*>calloc(PAGE, sizeof(Slide))
        if slab.slides[i >> PAGE_BITS] == NULL:
            return -1
    return 0


cdef inline void slide_stop(Slab* slab, uint32_t i) noexcept nogil:
    """Let entry i, or what comes into its slot, not slide."""
    if slab.slides != NULL and slab.slides[i >> PAGE_BITS] != NULL:
        slab.slides[i >> PAGE_BITS][i & (PAGE - 1)].seconds = 0


cdef inline void slide_start(Slab* slab, uint32_t i, double seconds, double ttl,
                             double now) noexcept nogil:
    """Let each hit renew entry i for so long, within its TTL. There is room: slide_reserve."""
    cdef Slide* slide = &slab.slides[i >> PAGE_BITS][i & (PAGE - 1)]
    cdef Entry* e = entry_at(slab, i)
    slide.limit = now + ttl
    slide.seconds = <float>seconds
    slide.ttl = <float>ttl
    e.deadline = fmin(slide.limit, now + slide.seconds)
    entry_set_ttl(e, INFINITY, entry_stale_ok(e))         # no part of it tells when to refresh


cdef inline void entry_renew(Slab* slab, uint32_t i, double now) noexcept nogil:
    """Move the deadline of entry i, which was hit, if it slides. Its key in the heap can stay."""
    cdef Slide* slide = entry_slide(slab, i)
    cdef Entry* e = entry_at(slab, i)
    cdef double later
    if slide == NULL or entry_counts_as_stale(e):         # a clock that went back
        return
    later = fmin(slide.limit, now + slide.seconds)
    if later > e.deadline:
        e.deadline = later


cdef inline double entry_age(Slab* slab, uint32_t i, double now) noexcept nogil:
    """The seconds since it was stored, or got a new TTL; INFINITY: it never expires."""
    cdef Slide* slide = entry_slide(slab, i)
    cdef Entry* e = entry_at(slab, i)
    if slide != NULL:
        return INFINITY if isinf(slide.ttl) else fmax(now - (slide.limit - slide.ttl), 0)
    if isinf(entry_ttl(e)):
        return INFINITY
    return fmax(entry_ttl(e) - (e.deadline - now), 0)
