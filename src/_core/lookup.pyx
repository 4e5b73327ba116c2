# Looking up the entry of a key.

cdef struct Aim:                  # of a call for one key, before it takes the lock
    uint32_t hash
    double now
    uint64_t begun                # Core.loads_begun before the key's running load was looked for


cdef inline Load aim_at(Store store, Node* node, object key, Aim* aim):
    """Take aim at the key; return its running load, or None. All that may run user code."""
    aim.begun = relaxed_load_u64(&store.core.loads_begun)
    node_guard(store, node)
    aim.hash = key_hash(node, key)
    aim.now = store_now(store)
    if not node_has_loads(node):
        return None
    return load_find(&store.core, node, key, aim.hash, NULL)


cdef object look(Store store, Node* node, object key, bint counts):
    """The fresh value, or MISSING; `counts`: as a hit or a miss, and it becomes the newest."""
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef Entry* e
    cdef double now = 0
    if store.clock is not None:
        now = store_sees(store, node)
    lock_acquire(&core.lock)
    try:
        if node.timing and store.clock is None:
            table_ask(&core.table, hash)
            now = clock_read()
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if e.deadline <= now:
                if entry_last(e) <= now and not isinf(now):
                    entry_unlink_locked(core, i, EXPIRED)
                i = NONE
            if i != NONE:
                value = <object>e.value
                if counts:
                    node.counters.hits += 1
                    order_touch_locked(core, node, e, i)
                    if node.timing & SLIDING:
                        entry_renew(&core.slab, i, now)
        if i == NONE:
            node_guard(store, node)
            if counts:
                node.counters.misses += 1
                if unlikely(core.notes_misses):
                    miss_note_locked(core, node, hash, now)
    finally:
        lock_release(&core.lock)
    if i == NONE:
        if core_has_limbo(core):
            store_drain(store)
        if counts and core_hears(core, MISS):
            emit(store, node, MISS, key, None, None)
        return MISSING
    if counts and core_hears(core, HIT):
        emit(store, node, HIT, key, None, value)
    return value


cdef inline object fresh_hit(Store store, Node* node, object key, double ahead):
    """The fresh value, counted as a hit and made the newest, or MISSING, with nothing counted.

    An entry that is due for a load ahead is left to calls that begin one. `ahead`: the part of its
    TTL after which it is; INFINITY: never.
    """
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef Entry* e
    cdef double now = 0
    if store.clock is not None:
        now = store_sees(store, node)
    value = MISSING
    lock_acquire(&core.lock)
    try:
        if node.timing and store.clock is None:
            table_ask(&core.table, hash)
            now = clock_read()
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if e.deadline > now and not entry_is_due(e, now, ahead):
                value = <object>e.value
                node.counters.hits += 1
                order_touch_locked(core, node, e, i)
                if node.timing & SLIDING:
                    entry_renew(&core.slab, i, now)
    finally:
        lock_release(&core.lock)
    if value is MISSING:
        node_guard(store, node)
    elif core_hears(core, HIT):
        emit(store, node, HIT, key, None, value)
    return value


cdef object look_or(Store store, Node* node, object key, object default, bint counts):
    value = look(store, node, key, counts)
    return default if value is MISSING else value


cdef object look_or_raise(Store store, Node* node, object key):
    value = look(store, node, key, True)
    if value is MISSING:
        raise KeyError(key)
    return value


# Many keys: all are hashed, and so checked, before any is looked up. Then they are looked up in
# passes, each under the lock and without a user's code: what a pass finds is held, and handed over
# once the lock is let go. In a large cache the processor would wait for memory at each step of each
# look-up. So a pass goes over its keys ahead of the look-ups, once a step, and asks for what they
# will touch: buckets, entries, then keys, values and neighbours in the order.

cdef enum:
    PASS = 64                     # keys that are looked up before the lock is let go
    FEW_KEYS = 256                # whose hashes are on the stack

cdef extern from *:
    object dict_with_room "__Pyx_PyDict_NewPresized"(Py_ssize_t n)
    int dict_put "PyDict_SetItem"(object made, PyObject* key, PyObject* value) except -1
    tuple PySequence_Tuple(object several)


cdef tuple keys_checked(object keys):
    """The keys of a call, as a tuple: it stays as it is whatever code they run."""
    if type(keys) is tuple:
        return keys
    if type(keys) is list:
        return PySequence_Tuple(keys)
    return tuple(listed_keys(keys))


