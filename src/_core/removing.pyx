# Removing. The cost follows the removed entries.


cdef object take(Store store, Node* node, object key, Cause cause, bint* fresh):
    """Remove the entry of key and return its value; None, and `fresh` false, if none is held.

    An entry past its TTL goes as well, but is not `fresh`.
    """
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef Entry* e
    cdef Aim aim
    cdef Load running
    fresh[0] = False
    running = aim_at(store, node, key, &aim)
    value = None
    try:
        lock_acquire(&core.lock)
        try:
            i = store_find_locked(core, node, key, aim.hash)
            if core_is_closed(core):
                raise closed_error()
            if i != NONE:
                e = entry_at(&core.slab, i)
                value = <object>e.value
                fresh[0] = e.deadline > aim.now
                entry_unlink_locked(core, i, cause if entry_last(e) > aim.now else EXPIRED)
            if node_has_loads(node):
                fence_key_locked(core, node, running, aim.hash, aim.begun)
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


# A large namespace is cleared by cutting its entries off. They keep the namespace's id, and the
# namespace takes a new one, so no look-up can meet them again. They are debris then, and are
# reclaimed a few at a time as the cache is used. So clear() takes effect at once and blocks no
# call.

cdef enum:
    WORTH_CUTTING = 32            # once the limbo is full, for as many entries it is the less work


cdef inline bint node_may_be_cut_locked(Core* core, Node* node) noexcept:
    if core_hears(core, REMOVE):
        return False
    return node.own > (core.at_once if core.limbo_count < core.at_once
                       or core.at_once < WORTH_CUTTING else WORTH_CUTTING)


cdef int64_t node_cut_off_locked(Store store, Node* node, double now) noexcept:
    """Turn a namespace's own entries into debris; the number of those not due to expire anyway. -1,
    and nothing done, when memory is out.

    For a namespace whose tags have no records below it.
    """
    cdef Core* core = &store.core
    cdef Node* cut
    cdef uint32_t old = node.id, t, up
    cdef int64_t due
    if node_id_reserve_locked(core) < 0:
        return -1
    cut = <Node*>calloc(1, sizeof(Node))
    if cut == NULL:
        return -1
    due = heap_due_locked(core, &node.deadlines, 0, now, True)
    node.counters.expirations += due
    node.counters.invalidations += node.own - due
    cut.id = old
    cut.order = node.order
    cut.border = NONE
    cut.own = node.own
    cut.own_stale = node.own_stale
    cut.own_weight = node.own_weight
    cut.entries = node.own
    cut.weight = node.own_weight
    cut.max_entries = -1
    cut.max_weight = -1
    cut.share = 1.0
    cut.tags = node.tags
    cut.next = core.debris
    core.debris = cut
    core.nodes[old] = cut
    node_take_id_locked(core, node)
    order_reset_locked(node)
    heap_free(&node.deadlines)
    node.own_stale = 0
    node.tags = NULL
    if node.parent != NULL:
        if node_heap_index(node, BY_DUE) != NONE:
            node.parent.due.ids[node_heap_index(node, BY_DUE)] = node.id
        if node_heap_index(node, BY_ENTRIES) != NONE:
            node.parent.by_entries.ids[node_heap_index(node, BY_ENTRIES)] = node.id
        if node_heap_index(node, BY_WEIGHT) != NONE:
            node.parent.by_weight.ids[node_heap_index(node, BY_WEIGHT)] = node.id
        if node_heap_index(node, BY_PULL) != NONE:
            node.parent.ledger.by_pull.ids[node_heap_index(node, BY_PULL)] = node.id
    node_add_locked(core, node, -<int64_t>node.own, -node.own_weight)
    if cut.tags != NULL:
        # The records of its tags are cut off with it, and no longer count above.
        for t in (<dict>cut.tags).values():
            up = core.tags.records[t].parent
            if up != NONE:
                tag_unhang(&core.tags, t)
                tag_release_locked(core, up)
    idle_consider_locked(core, node)
    return cut.own - due


cdef int64_t clear_locked(Store store, Node* node, double now) noexcept:
    """Remove all of a namespace and of those below it, and fence its running loads."""
    cdef int64_t removed = 0
    cdef Node* child = node.child
    node_empty_heaps_locked(&store.core, node)
    while child != NULL:                          # first those below: see node_cut_off_locked
        if child.entries or child.pending:
            removed += clear_locked(store, child, now)
        child = child.next
    return removed + clear_own_locked(store, node, now)


