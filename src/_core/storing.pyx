# Storing.

cdef enum:
    OFTEN = 100                   # tries of what others may thwart, as a clock that goes back does

cdef struct Terms:
    double ttl            # seconds; INFINITY: never
    double age             # seconds of the TTL that have passed: it was stored elsewhere before
    double grace           # seconds past the deadline
    bint stale_ok           # the grace was asked for by `stale=`
    bint only_absent      # store only where nothing fresh is
    bint found            # answer: something fresh was, so that nothing was stored
    int64_t weight


cdef inline int entry_fill_locked(Core* core, Node* node, uint32_t i, PyObject* value,
                                  Terms* terms, double now, double bound,
                                  double sliding) noexcept:
    """Give entry i its value and deadline. `bound` is no less than its key in the heap; `sliding`,
    if it is not 0, the seconds for which a hit renews the entry."""
    cdef Entry* e = entry_at(&core.slab, i)
    Py_INCREF(<object>value)                      # Entry.value owns it
    e.value = value
    entry_set_tracked(&core.slab, i, may_refer(e.key) or may_refer(value))
    e.deadline = now + terms.ttl - terms.age
    entry_set_ttl(e, terms.ttl, terms.stale_ok)
    entry_set_grace(e, terms.grace, False)
    if sliding > 0:
        slide_start(&core.slab, i, sliding, terms.ttl, now)
        node.timing |= SLIDING
    elif core.slab.slides != NULL:
        slide_stop(&core.slab, i)
    if e.heap_index == NONE or e.deadline < bound:
        entry_schedule_locked(core, node, i)
    return 0


cdef inline bint entry_bears_all_locked(Core* core, Entry* e, PyObject** names,
                                        Py_ssize_t n) noexcept:
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


cdef void store_unpin_locked(Core* core, uint32_t* pins, uint32_t n, uint32_t* few) noexcept:
    cdef uint32_t k
    for k in range(n):
        core.tags.records[pins[k]].total -= 1
        tag_release_locked(core, pins[k])
    if pins != few:
        free(pins)


