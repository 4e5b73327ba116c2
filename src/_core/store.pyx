# Store: one cache's entries. Storing, expiring, evicting, dropping; what the collector is shown.

cdef extern from *:
    """
    static inline int flowcache_str_equal(PyObject *a, PyObject *b) {
        Py_ssize_t length = PyUnicode_GET_LENGTH(a);
        int kind = PyUnicode_KIND(a);
        return length == PyUnicode_GET_LENGTH(b) && kind == PyUnicode_KIND(b)
            && memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * kind) == 0;
    }
    static inline Py_hash_t flowcache_str_hash(PyObject *s) {
    #ifdef Py_GIL_DISABLED
        return _Py_atomic_load_ssize_relaxed(&((PyASCIIObject *)s)->hash);
    #else
        return ((PyASCIIObject *)s)->hash;
    #endif
    }
    static inline int flowcache_is_tracked(PyObject *o) {
        return PyType_IS_GC(Py_TYPE(o));
    }
    """
    # By pointer: a comparison of two exact str runs nobody's code and takes no reference.
    bint str_equal "flowcache_str_equal"(PyObject* a, PyObject* b) nogil
    Py_hash_t str_hash "flowcache_str_hash"(PyObject* s) nogil
    bint may_refer "flowcache_is_tracked"(PyObject* o) nogil
    bint is_str "PyUnicode_CheckExact"(PyObject* o) nogil
    int compare_keys "PyObject_RichCompareBool"(PyObject* a, PyObject* b, int op) noexcept
    int compare_or_raise "PyObject_RichCompareBool"(PyObject* a, PyObject* b, int op) except -1
    const uint32_t FAULT "(UINT32_MAX - 1)"


cdef inline uint32_t hash_mix(Space* space, Py_hash_t hashed) noexcept nogil:
    """A key's hash as the table has it: never 0, and different in each namespace."""
    cdef uint32_t mixed = <uint32_t>(
        ((<uint64_t>hashed ^ space.salt) * <uint64_t>0x9E3779B97F4A7C15) >> 32)
    return mixed if mixed else 1


cdef inline uint32_t key_hash(Space* space, object key) except 0:
    """Hash and mix. May run the key's __hash__."""
    cdef Py_hash_t hashed = -1
    if is_str(<PyObject*>key):
        hashed = str_hash(<PyObject*>key)
    if hashed == -1:
        hashed = hash(key)
    return hash_mix(space, hashed)


cdef inline void table_ask(Table* table, uint32_t hash) noexcept nogil:
    """Ask for the bucket of a hash. Reading the clock while it comes costs next to nothing; read
    when the entry has been found, it holds up what the entry leads to, by a quarter of a hit."""
    cdef Part* part = table_part(table, hash)
    prefetch(&part.buckets[part_home(part, hash)])


cdef inline uint32_t store_search(Core* core, Space* space, PyObject* key,
                                  uint32_t hash) noexcept nogil:
    """The entry of key, NONE, or FAULT where only the keys' __eq__ can tell."""
    cdef Part* part = table_part(&core.table, hash)
    cdef uint32_t b = part_home(part, hash), tried = 0, i
    cdef unsigned int same
    cdef Bucket* bucket
    cdef Entry* e
    while True:
        bucket = &part.buckets[b]
        same = hash_match(bucket.hash, hash)
        while same:
            i = bucket.entry[first_slot(same)]
            e = entry_at(&core.slab, i)
            if e.space == space.id:
                if e.key == key:
                    return i
                if not is_str(key) or not is_str(e.key):
                    return FAULT
                if str_equal(e.key, key):
                    return i
            same &= same - 1
        if bucket.overflow == 0:
            return NONE
        tried += 1
        if tried == part_most(part):
            return NONE
        b = part_next(part, hash, tried)


cdef inline uint32_t store_find_locked(Core* core, Space* space, object key,
                                       uint32_t hash) except? FAULT:
    """The entry of key, or NONE. Runs a user's __eq__ only where two keys are not both str."""
    cdef uint32_t i = store_search(core, space, <PyObject*>key, hash)
    return i if i != FAULT else store_find_by_eq_locked(core, space, key, hash)


cdef uint32_t store_find_by_eq_locked(Core* core, Space* space, object key,
                                      uint32_t hash) except? FAULT:
    """The same for any key. Lets the lock go while __eq__ runs, and starts again if the part of
    the table that it was in has changed meanwhile."""
    cdef Part* part = table_first(&core.table, hash)
    cdef uint32_t b, tried, slot, i, changes
    cdef PyObject* candidate
    cdef Entry* e
    cdef int same = 0
    for _ in range(1000):
        b = part_home(part, hash)
        tried = 0
        changes = part.changes
        while changes == part.changes:
            for slot in range(SLOTS):
                if part.buckets[b].hash[slot] != hash:
                    continue
                i = part.buckets[b].entry[slot]
                e = entry_at(&core.slab, i)
                if e.space != space.id:
                    continue
                candidate = e.key
                if candidate == <PyObject*>key:
                    return i
                Py_INCREF(<object>candidate)      # the comparison may remove the entry
                lock_release(&core.lock)
                same = compare_keys(candidate, <PyObject*>key, Py_EQ)
                Py_DECREF(<object>candidate)
                lock_acquire(&core.lock)
                part = table_first(&core.table, hash)         # the table may have been split
                if same < 0:
                    return FAULT
                # A large namespace is cleared by giving it another id: see removal.
                if changes != part.changes or e.space != space.id:
                    break
                if same:
                    return i
            else:
                if part.buckets[b].overflow == 0:
                    return NONE
                tried += 1
                if tried == part_most(part):
                    return NONE
                b = part_next(part, hash, tried)
    raise RuntimeError("key: its __eq__ changes the cache each time it is asked")


