# Making room: evictions for one more entry, or for a lower limit.


cdef int node_check_weight(Node* node, int64_t weight) except -1:
    """Refuse an entry heavier than the namespace, or one above it, may hold in all."""
    cdef Node* ancestor = node
    cdef int64_t most
    while ancestor != NULL:
        most = relaxed_load_i64(&ancestor.max_weight)     # set_many asks without the lock
        if most >= 0 and weight > most:
            raise EntryTooHeavyError(
                f"value: weighs {weight}, namespace {node_label(ancestor)} holds at most {most} "
                "in all")
        ancestor = ancestor.parent
    return 0


cdef bint node_make_room_locked(Core* core, Node* top, Node* storing, Ranking by, int64_t extra,
                                uint32_t spared, double now) noexcept:
    """Remove one entry at or below `top`: one that is due, else a victim. False: there is none."""
    cdef Node* victim
    cdef uint32_t steps = SETTLE, i
    if node_settle_one_locked(core, top, now, True, &steps):
        return True
    victim = victim_locked(core, top, storing, by, extra, spared)
    if victim == NULL:
        return False
    i = order_victim_locked(core, victim, spared if victim == storing else 0)
    if unlikely(top.ledger != NULL) and by == BY_ENTRIES:
        ledger_evict_locked(core, top, victim, entry_at(&core.slab, i), now)
    entry_unlink_locked(core, i, EVICTED)
    storing.counters.evictions_caused += 1
    return True


cdef bint node_admit_locked(Core* core, Node* node, int64_t entries, int64_t weight,
                            uint32_t spared, double now) noexcept:
    """Make room for that much more in the namespace and in all above it, nearest first."""
    cdef Node* top = node
    while top != NULL:
        if top.max_entries >= 0:
            while entries and top.entries + entries > top.max_entries:
                if not node_make_room_locked(core, top, node, BY_ENTRIES, 1, spared, now):
                    return False
        if top.max_weight >= 0:
            while weight > 0 and top.weight + weight > top.max_weight:
                if not node_make_room_locked(core, top, node, BY_WEIGHT, weight, spared, now):
                    return False
        top = top.parent
    return True


cdef inline Node* node_full_locked(Node* node) noexcept nogil:
    """The nearest of the namespace and those above it that holds all that it may; NULL: none."""
    while node != NULL and (node.max_entries < 0 or node.entries < node.max_entries):
        node = node.parent
    return node


cdef inline bint node_is_within_limits_locked(Node* node) noexcept nogil:
    """Whether neither the namespace nor one above it holds too much; NULL is the root's parent."""
    while node != NULL:
        if node.max_entries >= 0 and node.entries > node.max_entries:
            return False
        node = node.parent
    return True


cdef inline bint node_gives_way_itself_locked(Core* core, Node* node, double now) noexcept:
    """Whether the victim for one more entry here is an entry here, and no entry is due.

    Answers by bounds alone, which suffice for most stores: False may also mean "cannot tell".
    """
    cdef Node* top = node
    cdef Node* ancestor
    cdef double ratio
    if node.child != NULL or node.own == 0:
        return False
    while top.max_entries < 0 or top.entries < top.max_entries:
        ancestor = top.parent
        if ancestor == NULL:
            return False                          # there is room
        # As in node_victim_locked: a tie goes to the one that stores. Keys are upper bounds of the
        # ratios.
        ratio = node_ratio_locked(top, BY_ENTRIES, 1)
        if ancestor.own > ratio or (ancestor.by_entries.n and -ancestor.by_entries.keys[0] > ratio):
            return False
        top = ancestor
    return (top.ledger == NULL and node_bound_locked(top) > now
            and node_is_within_limits_locked(top))


cdef uint32_t store_reuse_tinylfu_locked(Core* core, Node* node, uint32_t hash,
                                         PyObject** dropped) noexcept:
    """The part of store_reuse_locked for TinyLFU."""
    cdef uint32_t i
    cdef Entry* e
    if node.sketch != NULL:
        sketch_ask(node.sketch, hash)             # for order_enter_locked, after the contest
    i = tinylfu_victim_locked(core, node, 0)
    e = entry_at(&core.slab, i)
    if e.links != NONE or entry_counts_as_stale(e):
        entry_unlink_locked(core, i, EVICTED)     # a choice is made once
        node.counters.evictions_caused += 1
        return NONE
    table_remove(&core.table, e.hash, i)
    dropped[0] = e.value
    dropped[1] = e.key
    order_remove_locked(core, node, e, i)
    e.hash = hash
    order_enter_locked(core, node, e, i)
    node.counters.evictions += 1
    node.counters.evictions_caused += 1
    return i