cdef uint32_t* keys_hash(Node* node, tuple keys, uint32_t* few) except NULL:
    """The mixed hashes of keys, at `few` where there are no more than FEW_KEYS; else to be freed.

    Runs the keys' __hash__.
    """
    cdef Py_ssize_t n, count = len(keys)
    cdef uint32_t* hashes = few
    if count > FEW_KEYS:
        hashes = <uint32_t*>malloc(count * sizeof(uint32_t))
        if hashes == NULL:
            raise MemoryError()
    try:
        for n in range(count):
            hashes[n] = key_hash(node, keys[n])
    except BaseException:
        if hashes != few:
            free(hashes)
        raise
    return hashes


cdef inline uint32_t candidate_locked(Core* core, uint32_t hash) noexcept nogil:
    """The entry that a look-up will most likely meet first, or NONE. Only to be asked for."""
    cdef Part* part = table_part(&core.table, hash)
    cdef Bucket* bucket = &part.buckets[part_home(part, hash)]
    cdef unsigned int same = hash_match(bucket.hash, hash)
    return bucket.entry[first_slot(same)] if same else NONE


cdef void pass_prefetch_locked(Core* core, uint32_t* hashes, Py_ssize_t count) noexcept nogil:
    cdef uint32_t[PASS] entries
    cdef Entry* e
    cdef Py_ssize_t n
    for n in range(count):
        table_ask(&core.table, hashes[n])
    for n in range(count):
        entries[n] = candidate_locked(core, hashes[n])
        if entries[n] != NONE:
            e = entry_at(&core.slab, entries[n])
            prefetch(e)
            prefetch(&e.grace)                    # an entry may lie across two lines
    for n in range(count):
        if entries[n] != NONE:
            e = entry_at(&core.slab, entries[n])
            prefetch(e.key)
            prefetch(e.value)
            if e.newer != NONE:
                prefetch(&entry_at(&core.slab, e.newer).older)
            if e.older != NONE:
                prefetch(&entry_at(&core.slab, e.older).newer)


cdef Py_ssize_t pass_look_locked(Core* core, Node* node, PyObject** keys, uint32_t* hashes,
                                 Py_ssize_t count, double now, bint counts_misses,
                                 PyObject** values) noexcept:
    """Look up keys until one needs its __eq__; how many were looked up.

    Hits are counted and become the newest, and `values` owns what they found; NULL: a miss. With
    `counts_misses` these are counted, too, and what is past all use expires.
    """
    cdef Py_ssize_t n, hits = 0, done = count
    cdef uint32_t i
    cdef Entry* e
    if core.table.count > FITS:
        pass_prefetch_locked(core, hashes, count)
    for n in range(count):
        i = store_search_locked(core, node, keys[n], hashes[n])
        values[n] = NULL
        if i == FAULT:
            done = n
            break
        if i == NONE:
            continue
        e = entry_at(&core.slab, i)
        if e.deadline > now:
            values[n] = e.value
            Py_INCREF(<object>e.value)            # of `values`
            hits += 1
            order_touch_locked(core, node, e, i)
            if node.timing & SLIDING:
                entry_renew(&core.slab, i, now)
        elif counts_misses and entry_last(e) <= now and not isinf(now):
            entry_unlink_locked(core, i, EXPIRED)
    node.counters.hits += hits
    if counts_misses:
        node.counters.misses += done - hits
        if unlikely(core.notes_misses):
            for n in range(done):
                if values[n] == NULL:
                    miss_note_locked(core, node, hashes[n], now)
    return done


