# (namespace, tag) -> its entries, intrusive. A Tag record stands for one tag in one namespace. It
# hangs below the record of the same tag in the namespace above. So an invalidation at any level
# walks exactly the entries that it removes. A record lives while an entry bears it, here or below.

cdef struct Link:                 # one entry's one tag: 20 bytes
    uint32_t entry
    uint32_t tag                  # in a free link: the next free one
    uint32_t next                 # the entry's next link
    uint32_t newer                # neighbours among the tag's links
    uint32_t older

cdef struct Tag:
    PyObject* name                # owned; an exact str
    uint32_t node                # the id of its namespace
    uint32_t first                # newest link, or NONE
    uint32_t total                # links here and below
    uint32_t parent               # the tag in the namespace above, or NONE; free: the next free one
    uint32_t child                # first record below, or NONE
    uint32_t next                 # siblings
    uint32_t previous

cdef enum:
    LINK_BITS = 13

cdef struct Tags:
    Link** links                  # pages that never move, so that growth copies nothing
    uint32_t links_pages
    uint32_t links_capacity       # of the directory of pages
    bint links_surplus            # the last pages were filled once, and are not any more
    uint32_t links_used
    uint32_t links_free
    uint32_t links_live
    Tag* records
    uint32_t capacity
    uint32_t used
    uint32_t free


cdef inline void tags_init(Tags* tags) noexcept nogil:
    memset(tags, 0, sizeof(Tags))
    tags.links_free = NONE
    tags.free = NONE


cdef inline Link* link_at(Tags* tags, uint32_t at) noexcept nogil:
    return &tags.links[at >> LINK_BITS][at & ((1 << LINK_BITS) - 1)]


cdef inline void tags_free(Tags* tags) noexcept nogil:
    cdef uint32_t p
    for p in range(tags.links_pages):
        block_free(tags.links[p], sizeof(Link) << LINK_BITS)
    free(tags.links)
    free(tags.records)
    tags_init(tags)


cdef inline int links_reserve(Tags* tags, uint32_t n) noexcept nogil:
    """Make sure that n more links can be taken; -1 when memory is out."""
    cdef uint64_t wanted = <uint64_t>tags.links_live + n
    cdef uint32_t capacity
    cdef void* grown
    if wanted >= NONE:
        return -1
    while wanted > <uint64_t>tags.links_pages << LINK_BITS:
        if tags.links_pages == tags.links_capacity:
            capacity = tags.links_capacity * 2 if tags.links_capacity else 4
            grown = realloc(tags.links, capacity * sizeof(Link*))
            if grown == NULL:
                return -1
            tags.links = <Link**>grown
            tags.links_capacity = capacity
        grown = block_new(sizeof(Link) << LINK_BITS)
        if grown == NULL:
            return -1
        tags.links[tags.links_pages] = <Link*>grown
        tags.links_pages += 1
    return 0


cdef inline void links_trim(Tags* tags) noexcept nogil:
    """Begin anew with no link. The pages are surplus then."""
    tags.links_used = 0
    tags.links_live = 0
    tags.links_free = NONE
    tags.links_surplus = tags.links_pages > 0


cdef inline void links_give_page(Tags* tags) noexcept nogil:
    """Give the last page back to the system if it is still surplus."""
    if tags.links_used <= ((tags.links_pages - 1) << LINK_BITS):
        tags.links_pages -= 1
        block_free(tags.links[tags.links_pages], sizeof(Link) << LINK_BITS)
    tags.links_surplus = (tags.links_pages > 0
                          and tags.links_used <= ((tags.links_pages - 1) << LINK_BITS))


cdef inline bint entry_bears(Tags* tags, Entry* e, uint32_t tag) noexcept nogil:
    cdef uint32_t link = e.links
    while link != NONE:
        if link_at(tags, link).tag == tag:
            return True
        link = link_at(tags, link).next
    return False