# ------------------------------------------------------------------------------- tags by name

cdef int dict_prepare(Core* core, PyObject** place) except -1:
    """Put a dictionary, which `place` owns, where there is none. May run the collector."""
    if peek_ptr(place) == NULL:
        made = {}
        lock_acquire(&core.lock)
        if place[0] == NULL:                      # somebody may have been faster
            Py_INCREF(made)
            poke_ptr(place, <PyObject*>made)
        lock_release(&core.lock)
    return 0


cdef bint tags_are_prepared(Space* space) noexcept:
    while space != NULL:
        if space.tags == NULL:
            return False
        space = space.parent
    return True


cdef int tags_prepare(Core* core, Space* space) except -1:
    """Give the namespace and those above a dictionary of tags. May run the collector."""
    while space != NULL:
        dict_prepare(core, &space.tags)
        space = space.parent
    return 0


cdef uint32_t tag_find(Space* space, str name) noexcept:
    if space.tags == NULL:
        return NONE
    cdef PyObject* found = PyDict_GetItemWithError(<object>space.tags, name)
    if found == NULL:
        return NONE
    return <uint32_t>PyLong_AsUnsignedLong(<object>found)


cdef uint32_t tag_intern_locked(Core* core, Space* space, str name) noexcept:
    """The record of the tag, made if need be, and above it too; FAULT, and nothing changed, when
    memory is out. Runs no user code: nothing is raised, for a traceback could run the collector."""
    cdef uint32_t found = tag_find(space, name), parent = NONE
    if found != NONE:
        return found
    if space.parent != NULL:
        parent = tag_intern_locked(core, space.parent, name)
        if parent == FAULT:
            return FAULT
    if tag_reserve(&core.tags) < 0:
        tag_release_locked(core, parent)
        return FAULT
    if dict_put_number(space.tags, name, tag_next(&core.tags)) < 0:
        PyErr_Clear()
        tag_release_locked(core, parent)
        return FAULT
    Py_INCREF(name)                               # Tag.name owns it
    return tag_take(&core.tags, <PyObject*>name, space, parent)


cdef void tag_release_locked(Core* core, uint32_t t) noexcept:
    """Free the record, and those above it, if nothing bears the tag any more."""
    cdef Tag* tag
    cdef PyObject* name
    cdef uint32_t parent
    while t != NONE:
        tag = &core.tags.records[t]
        if tag.total or tag.child != NONE:
            return
        name = tag.name
        parent = tag.parent
        PyDict_DelItem(<object>tag.space.tags, <object>name)
        tag_give(&core.tags, t)
        Py_DECREF(<object>name)
        t = parent


cdef inline void entry_drop_tags_locked(Core* core, Entry* e) noexcept:
    cdef uint32_t t
    while e.links != NONE:
        t = link_remove_first(&core.tags, e)
        if core.tags.records[t].total == 0:
            tag_release_locked(core, t)


# ------------------------------------------------------------------------------- removal

cdef enum:
    AT_ONCE = 1024                # entries that one call puts in limbo
    A_FEW = 4                     # entries of debris that a store reclaims


cdef void entry_unlink_locked(Core* core, uint32_t i, Cause cause) noexcept:
    """Take entry i out of every structure, count it, and leave it in limbo with its references.

    What one call removes beyond `at_once` entries becomes debris: out of reach and out of every
    count at once, while its slot of the table and its references, which are most of the work, go
    later and a few at a time. Not so while somebody listens, who is told before the call ends.
    """
    cdef Entry* e = entry_at(&core.slab, i)
    cdef Space* space = core.spaces[e.space]
    lru_remove(&core.slab, &space.order, e)
    if e.seat != NONE:
        if space.sieving:
            e.seat = NONE
        else:
            heap_remove(core, ENTRIES, &space.deadlines, e.seat)
    entry_drop_tags_locked(core, e)
    if entry_counts_as_stale(e):
        space.own_stale -= 1
    space_add(core, space, -1, -entry_weight(&core.slab, i))
    if cause == EXPIRED:
        space.counters.expirations += 1
    elif cause == EVICTED or cause == OVER_LIMIT:
        space.counters.evictions += 1
    elif cause != REPLACED:
        space.counters.invalidations += 1
    if core.limbo_count < core.at_once or core_hears(core, REMOVE):
        limbo_push_locked(core, i, cause)
    else:
        debris_push_locked(core, i)
    idle_consider(core, space)


