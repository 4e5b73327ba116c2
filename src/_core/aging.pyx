# The age of entries that are held: another TTL for one, and soft invalidation, by which a TTL ends
# now. Within its grace `fetch` serves such an entry still, and loads it anew.


cdef bint retime(Store store, Node* node, object key, object ttl) except -1:
    """Give the fresh entry of the key another TTL; False if there is none."""
    cdef Core* core = &store.core
    cdef Terms terms
    cdef uint32_t hash, i
    cdef double now
    cdef Entry* e
    cdef Slide* slide
    node_guard(store, node)
    terms_of(store, node, &terms, ttl, None)
    hash = key_hash(node, key)
    now = store_now(store)
    lock_acquire(&core.lock)
    try:
        i = store_find_locked(core, node, key, hash)
        if i == NONE or entry_at(&core.slab, i).deadline <= now:
            return False
        if terms.ttl <= 0:
            entry_unlink_locked(core, i, EXPIRED)
        else:
            if heap_reserve(&node.deadlines, node.deadlines.n + 1) < 0:
                raise MemoryError()
            e = entry_at(&core.slab, i)
            if entry_counts_as_stale(e):
                # A clock that went back had it counted; it is fresh again.
                entry_set_grace(e, entry_grace(e), False)
                node.own_stale -= 1
            e.deadline = now + terms.ttl
            entry_set_ttl(e, terms.ttl, entry_stale_ok(e))
            slide = entry_slide(&core.slab, i)
            if slide != NULL:
                slide_start(&core.slab, i, slide.seconds, terms.ttl, now)
            entry_schedule_locked(core, node, i)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return True


cdef bint entry_end_locked(Core* core, uint32_t i, double now) noexcept:
    """Let the TTL of entry i end now; whether it was fresh. Without a grace the entry goes."""
    cdef Entry* e = entry_at(&core.slab, i)
    cdef Node* node = core.nodes[e.node]
    cdef double left = e.deadline - now
    if left <= 0:
        if entry_last(e) <= now:
            entry_unlink_locked(core, i, EXPIRED)
        return False
    # An entry that never expires is in no heap. Where memory for it is out, the entry goes as well.
    if entry_grace(e) <= 0 or heap_reserve(&node.deadlines, node.deadlines.n + 1) < 0:
        entry_unlink_locked(core, i, EXPIRED)
        return True
    # The rest of it is cut off, so that the age of the entry stays right. No hit renews it.
    entry_set_ttl(e, entry_age(&core.slab, i, now), entry_stale_ok(e))
    slide_stop(&core.slab, i)
    e.deadline = now
    entry_schedule_locked(core, node, i)
    return True


cdef bint expire_one(Store store, Node* node, object key) except -1:
    """End the TTL of the entry of key, and fence its load; whether the entry was fresh."""
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef Aim aim
    cdef Load running = aim_at(store, node, key, &aim)
    cdef bint fresh = False
    lock_acquire(&core.lock)
    try:
        i = store_find_locked(core, node, key, aim.hash)
        if core_is_closed(core):
            raise closed_error()
        if i != NONE:
            fresh = entry_end_locked(core, i, aim.now)
        if node_has_loads(node):
            fence_key_locked(core, node, running, aim.hash, aim.begun)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return fresh


cdef int64_t tag_end_locked(Core* core, uint32_t t, double now) noexcept:
    """End the TTL of the entries that bear tag record t, here and below; how many were fresh."""
    cdef int64_t ended = 0
    cdef uint32_t link = core.tags.records[t].first, child, next, i
    # Pinned: the last entry that goes must not free the record under the walk.
    core.tags.records[t].total += 1
    while link != NONE:
        i = link_at(&core.tags, link).entry
        link = link_at(&core.tags, link).older
        ended += entry_end_locked(core, i, now)
    child = core.tags.records[t].child
    while child != NONE:
        next = core.tags.records[child].next
        ended += tag_end_locked(core, child, now)
        child = next
    core.tags.records[t].total -= 1
    tag_release_locked(core, t)
    return ended


cdef int64_t expire_tag(Store store, Node* node, object tag) except -1:
    """End the TTL of what bears the tag, here and below, and fence its loads; how many ended."""
    cdef Core* core = &store.core
    cdef double now
    cdef int64_t ended = 0
    cdef uint32_t t
    if not isinstance(tag, str):
        raise TypeError(f"tag: must be a str, got {type(tag).__name__}")
    tags = tags_checked(tag)
    node_guard_closed(store)
    now = store_now(store)
    lock_acquire(&core.lock)
    try:
        if node.pending:
            fence_tags_locked(core, node, <tuple>tags, False, now)
        t = tag_find_locked(node, <str>(<tuple>tags)[0])
        if t != NONE:
            ended = tag_end_locked(core, t, now)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return ended