cdef inline void link_add(Tags* tags, Entry* e, uint32_t i, uint32_t tag) noexcept nogil:
    """Add the tag to entry i. There is room: links_reserve came before."""
    cdef uint32_t at = tags.links_free
    cdef Link* link
    if at != NONE:
        tags.links_free = link_at(tags, at).tag
    else:
        at = tags.links_used
        tags.links_used += 1
    tags.links_live += 1
    link = link_at(tags, at)
    link.entry = i
    link.tag = tag
    link.next = e.links
    e.links = at
    link.newer = NONE
    link.older = tags.records[tag].first
    if link.older != NONE:
        link_at(tags, link.older).newer = at
    tags.records[tag].first = at
    while tag != NONE:
        tags.records[tag].total += 1
        tag = tags.records[tag].parent


cdef inline uint32_t link_remove_first(Tags* tags, Entry* e) noexcept nogil:
    """Remove the entry's first link; return its tag."""
    cdef uint32_t at = e.links
    cdef Link* link = link_at(tags, at)
    cdef uint32_t tag = link.tag, up = link.tag
    e.links = link.next
    if link.newer != NONE:
        link_at(tags, link.newer).older = link.older
    else:
        tags.records[tag].first = link.older
    if link.older != NONE:
        link_at(tags, link.older).newer = link.newer
    link.tag = tags.links_free
    tags.links_free = at
    tags.links_live -= 1
    while up != NONE:
        tags.records[up].total -= 1
        up = tags.records[up].parent
    return tag


cdef inline int tag_reserve(Tags* tags) noexcept nogil:
    cdef uint32_t wanted
    cdef void* grown
    if tags.free != NONE or tags.used < tags.capacity:
        return 0
    wanted = tags.capacity * 2 if tags.capacity else 16
    grown = realloc(tags.records, wanted * sizeof(Tag))
    if grown == NULL:
        return -1
    tags.records = <Tag*>grown
    tags.capacity = wanted
    return 0


cdef inline uint32_t tag_next(Tags* tags) noexcept nogil:
    """The record that tag_take will take."""
    return tags.free if tags.free != NONE else tags.used


cdef inline uint32_t tag_take(Tags* tags, PyObject* name, uint32_t node,
                              uint32_t parent) noexcept nogil:
    """Make a record below `parent`. There is room: tag_reserve came before. Takes over `name`."""
    cdef uint32_t t = tags.free
    cdef Tag* tag
    if t != NONE:
        tags.free = tags.records[t].parent
    else:
        t = tags.used
        tags.used += 1
    tag = &tags.records[t]
    tag.name = name
    tag.node = node
    tag.first = NONE
    tag.total = 0
    tag.parent = parent
    tag.child = NONE
    tag.previous = NONE
    tag.next = NONE
    if parent != NONE:
        tag.next = tags.records[parent].child
        if tag.next != NONE:
            tags.records[tag.next].previous = t
        tags.records[parent].child = t
    return t


cdef inline void tag_unhang(Tags* tags, uint32_t t) noexcept nogil:
    """Take a record from below its parent, and its links out of the counts above."""
    cdef Tag* tag = &tags.records[t]
    cdef uint32_t up = tag.parent
    if tag.previous != NONE:
        tags.records[tag.previous].next = tag.next
    elif up != NONE:
        tags.records[up].child = tag.next
    if tag.next != NONE:
        tags.records[tag.next].previous = tag.previous
    while up != NONE:
        tags.records[up].total -= tag.total
        up = tags.records[up].parent
    tag.parent = NONE
    tag.previous = NONE
    tag.next = NONE


cdef inline void tag_give(Tags* tags, uint32_t t) noexcept nogil:
    """Unhang and free a record that nothing hangs below. Its name is the caller's to drop."""
    cdef Tag* tag = &tags.records[t]
    tag_unhang(tags, t)
    tag.name = NULL
    tag.parent = tags.free
    tags.free = t