cdef int64_t clear_own_locked(Store store, Node* node, double now) noexcept:
    """The same for a namespace alone; what is below it is cleared already, or is to stay."""
    cdef Core* core = &store.core
    cdef int64_t removed = 0, cut
    cdef uint32_t prefetcher
    if node_has_loads(node):
        fence_all_locked(node)
    order_forget_locked(node)
    ghosts_part_locked(core, node)
    if node.account != NULL:
        account_clear_locked(node)
    if node_may_be_cut_locked(core, node):
        cut = node_cut_off_locked(store, node, now)
        if cut >= 0:
            return cut
    compaction_begin_locked(core, node, node.own)
    prefetcher = prefetcher_begin_locked(core, node.order.oldest)
    while node.order.oldest != NONE:
        prefetcher = prefetcher_move_locked(core, prefetcher)
        removed += remove_one_locked(core, node.order.oldest, CLEARED, now)
    compaction_end_locked(core, node)
    if node.deadlines.capacity > 64:
        heap_free(&node.deadlines)
    return removed


cdef bint bears_all_locked(Core* core, uint32_t i, set tags) noexcept:
    """Whether entry i bears all of the tags, in one walk over those that it bears."""
    cdef uint32_t at = entry_at(&core.slab, i).links
    cdef Py_ssize_t borne = 0
    cdef Link* link
    while at != NONE:
        link = link_at(&core.tags, at)
        borne += <object>core.tags.records[link.tag].name in tags
        at = link.next
    return borne == len(tags)


cdef int64_t tag_invalidate_locked(Store store, uint32_t t, set others, double now) noexcept:
    """Remove the entries that bear tag record t, here and below; with `others`: these tags too."""
    cdef Core* core = &store.core
    cdef int64_t removed = 0
    cdef int64_t own
    cdef uint32_t link, near, far, child, next, i, k
    cdef Tag* tag = &core.tags.records[t]
    cdef Node* node = core.nodes[tag.node]
    if (others is None and node.child == NULL and tag.total == node.own
            and node_may_be_cut_locked(core, node)):
        # All that the namespace holds bears the tag.
        removed = node_cut_off_locked(store, node, now)
        if removed >= 0:
            return removed
        removed = 0
    own = tag.total
    child = tag.child
    while child != NONE:
        own -= core.tags.records[child].total
        child = core.tags.records[child].next
    compaction_begin_locked(core, node, own)
    # Pinned: the last removal must not free the record under the walk.
    tag.total += 1
    link = tag.first
    # Two prefetchers go ahead of the walk: one asks for entries, the other for their neighbours.
    near = link
    far = link
    for k in range(2 * AHEAD):
        if far != NONE:
            prefetch(&entry_at(&core.slab, link_at(&core.tags, far).entry).hash)
            far = link_at(&core.tags, far).older
        if k >= AHEAD and near != NONE:
            entry_prefetch_locked(core, link_at(&core.tags, near).entry)
            near = link_at(&core.tags, near).older
    while link != NONE:
        if far != NONE:
            prefetch(&entry_at(&core.slab, link_at(&core.tags, far).entry).hash)
            far = link_at(&core.tags, far).older
        if near != NONE:
            entry_prefetch_locked(core, link_at(&core.tags, near).entry)
            near = link_at(&core.tags, near).older
        i = link_at(&core.tags, link).entry
        link = link_at(&core.tags, link).older
        if others is None or bears_all_locked(core, i, others):
            removed += remove_one_locked(core, i, TAG, now)
    compaction_end_locked(core, node)
    child = core.tags.records[t].child
    while child != NONE:
        next = core.tags.records[child].next
        removed += tag_invalidate_locked(store, child, others, now)
        child = next
    core.tags.records[t].total -= 1
    tag_release_locked(core, t)
    return removed


cdef int64_t invalidate(Store store, Node* node, tuple tags, bint every) except -1:
    """invalidate_tag and invalidate_tags: `every`: only entries that bear all of them."""
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef int64_t removed = 0
    cdef uint32_t t, rarest = NONE
    node_guard_closed(store)
    if tags is None:
        return 0
    others = set(tags) if every else None
    lock_acquire(&core.lock)
    try:
        if node.pending:
            fence_tags_locked(core, node, tags, every, now)
        for tag in tags:
            t = tag_find_locked(node, <str>tag)
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