cdef int store_place_locked(Core* core, Node* node, PyObject* key, uint32_t hash, uint32_t i,
                            PyObject* value, Terms* terms, PyObject** names, uint32_t n_tags,
                            double now, PyObject** dropped, double sliding) noexcept:
    """Store in entry i, which a look-up has found, or in a new one where it found NONE.

    1: stored; 0: not, for all the room is reserved for others; -1: memory is out, and nothing is
    changed. Runs no user code. `names` are valid tags of a namespace whose tags are prepared.
    `dropped` has room for a value that was replaced, and for a key; the caller owns both.
    """
    cdef uint32_t j, n_pins = 0
    cdef uint32_t[16] few
    cdef uint32_t* pins = few
    cdef Entry* e = NULL
    cdef int64_t before = 0
    cdef double bound = INFINITY                  # no less than its key in the heap
    cdef bint over = False
    cdef uint32_t steps = SETTLE_A_FEW
    if i != NONE:
        e = entry_at(&core.slab, i)
        over = entry_last(e) <= now
    # Every allocation comes here. A tag is pinned by a count, so that an eviction below does not
    # take its record away again.
    if n_tags:
        if n_tags > 16:
            pins = <uint32_t*>malloc(n_tags * sizeof(uint32_t))
        if pins == NULL or links_reserve(&core.tags, n_tags) < 0:
            if pins != few:
                free(pins)
            return -1
        for n_pins in range(n_tags):
            j = tag_intern_locked(core, node, <str>names[n_pins])
            if j == FAULT:
                store_unpin_locked(core, pins, n_pins, few)
                return -1
            core.tags.records[j].total += 1
            pins[n_pins] = j
    if (((i == NONE or over) and (table_reserve(&core.table, hash) < 0
                                  or slab_reserve(&core.slab, core.root.max_entries) < 0))
            or heap_reserve(&node.deadlines, node.deadlines.n + 1) < 0
            or (sliding > 0 and slide_reserve(
                &core.slab, slab_next(&core.slab) if i == NONE or over else i) < 0)):
        store_unpin_locked(core, pins, n_tags, few)
        return -1

    if over:
        entry_unlink_locked(core, i, EXPIRED)
        i = NONE
    node.counters.sets += 1
    if i == NONE:
        # The slot that a sliding entry takes has to be known before the first change.
        i = store_reuse_locked(core, node, hash, now, dropped) if sliding == 0 else NONE
        if i != NONE:
            e = entry_at(&core.slab, i)
            bound = e.deadline
        else:
            if not node_admit_locked(core, node, 1, terms.weight, 0, now):
                store_unpin_locked(core, pins, n_tags, few)
                node.counters.evictions += 1     # the newcomer itself: all else is reserved
                node.counters.evictions_caused += 1
                return 0
            i = slab_take(&core.slab)
            e = entry_at(&core.slab, i)
            e.node = node.id
            e.hash = hash
            e.heap_index = NONE
            e.links = NONE
            if core.slab.weighs:
                core.slab.weights[i >> PAGE_BITS][i & (PAGE - 1)] = terms.weight
            node_add_locked(core, node, 1, terms.weight)
            order_push_locked(core, node, e, i)
        Py_INCREF(<object>key)                    # Entry.key owns it
        e.key = key
        e.hash = hash
        table_put(&core.table, hash, i)
    else:
        order_touch_locked(core, node, e, i)
        if core.slab.weighs:
            before = entry_weight(&core.slab, i)
            if terms.weight > before:
                order_renew_locked(core, node, i)
            if not node_admit_locked(core, node, 0, terms.weight - before, 1, now):
                store_unpin_locked(core, pins, n_tags, few)
                entry_unlink_locked(core, i, EVICTED)
                node.counters.evictions_caused += 1
                return 0
            core.slab.weights[i >> PAGE_BITS][i & (PAGE - 1)] = terms.weight
            node_add_locked(core, node, 0, terms.weight - before)
        dropped[0] = e.value
        if entry_counts_as_stale(e):
            node.own_stale -= 1
        else:
            bound = e.deadline
        entry_drop_tags_locked(core, e)
    entry_fill_locked(core, node, i, value, terms, now, bound, sliding)
    if n_tags:
        for j in range(n_tags):
            if n_tags > FEW_TAGS or not entry_bears(&core.tags, e, pins[j]):
                link_add(&core.tags, e, i, pins[j])
        store_unpin_locked(core, pins, n_tags, few)
    # A few of what is due anywhere, so that expired entries go as the cache is used.
    for _ in range(2):
        if core.root.deadlines.n + core.root.due.n == 0 or node_bound_locked(core.root) > now:
            break
        node_settle_one_locked(core, core.root, now, True, &steps)
    if debris_is_left_locked(core):
        debris_reclaim_locked(core, A_FEW)
    return 1


cdef inline bint tags_are_plain(PyObject** names, Py_ssize_t n) noexcept:
    """Whether tags_checked would return just these. False may also mean "cannot tell"."""
    cdef Py_ssize_t k
    if n > FEW_TAGS:
        return False
    for k in range(n):
        if not is_str(names[k]) or not 0 < str_length(names[k]) <= LONGEST_TAG:
            return False
    return True


