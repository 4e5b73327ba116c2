# (namespace, key) -> entry: open addressing over the slab. A bucket is one cache line of seven
# slots, each the mixed hash beside the entry's index, so that a miss touches no entry.
#
# The table is cut into parts by the hash's upper bits. A part grows alone. It is split in two when
# another growth would be a pause (extendible hashing: Fagin et al., 1979). A part with fewer upper
# bits than the table stands in several places, each a copy, so that a look-up reads one struct. The
# first copy keeps the counts; only what changes the table asks which that is. Within a part a
# bucket is chosen by multiplication instead of masking, so that it can be of any size and need not
# double.
#
# A full bucket sends a newcomer on to another, which the hash and the number of buckets tried
# choose at random. It counts the entries that overflowed; a look-up goes past a bucket only when
# that count is not zero, and a removal leaves no tombstone. Thousands of keys of one hash value
# fill most buckets of a part, and another key still leaves them after a few. (Steps of one length
# would not do: a key whose step is a small multiple of theirs would walk along with them.) The
# buckets that chance has left out are tried in order, so that a search for room finds it.

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
    uint32_t bits         # upper bits of the hash that its entries have in common
    uint32_t count        # entries; in the first copy
    uint32_t changes      # goes up with each insertion and removal; in the first copy

cdef struct Table:
    Part* parts
    uint32_t bits         # log2 of the places
    uint32_t count        # entries
    uint32_t splits       # entries from which a part is split rather than grown

cdef enum:
    SLOTS = 7
    PART_ENTRIES = 16384  # the most that a part holds, unless hashes collide
    MOST_BITS = 18
    SHRINKS = 64          # buckets from which a part that is empty again gives its memory back


cdef inline Part* table_part(Table* table, uint32_t hash) noexcept nogil:
    return &table.parts[(<uint64_t>hash) >> (32 - table.bits)]


cdef inline Part* table_first(Table* table, uint32_t hash) noexcept nogil:
    """The first copy of the part of a hash."""
    cdef uint32_t place = <uint32_t>((<uint64_t>hash) >> (32 - table.bits))
    return &table.parts[place >> (table.bits - table.parts[place].bits)
                        << (table.bits - table.parts[place].bits)]


cdef inline uint32_t part_home(Part* part, uint32_t hash) noexcept nogil:
    return <uint32_t>(((<uint64_t><uint32_t>(hash << part.bits)) * part.n) >> 32)


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


cdef inline void part_put(Part* part, uint32_t hash, uint32_t i) noexcept nogil:
    """Insert. There is room: table_reserve came before."""
    cdef uint32_t b = part_home(part, hash), tried = 1, slot
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


cdef inline int part_init(Part* part, uint32_t n, uint32_t bits, uint32_t changes) noexcept nogil:
    """Make an empty part; -1, and nothing changed, when memory is out."""
    cdef void* block
    if n >= 1024:
        n = (n + 64) // 64 * 64 - 1               # the system gives whole pages: use all of it
    block = block_new((n + 1) * sizeof(Bucket))
    if block == NULL:
        return -1
    part.block = block
    part.buckets = <Bucket*>line_above(block)
    part.n = n
    part.bits = bits
    part.count = 0
    part.changes = changes
    return 0


cdef inline void part_copy(Table* table, Part* first) noexcept nogil:
    """Bring all copies of a part up to date."""
    cdef uint32_t k
    for k in range(1, 1 << (table.bits - first.bits)):
        first[k] = first[0]


cdef int part_resize(Table* table, Part* part, uint32_t n) noexcept nogil:
    """Rebuild a part, given by its first copy, with n buckets; -1, and nothing changed, when
    memory is out."""
    cdef Part old = part[0]
    cdef uint32_t b, slot
    cdef Bucket* bucket
    if part_init(part, n, old.bits, old.changes + 1) < 0:
        return -1
    part.count = old.count
    for b in range(old.n if old.count else 0):
        bucket = &old.buckets[b]
        for slot in range(SLOTS):
            if bucket.hash[slot]:
                part_put(part, bucket.hash[slot], bucket.entry[slot])
    block_free(old.block, (old.n + 1) * sizeof(Bucket))
    part_copy(table, part)
    return 0


cdef int part_split(Table* table, uint32_t hash) noexcept nogil:
    """Split the part of a hash by its next bit; -1, and nothing changed, when memory is out."""
    cdef Part* parts
    cdef Part* first = table_first(table, hash)
    cdef Part old = first[0]
    cdef Part[2] half
    cdef uint32_t b, slot, k, side
    cdef uint32_t bit = (<uint32_t>0x80000000) >> old.bits
    cdef uint32_t[2] counts
    cdef Bucket* bucket
    counts[0] = 0
    counts[1] = 0
    for b in range(old.n):
        for slot in range(SLOTS):
            if old.buckets[b].hash[slot]:
                counts[(old.buckets[b].hash[slot] & bit) != 0] += 1
    for side in range(2):
        if part_init(&half[side], counts[side] // 5 + 1,
                     old.bits + 1, old.changes + 1) < 0:
            if side:
                block_free(half[0].block, (half[0].n + 1) * sizeof(Bucket))
            return -1
        half[side].count = counts[side]
    if old.bits == table.bits:
        parts = <Part*>malloc((<size_t>2 << table.bits) * sizeof(Part))
        if parts == NULL:
            for side in range(2):
                block_free(half[side].block, (half[side].n + 1) * sizeof(Bucket))
            return -1
        for k in range(1 << table.bits):
            parts[2 * k] = table.parts[k]
            parts[2 * k + 1] = table.parts[k]
        free(table.parts)
        table.parts = parts
        table.bits += 1
        first = table_first(table, hash)
    for b in range(old.n):
        bucket = &old.buckets[b]
        for slot in range(SLOTS):
            if bucket.hash[slot]:
                part_put(&half[(bucket.hash[slot] & bit) != 0], bucket.hash[slot],
                         bucket.entry[slot])
    block_free(old.block, (old.n + 1) * sizeof(Bucket))
    k = 1 << (table.bits - old.bits - 1)
    first[0] = half[0]
    first[k] = half[1]
    part_copy(table, first)
    part_copy(table, first + k)
    return 0


