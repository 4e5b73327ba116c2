# The clock of leases, which runs on while the machine is suspended. A cache with a second tier goes
# by it: what it holds may be served only until a moment that the tier's bus keeps moving.

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
    """
    double lease_clock "flowcache_lease_clock"()


def lease_time():
    """Return the seconds of the clock of leases."""
    return lease_clock()


@cython.final
cdef class _Leased:
    """Stands where a user's clock would: the time of the cache is that of leases."""

    def __init__(self):
        raise TypeError("there is one, LEASED")


cdef object LEASED = _Leased.__new__(_Leased)
