# The time, in seconds, as a double that only grows. A cache reads it at most once a call, and only
# when something that may expire is at hand.

cdef extern from * nogil:
    """
    #if defined(_WIN32)
    #include <windows.h>
    #define flowcache_fine flowcache_monotonic
    static double flowcache_monotonic(void) {
        LARGE_INTEGER frequency, ticks;
        QueryPerformanceFrequency(&frequency);
        QueryPerformanceCounter(&ticks);
        return (double)ticks.QuadPart / (double)frequency.QuadPart;
    }
    #else
    #include <time.h>
    /* The coarse clock costs a quarter of the fine one. Its tick is the kernel's, and it is taken
       only where that tick is well within the 10 ms by which an entry may outlive its TTL. */
    static clockid_t flowcache_clock_id(void) {
    #ifdef CLOCK_MONOTONIC_COARSE
        struct timespec tick;
        if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick) == 0
                && tick.tv_sec == 0 && tick.tv_nsec <= 5000000)
            return CLOCK_MONOTONIC_COARSE;
    #endif
        return CLOCK_MONOTONIC;
    }
    static clockid_t flowcache_clock = (clockid_t)-1;
    static inline double flowcache_monotonic(void) {
        struct timespec now;
        if (flowcache_clock == (clockid_t)-1)
            flowcache_clock = flowcache_clock_id();
        clock_gettime(flowcache_clock, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    /* For the seconds that a load takes. */
    static inline double flowcache_fine(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    #endif
    """
    double clock_read "flowcache_monotonic"()
    double clock_read_fine "flowcache_fine"()
