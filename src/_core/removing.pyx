# Removing. What is removed decides what it costs.


cdef object take(Store store, Space* space, object key, Cause cause, bint* fresh):
    """Remove the entry of key and return its value; None, and `fresh` false, if none is held.

    An entry past its TTL goes as well, but is not `fresh`.
    """
    cdef Core* core = &store.core
    cdef uint32_t hash, i
    cdef Entry* e
    cdef double now
    cdef uint64_t begun = peek_u64(&core.loads_begun)
    cdef Load running = None
    fresh[0] = False
    space_guard(store, space)
    hash = key_hash(space, key)
    now = store_now(store)
    if space_has_loads(space):
        running = load_find(core, space, key, hash, NULL)
    value = None
    try:
        lock_acquire(&core.lock)
        try:
            i = store_find_locked(core, space, key, hash)
            if core_is_closed(core):
                raise closed_error()
            if i != NONE:
                e = entry_at(&core.slab, i)
                value = <object>e.value
                fresh[0] = e.deadline > now
                entry_unlink_locked(core, i, cause if entry_last(e) > now else EXPIRED)
            if space_has_loads(space):
                fence_key_locked(core, space, running, hash, begun)
        finally:
            lock_release(&core.lock)
    finally:
        if core_has_limbo(core):
            store_drain(store)
    return value


cdef int64_t remove_one_locked(Core* core, uint32_t i, Cause cause, double now) noexcept:
    """Remove entry i; 1 if it was held, 0 if it was due to expire anyway."""
    if entry_last(entry_at(&core.slab, i)) <= now:
        entry_unlink_locked(core, i, EXPIRED)
        return 0
    entry_unlink_locked(core, i, cause)
    return 1


# A large namespace is cleared by cutting its entries off: they keep the namespace's id, which the
# namespace gives up for a new one, so that no look-up can meet them again. They are debris then,
# and go a few at a time as the cache is used: clear() takes effect at once and holds nobody up.

cdef enum:
    WORTH_CUTTING = 32            # once the limbo is full, for as many entries it is the less work


cdef inline bint space_may_be_cut(Core* core, Space* space) noexcept:
    if core_hears(core, REMOVE):
        return False
    return space.own > (core.at_once if core.limbo_count < core.at_once
                        or core.at_once < WORTH_CUTTING else WORTH_CUTTING)


cdef int64_t space_cut_off_locked(Store store, Space* space, double now) noexcept:
    """Turn a namespace's own entries into debris; how many of them were held, and not due to
    expire anyway. -1, and nothing done, when memory is out.

    For a namespace whose tags have no records below it.
    """
    cdef Core* core = &store.core
    cdef Space* cut
    cdef uint32_t old = space.id, t, up
    cdef int64_t due
    if space_id_reserve(core) < 0:
        return -1
    cut = <Space*>calloc(1, sizeof(Space))
    if cut == NULL:
        return -1
    due = heap_due(core, &space.deadlines, 0, now, True)
    space.counters.expirations += due
    space.counters.invalidations += space.own - due
    cut.id = old
    cut.order = space.order
    cut.own = space.own
    cut.own_stale = space.own_stale
    cut.own_weight = space.own_weight
    cut.entries = space.own
    cut.weight = space.own_weight
    cut.max_entries = -1
    cut.max_weight = -1
    cut.share = 1.0
    cut.tags = space.tags
    cut.next = core.debris
    core.debris = cut
    core.spaces[old] = cut
    space_take_id(core, space)
    space.order.newest = NONE
    space.order.oldest = NONE
    heap_free(&space.deadlines)
    space.own_stale = 0
    space.tags = NULL
    if space.parent != NULL:
        if space.member.seat[<int>BY_DUE] != NONE:
            space.parent.due.ids[space.member.seat[<int>BY_DUE]] = space.id
        if space.member.seat[<int>BY_ENTRIES] != NONE:
            space.parent.by_entries.ids[space.member.seat[<int>BY_ENTRIES]] = space.id
        if space.member.seat[<int>BY_WEIGHT] != NONE:
            space.parent.by_weight.ids[space.member.seat[<int>BY_WEIGHT]] = space.id
    space_add(core, space, -<int64_t>space.own, -space.own_weight)
    if cut.tags != NULL:
        # Its tags' records go with it, and no longer count above.
        for t in (<dict>cut.tags).values():
            up = core.tags.records[t].parent
            if up != NONE:
                tag_unhang(&core.tags, t)
                tag_release_locked(core, up)
    idle_consider(core, space)
    return cut.own - due