cdef int store_put_plain(Store store, Node* node, PyObject* key, PyObject* value, double ttl,
                         PyObject** names, Py_ssize_t n_tags) except -1:
    """Store in one step where no user code has a part. 0: no change was made, and `put` must do it.

    The key is an exact str with a known hash. Two short cuts come first, which most stores into a
    full cache take: over a value with the same tags, and in the slot of the oldest entry, which had
    no tags. Equal tags need no check, since no entry bears an invalid one. For the rest the search
    is not done again.
    """
    cdef Core* core = &store.core
    cdef uint32_t hash, i
    cdef Part* part
    cdef Entry* e
    cdef Terms terms
    cdef PyObject* dropped[2]                     # a value and a key that the store let go of
    cdef double now, bound
    cdef int done = 0
    # The weigher, and not whether the slab weighs: that is written again when the cache is closed.
    if (not is_str(key) or str_hash(key) == -1 or store.clock is not None
            or store.weigher is not None or not ttl > 0
            or (core.require_namespace and node.parent == NULL)):
        return 0
    hash = hash_mix(node, str_hash(key))
    lock_acquire(&core.lock)
    if (core.mask & (1 << SET | 1 << REMOVE) or node.own_pending or core.closed
            or node.is_off):
        lock_release(&core.lock)
        return 0
    part = table_first(&core.table, hash)
    prefetch(&part.buckets[part_home(part, hash)])        # as in table_ask
    now = clock_read()
    i = store_search_in_locked(core, part, node, key, hash)
    if i == FAULT:
        lock_release(&core.lock)
        return 0
    dropped[0] = NULL
    dropped[1] = NULL
    terms.ttl = ttl
    terms.age = 0
    terms.grace = 0
    terms.stale_ok = False
    if (not debris_is_left_locked(core) and node_bound_locked(core.root) > now
            and heap_reserve(&node.deadlines, node.deadlines.n + 1) == 0):
        if i != NONE:
            e = entry_at(&core.slab, i)
            if (e.deadline > now and not entry_counts_as_stale(e)
                    and entry_bears_all_locked(core, e, names, n_tags)):
                order_touch_locked(core, node, e, i)
                dropped[0] = e.value
                done = 1
        elif n_tags == 0 and part_has_room(part):
            i = store_reuse_locked(core, node, hash, now, dropped)
            if i != NONE:
                e = entry_at(&core.slab, i)
                Py_INCREF(<object>key)            # Entry.key owns it
                e.key = key
                e.hash = hash
                table_put_in(&core.table, part, hash, i)
                done = 1
        if done:
            bound = e.deadline
            entry_fill_locked(core, node, i, value, &terms, now, bound, 0)
            node.counters.sets += 1
            lock_release(&core.lock)
            Py_DECREF(<object>dropped[0])         # what Entry.value owned
            Py_XDECREF(dropped[1])                # what Entry.key owned
            return 1
    if n_tags and not (tags_are_plain(names, n_tags) and tags_are_prepared_locked(node)):
        lock_release(&core.lock)
        return 0
    terms.weight = 0
    done = store_place_locked(core, node, key, hash, i, value, &terms, names, <uint32_t>n_tags, now,
                              dropped, 0)
    lock_release(&core.lock)
    if done < 0:
        raise MemoryError()
    Py_XDECREF(dropped[0])
    Py_XDECREF(dropped[1])
    if core_has_limbo(core):
        store_drain(store)
    return 1                                      # also where all the room is reserved for others


cdef int store_put_locked(Store store, Node* node, object key, uint32_t hash, object value,
                          Terms* terms, tuple tags, double now, Load load,
                          PyObject** dropped, double sliding) except -1:
    """Store; 1 if done, 0 if not (only_absent, ttl=0, no room but its own, or a load in vain).

    Runs user code only in the look-up, before the first change. `dropped` as in store_place_locked.
    """
    cdef Core* core = &store.core
    cdef PyObject** names = NULL
    cdef uint32_t i, n_tags = 0
    cdef Entry* e
    cdef int done
    while True:
        i = store_find_locked(core, node, key, hash)
        if tags is None or tags_are_prepared_locked(node):
            break
        # The first tags here, or the first since clear() took their dictionary away.
        lock_release(&core.lock)
        try:
            tags_prepare(core, node)
        finally:
            lock_acquire(&core.lock)
    if core_is_closed(core):
        raise closed_error()
    if load is not None and not load_stands_locked(load, tags, now):
        return 0
    if i != NONE:
        e = entry_at(&core.slab, i)
        if e.deadline > now and terms.only_absent:
            terms.found = True
            return 0
    if terms.ttl <= 0 or node.is_off:
        if i != NONE and not terms.only_absent:
            entry_unlink_locked(core, i, EXPIRED if entry_last(e) <= now else REPLACED)
        return 0
    if core.slab.weighs:
        node_check_weight(node, terms.weight)
        if core.root.max_weight < 0 and core.root.weight + terms.weight > <int64_t>1 << 62:
            # No sum of weights overflows.
            raise EntryTooHeavyError(
                f"value: weighs {terms.weight}, and a cache holds at most 2**62 in all")
    if tags is not None:
        names, n_tags = tuple_items(<PyObject*>tags, 0), <uint32_t>len(tags)
    done = store_place_locked(core, node, <PyObject*>key, hash, i, <PyObject*>value, terms, names,
                              n_tags, now, dropped, sliding)
    if done < 0:
        raise MemoryError()
    return done


