# The clock of leases, which runs on while the machine is suspended. A cache with a second tier goes
# by it: what it holds may be served only until a moment that the tier's bus keeps moving.
#
# Linux has no coarse form of this clock, and a reading costs as much as the rest of a hit. So the
# last reading stands until the processor's counter has gone on by a number of ticks, which the
# Python half sets; 0: each call reads the clock. The difference is unsigned: after a counter that
# was set back, as after one that was set far ahead, the clock is read. It is read after the
# counter, so that a reading is never older than its ticks tell, wherever a thread was stopped.

cdef extern from * nogil:
    """
    #if defined(_WIN32)
    #define flowcache_lease_clock flowcache_monotonic
    #else
    static inline double flowcache_lease_clock(void) {
        struct timespec now;
    #ifdef CLOCK_BOOTTIME
        if (clock_gettime(CLOCK_BOOTTIME, &now) != 0)
    #endif
            clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    #endif
    #if defined(__linux__) && defined(__x86_64__)
    #define FLOWCACHE_COUNTER 1
    #define flowcache_counter() ((uint64_t)__builtin_ia32_rdtsc())
    #else
    #define FLOWCACHE_COUNTER 0
    #define flowcache_counter() ((uint64_t)0)
    #endif
    static uint64_t flowcache_lease_ticks;        /* for which a reading stands */
    static flowcache_lock flowcache_lease_lock;   /* of those that read the clock for others */
    #if FLOWCACHE_COUNTER
    static uint64_t flowcache_lease_counted;      /* the counter, just before the last reading */
    static double flowcache_lease_reading;
    static inline void flowcache_lease_note(double reading, uint64_t counted) {
        flowcache_store_double(&flowcache_lease_reading, reading);
        __atomic_store_n(&flowcache_lease_counted, counted, __ATOMIC_RELEASE);
    }
    static double flowcache_lease_read(void) {
        double reading;
        uint64_t counted;
        if (flowcache_load_u64(&flowcache_lease_ticks) == 0)
            return flowcache_lease_clock();
        flowcache_acquire(&flowcache_lease_lock);
        counted = flowcache_counter();
        reading = flowcache_lease_clock();
        flowcache_lease_note(reading, counted);
        flowcache_release(&flowcache_lease_lock);
        return reading;
    }
    /* The reading that is loaded last is at least as new as the counter that is loaded first. */
    static inline double flowcache_lease_now(void) {
        uint64_t counted = __atomic_load_n(&flowcache_lease_counted, __ATOMIC_ACQUIRE);
        uint64_t ticks = flowcache_load_u64(&flowcache_lease_ticks);
        if (ticks != 0 && flowcache_counter() - counted < ticks)
            return flowcache_load_double(&flowcache_lease_reading);
        return flowcache_lease_read();
    }
    #else
    #define flowcache_lease_note(reading, counted) ((void)0)
    #define flowcache_lease_read flowcache_lease_clock
    #define flowcache_lease_now flowcache_lease_clock
    #endif
    """
    bint LEASE_COUNTER "FLOWCACHE_COUNTER"
    uint64_t lease_counter "flowcache_counter"()
    uint64_t lease_ticks "flowcache_lease_ticks"
    Lock lease_lock "flowcache_lease_lock"
    void lease_note "flowcache_lease_note"(double reading, uint64_t counted)
    double lease_clock "flowcache_lease_clock"()
    double lease_read "flowcache_lease_read"()       # of the clock, in any case
    double lease_now "flowcache_lease_now"()         # the last reading, while it stands

lock_list(&lease_lock)


def lease_time():
    """Return the seconds of the clock of leases, read now."""
    return lease_clock()


def _lease_ticks(uint64_t ticks):
    """Let a reading of the clock stand for so many ticks of the processor's counter.

    Return whether there is a counter that the core can use.
    """
    if LEASE_COUNTER:
        relaxed_store_u64(&lease_ticks, ticks)
    return bool(LEASE_COUNTER)


@cython.final
cdef class _Leased:
    """Stands where a user's clock would: the time of the cache is that of leases."""

    def __init__(self):
        raise TypeError("there is one, LEASED")


cdef object LEASED = _Leased.__new__(_Leased)