cdef int64_t clear_locked(Store store, Space* space, double now) noexcept:
    """Remove all of a namespace and of those below it, and let its running loads end in vain."""
    cdef Core* core = &store.core
    cdef int64_t removed = 0, cut
    cdef uint32_t scout
    cdef Space* child = space.child
    if space_has_loads(space):
        fence_all_locked(space)
    while child != NULL:                          # first those below: see space_cut_off_locked
        if child.entries or child.pending:
            removed += clear_locked(store, child, now)
        child = child.next
    if space_may_be_cut(core, space):
        cut = space_cut_off_locked(store, space, now)
        if cut >= 0:
            return removed + cut
    sieve_begin(core, space, space.own)
    scout = scout_begin(core, space.order.oldest)
    while space.order.oldest != NONE:
        scout = scout_move(core, scout)
        removed += remove_one_locked(core, space.order.oldest, CLEARED, now)
    sieve_end(core, space)
    if space.deadlines.capacity > 64:
        heap_free(&space.deadlines)
    return removed


cdef bint bears_all(Core* core, uint32_t i, list tags) noexcept:
    cdef Entry* e = entry_at(&core.slab, i)
    cdef uint32_t t
    for name in tags:
        t = tag_find(core.spaces[e.space], <str>name)
        if t == NONE or not entry_bears(&core.tags, e, t):
            return False
    return True


cdef int64_t tag_invalidate_locked(Store store, uint32_t t, list others, double now) noexcept:
    """Remove the entries that bear tag record t, here and below; with `others`: these tags too."""
    cdef Core* core = &store.core
    cdef int64_t removed = 0
    cdef int64_t own
    cdef uint32_t link, near, far, child, next, i, k
    cdef Tag* tag = &core.tags.records[t]
    cdef Space* space = core.spaces[tag.space]
    if (others is None and space.child == NULL and tag.total == space.own
            and space_may_be_cut(core, space)):
        # All that the namespace holds bears the tag.
        removed = space_cut_off_locked(store, space, now)
        if removed >= 0:
            return removed
        removed = 0
    own = tag.total
    child = tag.child
    while child != NONE:
        own -= core.tags.records[child].total
        child = core.tags.records[child].next
    sieve_begin(core, space, own)
    # Pinned: the last removal must not free the record under the walk.
    tag.total += 1
    link = tag.first
    # Two scouts run ahead of the walk: one asks for the entries, the other for their neighbours.
    near = link
    far = link
    for k in range(2 * AHEAD):
        if far != NONE:
            prefetch(&entry_at(&core.slab, link_at(&core.tags, far).entry).hash)
            far = link_at(&core.tags, far).older
        if k >= AHEAD and near != NONE:
            entry_prefetch(core, link_at(&core.tags, near).entry)
            near = link_at(&core.tags, near).older
    while link != NONE:
        if far != NONE:
            prefetch(&entry_at(&core.slab, link_at(&core.tags, far).entry).hash)
            far = link_at(&core.tags, far).older
        if near != NONE:
            entry_prefetch(core, link_at(&core.tags, near).entry)
            near = link_at(&core.tags, near).older
        i = link_at(&core.tags, link).entry
        link = link_at(&core.tags, link).older
        if others is None or bears_all(core, i, others):
            removed += remove_one_locked(core, i, TAG, now)
    sieve_end(core, space)
    child = core.tags.records[t].child
    while child != NONE:
        next = core.tags.records[child].next
        removed += tag_invalidate_locked(store, child, others, now)
        child = next
    core.tags.records[t].total -= 1
    tag_release_locked(core, t)
    return removed


cdef int64_t invalidate(Store store, Space* space, tuple tags, bint every) except -1:
    """invalidate_tag and invalidate_tags: `every`: only entries that bear all of them."""
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef int64_t removed = 0
    cdef uint32_t t, rarest = NONE
    space_guard_closed(store)
    if tags is None:
        return 0
    others = [tag for tag in tags] if every else None
    lock_acquire(&core.lock)
    try:
        if space.pending:
            fence_tags_locked(space, tags, every)
        for tag in tags:
            t = tag_find(space, <str>tag)
            if every:
                if t == NONE:
                    rarest = NONE
                    break
                if rarest == NONE or core.tags.records[t].total < core.tags.records[rarest].total:
                    rarest = t
            elif t != NONE:
                removed += tag_invalidate_locked(store, t, None, now)
        if rarest != NONE:
            removed += tag_invalidate_locked(store, rarest, others, now)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return removed


cdef bint delete_one(Store store, Space* space, object key) except -1:
    cdef bint fresh = False
    take(store, space, key, DELETED, &fresh)
    return fresh


cdef int delete_or_raise(Store store, Space* space, object key) except -1:
    if not delete_one(store, space, key):
        raise KeyError(key)
    return 0