cdef inline void limbo_push_locked(Core* core, uint32_t i, Cause cause) noexcept:
    """Take entry i, which only the table still knows, out of it."""
    cdef Entry* e = entry_at(&core.slab, i)
    table_remove(&core.table, e.hash, i)
    e.links = cause
    e.newer = NONE
    if core.limbo_last == NONE:
        poke_u32(&core.limbo_first, i)
    else:
        entry_at(&core.slab, core.limbo_last).newer = i
    core.limbo_last = i
    core.limbo_count += 1


cdef inline void debris_push_locked(Core* core, uint32_t i) noexcept:
    """Leave entry i in the table for now, under the id of no namespace."""
    cdef Entry* e = entry_at(&core.slab, i)
    e.space = NONE
    e.newer = NONE
    if core.debris_last == NONE:
        core.debris_first = i
    else:
        entry_at(&core.slab, core.debris_last).newer = i
    core.debris_last = i
    core.debris_count += 1


cdef inline bint debris_is_left(Core* core) noexcept nogil:
    return core.debris_count or core.debris != NULL or core.slab.surplus or core.tags.links_surplus


cdef void debris_reclaim_locked(Core* core, uint32_t most) noexcept:
    """Put at most so many entries of debris in limbo, oldest first, and give a page back."""
    cdef uint32_t i, scout
    cdef Space* cut
    cdef Entry* e
    scout = scout_begin(core, core.debris_first) if most > 1 else NONE
    while most > 0 and core.debris_count:
        scout = scout_move(core, scout)
        i = core.debris_first
        core.debris_first = entry_at(&core.slab, i).newer
        if core.debris_first == NONE:
            core.debris_last = NONE
        core.debris_count -= 1
        limbo_push_locked(core, i, CLEARED)
        most -= 1
    scout = NONE
    if most > 1 and core.debris != NULL:
        scout = scout_begin(core, core.debris.order.oldest)
    while most > 0 and core.debris != NULL:
        cut = core.debris
        i = cut.order.oldest
        if i != NONE:
            scout = scout_move(core, scout)
            e = entry_at(&core.slab, i)
            cut.order.oldest = e.newer
            if e.newer != NONE:
                entry_at(&core.slab, e.newer).older = NONE
            else:
                cut.order.newest = NONE
            entry_drop_tags_locked(core, e)
            if entry_counts_as_stale(e):
                cut.own_stale -= 1
            space_add(core, cut, -1, -entry_weight(&core.slab, i))
            # Its id may be another namespace's before the limbo is drained.
            e.space = NONE
            limbo_push_locked(core, i, CLEARED)
            most -= 1
        else:
            core.debris = cut.next
            space_give_id(core, cut.id)
            space_free(cut)
    if core.slab.surplus:
        slab_give_page(&core.slab)
    if core.tags.links_surplus:
        links_give_page(&core.tags)


cdef inline void entry_prefetch(Core* core, uint32_t i) noexcept nogil:
    """Ask for what the removal of entry i will touch: the table's bucket and its neighbours."""
    cdef Entry* e = entry_at(&core.slab, i)
    cdef Part* part
    cdef Heap* heap
    if core.limbo_count < core.at_once:
        part = table_part(&core.table, e.hash)
        prefetch(&part.buckets[part_home(part, e.hash)])
    if e.space != NONE and e.seat != NONE and not core.spaces[e.space].sieving:
        heap = &core.spaces[e.space].deadlines
        prefetch(&heap.keys[e.seat])
        prefetch(&heap.ids[e.seat])
    if e.newer != NONE:
        prefetch(entry_at(&core.slab, e.newer))
    if e.older != NONE:
        prefetch(entry_at(&core.slab, e.older))


cdef inline uint32_t scout_move(Core* core, uint32_t scout) noexcept nogil:
    """Let a scout, who runs ahead of whoever walks an order or the debris, ask for one more."""
    if scout == NONE:
        return NONE
    entry_prefetch(core, scout)
    return entry_at(&core.slab, scout).newer


cdef inline uint32_t scout_begin(Core* core, uint32_t first) noexcept nogil:
    """Send a scout ahead of the first of a walk."""
    cdef uint32_t _
    for _ in range(AHEAD):
        first = scout_move(core, first)
    return first


