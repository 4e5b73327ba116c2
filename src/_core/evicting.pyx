# Making room: who goes so that one more fits, or when a limit shrinks.


cdef int space_check_weight(Space* space, int64_t weight) except -1:
    """Refuse what is heavier than the namespace, or one above it, may hold in all."""
    cdef Space* above = space
    cdef int64_t most
    while above != NULL:
        most = peek_i64(&above.max_weight)        # set_many asks before it takes the lock
        if most >= 0 and weight > most:
            raise EntryTooHeavyError(
                f"value: weighs {weight}, namespace {space_label(above)} holds at most {most} "
                "in all")
        above = above.parent
    return 0


cdef bint space_make_room_locked(Core* core, Space* top, Space* storing, Seating by, int64_t extra,
                                 uint32_t spared, double now) noexcept:
    """Let one entry at or below `top` go: one that is due, else a victim. False: there is none."""
    cdef Space* victim
    cdef uint32_t steps = SETTLE
    if space_settle_one_locked(core, top, now, True, &steps):
        return True
    victim = space_victim(core, top, storing, by, extra, spared)
    if victim == NULL:
        return False
    entry_unlink_locked(core, victim.order.oldest, EVICTED)
    storing.counters.evictions_caused += 1
    return True


cdef bint space_admit_locked(Core* core, Space* space, int64_t entries, int64_t weight,
                             uint32_t spared, double now) noexcept:
    """Make room for that much more in the namespace and in all above it, nearest first."""
    cdef Space* top = space
    while top != NULL:
        if top.max_entries >= 0:
            while entries and top.entries + entries > top.max_entries:
                if not space_make_room_locked(core, top, space, BY_ENTRIES, 1, spared, now):
                    return False
        if top.max_weight >= 0:
            while weight > 0 and top.weight + weight > top.max_weight:
                if not space_make_room_locked(core, top, space, BY_WEIGHT, weight, spared, now):
                    return False
        top = top.parent
    return True


cdef inline bint space_gives_way_itself(Core* core, Space* space, double now) noexcept:
    """Whether what must go for one more entry here is the oldest entry here, and nothing is due.

    Answers by bounds alone what is true of most stores: False may also mean "cannot tell".
    """
    cdef Space* top = space
    cdef Space* above
    cdef double ratio
    if space.child != NULL or space.own == 0:
        return False
    while top.max_entries < 0 or top.entries < top.max_entries:
        above = top.parent
        if above == NULL:
            return False                          # there is room
        # As in space_victim: a tie goes to the one that stores. Keys bound the ratios from above.
        ratio = space_ratio(top, BY_ENTRIES, 1)
        if above.own > ratio or (above.by_entries.n and -above.by_entries.keys[0] > ratio):
            return False
        top = above
    if space_bound(top) <= now:
        return False
    while top != NULL:
        if top.max_entries >= 0 and top.entries > top.max_entries:
            return False
        top = top.parent
    return True


cdef inline uint32_t store_reuse_locked(Core* core, Space* space, double now,
                                        PyObject** dropped) noexcept:
    """Evict the namespace's oldest entry and return its slot for the entry that takes its place,
    or NONE, with nothing done. The caller owns what `dropped` receives.

    No count changes but those of evictions, and the slot stays where it is in every structure but
    the table, and as the newest in the order: its seat holds a deadline that was to come earlier.
    """
    cdef uint32_t i = space.order.oldest
    cdef Entry* e
    if (core.slab.weighs or core.mask & (1 << REMOVE)
            or not space_gives_way_itself(core, space, now)):
        return NONE
    e = entry_at(&core.slab, i)
    if e.links != NONE or entry_counts_as_stale(e):
        return NONE
    if e.newer != NONE:
        prefetch(entry_at(&core.slab, e.newer))
    table_remove(&core.table, e.hash, i)
    dropped[0] = e.value
    dropped[1] = e.key
    lru_touch(&core.slab, &space.order, e, i)
    space.counters.evictions += 1
    space.counters.evictions_caused += 1
    return i


cdef int space_shrink_locked(Store store, Space* space, double now) except -1:
    """Evict down to the limits in force: what is due first, then by who gives way."""
    cdef Core* core = &store.core
    cdef bint due = True
    cdef Space* victim
    cdef Seating by
    cdef uint32_t steps
    while True:
        if space.max_entries >= 0 and space.entries > space.max_entries:
            by = BY_ENTRIES
        elif space.max_weight >= 0 and space.weight > space.max_weight:
            by = BY_WEIGHT
        else:
            sieve_end(core, space)
            return 0
        if due:
            steps = SETTLE
            if space_settle_one_locked(core, space, now, True, &steps) or steps == 0:
                continue
            # Nothing is due any more, nor will be in this call.
            due = False
            if space.child == NULL and by == BY_ENTRIES:
                sieve_begin(core, space, space.entries - space.max_entries)
        victim = space_victim(core, space, NULL, by, 0, 0)
        if victim == NULL:
            # All is reserved: a limit on weight does not spare what is reserved in entries.
            victim = space_heaviest(space)
        entry_unlink_locked(core, victim.order.oldest, OVER_LIMIT)


cdef object configure(Store store, Space* space, dict settings):
    """Change what is named, evict down to it."""
    cdef Core* core = &store.core
    cdef double now
    cdef Settings read
    checked = settings_checked(settings)
    settings_check_weigher(store, checked)
    now = store_now(store)
    lock_acquire(&core.lock)
    try:
        if core_is_closed(core):
            raise closed_error()
        settings_read(&read, space, checked)
        space_check_reservations(space.parent, space, &read)
        space_apply_locked(store, space, &read)
        space.configured = space.configured or len(checked) > 0
        space_shrink_locked(store, space, now)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