cdef object pop_one(Store store, Space* space, object key, object default):
    cdef bint fresh = False
    value = take(store, space, key, DELETED, &fresh)
    if fresh:
        return value
    if default is UNSET:
        raise KeyError(key)
    return default


cdef tuple pop_oldest(Store store, Space* space):
    cdef Core* core = &store.core
    cdef double now
    cdef uint32_t i, hash
    cdef uint64_t begun = 0
    cdef Load running = None
    space_guard(store, space)
    now = store_now(store)
    key = MISSING
    while True:
        wanted = key                          # the key whose running load was looked for
        value = None                          # nothing is dropped under the lock
        lock_acquire(&core.lock)
        try:
            i = space.order.oldest
            while i != NONE and entry_at(&core.slab, i).deadline <= now:
                i = entry_at(&core.slab, i).newer
            if core_is_closed(core):
                raise closed_error()
            if i == NONE:
                raise KeyError("popitem(): the namespace is empty")
            key = <object>entry_at(&core.slab, i).key
            hash = entry_at(&core.slab, i).hash
            if key is wanted or space.own_pending == 0:
                value = <object>entry_at(&core.slab, i).value
                if space_has_loads(space):
                    fence_key_locked(core, space, running, hash, begun)
                # By its place and not by its key, whose hash may not be what it was.
                entry_unlink_locked(core, i, DELETED)
                break
        finally:
            lock_release(&core.lock)
        begun = peek_u64(&core.loads_begun)
        running = load_find(core, space, key, hash, NULL)  # runs user code: look again
    store_drain(store)
    return key, value


cdef Py_ssize_t delete_many(Store store, Space* space, object keys) except -1:
    cdef bint fresh = False
    cdef Py_ssize_t removed = 0
    space_guard(store, space)
    keys = listed_keys(keys)
    for key in keys:
        hash(key)                             # all are checked before any is removed
    for key in keys:
        take(store, space, key, DELETED, &fresh)
        removed += fresh
    return removed


cdef int64_t clear_all(Store store, Space* space) except -1:
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef int64_t removed
    space_guard_closed(store)
    lock_acquire(&core.lock)
    removed = clear_locked(store, space, now)
    lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return removed


cdef int64_t invalidate_tag(Store store, Space* space, object tag) except -1:
    if not isinstance(tag, str):
        raise TypeError(f"tag: must be a str, got {type(tag).__name__}")
    return invalidate(store, space, tags_checked(tag), False)


cdef int64_t invalidate_tags(Store store, Space* space, object tags, object match) except -1:
    if match not in ("any", "all"):
        raise ValueError(f'match: must be "any" or "all", got {shown(match)}')
    return invalidate(store, space, tags_checked(tags), match == "all")


cdef int64_t invalidate_prefix(Store store, Space* space, object prefix) except -1:
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef int64_t removed = 0
    cdef uint32_t i, newer, far
    cdef Entry* e
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: must be a str, got {type(prefix).__name__}")
    prefix = str.__str__(prefix)
    space_guard(store, space)
    lock_acquire(&core.lock)
    try:
        if space_has_loads(space):
            fence_prefix_locked(space, prefix)
        # All of them are looked at, and a look at all seats costs less.
        sieve_begin(core, space, space.own)
        i = space.order.oldest
        far = i
        for _ in range(AHEAD):
            if far != NONE:
                far = entry_at(&core.slab, far).newer
        while i != NONE:
            e = entry_at(&core.slab, i)
            newer = e.newer
            if far != NONE:
                prefetch(entry_at(&core.slab, far).key)
                far = entry_at(&core.slab, far).newer
            if (PyUnicode_Check(<object>e.key)
                    and PyUnicode_Tailmatch(<object>e.key, prefix, 0, PY_SSIZE_T_MAX, -1) == 1):
                removed += remove_one_locked(core, i, PREFIX, now)
            i = newer
        sieve_end(core, space)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return removed


cdef object store_close(Store store):
    """Refuse all further use, let running loads end in vain, and drop every entry."""
    cdef Core* core = &store.core
    cdef Slab taken
    lock_acquire(&core.lock)
    if core_is_closed(core):
        lock_release(&core.lock)
        return
    poke_flag(&core.closed, True)
    if core_hears(core, REMOVE):
        clear_locked(store, core.root, -INFINITY)
    else:
        fence_below_locked(core.root)
    lock_release(&core.lock)
    try:
        store_drain(store)
    finally:
        # Nobody will be there to hand the rest back a little at a time.
        lock_acquire(&core.lock)
        store_take_all_locked(core, &taken)
        lock_release(&core.lock)
        slab_drop(&taken)