cdef Py_ssize_t look_pass(Store store, Node* node, tuple keys, uint32_t* hashes, Py_ssize_t at,
                          dict found, dict missing) except -1:
    """Look up the next keys; how many. What they have goes into `found`.

    `missing` gets the keys that have nothing fresh, which are not counted then; None: they are.
    """
    cdef Core* core = &store.core
    cdef PyObject* values[PASS]
    cdef PyObject** given = tuple_items(<PyObject*>keys, 0) + at
    cdef Py_ssize_t n, done, count = len(keys) - at
    cdef double now = 0
    if store.clock is not None:
        now = store_sees(store, node)
    if count > PASS:
        count = PASS
    lock_acquire(&core.lock)
    if core_is_closed(core):
        lock_release(&core.lock)
        raise closed_error()
    if store.clock is None:
        now = clock_read()
    done = pass_look_locked(core, node, given, hashes + at, count, now, missing is None, values)
    lock_release(&core.lock)
    try:
        for n in range(done):
            if values[n] != NULL:
                dict_put(found, given[n], values[n])
            elif missing is not None:
                dict_put(missing, given[n], <PyObject*>None)
    finally:
        for n in range(done):
            Py_XDECREF(values[n])
        if core_has_limbo(core):
            store_drain(store)
    if done < count:
        key = <object>given[done]
        if missing is None:
            value = look(store, node, key, True)
        else:
            value = fresh_hit(store, node, key, INFINITY)
        if value is not MISSING:
            found[key] = value
        elif missing is not None:
            missing[key] = None
        done += 1
    return done


cdef dict look_listed(Store store, Node* node, tuple keys, dict missing):
    """A dict of the keys with fresh entries; see look_pass of `missing`."""
    cdef uint32_t[FEW_KEYS] few
    cdef uint32_t* hashes
    cdef Py_ssize_t at = 0, count = len(keys)
    cdef dict found
    node_guard(store, node)
    hashes = keys_hash(node, keys, few)
    try:
        found = dict_with_room(count)
        while at < count:
            at += look_pass(store, node, keys, hashes, at, found, missing)
    finally:
        if hashes != few:
            free(hashes)
    return found


cdef dict look_many(Store store, Node* node, object keys):
    cdef dict found
    cdef Core* core = &store.core
    node_guard(store, node)
    keys = keys_checked(keys)
    if not (core_hears(core, HIT) or core_hears(core, MISS) or core_hears(core, REMOVE)):
        return look_listed(store, node, <tuple>keys, None)
    found = {}
    for key in <tuple>keys:
        hash(key)                                 # all are checked before any is looked up
    for key in <tuple>keys:
        value = look(store, node, key, True)
        if value is not MISSING:
            found[key] = value
    return found


cdef dict look_fresh(Store store, Node* node, tuple keys, dict missing):
    """A dict of the keys with fresh entries, each counted once, and the others in `missing`.

    None, and nothing done, where listeners are to hear of each look-up in its turn.
    """
    cdef Core* core = &store.core
    cdef dict found
    if core_hears(core, HIT) or core_hears(core, MISS):
        return None
    found = look_listed(store, node, keys, missing)
    if len(keys) > len(missing) + len(found):
        look_uncount(store, node, keys, found)
    return found


cdef int look_uncount(Store store, Node* node, tuple keys, dict found) except -1:
    """Take back the hits of keys that were given twice."""
    cdef int64_t twice = 0
    for key in keys:
        twice += key in found
    lock_acquire(&store.core.lock)
    node.counters.hits -= twice - len(found)
    lock_release(&store.core.lock)
    return 0


cdef object seconds_left(Store store, Node* node, object key):
    """The seconds that the key stays fresh, or None: for ever."""
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef double now = store_sees(store, node), deadline = 0, most = 0
    lock_acquire(&core.lock)
    try:
        node_guard(store, node)
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            deadline = entry_at(&core.slab, i).deadline
            most = entry_ttl(entry_at(&core.slab, i))
    finally:
        lock_release(&core.lock)
    if i == NONE or deadline <= now:
        raise KeyError(key)
    if isinf(deadline):
        return None
    # The difference of two rounded sums may exceed the TTL by the last bit.
    return min(deadline - now, most)


cdef tuple held_for(Store store, Node* node, object key):
    """None, or (value, seconds left, ttl, seconds kept past it, kept for stale=)."""
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef double now = store_sees(store, node), left = 0, ttl = 0, grace = 0
    cdef bint stale_ok = False
    cdef Entry* e
    value = MISSING
    lock_acquire(&core.lock)
    try:
        node_guard(store, node)
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if entry_last(e) > now:
                value = <object>e.value
                left = e.deadline - now
                ttl = entry_ttl(e)
                grace = entry_grace(e)
                stale_ok = entry_stale_ok(e)
    finally:
        lock_release(&core.lock)
    # Made here: a tuple's allocation may run the collector, and with it code that removes e.
    return None if value is MISSING else (value, left, ttl, grace, stale_ok)
