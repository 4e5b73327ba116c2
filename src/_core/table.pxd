# (namespace, key) -> entry: open addressing over the slab. A bucket is one cache line of seven
# slots, each the mixed hash beside the entry's index, so that a miss touches no entry.
#
# The table is cut into parts by the hash's upper bits. A part grows alone, which bounds the pause
# of a growth by the size of a part. Within it a bucket is chosen by multiplication instead of
# masking, so that a part can be of any size and need not double.
#
# A full bucket sends a newcomer on to another, which the hash and the number of buckets tried
# choose at random. It counts whom it sent on; a look-up goes past a bucket only when that count is
# not zero, and a removal leaves no tombstone. Thousands of keys of one hash value fill most buckets
# of a part, and another key still leaves them after a few. (Steps of one length would not do: a
# key whose step is a small multiple of theirs would walk along with them.) What chance has left
# out is tried in order, so that whoever looks for room finds it.

cdef extern from * nogil:
    """
    /* All seven slots at once, as a mask: a branch for each would be guessed wrong every time. */
    #if defined(__SSE2__) || defined(_M_X64)
    #include <emmintrin.h>
    static inline unsigned flowcache_match(const uint32_t *hashes, uint32_t wanted) {
        __m128i all = _mm_set1_epi32((int)wanted);
        __m128i low = _mm_cmpeq_epi32(all, _mm_load_si128((const __m128i *)hashes));
        __m128i high = _mm_cmpeq_epi32(all, _mm_load_si128((const __m128i *)(hashes + 4)));
        return (unsigned)_mm_movemask_epi8(
            _mm_packs_epi16(_mm_packs_epi32(low, high), _mm_setzero_si128())) & 0x7f;
    }
    #else
    static inline unsigned flowcache_match(const uint32_t *hashes, uint32_t wanted) {
        unsigned mask = 0, slot;
        for (slot = 0; slot < 7; slot++)
            mask |= (unsigned)(hashes[slot] == wanted) << slot;
        return mask;
    }
    #endif
    #if defined(_MSC_VER)
    #include <intrin.h>
    static inline unsigned flowcache_first(unsigned mask) {
        unsigned long slot;
        _BitScanForward(&slot, mask);
        return slot;
    }
    #else
    #define flowcache_first(mask) ((unsigned)__builtin_ctz(mask))
    #endif
    """
    unsigned int hash_match "flowcache_match"(const uint32_t* hashes, uint32_t wanted)
    unsigned int first_slot "flowcache_first"(unsigned int mask)     # of a mask that is not 0

cdef struct Bucket:
    uint32_t hash[7]      # 0: free
    uint32_t overflow     # entries that wanted to be here and went on
    uint32_t entry[7]
    uint32_t unused       # pads the bucket to 64 bytes

cdef struct Part:
    Bucket* buckets       # aligned to 64 bytes within `block`
    void* block
    uint32_t n            # buckets
    uint32_t count        # entries
    uint32_t changes      # goes up with each insertion and removal

cdef struct Table:
    Part* parts
    uint32_t bits         # log2 of the number of parts

cdef enum:
    SLOTS = 7
    PART_ENTRIES = 16384  # what a part is meant to hold
    SHRINKS = 64          # buckets from which a part that is empty again gives its memory back


cdef inline Part* table_part(Table* table, uint32_t hash) noexcept nogil:
    return &table.parts[(<uint64_t>hash) >> (32 - table.bits)]


cdef inline uint32_t part_home(Table* table, Part* part, uint32_t hash) noexcept nogil:
    return <uint32_t>(((<uint64_t><uint32_t>(hash << table.bits)) * part.n) >> 32)


cdef inline uint32_t part_next(Part* part, uint32_t hash, uint32_t tried) noexcept nogil:
    """The bucket to try after so many, fewer than part_most(): those are all of them."""
    cdef uint32_t mixed
    if tried > part.n:
        return tried - part.n - 1
    mixed = (hash + tried * <uint32_t>0x9E3779B9) * <uint32_t>0x85EBCA6B
    mixed = (mixed ^ (mixed >> 15)) * <uint32_t>0xC2B2AE35
    return <uint32_t>((<uint64_t>mixed * part.n) >> 32)


cdef inline uint32_t part_most(Part* part) noexcept nogil:
    return part.n * 2 + 1