cdef int store_drain(Store store) except -1:
    """Drop what is in limbo, one entry at a time, oldest first; tell listeners. Lock not held.

    Runs user code (listeners, __del__), which may put more there or drain it itself. What a
    listener raises that is no Exception comes out at the end, when nothing is left in limbo.
    """
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef Entry* e
    cdef Cause cause
    cdef Space* space
    cdef uint32_t where, scout, ahead
    cdef Py_ssize_t drained = 0
    error = None
    while core_has_limbo(core):
        lock_acquire(&core.lock)
        i = core.limbo_first
        if i == NONE:
            lock_release(&core.lock)
            break
        e = entry_at(&core.slab, i)
        poke_u32(&core.limbo_first, e.newer)
        if core.limbo_first == NONE:
            core.limbo_last = NONE
        # What is dropped has mostly left the processor's caches long ago.
        scout = core.limbo_first
        for ahead in range(4):
            if scout == NONE:
                break
            if ahead == 3:
                prefetch(entry_at(&core.slab, scout).key)
                prefetch(entry_at(&core.slab, scout).value)
            scout = entry_at(&core.slab, scout).newer
        key = <object>e.key
        value = <object>e.value
        Py_DECREF(key)                            # the entry's own; the locals hold theirs
        Py_DECREF(value)
        cause = <Cause>e.links
        where = e.space
        slab_give(&core.slab, i)
        if core.table.count == 0 and core.limbo_first == NONE and core.slab.n_pages > 1:
            slab_trim(&core.slab)
            links_trim(&core.tags)                # records may be pinned by a call under way
        core.limbo_count -= 1
        drained += 1
        space = NULL
        if core_hears(core, REMOVE) and where != NONE:
            space = core.spaces[where]
            if space.parent == NULL and space != core.root:
                space = NULL                      # cut off since then, when nobody listened
            else:
                space_hold(core, space)           # not to be forgotten before it is told
        lock_release(&core.lock)
        if space != NULL:
            try:
                emit(store, space, REMOVE, key, CAUSES[<int>cause], value)
            except BaseException as failure:
                error = failure if error is None else error
            lock_acquire(&core.lock)
            space_let_go(core, space)
            lock_release(&core.lock)
        key = None
        value = None
    if peek_u32(&core.idle_count) > core.max_idle:
        store_trim_idle(store, drained + 4)
    if error is not None:
        raise error
    return 0


# ------------------------------------------------------------------------------- expiry

cdef enum:
    SETTLE = 1024                 # looks at a heap that one call takes to find what is due
    SETTLE_A_FEW = 8              # the same for a store that has room


cdef bint space_settle_one_locked(Core* core, Space* space, double now, bint below,
                                  uint32_t* steps) noexcept:
    """Expire one due entry of the namespace, or (`below`) under it; False if none is due.

    An entry comes up at its deadline. One that is kept longer is counted as stale from then on and
    comes up once more when that time is over. Each look takes one of the `steps`, so that a
    million of them that came due at once hold nobody up: without steps the answer is False.
    """
    cdef Heap* heap = &space.deadlines
    cdef Entry* e
    cdef uint32_t i
    cdef double key
    while heap.n and heap.keys[0] <= now and steps[0]:
        steps[0] -= 1
        i = heap.ids[0]
        e = entry_at(&core.slab, i)
        if e.deadline > now:
            key = e.deadline
        elif entry_last(e) <= now:
            entry_unlink_locked(core, i, EXPIRED)
            return True
        else:
            if not entry_counts_as_stale(e):
                e.keep = -e.keep
                space.own_stale += 1
            key = entry_last(e)
        if isinf(key):
            heap_remove(core, ENTRIES, heap, 0)
        else:
            heap_rekey(core, ENTRIES, heap, 0, key)
    if not below:
        return False
    heap = &space.due
    while heap.n and heap.keys[0] <= now and steps[0]:
        steps[0] -= 1
        i = heap.ids[0]
        if space_settle_one_locked(core, core.spaces[i], now, True, steps):
            return True
        key = space_bound(core.spaces[i])
        if isinf(key):
            heap_remove(core, BY_DUE, heap, 0)
        else:
            heap_rekey(core, BY_DUE, heap, 0, key)
    return False


cdef int64_t heap_due(Core* core, Heap* heap, uint32_t seat, double now, bint gone) noexcept nogil:
    """Count who at the seat, or below it, is past its TTL and not counted as stale, or (`gone`)
    past all use. Changes nothing; costs O(what is due), by the law of the heaps."""
    cdef Entry* e
    cdef uint32_t child, last
    cdef int64_t due
    if seat >= heap.n or heap.keys[seat] > now:
        return 0
    e = entry_at(&core.slab, heap.ids[seat])
    if gone:
        due = entry_last(e) <= now
    else:
        due = e.deadline <= now and not entry_counts_as_stale(e)
    child = seat * ARITY + 1
    last = child + ARITY if child + ARITY < heap.n else heap.n
    while child < last:
        if heap.keys[child] <= now:
            due += heap_due(core, heap, child, now, gone)
        child += 1
    return due


cdef inline void entry_schedule_locked(Core* core, Space* space, uint32_t i) noexcept:
    """Seat entry i by its deadline. There is room. A later deadline than its seat's can wait."""
    cdef Entry* e = entry_at(&core.slab, i)
    if e.seat != NONE:
        if e.deadline < space.deadlines.keys[e.seat]:
            heap_rekey(core, ENTRIES, &space.deadlines, e.seat, e.deadline)
    elif not isinf(e.deadline):
        space.expires = True
        heap_push(core, ENTRIES, &space.deadlines, e.deadline, i)
    else:
        return
    if e.seat == 0:
        space_due_by(core, space, space.deadlines.keys[0])