cdef bint delete_one(Store store, Node* node, object key) except -1:
    cdef bint fresh = False
    take(store, node, key, DELETED, &fresh)
    return fresh


cdef int delete_or_raise(Store store, Node* node, object key) except -1:
    if not delete_one(store, node, key):
        raise KeyError(key)
    return 0


cdef object pop_one(Store store, Node* node, object key, object default):
    cdef bint fresh = False
    value = take(store, node, key, DELETED, &fresh)
    if fresh:
        return value
    if default is UNSET:
        raise KeyError(key)
    return default


cdef tuple pop_oldest(Store store, Node* node):
    cdef Core* core = &store.core
    cdef double now
    cdef uint32_t i, hash
    cdef uint64_t begun = 0
    cdef Load running = None
    node_guard(store, node)
    now = store_now(store)
    key = MISSING
    while True:
        wanted = key                          # the key whose running load was looked for
        value = None                          # nothing is dropped under the lock
        lock_acquire(&core.lock)
        try:
            i = node.order.oldest
            while i != NONE and entry_at(&core.slab, i).deadline <= now:
                i = entry_at(&core.slab, i).newer
            if core_is_closed(core):
                raise closed_error()
            if i == NONE:
                raise KeyError("popitem(): the namespace is empty")
            key = <object>entry_at(&core.slab, i).key
            hash = entry_at(&core.slab, i).hash
            if key is wanted or node.own_pending == 0:
                value = <object>entry_at(&core.slab, i).value
                if node_has_loads(node):
                    fence_key_locked(core, node, running, hash, begun)
                # By its index and not by its key, whose hash may have changed.
                entry_unlink_locked(core, i, DELETED)
                break
        finally:
            lock_release(&core.lock)
        begun = relaxed_load_u64(&core.loads_begun)
        running = load_find(core, node, key, hash, NULL)  # runs user code: look again
    store_drain(store)
    return key, value


cdef Py_ssize_t delete_many(Store store, Node* node, object keys) except -1:
    cdef bint fresh = False
    cdef Py_ssize_t removed = 0
    node_guard(store, node)
    keys = listed_keys(keys)
    for key in keys:
        hash(key)                             # all are checked before any is removed
    for key in keys:
        take(store, node, key, DELETED, &fresh)
        removed += fresh
    return removed


cdef int64_t clear_all(Store store, Node* node) except -1:
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef int64_t removed
    node_guard_closed(store)
    lock_acquire(&core.lock)
    removed = clear_locked(store, node, now)
    lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return removed


cdef int64_t invalidate_tag(Store store, Node* node, object tag) except -1:
    if not isinstance(tag, str):
        raise TypeError(f"tag: must be a str, got {type(tag).__name__}")
    return invalidate(store, node, tags_checked(tag), False)


cdef int64_t invalidate_tags(Store store, Node* node, object tags, object match) except -1:
    if match not in ("any", "all"):
        raise ValueError(f'match: must be "any" or "all", got {shown(match)}')
    return invalidate(store, node, tags_checked(tags, False), match == "all")


cdef int64_t invalidate_prefix(Store store, Node* node, object prefix) except -1:
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef int64_t removed = 0
    cdef uint32_t i, newer, far
    cdef Entry* e
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: must be a str, got {type(prefix).__name__}")
    prefix = str.__str__(prefix)
    node_guard(store, node)
    lock_acquire(&core.lock)
    try:
        if node_has_loads(node):
            fence_prefix_locked(node, prefix)
        # All of them are examined, and a pass over the heap costs less.
        compaction_begin_locked(core, node, node.own)
        i = node.order.oldest
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
        compaction_end_locked(core, node)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return removed


cdef object store_close(Store store):
    """Refuse all further use, fence the running loads, and drop every entry."""
    cdef Core* core = &store.core
    cdef Slab taken
    lock_acquire(&core.lock)
    if core_is_closed(core):
        lock_release(&core.lock)
        return
    relaxed_store_flag(&core.closed, True)
    if core_hears(core, REMOVE):
        clear_locked(store, core.root, -INFINITY)
    else:
        fence_below_locked(core.root)
    lock_release(&core.lock)
    try:
        store_drain(store)
    finally:
        # No later call will release the rest in slices.
        lock_acquire(&core.lock)
        store_take_all_locked(core, &taken)
        lock_release(&core.lock)
        slab_drop(&taken)