cdef inline void part_put(Table* table, Part* part, uint32_t hash, uint32_t i) noexcept nogil:
    """Insert. There is room: part_reserve came before."""
    cdef uint32_t b = part_home(table, part, hash), tried = 1, slot
    cdef unsigned int vacant
    cdef Bucket* bucket
    while True:
        bucket = &part.buckets[b]
        vacant = hash_match(bucket.hash, 0)
        if vacant:
            slot = first_slot(vacant)
            bucket.hash[slot] = hash
            bucket.entry[slot] = i
            return
        bucket.overflow += 1
        b = part_next(part, hash, tried)
        tried += 1


cdef inline int part_resize(Table* table, Part* part, uint32_t n) noexcept nogil:
    """Rebuild a part with n buckets; -1, and nothing changed, when memory is out."""
    cdef Part old = part[0]
    cdef void* block = block_new((n + 1) * sizeof(Bucket))
    cdef uint32_t b, slot
    cdef Bucket* bucket
    if block == NULL:
        return -1
    part.block = block
    part.buckets = <Bucket*>line_above(block)
    part.n = n
    part.changes += 1
    for b in range(old.n if old.count else 0):
        bucket = &old.buckets[b]
        for slot in range(SLOTS):
            if bucket.hash[slot]:
                part_put(table, part, bucket.hash[slot], bucket.entry[slot])
    block_free(old.block, (old.n + 1) * sizeof(Bucket))
    return 0


cdef inline void table_put(Table* table, uint32_t hash, uint32_t i) noexcept nogil:
    cdef Part* part = table_part(table, hash)
    part_put(table, part, hash, i)
    part.count += 1
    part.changes += 1


cdef inline void table_remove(Table* table, uint32_t hash, uint32_t i) noexcept nogil:
    """Remove entry i, which is there."""
    cdef Part* part = table_part(table, hash)
    cdef uint32_t b = part_home(table, part, hash), tried = 1, slot
    cdef unsigned int same
    cdef Bucket* bucket
    while True:
        bucket = &part.buckets[b]
        same = hash_match(bucket.hash, hash)
        while same:
            slot = first_slot(same)
            same &= same - 1
            if bucket.entry[slot] == i:
                bucket.hash[slot] = 0
                part.count -= 1
                part.changes += 1
                if part.count == 0 and part.n >= SHRINKS:
                    part_resize(table, part, 1)   # or it stays as it is
                return
        bucket.overflow -= 1
        b = part_next(part, hash, tried)
        tried += 1


cdef inline int part_reserve(Table* table, Part* part) noexcept nogil:
    """Make sure that one more entry fits; -1 when memory is out."""
    # Five and a half of seven. Fuller buckets would save a byte an entry; but where the oldest go
    # as new ones come, nearly every bucket would have sent somebody on, and misses walk through
    # dozens.
    if part.count < part.n * 5 + part.n // 2:
        return 0
    # Small parts double; large ones grow by a little, which keeps them three quarters full.
    return part_resize(table, part, part.n * 2 if part.n < 128 else part.n + part.n // 12)


cdef inline int table_init(Table* table, int64_t entries) noexcept nogil:
    """Make an empty table; `entries` (negative: unknown) sets how finely it is cut."""
    cdef uint32_t bits = 0, p
    if entries < 0:
        bits = 6
    else:
        while bits < 12 and (entries >> bits) > PART_ENTRIES:
            bits += 1
    table.bits = bits
    table.parts = <Part*>calloc(1 << bits, sizeof(Part))
    if table.parts == NULL:
        return -1
    for p in range(1 << bits):
        if part_resize(table, &table.parts[p], 1) < 0:
            return -1
    return 0


cdef inline void table_clear(Table* table) noexcept nogil:
    """Empty the table; a part that cannot be shrunk for want of memory keeps its size."""
    cdef uint32_t p
    cdef Part* part
    if table.parts == NULL:
        return
    for p in range(1 << table.bits):
        part = &table.parts[p]
        part.changes += 1
        if part.count:
            part.count = 0
            if part.n == 1 or part_resize(table, part, 1) < 0:
                memset(part.buckets, 0, part.n * sizeof(Bucket))


cdef inline void table_free(Table* table) noexcept nogil:
    cdef uint32_t p
    if table.parts != NULL:
        for p in range(1 << table.bits):
            block_free(table.parts[p].block, (table.parts[p].n + 1) * sizeof(Bucket))
    free(table.parts)
    table.parts = NULL
