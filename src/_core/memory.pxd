# Large pieces of memory.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from * nogil:
    """
    /* Large blocks come from the system and go back to it as they are: from the C library's heap,
       the blocks that a growing table leaves behind would stay as holes. */
    #include <string.h>
    #if defined(__unix__) || defined(__APPLE__)
    #include <sys/mman.h>
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    #define FLOWCACHE_LARGE 65536
    #else
    #define FLOWCACHE_LARGE SIZE_MAX
    #endif
    static void *flowcache_block_new(size_t size) {
    #if defined(__unix__) || defined(__APPLE__)
        if (size >= FLOWCACHE_LARGE) {
            void *block = mmap(NULL, size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            return block == MAP_FAILED ? NULL : block;
        }
    #endif
        return calloc(1, size);
    }
    static void flowcache_block_free(void *block, size_t size) {
    #if defined(__unix__) || defined(__APPLE__)
        if (block != NULL && size >= FLOWCACHE_LARGE) {
            munmap(block, size);
            return;
        }
    #endif
        free(block);
    }
    /* Grow a block, or make the first (NULL, 0). What is new in it is not zeroed. Where the system
       can move pages, a large one is not copied. NULL, and the old one whole: memory is out. */
    static void *flowcache_block_grow(void *block, size_t size, size_t wanted) {
        void *grown;
        if (wanted < FLOWCACHE_LARGE)
            return realloc(block, wanted);
    #if defined(__linux__) && defined(MREMAP_MAYMOVE)
        if (size >= FLOWCACHE_LARGE) {
            grown = mremap(block, size, wanted, MREMAP_MAYMOVE);
            return grown == MAP_FAILED ? NULL : grown;
        }
    #endif
        grown = flowcache_block_new(wanted);
        if (grown != NULL && block != NULL) {
            memcpy(grown, block, size);
            flowcache_block_free(block, size);
        }
        return grown;
    }
    """
    void* block_new "flowcache_block_new"(size_t size)          # zeroed; NULL: memory is out
    void block_free "flowcache_block_free"(void* block, size_t size)
    void* block_grow "flowcache_block_grow"(void* block, size_t size, size_t wanted)

cdef enum:
    LINE = 64             # bytes of a processor's cache line, on all that matter
    FITS = 4096           # entries of a cache that the processor keeps at hand anyway


cdef inline void* line_above(void* block) noexcept nogil:
    """The first address in a block that begins a cache line."""
    return <void*>((<size_t>block + LINE - 1) & ~<size_t>(LINE - 1))
