# Looking up: what is held for a key.


cdef object look(Store store, Node* node, object key, bint counts):
    """The fresh value, or MISSING; `counts`: as a hit or a miss, and it becomes the newest."""
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef Entry* e
    cdef double now = 0
    if store.clock is not None:
        now = store_now(store)
    lock_acquire(&core.lock)
    try:
        if node.timing and store.clock is None:
            table_ask(&core.table, hash)
            now = clock_read()
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if e.deadline <= now:
                if entry_last(e) <= now:
                    entry_unlink_locked(core, i, EXPIRED)
                i = NONE
            if i != NONE:
                value = <object>e.value
                if counts:
                    node.counters.hits += 1
                    lru_touch(&core.slab, &node.order, e, i)
                    if node.timing & SLIDING:
                        entry_renew(&core.slab, i, now)
        if i == NONE:
            node_guard(store, node)
            if counts:
                node.counters.misses += 1
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


cdef inline object fresh_hit(Store store, Node* node, object key):
    """The fresh value, counted as a hit and made the newest, or MISSING, with nothing counted."""
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef Entry* e
    cdef double now = 0
    if store.clock is not None:
        now = store_now(store)
    value = MISSING
    lock_acquire(&core.lock)
    try:
        if node.timing and store.clock is None:
            table_ask(&core.table, hash)
            now = clock_read()
        i = store_find_locked(core, node, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if e.deadline > now:
                value = <object>e.value
                node.counters.hits += 1
                lru_touch(&core.slab, &node.order, e, i)
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


cdef dict look_many(Store store, Node* node, object keys):
    found = {}
    node_guard(store, node)
    keys = listed_keys(keys)
    for key in keys:
        hash(key)                             # all are checked before any is looked up
    for key in keys:
        value = look(store, node, key, True)
        if value is not MISSING:
            found[key] = value
    return found


cdef object seconds_left(Store store, Node* node, object key):
    """The seconds that the key stays fresh, or None: for ever."""
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(node, key), i
    cdef double now = store_now(store), deadline = 0, most = 0
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
    cdef double now = store_now(store), left = 0, ttl = 0, grace = 0
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
