# A Space is what the core keeps of one namespace; Core is what it keeps of one cache.

cdef struct Counters:
    int64_t hits
    int64_t misses
    int64_t stale_hits
    int64_t coalesced
    int64_t loads
    int64_t load_failures
    int64_t sets
    int64_t evictions             # entries of this namespace that pressure took
    int64_t evictions_caused      # entries, anybody's, that went so that one here could be stored
    int64_t expirations
    int64_t invalidations
    double load_seconds

cdef struct Space:
    # What a hit touches comes first and shares a cache line.
    Order order                   # its entries, oldest to newest
    uint64_t salt                 # mixed into each key's hash
    uint32_t id                   # Entry.space; index into Core.spaces
    uint32_t own                  # entries, stale ones included
    uint32_t own_stale            # those of them past their deadline
    uint32_t views                # live Namespace objects, and listeners
    bint expires                  # an entry with an end to its TTL has been here
    bint is_idle                  # here, for whoever makes or drops a view asks
    Counters counters             # its own
    Counters forgotten            # of namespaces below that are no more

    Space* parent                 # NULL: the root, or a namespace that is no more
    Space* child                  # first child
    Space* next                   # siblings
    Space* previous
    uint32_t children_count
    uint32_t depth                # 0: the root
    uint32_t rank                 # order of creation
    PyObject* name                # owned; an exact str, the root: None
    PyObject* children            # owned dict: name -> id
    PyObject* tags                # owned dict: tag -> record; NULL until the first
    PyObject* running             # first of the running Loads; the list owns those in it
    PyObject* listeners           # owned list of (mask, listener); NULL until the first
    PyObject* child_limits        # owned dict of settings that children start with; NULL: none

    int64_t entries               # here and below
    int64_t weight                # here and below
    int64_t own_weight
    int64_t pending               # running loads, here and below
    int64_t own_pending

    double default_ttl            # in force here, inherited or set
    bint own_ttl                  # it was set here
    bint configured               # something was set here by name, so that it is never idle
    int64_t max_entries           # -1: no limit
    int64_t max_weight            # -1: no limit
    int64_t max_pending           # -1: no limit
    int64_t reserved              # entries
    int64_t reserved_below        # the sum of what the children demand
    double share

    uint32_t seat[3]              # in its parent's heaps, by Seating
    Heap deadlines                # its own entries
    uint32_t sieving              # entries when heap_sieve became due (see removal); 0: it is not
    Heap due                      # children by the earliest deadline in them
    Heap by_entries               # children by -entries / share
    Heap by_weight                # children by -weight / share; only with a weigher

    Space* idle_newer
    Space* idle_older

cdef extern from * nogil:
    """
    /* One lock a cache on a build without the GIL; with the GIL there is nothing to lock, because
       no structure is ever left half changed where the GIL could be let go.

       A fork stops all threads where none is within a lock. But CPython hands a lock that was
       waited for on to who waited, and that thread, if it has not come to run by then, is not in
       the child: all locks are listed, and the child opens them. */
    #ifdef Py_GIL_DISABLED
    typedef struct flowcache_lock {
        PyMutex mutex;
        struct flowcache_lock *next;
        struct flowcache_lock **link;     /* what points here */
    } flowcache_lock;
    static flowcache_lock *flowcache_locks;
    static PyMutex flowcache_locks_mutex;
    #define flowcache_acquire(lock) PyMutex_Lock(&(lock)->mutex)
    #define flowcache_release(lock) PyMutex_Unlock(&(lock)->mutex)
    static void flowcache_lock_list(flowcache_lock *lock) {
        PyMutex_Lock(&flowcache_locks_mutex);
        lock->next = flowcache_locks;
        lock->link = &flowcache_locks;
        if (lock->next != NULL)
            lock->next->link = &lock->next;
        flowcache_locks = lock;
        PyMutex_Unlock(&flowcache_locks_mutex);
    }
    static void flowcache_lock_unlist(flowcache_lock *lock) {
        PyMutex_Lock(&flowcache_locks_mutex);
        *lock->link = lock->next;
        if (lock->next != NULL)
            lock->next->link = lock->link;
        PyMutex_Unlock(&flowcache_locks_mutex);
    }
    static void flowcache_locks_open(void) {
        flowcache_lock *lock;
        memset(&flowcache_locks_mutex, 0, sizeof(PyMutex));
        for (lock = flowcache_locks; lock != NULL; lock = lock->next)
            memset(&lock->mutex, 0, sizeof(PyMutex));
    }
    #else
    typedef char flowcache_lock;
    #define flowcache_acquire(lock) ((void)(lock))
    #define flowcache_release(lock) ((void)(lock))
    #define flowcache_lock_list(lock) ((void)(lock))
    #define flowcache_lock_unlist(lock) ((void)(lock))
    #define flowcache_locks_open() ((void)0)
    #endif
    """
    ctypedef struct Lock "flowcache_lock":
        pass
    void lock_acquire "flowcache_acquire"(Lock* lock)
    void lock_release "flowcache_release"(Lock* lock)
    void lock_list "flowcache_lock_list"(Lock* lock)
    void lock_unlist "flowcache_lock_unlist"(Lock* lock)
    void locks_open "flowcache_locks_open"()