# ------------------------------------------------------------------------------- storing

cdef struct Terms:
    double ttl            # seconds; INFINITY: never
    double keep           # seconds past the deadline
    bint serves           # keep was asked for by `stale=`
    bint only_absent      # store only where nothing fresh is
    bint found            # answer: something fresh was, so that nothing was stored
    int64_t weight


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


cdef inline int entry_fill_locked(Core* core, Space* space, uint32_t i, PyObject* value,
                                  Terms* terms, double now, double bound) noexcept:
    """Give entry i its value, deadline and seat. `bound` is no less than what the seat holds."""
    cdef Entry* e = entry_at(&core.slab, i)
    Py_INCREF(<object>value)                      # Entry.value owns it
    e.value = value
    entry_set_tracked(&core.slab, i, may_refer(e.key) or may_refer(value))
    e.deadline = now + terms.ttl
    e.ttl = -<float>terms.ttl if terms.serves else <float>terms.ttl
    e.keep = <float>terms.keep
    if e.seat == NONE or e.deadline < bound:
        entry_schedule_locked(core, space, i)
    return 0


cdef inline bint entry_bears_all(Core* core, Entry* e, PyObject** names, Py_ssize_t n) noexcept:
    """Whether the entry bears just these tags, given in the order in which it came by them."""
    cdef uint32_t at = e.links
    cdef Link* link
    cdef PyObject* name
    while n > 0 and at != NONE:
        n -= 1
        link = link_at(&core.tags, at)
        name = core.tags.records[link.tag].name
        if names[n] != name and not (is_str(names[n]) and str_equal(names[n], name)):
            return False
        at = link.next
    return n == 0 and at == NONE


cdef bint store_put_plain(Store store, Space* space, PyObject* key, PyObject* value, double ttl,
                          PyObject** names, Py_ssize_t n_tags, PyObject** dropped) noexcept:
    """Store where that takes nothing but the place of a value that bore the same tags, or of the
    oldest entry, which had none, as most stores into a cache that is full do. False: nothing is
    done, and `put` has to look closer.

    Runs no user code: a key is an exact str whose hash is known, and tags that are none can be no
    entry's. `dropped` as in store_put_locked.
    """
    cdef Core* core = &store.core
    cdef uint32_t hash, i
    cdef Entry* e
    cdef Terms terms
    cdef double now, bound
    cdef bint done = False
    # The weigher, and not whether the slab weighs: that is written again when the cache is closed.
    if (not is_str(key) or str_hash(key) == -1 or store.clock is not None
            or store.weigher is not None or not ttl > 0
            or (core.require_namespace and space.parent == NULL)):
        return False
    hash = hash_mix(space, str_hash(key))
    lock_acquire(&core.lock)
    if core.mask or space.own_pending or core.closed:
        lock_release(&core.lock)
        return False
    table_ask(&core.table, hash)
    now = clock_read()
    i = store_search(core, space, key, hash)
    if (i != FAULT and not debris_is_left(core) and space_bound(core.root) > now
            and heap_reserve(&space.deadlines, space.deadlines.n + 1) == 0):
        if i != NONE:
            e = entry_at(&core.slab, i)
            if (e.deadline > now and not entry_counts_as_stale(e)
                    and entry_bears_all(core, e, names, n_tags)):
                lru_touch(&core.slab, &space.order, e, i)
                dropped[0] = e.value
                done = True
        elif n_tags == 0 and table_reserve(&core.table, hash) == 0:
            i = store_reuse_locked(core, space, now, dropped)
            if i != NONE:
                e = entry_at(&core.slab, i)
                Py_INCREF(<object>key)            # Entry.key owns it
                e.key = key
                e.hash = hash
                table_put(&core.table, hash, i)
                done = True
        if done:
            terms.ttl = ttl
            terms.keep = 0
            terms.serves = False
            bound = e.deadline
            entry_fill_locked(core, space, i, value, &terms, now, bound)
            space.counters.sets += 1
    lock_release(&core.lock)
    return done