cdef int terms_of(Store store, Node* node, Terms* terms, object ttl, object stale) except -1:
    terms.ttl = (relaxed_load_double(&node.default_ttl) if ttl is UNSET
                 else seconds_of(ttl, "ttl", True))
    terms.age = 0
    terms.grace = 0
    if stale is not None:
        terms.grace = seconds_of(stale, "stale", False, True)
    terms.stale_ok = terms.grace > 0
    terms.only_absent = False
    terms.found = False
    terms.weight = 0
    return 0


cdef object ttl_given(object ttl):
    """A TTL that is to be told of the value as one that is not known yet."""
    if not callable(ttl):
        return ttl
    face.check_sync(ttl, "ttl")
    return UNSET


cdef inline void terms_end(Terms* terms, double until, double now) noexcept nogil:
    """Let the value be fresh until then at the latest; one that is past all use is not stored."""
    if now + terms.ttl <= until:
        return
    if isinf(terms.ttl):
        terms.ttl = until - now
    else:
        terms.age = now + terms.ttl - until
    if terms.ttl - terms.age + terms.grace <= 0:
        terms.ttl = 0


cdef int64_t weigh(Store store, object key, object value) except -1:
    """The weight of an entry. Runs user code; 0 without a weigher."""
    if store.weigher is None:
        return 0
    weight = store.weigher(key, value)
    if isinstance(weight, bool) or not isinstance(weight, int):
        raise WeigherError("weigher: must return an int of at least 0, "
                           f"returned {type(weight).__name__}")
    weight = int.__int__(weight)                  # a subclass may compare as it likes
    if not 0 <= weight < 1 << 62:
        raise WeigherError("weigher: must return an int of at least 0 and below 2**62, "
                           f"returned {shown(weight)}")
    return weight


cdef double ttl_drawn(Core* core, double ttl, double jitter) noexcept nogil:
    """A TTL of `ttl * [1 - jitter, 1]`, each of a million as likely as any other."""
    cdef uint64_t mixed
    if jitter == 0 or isinf(ttl):
        return ttl
    # Two threads that draw at once may draw the same. The numbers are splitmix64's.
    mixed = relaxed_load_u64(&core.draws) + <uint64_t>0x9E3779B97F4A7C15
    relaxed_store_u64(&core.draws, mixed)
    mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
    mixed ^= mixed >> 31
    return ttl * (1 - jitter * (<double>(mixed >> 44) / (1 << 20)))


cdef bint put(Store store, Node* node, object key, object value, Terms* terms, tuple tags,
              uint32_t hash, Load load=None, double sliding=0) except -1:
    """Store one entry, with its fences, drops and events."""
    cdef Core* core = &store.core
    cdef PyObject* dropped[2]                     # a value and a key that the store let go of
    cdef bint stored
    cdef double now = store_now(store)
    cdef uint64_t begun = relaxed_load_u64(&core.loads_begun)
    cdef Load running = None
    dropped[0] = NULL
    dropped[1] = NULL
    if load is None and node_has_loads(node):
        running = load_find(core, node, key, hash, NULL)
    try:
        lock_acquire(&core.lock)
        try:
            stored = store_put_locked(store, node, key, hash, value, terms, tags, now, load,
                                      dropped, sliding)
            # Where the namespace is off, `add` says that it stored, and ends the load as well.
            if (load is None and node_has_loads(node)
                    and (stored or not terms.only_absent or (node.is_off and not terms.found))):
                fence_key_locked(core, node, running, hash, begun)
        finally:
            lock_release(&core.lock)
        # With a key beside it, it was evicted while there was no listener.
        if dropped[0] != NULL and dropped[1] == NULL and core_hears(core, REMOVE):
            emit(store, node, REMOVE, key, "replaced", <object>dropped[0])
    finally:
        Py_XDECREF(dropped[0])                    # what Entry.value owned
        Py_XDECREF(dropped[1])                    # what Entry.key owned
        if core_has_limbo(core):
            store_drain(store)
    if stored and core_hears(core, SET):
        emit(store, node, SET, key, None, value)
    return stored