cdef extern from * nogil:
    """
    /* What is read without the lock, as a hint or for a value that one write sets whole. Without
       the GIL both sides say so; whoever decides by such a number looks again with the lock. */
    #ifdef Py_GIL_DISABLED
    #define flowcache_peek_flag(place) _Py_atomic_load_int_relaxed(place)
    #define flowcache_peek_u32(place) _Py_atomic_load_uint32_relaxed(place)
    #define flowcache_peek_u64(place) _Py_atomic_load_uint64_relaxed(place)
    #define flowcache_peek_i64(place) _Py_atomic_load_int64_relaxed(place)
    #define flowcache_peek_ptr(place) ((PyObject *)_Py_atomic_load_ptr_acquire(place))
    #define flowcache_poke_ptr(place, value) _Py_atomic_store_ptr_release((place), (value))
    #define flowcache_count_up(place) ((void)_Py_atomic_add_int64((place), 1))
    #define flowcache_poke_flag(place, value) _Py_atomic_store_int_relaxed((place), (value))
    #define flowcache_poke_u32(place, value) _Py_atomic_store_uint32_relaxed((place), (value))
    #define flowcache_poke_u64(place, value) _Py_atomic_store_uint64_relaxed((place), (value))
    #define flowcache_poke_i64(place, value) _Py_atomic_store_int64_relaxed((place), (value))
    static inline double flowcache_peek_double(double *place) {
        uint64_t bits = _Py_atomic_load_uint64_relaxed((uint64_t *)place);
        double value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }
    static inline void flowcache_poke_double(double *place, double value) {
        uint64_t bits;
        memcpy(&bits, &value, sizeof(bits));
        _Py_atomic_store_uint64_relaxed((uint64_t *)place, bits);
    }
    #else
    #define flowcache_peek_flag(place) (*(place))
    #define flowcache_peek_u32(place) (*(place))
    #define flowcache_peek_u64(place) (*(place))
    #define flowcache_peek_i64(place) (*(place))
    #define flowcache_peek_ptr(place) (*(place))
    #define flowcache_poke_ptr(place, value) ((void)(*(place) = (value)))
    #define flowcache_count_up(place) ((void)(*(place) += 1))
    #define flowcache_peek_double(place) (*(place))
    #define flowcache_poke_flag(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_u32(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_u64(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_i64(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_double(place, value) ((void)(*(place) = (value)))
    #endif
    """
    bint peek_flag "flowcache_peek_flag"(bint* place)
    uint32_t peek_u32 "flowcache_peek_u32"(uint32_t* place)
    uint64_t peek_u64 "flowcache_peek_u64"(uint64_t* place)
    int64_t peek_i64 "flowcache_peek_i64"(int64_t* place)
    PyObject* peek_ptr "flowcache_peek_ptr"(PyObject** place)
    void poke_ptr "flowcache_poke_ptr"(PyObject** place, PyObject* value)
    void count_up "flowcache_count_up"(int64_t* place)
    double peek_double "flowcache_peek_double"(double* place)
    void poke_flag "flowcache_poke_flag"(bint* place, bint value)
    void poke_u32 "flowcache_poke_u32"(uint32_t* place, uint32_t value)
    void poke_u64 "flowcache_poke_u64"(uint64_t* place, uint64_t value)
    void poke_i64 "flowcache_poke_i64"(int64_t* place, int64_t value)
    void poke_double "flowcache_poke_double"(double* place, double value)

cdef enum:
    KINDS_COUNT = 9               # of events: see events.pyx

cdef struct Core:
    Slab slab
    Table table
    Tags tags
    Space* root
    Space** spaces                # by id; NULL: free
    uint32_t spaces_used
    uint32_t spaces_capacity
    uint32_t* free_ids
    uint32_t free_count
    uint32_t next_rank
    uint64_t secret               # makes this cache's salts its own
    uint64_t salts                # salts handed out
    Space* idle_newest
    Space* idle_oldest
    uint32_t idle_count
    uint32_t max_idle
    uint32_t limbo_first          # entries that are out of every structure and wait to be dropped
    uint32_t limbo_last
    uint32_t limbo_count
    uint32_t at_once              # entries that one call may put in limbo: what is more is debris
    uint32_t debris_first         # entries that nobody can reach and whose memory goes later
    uint32_t debris_last
    uint32_t debris_count
    Space* debris                 # the same, cut off from a namespace all together: see removal
    uint32_t mask                 # kinds of events that somebody listens to
    uint32_t listening[KINDS_COUNT]   # how many listeners, by kind
    bint opened                   # false: closed, and nobody's yet
    bint closed
    bint require_namespace
    double max_pending_age
    PyObject** loads              # buckets of running loads by hash, borrowed: see fetch
    uint32_t loads_size           # buckets; a power of two, or 0
    uint32_t loads_count
    uint64_t loads_begun          # loads registered so far
    uint64_t loads_changes        # goes up with each that begins or ends
    Lock lock


cdef inline bint core_hears(Core* core, int kind) noexcept nogil:
    """Whether somebody listens to the kind of event."""
    return peek_u32(&core.mask) & (<uint32_t>1 << kind) != 0


cdef inline bint core_is_closed(Core* core) noexcept nogil:
    return peek_flag(&core.closed)


cdef inline bint core_has_limbo(Core* core) noexcept nogil:
    """Whether something waits to be dropped: true for whoever has just put it there."""
    return peek_u32(&core.limbo_first) != NONE


cdef inline bint space_has_loads(Space* space) noexcept nogil:
    return peek_i64(&space.own_pending) != 0