cdef int store_put_locked(Store store, Space* space, object key, uint32_t hash, object value,
                          Terms* terms, tuple tags, double now, Load load,
                          PyObject** dropped) except -1:
    """Store; 1 if done, 0 if not (only_absent, ttl=0, no room but its own, or a load in vain).

    Runs user code only in the look-up, before the first change. `dropped` has room for a value that
    was replaced, and for a key, whose references the caller then owns.
    """
    cdef Core* core = &store.core
    cdef uint32_t i, j
    cdef uint32_t[16] few
    cdef uint32_t* pins = few
    cdef uint32_t n_tags = 0
    cdef Entry* e = NULL
    cdef int64_t before = 0
    cdef double bound = INFINITY                  # no less than what the seat holds
    cdef bint room, over = False
    cdef uint32_t steps = SETTLE_A_FEW
    while True:
        i = store_find_locked(core, space, key, hash)
        if tags is None or tags_are_prepared(space):
            break
        # The first tags here, or the first since clear() took their dictionary away.
        lock_release(&core.lock)
        try:
            tags_prepare(core, space)
        finally:
            lock_acquire(&core.lock)
    if core_is_closed(core):
        raise closed_error()
    if load is not None and not load_stands(load, tags, now):
        return 0
    if i != NONE:
        e = entry_at(&core.slab, i)
        over = entry_last(e) <= now
        if e.deadline > now and terms.only_absent:
            terms.found = True
            return 0
    if terms.ttl <= 0:
        if i != NONE and not terms.only_absent:
            entry_unlink_locked(core, i, EXPIRED if over else REPLACED)
        return 0
    if core.slab.weighs:
        space_check_weight(space, terms.weight)
        if core.root.max_weight < 0 and core.root.weight + terms.weight > <int64_t>1 << 62:
            # No sum of weights overflows.
            raise EntryTooHeavyError(
                f"value: weighs {terms.weight}, and a cache holds at most 2**62 in all")
    # Every allocation comes here. A tag is pinned by a count, so that an eviction below does not
    # take its record away again.
    if tags is not None:
        if len(tags) > 16:
            pins = <uint32_t*>malloc(len(tags) * sizeof(uint32_t))
        if pins == NULL or links_reserve(&core.tags, <uint32_t>len(tags)) < 0:
            if pins != few:
                free(pins)
            raise MemoryError()
        for tag in tags:
            j = tag_intern_locked(core, space, <str>tag)
            if j == FAULT:
                store_unpin_locked(core, pins, n_tags, few)
                raise MemoryError()
            core.tags.records[j].total += 1
            pins[n_tags] = j
            n_tags += 1
    if (((i == NONE or over) and (table_reserve(&core.table, hash) < 0
                                  or slab_reserve(&core.slab, core.root.max_entries) < 0))
            or heap_reserve(&space.deadlines, space.deadlines.n + 1) < 0):
        store_unpin_locked(core, pins, n_tags, few)
        raise MemoryError()

    if over:
        entry_unlink_locked(core, i, EXPIRED)
        i = NONE
    space.counters.sets += 1
    if i == NONE:
        i = store_reuse_locked(core, space, now, dropped)
        if i != NONE:
            e = entry_at(&core.slab, i)
            bound = e.deadline
        else:
            if not space_admit_locked(core, space, 1, terms.weight, 0, now):
                store_unpin_locked(core, pins, n_tags, few)
                space.counters.evictions += 1     # the newcomer itself: all else is reserved
                space.counters.evictions_caused += 1
                return 0
            i = slab_take(&core.slab)
            e = entry_at(&core.slab, i)
            e.space = space.id
            e.seat = NONE
            e.links = NONE
            lru_push(&core.slab, &space.order, i)
            if core.slab.weighs:
                core.slab.weights[i >> PAGE_BITS][i & (PAGE - 1)] = terms.weight
            space_add(core, space, 1, terms.weight)
        Py_INCREF(key)                            # Entry.key owns it
        e.key = <PyObject*>key
        e.hash = hash
        table_put(&core.table, hash, i)
    else:
        lru_touch(&core.slab, &space.order, e, i)
        if core.slab.weighs:
            before = entry_weight(&core.slab, i)
            room = space_admit_locked(core, space, 0, terms.weight - before, 1, now)
            if not room:
                store_unpin_locked(core, pins, n_tags, few)
                entry_unlink_locked(core, i, EVICTED)
                space.counters.evictions_caused += 1
                return 0
            core.slab.weights[i >> PAGE_BITS][i & (PAGE - 1)] = terms.weight
            space_add(core, space, 0, terms.weight - before)
        dropped[0] = e.value
        if entry_counts_as_stale(e):
            space.own_stale -= 1
        else:
            bound = e.deadline
        entry_drop_tags_locked(core, e)
    entry_fill_locked(core, space, i, <PyObject*>value, terms, now, bound)
    if n_tags:
        for j in range(n_tags):
            if not entry_bears(&core.tags, e, pins[j]):
                link_add(&core.tags, e, i, pins[j])
        store_unpin_locked(core, pins, n_tags, few)
    # A few of what is due anywhere, so that expired entries go as the cache is used.
    for _ in range(2):
        if core.root.deadlines.n + core.root.due.n == 0 or space_bound(core.root) > now:
            break
        space_settle_one_locked(core, core.root, now, True, &steps)
    if debris_is_left(core):
        debris_reclaim_locked(core, A_FEW)
    return 1


cdef void store_unpin_locked(Core* core, uint32_t* pins, uint32_t n, uint32_t* few) noexcept:
    cdef uint32_t k
    for k in range(n):
        core.tags.records[pins[k]].total -= 1
        tag_release_locked(core, pins[k])
    if pins != few:
        free(pins)


# ------------------------------------------------------------------------------- Store