cdef int set_one(Store store, Node* node, object key, object value, object ttl, object tags,
                 object stale, object sliding=None, object jitter=None) except -1:
    cdef Terms terms
    cdef uint32_t hash
    cdef double slides = 0
    node_guard(store, node)
    terms_of(store, node, &terms, ttl_given(ttl), stale)
    if sliding is not None or jitter is not None:
        slides = sliding_of(sliding)
        terms.ttl = ttl_drawn(&store.core, terms.ttl, jitter_of(jitter))
    checked = None if tags is () else tags_checked(tags)
    hash = key_hash(node, key)
    if callable(ttl):
        terms.ttl = ttl_drawn(&store.core, ttl_told(ttl, value), jitter_of(jitter))
    if store.weigher is not None:
        terms.weight = weigh(store, key, value)
    put(store, node, key, value, &terms, <tuple>checked, hash, None, slides)
    return 0


cdef bint add_one(Store store, Node* node, object key, object value, object ttl, object tags,
                  object stale, bint* found, object sliding=None,
                  object jitter=None) except -1:
    """What ``add`` does; ``found``: something fresh was there."""
    cdef Terms terms
    cdef uint32_t hash
    cdef bint stored
    cdef double slides = 0
    node_guard(store, node)
    terms_of(store, node, &terms, ttl_given(ttl), stale)
    if sliding is not None or jitter is not None:
        slides = sliding_of(sliding)
        terms.ttl = ttl_drawn(&store.core, terms.ttl, jitter_of(jitter))
    terms.only_absent = True
    checked = None if tags is () else tags_checked(tags)
    hash = key_hash(node, key)
    if callable(ttl):
        terms.ttl = ttl_drawn(&store.core, ttl_told(ttl, value), jitter_of(jitter))
    if store.weigher is not None:
        terms.weight = weigh(store, key, value)
    stored = put(store, node, key, value, &terms, <tuple>checked, hash, None, slides)
    found[0] = terms.found
    return stored


cdef object raise_counter(Store store, Node* node, object key, uint32_t hash, object delta):
    """Add to a fresh int in place and return the sum; None if there is no fresh entry."""
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef uint32_t i
    cdef Entry* e
    cdef uint64_t begun = relaxed_load_u64(&core.loads_begun)
    cdef Load running = None
    total = None
    old = None
    if node_has_loads(node):
        running = load_find(core, node, key, hash, NULL)
    lock_acquire(&core.lock)
    try:
        i = store_find_locked(core, node, key, hash)
        if core_is_closed(core):
            raise closed_error()
        if i != NONE and entry_at(&core.slab, i).deadline > now:
            e = entry_at(&core.slab, i)
            old = <object>e.value
            if type(old) is not int:
                raise TypeError(f"key: its value is no int but {type(old).__name__}")
            total = <object>old + delta
            Py_INCREF(total)                      # Entry.value owns it
            e.value = <PyObject*>total
            Py_DECREF(old)                        # what Entry.value owned; `old` holds another
            order_touch_locked(core, node, e, i)
            entry_renew(&core.slab, i, now)
            node.counters.sets += 1
            if node_has_loads(node):
                fence_key_locked(core, node, running, hash, begun)
    finally:
        lock_release(&core.lock)
    if total is not None:
        if core_hears(core, REMOVE):
            emit(store, node, REMOVE, key, "replaced", old)
        if core_hears(core, SET):
            emit(store, node, SET, key, None, total)
    return total


cdef bint add_or_not(Store store, Node* node, object key, object value, object ttl, object tags,
                     object stale, object sliding, object jitter) except -1:
    """What ``add`` answers. Where nothing is stored the key is absent: the caller is the first."""
    cdef bint found = False
    cdef bint stored = add_one(store, node, key, value, ttl, tags, stale, &found, sliding, jitter)
    return stored or (relaxed_load_flag(&node.is_off) and not found)


