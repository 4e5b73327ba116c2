# Regions of memory for the pages of the slab.

cdef extern from * nogil:
    """
    /* A region is room for many pages of the slab, in one piece, so that the system can back it by
       huge pages: the entries of a large cache are touched at random, and translating addresses is
       a good part of what that costs. Memory is taken as it is touched. */
    #if defined(__unix__) || defined(__APPLE__)
    #define FLOWCACHE_REGION 32
    #else
    #define FLOWCACHE_REGION 1
    #endif
    #define FLOWCACHE_HUGE ((size_t)1 << 21)
    static void *flowcache_region_new(size_t size) {
    #if defined(__unix__) || defined(__APPLE__)
        size_t before;
        char *all = (char *)mmap(NULL, size + FLOWCACHE_HUGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == (char *)MAP_FAILED)
            return NULL;
        before = (size_t)-(intptr_t)all & (FLOWCACHE_HUGE - 1);
        if (before)
            munmap(all, before);
        munmap(all + before + size, FLOWCACHE_HUGE - before);
        return all + before;
    #else
        return flowcache_block_new(size);
    #endif
    }
    static void flowcache_region_free(void *region, size_t size) {
    #if defined(__unix__) || defined(__APPLE__)
        munmap(region, size);
    #else
        flowcache_block_free(region, size);
    #endif
    }
    /* Hand the memory of a part of a region back to the system; its addresses stay. */
    static void flowcache_region_idle(void *part, size_t size) {
    #if defined(__unix__) || defined(__APPLE__)
        madvise(part, size, MADV_DONTNEED);
    #endif
    }
    /* Bytes from `from` to `to` of a region will be used next, and perhaps all up to `most`. A huge
       page that begins there is asked for if at least three quarters of it will be of use. */
    static void flowcache_region_use(void *region, size_t from, size_t to, size_t most) {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        size_t begin = (from + FLOWCACHE_HUGE - 1) & ~(FLOWCACHE_HUGE - 1);
        if (begin < to && begin + FLOWCACHE_HUGE / 4 * 3 <= most)
            madvise((char *)region + begin, FLOWCACHE_HUGE, MADV_HUGEPAGE);
    #endif
    }
    """
    void* region_new "flowcache_region_new"(size_t size)        # NULL: memory is out
    void region_free "flowcache_region_free"(void* region, size_t size)
    void region_idle "flowcache_region_idle"(void* part, size_t size)
    void region_use "flowcache_region_use"(void* region, size_t begin, size_t end, size_t most)
    const uint32_t REGION "FLOWCACHE_REGION"                    # pages of the slab in one