@cython.trashcan(True)               # a chain of caches, each a value of the next, passes here
cdef class Store:
    """One cache's memory. Made by a Cache, kept alive by its views."""

    cdef Core core
    cdef readonly object clock        # None: the monotonic clock
    cdef readonly object weigher      # None: nothing is weighed
    cdef readonly str name
    cdef object __weakref__

    def __cinit__(self):
        # Whole and empty from the first moment; the struct comes zeroed.
        slab_init(&self.core.slab, False)
        tags_init(&self.core.tags)
        self.core.limbo_first = NONE
        self.core.limbo_last = NONE
        self.core.debris_first = NONE
        self.core.debris_last = NONE
        self.core.at_once = AT_ONCE
        poke_flag(&self.core.closed, True)
        lock_list(&self.core.lock)

    def __init__(self):
        raise TypeError("a Store is made by a Cache")

    def __dealloc__(self):
        cdef Core* core = &self.core
        cdef uint32_t n
        store_release_entries(self)
        lock_unlist(&core.lock)
        for n in range(core.spaces_used):
            if core.spaces[n] != NULL:
                space_free(core.spaces[n])
        free(core.loads)
        free(core.spaces)
        free(core.free_ids)
        core.root = NULL
        slab_free(&core.slab)
        table_free(&core.table)
        tags_free(&core.tags)


cdef void store_take_all_locked(Core* core, Slab* taken) noexcept:
    """Empty every structure at once. `taken` gets the slab with all entries, limbo and debris
    included, whose references are the caller's to drop. O(namespaces, tags, size of the table)."""
    cdef uint32_t n, t
    cdef Space* space
    taken[0] = core.slab
    slab_init(&core.slab, taken.weighs)
    table_clear(&core.table)
    for t in range(core.tags.used):
        if core.tags.records[t].name != NULL:
            Py_DECREF(<object>core.tags.records[t].name)      # a str: runs nobody's code
    tags_free(&core.tags)
    while core.debris != NULL:
        space = core.debris
        core.debris = space.next
        space_give_id(core, space.id)
        space_free(space)
    for n in range(core.spaces_used):
        space = core.spaces[n]
        if space == NULL:
            continue
        space.counters.invalidations += space.own
        space.order.newest = NONE
        space.order.oldest = NONE
        space.own = 0
        space.own_stale = 0
        space.own_weight = 0
        space.entries = 0
        space.weight = 0
        space.seat[0] = NONE
        space.seat[1] = NONE
        space.seat[2] = NONE
        space.due.n = 0
        space.by_entries.n = 0
        space.by_weight.n = 0
        heap_free(&space.deadlines)
        if space.tags != NULL:
            (<dict>space.tags).clear()                        # of str and int: nobody's code either
    poke_u32(&core.limbo_first, NONE)
    core.limbo_last = NONE
    core.limbo_count = 0
    core.debris_first = NONE
    core.debris_last = NONE
    core.debris_count = 0
    for n in range(core.spaces_used):
        if core.spaces[n] != NULL:
            idle_consider(core, core.spaces[n])


cdef void slab_drop(Slab* slab) noexcept:
    """Drop the references of all entries of a slab that is nobody's any more, a page at a time.

    Runs user code (__del__). The collector does not see what is still in it, which is safe: what
    it holds then looks like held from outside.
    """
    cdef uint32_t begin, k, n
    cdef Entry* e
    while slab.n_pages:
        begin = (slab.n_pages - 1) << PAGE_BITS
        n = slab.used - begin if slab.used > begin else 0
        e = slab.pages[slab.n_pages - 1]
        for k in range(n if n < PAGE else PAGE):
            if k + AHEAD < PAGE:
                prefetch(e[AHEAD].key)
                prefetch(e[AHEAD].value)
            if e.key != NULL:
                Py_DECREF(<object>e.key)                      # the entry's own
                Py_DECREF(<object>e.value)
            e += 1
        slab_drop_page(slab)
    slab_free(slab)


cdef void store_release_entries(Store store) noexcept:
    """Empty the store without events: for the collector, and for the store's end."""
    cdef Core* core = &store.core
    cdef Slab taken
    cdef uint32_t n
    cdef Space* space
    cdef PyObject* listeners
    cdef Load load
    lock_acquire(&core.lock)
    poke_u32(&core.mask, 0)
    store_take_all_locked(core, &taken)
    lock_release(&core.lock)
    slab_drop(&taken)
    for n in range(core.spaces_used):
        space = core.spaces[n]
        if space != NULL:
            while space.running != NULL:
                load = <Load>space.running        # holds it: load_unregister lets go of the list's
                load_unregister(load)
            listeners = space.listeners
            space.listeners = NULL
            Py_XDECREF(listeners)


cdef int store_open(Store store, bint weighs) except -1:
    """Give a new store its root. Call once."""
    cdef Core* core = &store.core
    core.slab.weighs = weighs
    core.max_idle = 10_000
    core.max_pending_age = 30.0
    # Differs by process and by cache, so that nobody can work out keys that collide here.
    core.secret = <uint64_t>hash(("flowcache", <size_t><PyObject*>store))
    core.secret *= <uint64_t>0xD6E8FEB86659FD93
    if table_init(&core.table) < 0:
        raise MemoryError()
    core.root = space_new(core, NULL, None, {})
    core.root.default_ttl = 300.0
    poke_flag(&core.closed, False)
    return 0


