# How often keys were stored lately, about: a count-min sketch of four-bit counters for a namespace.
#
# A line is one line of the processor's cache: 127 counters and the epoch in which it was last
# halved. A hash has two counters, both in one line, and its count is the lesser of them. After
# 240 adds a line, the epoch ends and every line is halved: at once when it is touched, or by a
# cursor that goes over one line an add. So no line is more than one epoch behind.
#
# The number of lines follows the namespace by linear hashing, one line an add: it grows by a copy
# of the line that its hashes were in before, and shrinks by the maximum of two.

cdef enum:
    COUNTERS = 127                # of a line
    MOST_COUNTED = 15
    ENTRIES_A_LINE = 16
    ADDS_A_LINE = 240             # in an epoch
    EPOCHS = 16                   # as many as four bits tell apart

cdef struct SketchLine:
    uint64_t[8] words             # a counter is four bits; the last four are the epoch

cdef struct Sketch:
    SketchLine* lines
    uint32_t held                 # lines that there is memory for
    uint32_t wanted               # a power of two; one line an add is made or folded until then
    uint32_t filled               # lines in use
    uint32_t mask                 # the least 2**n - 1 that is not below `filled` - 1
    uint32_t cursor
    uint32_t epoch
    uint64_t adds                 # in this epoch
    uint32_t dice                 # contests lost by keys that are asked for often


cdef inline uint32_t sketch_lines(uint32_t entries) noexcept nogil:
    """The lines for so many entries: a power of two."""
    cdef uint32_t lines = 1
    while <uint64_t>lines * ENTRIES_A_LINE < entries:
        lines *= 2
    return lines


cdef inline unsigned int line_count(SketchLine* line, uint32_t k) noexcept nogil:
    return (line.words[k >> 4] >> ((k & 15) * 4)) & 15


cdef inline void line_put(SketchLine* line, uint32_t k, uint64_t count) noexcept nogil:
    cdef uint32_t shift = (k & 15) * 4
    line.words[k >> 4] = ((line.words[k >> 4] & ~(<uint64_t>15 << shift)) | (count << shift))


cdef inline void line_raise(SketchLine* line, uint32_t k) noexcept nogil:
    cdef uint64_t* word = &line.words[k >> 4]
    cdef uint32_t shift = (k & 15) * 4
    word[0] += <uint64_t>(((word[0] >> shift) & 15) < MOST_COUNTED) << shift


cdef inline SketchLine* sketch_line(Sketch* sketch, uint32_t n) noexcept nogil:
    """Line n, halved if the epoch has changed since it was touched."""
    cdef SketchLine* line = &sketch.lines[n]
    cdef uint32_t k
    if line_count(line, COUNTERS) != sketch.epoch:
        for k in range(8):
            line.words[k] = (line.words[k] >> 1) & <uint64_t>0x7777777777777777
        line_put(line, COUNTERS, sketch.epoch)
    return line


cdef inline SketchLine* sketch_find(Sketch* sketch, uint32_t hash, uint32_t* k) noexcept nogil:
    """The line of a hash, and its two counters there."""
    cdef uint64_t mixed = hash * <uint64_t>0x9E3779B97F4A7C15
    cdef uint32_t n = <uint32_t>(mixed >> 32) & sketch.mask
    if n >= sketch.filled:
        n &= sketch.mask >> 1
    k[0] = <uint32_t>((((mixed >> 2) & 1023) * COUNTERS) >> 10)
    k[1] = <uint32_t>((((mixed >> 12) & 1023) * COUNTERS) >> 10)
    return sketch_line(sketch, n)


cdef inline void sketch_ask(Sketch* sketch, uint32_t hash) noexcept nogil:
    """Prefetch the line of a hash."""
    cdef uint32_t n = <uint32_t>(hash * <uint64_t>0x9E3779B97F4A7C15 >> 32) & sketch.mask
    if n >= sketch.filled:
        n &= sketch.mask >> 1
    prefetch(&sketch.lines[n])


cdef inline unsigned int line_least(SketchLine* line, uint32_t* k) noexcept nogil:
    cdef unsigned int one = line_count(line, k[0])
    cdef unsigned int other = line_count(line, k[1])
    return other if other < one else one


cdef inline unsigned int sketch_count(Sketch* sketch, uint32_t hash) noexcept nogil:
    """How often the hash was added lately, about."""
    cdef uint32_t[2] k
    cdef SketchLine* line = sketch_find(sketch, hash, k)
    return line_least(line, k)