cdef inline void table_put_in(Table* table, Part* part, uint32_t hash, uint32_t i) noexcept nogil:
    """Insert into the part of the hash, given by its first copy."""
    part_put(part, hash, i)
    part.count += 1
    part.changes += 1
    table.count += 1


cdef inline void table_put(Table* table, uint32_t hash, uint32_t i) noexcept nogil:
    table_put_in(table, table_first(table, hash), hash, i)


cdef inline void table_remove(Table* table, uint32_t hash, uint32_t i) noexcept nogil:
    """Remove entry i, which is there."""
    cdef Part* part = table_first(table, hash)
    cdef uint32_t b = part_home(part, hash), tried = 1, slot
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
                table.count -= 1
                if part.count == 0 and part.n >= SHRINKS:
                    part_resize(table, part, 1)   # or it stays as it is
                return
        bucket.overflow -= 1
        b = part_next(part, hash, tried)
        tried += 1


cdef inline bint table_holds(Table* table, uint32_t hash, uint32_t i) noexcept nogil:
    """Whether entry i is there: not so once it waits in limbo, or its slot is free."""
    cdef Part* part = table_part(table, hash)
    cdef uint32_t b = part_home(part, hash), slot, tried = 1
    while tried <= part_most(part):
        for slot in range(SLOTS):
            if part.buckets[b].hash[slot] == hash and part.buckets[b].entry[slot] == i:
                return True
        if part.buckets[b].overflow == 0:
            return False
        b = part_next(part, hash, tried)
        tried += 1
    return False


cdef inline bint part_has_room(Part* part) noexcept nogil:
    """Whether one more entry fits into a part, given by its first copy."""
    # Five and five eighths of seven. Fuller buckets would save a byte an entry. But in a cache that
    # goes on evicting, nearly every bucket would have overflowed once, and misses would walk
    # through dozens.
    return part.count < part.n * 5 + part.n // 8 * 5


cdef int table_grow(Table* table, uint32_t hash) noexcept nogil:
    """Make room in the part of the hash; -1 when memory is out."""
    cdef Part* part = table_first(table, hash)
    # A part that is much fuller than others has keys that collide, which no split would separate.
    if (part.count >= table.splits and part.bits < MOST_BITS
            and table.count >> part.bits >= table.splits // 2
            and part_split(table, hash) == 0):
        return 0 if part_has_room(table_first(table, hash)) else table_grow(table, hash)
    # A small table doubles: emptier buckets overflow less, and a few thousand entries take little
    # memory. Larger ones grow by a little, which keeps them three quarters full.
    if part.n < 128 or (part.bits == 0 and part.n < 2048):
        return part_resize(table, part, part.n * 2)
    return part_resize(table, part, part.n + part.n // 12)


cdef inline int table_reserve(Table* table, uint32_t hash) noexcept nogil:
    """Make sure that one more entry of this hash fits; -1 when memory is out."""
    return 0 if part_has_room(table_first(table, hash)) else table_grow(table, hash)


cdef inline int table_init(Table* table) noexcept nogil:
    """Make an empty table of one part."""
    table.splits = PART_ENTRIES
    table.parts = <Part*>calloc(1, sizeof(Part))  # zeroed, so that table_free takes it as it is
    return -1 if table.parts == NULL else part_init(table.parts, 1, 0, 0)


cdef inline void table_clear(Table* table) noexcept nogil:
    """Empty the table; a part that cannot be shrunk for want of memory keeps its size."""
    cdef uint32_t p = 0
    cdef Part* part
    while table.parts != NULL and p < (<uint32_t>1) << table.bits:
        part = &table.parts[p]
        part.changes += 1
        if part.count:
            part.count = 0
            if part.n == 1 or part_resize(table, part, 1) < 0:
                memset(part.buckets, 0, part.n * sizeof(Bucket))
        p += (<uint32_t>1) << (table.bits - part.bits)
    table.count = 0


cdef inline void table_free(Table* table) noexcept nogil:
    cdef uint32_t p = 0
    while table.parts != NULL and p < (<uint32_t>1) << table.bits:
        block_free(table.parts[p].block, (table.parts[p].n + 1) * sizeof(Bucket))
        p += (<uint32_t>1) << (table.bits - table.parts[p].bits)
    free(table.parts)
    table.parts = NULL


cdef inline void table_ask(Table* table, uint32_t hash) noexcept nogil:
    """Prefetch the bucket of a hash. A clock read meanwhile costs next to nothing. Read after the
    entry was found, it would delay the entry's neighbours by a quarter of a hit."""
    cdef Part* part = table_part(table, hash)
    prefetch(&part.buckets[part_home(part, hash)])