cdef Py_ssize_t store_size(Store store) noexcept:
    """Bytes of C memory that the store holds; neither keys and values nor dictionaries."""
    cdef Core* core = &store.core
    cdef Py_ssize_t size
    cdef uint32_t n
    cdef Space* space
    lock_acquire(&core.lock)
    size = core.slab.n_pages * (page_bytes() + (PAGE * sizeof(int64_t) if core.slab.weighs else 0))
    size += core.slab.capacity * (sizeof(void*) + PAGE_WORDS * sizeof(uint64_t))
    size += sizeof(Part) << core.table.bits
    n = 0
    while n < (<uint32_t>1) << core.table.bits:
        size += (core.table.parts[n].n + 1) * sizeof(Bucket)
        n += (<uint32_t>1) << (core.table.bits - core.table.parts[n].bits)
    size += core.tags.links_pages * (sizeof(Link) << LINK_BITS)
    size += core.tags.links_capacity * sizeof(void*) + core.tags.capacity * sizeof(Tag)
    size += core.loads_size * sizeof(void*)
    size += core.spaces_capacity * (sizeof(void*) + sizeof(uint32_t))
    for n in range(core.spaces_used):
        space = core.spaces[n]
        if space != NULL:
            size += sizeof(Space)
            size += (space.deadlines.capacity + space.due.capacity + space.by_entries.capacity
                     + space.by_weight.capacity) * (sizeof(double) + sizeof(uint32_t))
    lock_release(&core.lock)
    return size


cdef inline double store_now(Store store) except? -1.0:
    """The time. May run the user's clock."""
    cdef double seconds
    if store.clock is None:
        return clock_read()
    now = store.clock()
    if not isinstance(now, (int, float)):
        raise TypeError(f"clock: must return seconds as a float, returned {type(now).__name__}")
    seconds = now
    if isnan(seconds) or isinf(seconds):
        raise ValueError(f"clock: must return a finite number of seconds, returned {now!r}")
    return seconds


cdef inline object closed_error():
    return CacheClosedError("the cache is closed")


cdef object space_path(Space* space):
    """The names from the root down, as a tuple."""
    names = []
    while space.parent != NULL:
        names.append(<object>space.name)
        space = space.parent
    names.reverse()
    return tuple(names)


cdef object space_label(Space* space):
    return "/".join(map(repr, space_path(space))) if space.parent != NULL else "(the root)"


# ------------------------------------------------------------------------------- the collector

ctypedef int (*Visit)(PyObject*, void*) noexcept
ctypedef int (*Traverse)(PyObject*, Visit, void*) noexcept
ctypedef int (*Clear)(PyObject*) noexcept

cdef extern from *:
    """
    typedef int (*flowcache_traverse)(PyObject *, visitproc, void *);
    static flowcache_traverse flowcache_own_traverse;
    static inquiry flowcache_own_clear;
    static void flowcache_patch_store(PyTypeObject *type, flowcache_traverse traverse,
                                      inquiry clear) {
        flowcache_own_traverse = type->tp_traverse;
        flowcache_own_clear = type->tp_clear;
        type->tp_traverse = traverse;
        type->tp_clear = clear;
    }
    """
    Traverse own_traverse "flowcache_own_traverse"
    Clear own_clear "flowcache_own_clear"
    void patch_store "flowcache_patch_store"(PyTypeObject* type, void* traverse, void* clear)
    PyTypeObject* type_of "(PyTypeObject *)"(object type)


cdef int store_traverse(PyObject* me, Visit visit, void* arg) noexcept:
    """Show the collector what C memory holds. Takes no lock and touches no reference count.

    Only entries that may refer to something are looked at: a bit an entry says which.
    """
    cdef Core* core = &(<Store>me).core
    cdef uint32_t w, bit, n
    cdef uint64_t word
    cdef Entry* e
    cdef Space* space
    cdef PyObject* running
    cdef int stop = own_traverse(me, visit, arg)
    if stop or core.root == NULL:
        return stop
    for w in range(core.slab.n_pages * PAGE_WORDS):
        word = core.slab.tracked[w]
        bit = 0
        while word:
            if word & 1:
                e = entry_at(&core.slab, (w << 6) + bit)
                if e.key != NULL:
                    stop = visit(e.key, arg)
                    if stop:
                        return stop
                    stop = visit(e.value, arg)
                    if stop:
                        return stop
            word >>= 1
            bit += 1
    for n in range(core.spaces_used):
        space = core.spaces[n]
        if space == NULL:
            continue
        if space.listeners != NULL:
            stop = visit(space.listeners, arg)
            if stop:
                return stop
        running = space.running
        while running != NULL:
            stop = visit(running, arg)
            if stop:
                return stop
            running = (<Load>running).older
    return 0


cdef int store_clear(PyObject* me) noexcept:
    """Let go of everything that could be part of a cycle; the store stays whole, and empty.

    `me` is only borrowed, and is not kept: dropping entries may drop the last other reference.
    """
    store_release_entries(<Store>me)
    return own_clear(me)