cdef inline void entry_reuse_locked(Core* core, Node* node, Entry* e, uint32_t i,
                                    PyObject** dropped) noexcept:
    """Evict entry i, which has no tags, and make its slot the newest of the order."""
    table_remove(&core.table, e.hash, i)
    if unlikely(core.ghosts != NULL):
        ghost_leave_locked(core, node, e)
    dropped[0] = e.value
    dropped[1] = e.key
    lru_touch(&core.slab, &node.order, e, i)
    e.mark = 0
    node.counters.evictions += 1
    node.counters.evictions_caused += 1


cdef uint32_t store_reuse_lent_locked(Core* core, Node* node, Node* top, double now,
                                      PyObject** dropped) noexcept:
    """The part of store_reuse_locked where the tenants below `top`, which is full, lend room."""
    cdef Node* victim
    cdef uint32_t i
    cdef Entry* e
    if node_bound_locked(top) <= now or not node_is_within_limits_locked(top.parent):
        return NONE
    victim = victim_locked(core, top, node, BY_ENTRIES, 1, 0)
    if victim == NULL:
        return NONE
    i = victim.order.oldest
    e = entry_at(&core.slab, i)
    ledger_evict_locked(core, top, victim, e, now)
    if victim != node or e.links != NONE or entry_counts_as_stale(e):
        entry_unlink_locked(core, i, EVICTED)     # a choice is made once
        node.counters.evictions_caused += 1
        return NONE
    entry_reuse_locked(core, node, e, i, dropped)
    if node != top:
        account_raise_locked(core, top, node_towards_locked(node, top).account)
    return i


cdef inline uint32_t store_reuse_locked(Core* core, Node* node, uint32_t hash, double now,
                                        PyObject** dropped) noexcept:
    """Evict an entry of the namespace and return its slot for the entry that follows it, of that
    hash. NONE: nothing was done but, perhaps, an eviction that made room. The caller owns what
    `dropped` receives.

    No count changes but those of evictions. The slot keeps its place in every structure but the
    table and the order, where it becomes the newest. Its key in the heap is an earlier deadline.
    """
    cdef uint32_t i = node.order.oldest
    cdef Entry* e
    cdef Node* top
    if core.slab.weighs or core.mask & (1 << REMOVE):
        return NONE
    if unlikely(core.tenant_depth > 0):
        top = node_full_locked(node)
        if top != NULL and top.ledger != NULL:
            return store_reuse_lent_locked(core, node, top, now, dropped)
    if not node_gives_way_itself_locked(core, node, now):
        return NONE
    if unlikely(node.is_tinylfu):
        return store_reuse_tinylfu_locked(core, node, hash, dropped)
    e = entry_at(&core.slab, i)
    if e.links != NONE or entry_counts_as_stale(e):
        return NONE
    if e.newer != NONE:
        prefetch(entry_at(&core.slab, e.newer))
    entry_reuse_locked(core, node, e, i, dropped)
    return i


cdef int node_shrink_locked(Store store, Node* node, double now) except -1:
    """Evict down to the limits in force: due entries first, then victims."""
    cdef Core* core = &store.core
    cdef bint due = True
    cdef Node* victim
    cdef Ranking by
    cdef uint32_t steps, i
    while True:
        if node.max_entries >= 0 and node.entries > node.max_entries:
            by = BY_ENTRIES
        elif node.max_weight >= 0 and node.weight > node.max_weight:
            by = BY_WEIGHT
        else:
            compaction_end_locked(core, node)
            return 0
        if due:
            steps = SETTLE
            if node_settle_one_locked(core, node, now, True, &steps) or steps == 0:
                continue
            # Nothing is due any more, nor will be in this call.
            due = False
            if node.child == NULL and by == BY_ENTRIES:
                compaction_begin_locked(core, node, node.entries - node.max_entries)
        victim = victim_locked(core, node, NULL, by, 0, 0)
        if victim == NULL:
            # All is reserved: a limit on weight does not spare what is reserved in entries.
            victim = node_heaviest_locked(node)
        i = order_victim_locked(core, victim, 0)
        if node.ledger != NULL and by == BY_ENTRIES:
            ledger_evict_locked(core, node, victim, entry_at(&core.slab, i), now)
        entry_unlink_locked(core, i, OVER_LIMIT)


cdef object configure(Store store, Node* node, dict settings, bint from_above):
    """Change the named settings, and evict down to them.

    `from_above`: not by the namespace's own view, which sets no more than it was given.
    """
    cdef Core* core = &store.core
    cdef double now
    cdef Settings read
    checked = settings_checked(settings)
    settings_check_weigher(store, checked)
    settings_check_sharing(store, checked)
    now = store_now(store)
    lock_acquire(&core.lock)
    try:
        if core_is_closed(core):
            raise closed_error()
        settings_read_locked(&read, node, checked)
        if not from_above and node.parent != NULL:
            node_check_given_locked(node, &read)
        node_check_reservations_locked(node.parent, node, &read)
        node_apply_locked(store, node, &read)
        if from_above:
            node_give_locked(node, &read, checked)
        node.configured = node.configured or len(checked) > 0
        node_shrink_locked(store, node, now)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