cdef object add_to_counter(Store store, Node* node, object key, object delta, object default,
                           object ttl):
    cdef Terms terms
    cdef uint32_t hash
    node_guard(store, node)
    for what, number in (("delta", delta), ("default", default)):
        if type(number) is not int:
            raise TypeError(f"{what}: must be an int, got {type(number).__name__}")
    terms_of(store, node, &terms, ttl, None)
    terms.only_absent = True
    hash = key_hash(node, key)
    begun = default + delta                       # made before the first change
    terms.weight = weigh(store, key, begun)
    for _ in range(OFTEN):
        total = raise_counter(store, node, key, hash, delta)
        if total is not None:
            return total
        # ttl=0, or a cache whose room is all reserved, keeps none; but another thread
        # may have made the counter since.
        terms.found = False
        put(store, node, key, begun, &terms, None, hash)
        if not terms.found:
            break
    return begun


cdef object set_default(Store store, Node* node, object key, object default):
    cdef bint found = True
    value = look(store, node, key, True)
    for _ in range(OFTEN):
        if value is not MISSING:
            return value
        add_one(store, node, key, default, UNSET, (), None, &found)
        # ttl=0, or a cache whose room is all reserved, keeps none; but another
        # thread may have stored one since.
        if not found:
            return default
        value = look(store, node, key, False)
    return default


cdef void buckets_ask(Core* core, uint32_t* hashes, Py_ssize_t count) noexcept:
    """Ask for the buckets of keys that are stored next."""
    cdef Py_ssize_t n
    lock_acquire(&core.lock)
    for n in range(count):
        table_ask(&core.table, hashes[n])
    lock_release(&core.lock)


cdef object set_many(Store store, Node* node, dict items, object ttl, object tags, object stale,
                     object sliding=None, object jitter=None):
    """Store each item of a dict of the caller's own; all are checked before any is stored."""
    cdef Terms terms
    cdef double slides = sliding_of(sliding), part = jitter_of(jitter), seconds
    cdef Core* core = &store.core
    cdef uint32_t[FEW_KEYS] few
    cdef uint32_t* hashes = few
    cdef PyObject* given[2]
    cdef PyObject** names = NULL
    cdef Py_ssize_t n = 0, at = 0, count = len(items), n_names = 0
    cdef list weights = None, told = None
    cdef bint plain
    node_guard(store, node)
    terms_of(store, node, &terms, ttl_given(ttl), stale)
    seconds = terms.ttl
    tags = None if tags is () else tags_checked(tags)
    if tags is not None:
        names, n_names = tuple_items(<PyObject*>tags, 0), len(<tuple>tags)
    plain = store.weigher is None and terms.grace == 0 and slides == 0
    if count > FEW_KEYS:
        hashes = <uint32_t*>malloc(count * sizeof(uint32_t))
        if hashes == NULL:
            raise MemoryError()
    try:
        while n < count and PyDict_Next(items, &at, &given[0], &given[1]):
            key = <object>given[0]                # held: hashing it may run code
            hashes[n] = key_hash(node, key)
            n += 1
        count = n
        if callable(ttl):
            told = []
            for value in items.values():
                told.append(ttl_told(ttl, value))
        if store.weigher is not None:
            weights = []
            for key, value in PyDict_Items(items):
                weights.append(weigh(store, key, value))
            if terms.ttl > 0 or told is not None:
                for weight in weights:
                    node_check_weight(node, <int64_t>weight)
        n = 0
        at = 0
        while n < count and PyDict_Next(items, &at, &given[0], &given[1]):
            key = <object>given[0]
            value = <object>given[1]
            if n % AHEAD == 0:
                buckets_ask(core, hashes + n, min(count - n, <Py_ssize_t>AHEAD))
            terms.ttl = ttl_drawn(core, seconds if told is None else told[n], part)
            if not (plain and store_put_plain(store, node, given[0], given[1], terms.ttl, names,
                                              n_names)):
                terms.weight = 0 if weights is None else weights[n]
                put(store, node, key, value, &terms, <tuple>tags, hashes[n], None, slides)
            n += 1
    finally:
        if hashes != few:
            free(hashes)