cdef inline void sketch_grow(Sketch* sketch) noexcept nogil:
    """Take one line more into use, of those that there is memory for."""
    cdef uint32_t n = sketch.filled
    if n > sketch.mask:
        sketch.mask = sketch.mask * 2 + 1
    sketch.lines[n] = sketch_line(sketch, n & (sketch.mask >> 1))[0]
    sketch.filled = n + 1


cdef void sketch_fold(Sketch* sketch) noexcept nogil:
    """Take the last line out of use. The memory goes once the last such line has gone."""
    cdef uint32_t n = sketch.filled - 1, k
    cdef unsigned int count
    cdef SketchLine* last = sketch_line(sketch, n)
    cdef SketchLine* into = sketch_line(sketch, n & (sketch.mask >> 1))
    cdef void* smaller
    for k in range(COUNTERS):
        count = line_count(last, k)
        if count > line_count(into, k):
            line_put(into, k, count)
    sketch.filled = n
    if n - 1 <= sketch.mask >> 1:
        sketch.mask >>= 1
    if sketch.cursor >= n:
        sketch.cursor = 0
    if n == sketch.wanted:
        smaller = block_new(n * sizeof(SketchLine))
        if smaller != NULL:                       # else it keeps what it has
            memcpy(smaller, sketch.lines, n * sizeof(SketchLine))
            block_free(sketch.lines, sketch.held * sizeof(SketchLine))
            sketch.lines = <SketchLine*>smaller
            sketch.held = n


cdef void sketch_add(Sketch* sketch, uint32_t hash) noexcept nogil:
    """Count the hash once, and do a step of what is left to do."""
    cdef uint32_t[2] k
    cdef SketchLine* line
    cdef uint32_t most = sketch.wanted
    if sketch.filled != most:
        if sketch.filled < most:
            sketch_grow(sketch)
        else:
            sketch_fold(sketch)
            most = max(sketch.filled, sketch.wanted)
    line = sketch_find(sketch, hash, k)
    line_raise(line, k[0])
    if k[0] != k[1]:                              # they are one for a key of 127
        line_raise(line, k[1])
    sketch.adds += 1
    if sketch.adds >= <uint64_t>ADDS_A_LINE * most:
        sketch.adds = 0
        sketch.epoch = (sketch.epoch + 1) % EPOCHS
    sketch_line(sketch, sketch.cursor)
    sketch.cursor += 1
    if sketch.cursor == sketch.filled:
        sketch.cursor = 0


cdef void sketch_resize(Sketch* sketch, uint32_t entries) noexcept nogil:
    """The part of sketch_fit where the size is to change."""
    cdef uint32_t wanted = sketch_lines(entries)
    cdef void* grown
    if sketch.wanted < wanted:
        if sketch.held < wanted:
            grown = block_grow(sketch.lines, sketch.held * sizeof(SketchLine),
                               wanted * sizeof(SketchLine))
            if grown == NULL:
                return
            sketch.lines = <SketchLine*>grown
            sketch.held = wanted
        sketch.wanted = wanted
    else:
        sketch.wanted = wanted                    # a quarter, or less


cdef inline void sketch_fit(Sketch* sketch, uint32_t entries) noexcept nogil:
    """Let the sketch come to be of a size for so many entries. Without memory it stays as it is."""
    if entries > ENTRIES_A_LINE * <uint64_t>sketch.wanted or (
            sketch.wanted >= 4 and entries <= ENTRIES_A_LINE // 4 * <uint64_t>sketch.wanted):
        sketch_resize(sketch, entries)


cdef Sketch* sketch_new(uint32_t entries) noexcept nogil:
    """An empty sketch for so many entries, or NULL: memory is out."""
    cdef Sketch* sketch = <Sketch*>calloc(1, sizeof(Sketch))
    cdef uint32_t lines = sketch_lines(entries)
    if sketch == NULL:
        return NULL
    sketch.lines = <SketchLine*>block_new(lines * sizeof(SketchLine))
    if sketch.lines == NULL:
        free(sketch)
        return NULL
    sketch.held = lines
    sketch.wanted = lines
    sketch.filled = lines
    sketch.mask = lines - 1
    return sketch


cdef inline size_t sketch_size(Sketch* sketch) noexcept nogil:
    return 0 if sketch == NULL else sizeof(Sketch) + sketch.held * sizeof(SketchLine)


cdef void sketch_free(Sketch* sketch) noexcept nogil:
    """Free it; NULL is none."""
    if sketch != NULL:
        block_free(sketch.lines, sketch.held * sizeof(SketchLine))
        free(sketch)
