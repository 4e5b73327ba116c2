# Store: one cache's memory; its keys and tags by name.
cdef inline uint32_t hash_mix(Node* node, Py_hash_t hashed) noexcept nogil:
    """A key's hash as the table has it: never 0, and different in each namespace."""
    cdef uint32_t mixed = <uint32_t>(
        ((<uint64_t>hashed ^ node.salt) * <uint64_t>0x9E3779B97F4A7C15) >> 32)
    return mixed if mixed else 1


cdef inline uint32_t key_hash(Node* node, object key) except 0:
    """Hash and mix. May run the key's __hash__."""
    cdef Py_hash_t hashed = -1
    if is_str(<PyObject*>key):
        hashed = str_hash(<PyObject*>key)
    if hashed == -1:
        hashed = hash(key)
    return hash_mix(node, hashed)


cdef enum:
    AT_ONCE = 1024                # entries that one call puts in limbo


@cython.trashcan(True)               # a chain of caches, each a value of the next, passes here
cdef class Store:
    """One cache's memory. Made by a Cache, kept alive by its views."""

    cdef Core core
    cdef readonly object clock        # None: the monotonic clock
    cdef readonly object weigher      # None: nothing is weighed
    cdef object _around_load          # behind the lock: it may be assigned while others load
    cdef readonly object tier         # the second tier, None without one
    cdef readonly str name
    cdef bint _backs_off              # a relaxed flag: see backs_off
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
        relaxed_store_flag(&self.core.closed, True)
        lock_list(&self.core.lock)

    def __init__(self):
        raise TypeError("a Store is made by a Cache")

    @property
    def around_load(self):
        """None, or makes a context manager around each loader."""
        return store_around_load(self)

    @around_load.setter
    def around_load(self, around_load):
        lock_acquire(&self.core.lock)
        _before = self._around_load               # released without the lock: it may run code
        self._around_load = around_load
        lock_release(&self.core.lock)

    @property
    def backs_off(self):
        """Whether a load behind a call has failed; the face knows of which key."""
        return store_backs_off(self)

    @backs_off.setter
    def backs_off(self, bint backs_off):
        relaxed_store_flag(&self._backs_off, backs_off)

    @property
    def tenant_depth(self):
        """How many names of a path make a tenant."""
        return self.core.tenant_names

    @tenant_depth.setter
    def tenant_depth(self, uint32_t names):
        self.core.tenant_names = names

    def tenant_of(self, tuple path not None):
        """Return the part of a path that names its tenant; less where the path is above them."""
        return path[:self.core.tenant_names]

    @property
    def shares_by_utility(self):
        """Whether its tenants lend each other room: see ledger."""
        return self.core.tenant_depth > 0

    def __dealloc__(self):
        cdef Core* core = &self.core
        cdef uint32_t n
        store_release_entries(self)
        lock_unlist(&core.lock)
        for n in range(core.nodes_used):
            if core.nodes[n] != NULL:
                node_free(core.nodes[n])
        free(core.loads)
        free(core.nodes)
        free(core.free_ids)
        core.root = NULL
        ghosts_free(core.ghosts)
        slab_free(&core.slab)
        table_free(&core.table)
        tags_free(&core.tags)


cdef inline object store_around_load(Store store):
    """What makes a context manager around each loader, or None."""
    lock_acquire(&store.core.lock)
    around = store._around_load
    lock_release(&store.core.lock)
    return around


cdef inline bint store_backs_off(Store store) noexcept:
    """Whether a load behind a call has failed."""
    return relaxed_load_flag(&store._backs_off)


cdef void slab_drop(Slab* slab) noexcept:
    """Drop the references of all entries of a slab that no store owns any more, a page at a time.

    Runs user code (__del__). The collector does not see its entries any more, which is safe: their
    objects then look like held from outside.
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


cdef void store_take_all_locked(Core* core, Slab* taken) noexcept:
    """Empty every structure at once. `taken` gets the slab with all entries, limbo and debris
    included, whose references are the caller's to drop. O(namespaces, tags, size of the table)."""
    cdef uint32_t n, t
    cdef Node* node
    taken[0] = core.slab
    slab_init(&core.slab, taken.weighs)
    table_clear(&core.table)
    for t in range(core.tags.used):
        if core.tags.records[t].name != NULL:
            Py_DECREF(<object>core.tags.records[t].name)      # a str: runs no user code
    tags_free(&core.tags)
    while core.debris != NULL:
        node = core.debris
        core.debris = node.next
        node_give_id_locked(core, node.id)
        node_free(node)
    for n in range(core.nodes_used):
        node = core.nodes[n]
        if node == NULL:
            continue
        node.counters.invalidations += node.own
        order_reset_locked(node)
        order_forget_locked(node)
        node.own = 0
        node.own_stale = 0
        node.own_weight = 0
        node.entries = 0
        node.weight = 0
        node_leave_heaps_locked(node)
        node.due.n = 0
        node.by_entries.n = 0
        node.by_weight.n = 0
        if node.ledger != NULL:
            ledger_empty(node.ledger)
        heap_free(&node.deadlines)
        if node.tags != NULL:
            (<dict>node.tags).clear()                        # of str and int: no user code either
    relaxed_store_u32(&core.limbo_first, NONE)
    core.limbo_last = NONE
    core.limbo_count = 0
    core.debris_first = NONE
    core.debris_last = NONE
    core.debris_count = 0
    for n in range(core.nodes_used):
        if core.nodes[n] != NULL:
            idle_consider_locked(core, core.nodes[n])


cdef void store_release_entries(Store store) noexcept:
    """Empty the store without events: for the collector, and for the store's end."""
    cdef Core* core = &store.core
    cdef Slab taken
    cdef uint32_t n
    cdef Node* node
    cdef PyObject* listeners
    cdef Load load
    lock_acquire(&core.lock)
    relaxed_store_u32(&core.mask, 0)
    store_take_all_locked(core, &taken)
    lock_release(&core.lock)
    slab_drop(&taken)
    for n in range(core.nodes_used):
        node = core.nodes[n]
        if node != NULL:
            while node.running != NULL:
                load = <Load>node.running        # holds it: load_unregister lets go of the list's
                load_unregister(load)
            listeners = node.listeners
            node.listeners = NULL
            Py_XDECREF(listeners)


cdef int store_open(Store store, bint weighs, uint32_t tenant_depth=0,
                    double max_loss=0) except -1:
    """Give a new store its root. Call once."""
    cdef Core* core = &store.core
    core.slab.weighs = weighs
    core.tenant_names = 1
    core.tenant_depth = tenant_depth
    core.notes_misses = tenant_depth > 0
    core.max_loss = max_loss
    core.max_idle = 10_000
    core.max_pending_age = 30.0
    # Differs by process and by cache, so that keys that collide here cannot be worked out.
    core.secret = <uint64_t>hash(("flowcache", <size_t><PyObject*>store))
    core.secret *= <uint64_t>0xD6E8FEB86659FD93
    core.draws = core.secret
    if table_init(&core.table) < 0:
        raise MemoryError()
    core.root = node_new_locked(core, NULL, None, {})
    core.root.default_ttl = 300.0
    relaxed_store_flag(&core.closed, False)
    return 0


cdef Py_ssize_t store_size(Store store) noexcept:
    """Bytes of C memory that the store holds; neither keys and values nor dictionaries."""
    cdef Core* core = &store.core
    cdef Py_ssize_t size
    cdef uint32_t n
    cdef Node* node
    lock_acquire(&core.lock)
    size = core.slab.n_pages * (page_bytes() + (PAGE * sizeof(int64_t) if core.slab.weighs else 0))
    size += core.slab.capacity * (sizeof(void*) + PAGE_WORDS * sizeof(uint64_t))
    size += (sizeof(Part) << core.table.bits) + ghosts_size(core.ghosts)
    for n in range(core.slab.n_pages if core.slab.slides != NULL else 0):
        size += PAGE * sizeof(Slide) if core.slab.slides[n] != NULL else 0
    n = 0
    while n < (<uint32_t>1) << core.table.bits:
        size += (core.table.parts[n].n + 1) * sizeof(Bucket)
        n += (<uint32_t>1) << (core.table.bits - core.table.parts[n].bits)
    size += core.tags.links_pages * (sizeof(Link) << LINK_BITS)
    size += core.tags.links_capacity * sizeof(void*) + core.tags.capacity * sizeof(Tag)
    size += core.loads_size * sizeof(void*)
    size += core.nodes_capacity * (sizeof(void*) + sizeof(uint32_t))
    for n in range(core.nodes_used):
        node = core.nodes[n]
        if node != NULL:
            size += sizeof(Node) + sketch_size(node.sketch)
            size += (node.deadlines.capacity + node.due.capacity + node.by_entries.capacity
                     + node.by_weight.capacity) * (sizeof(double) + sizeof(uint32_t))
            size += sizeof(Account) if node.account != NULL else 0
            if node.ledger != NULL:
                size += sizeof(Ledger) + ghosts_size(node.ledger.ghosts)
                size += node.ledger.by_pull.capacity * (sizeof(double) + sizeof(uint32_t))
    lock_release(&core.lock)
    return size


cdef inline double store_now(Store store) except? -1.0:
    """The time. May run the user's clock."""
    cdef double seconds
    if store.clock is None:
        return clock_read()
    if store.clock is LEASED:
        return lease_now()
    now = store.clock()
    if not isinstance(now, (int, float)):
        raise TypeError(f"clock: must return seconds as a float, returned {type(now).__name__}")
    seconds = now
    if isnan(seconds) or isinf(seconds):
        raise ValueError(f"clock: must return a finite number of seconds, returned {shown(now)}")
    return seconds


cdef inline double store_sees(Store store, Node* node) except? -1.0:
    """The time, to look at what is held; without a lease INFINITY, at which nothing is fresh."""
    cdef double now
    if store.clock is not LEASED:
        return store_now(store)
    now = lease_now()
    if now < relaxed_load_double(&store.core.lease) or node.untiered:
        return now
    if now < relaxed_load_double(&store.core.lease_stale):
        count_up(&store.core.lapsed_hits)
        return now
    return INFINITY


cdef inline int node_guard_closed(Store store) except -1:
    if core_is_closed(&store.core):
        raise closed_error()
    return 0


cdef inline int node_guard(Store store, Node* node) except -1:
    """Refuse what cannot be used: a closed cache, or the root where a namespace is required."""
    if core_is_closed(&store.core):
        raise closed_error()
    if store.core.require_namespace and node.parent == NULL:
        raise NamespaceRequiredError(
            "this cache takes no entries at its root: use namespace(...) or for_current_tenant()")
    return 0


# -------------------------------------------------------------------------------------------- keys

cdef inline uint32_t store_search_in_locked(Core* core, Part* part, Node* node, PyObject* key,
                                            uint32_t hash) noexcept nogil:
    """The entry of key, whose part of the table this is; NONE; or FAULT where only the keys' __eq__
    can tell."""
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
            if e.node == node.id:
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


cdef inline uint32_t store_search_locked(Core* core, Node* node, PyObject* key,
                                         uint32_t hash) noexcept nogil:
    return store_search_in_locked(core, table_part(&core.table, hash), node, key, hash)


cdef inline uint32_t store_find_locked(Core* core, Node* node, object key,
                                       uint32_t hash) except? FAULT:
    """The entry of key, or NONE. Runs a user's __eq__ only where two keys are not both str."""
    cdef uint32_t i = store_search_locked(core, node, <PyObject*>key, hash)
    return i if i != FAULT else store_find_by_eq_locked(core, node, key, hash)


cdef uint32_t store_find_by_eq_locked(Core* core, Node* node, object key,
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
                if e.node != node.id:
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
                # A large namespace is cleared by giving it another id: see removing.
                if changes != part.changes or e.node != node.id:
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


# ------------------------------------------------------------------------------------ tags by name

cdef int dict_prepare(Core* core, PyObject** owner) except -1:
    """Put a dictionary, which `owner` owns, where there is none. May run the collector."""
    if acquire_load_ptr(owner) == NULL:
        made = {}
        lock_acquire(&core.lock)
        if owner[0] == NULL:                      # another thread may have been faster
            Py_INCREF(made)
            release_store_ptr(owner, <PyObject*>made)
        lock_release(&core.lock)
    return 0


cdef bint tags_are_prepared_locked(Node* node) noexcept:
    while node != NULL:
        if node.tags == NULL:
            return False
        node = node.parent
    return True


cdef int tags_prepare(Core* core, Node* node) except -1:
    """Give the namespace and those above a dictionary of tags. May run the collector."""
    while node != NULL:
        dict_prepare(core, &node.tags)
        node = node.parent
    return 0


cdef uint32_t tag_find_locked(Node* node, str name) noexcept:
    if node.tags == NULL:
        return NONE
    cdef PyObject* found = PyDict_GetItemWithError(<object>node.tags, name)
    if found == NULL:
        return NONE
    return <uint32_t>PyLong_AsUnsignedLong(<object>found)


cdef uint32_t tag_intern_locked(Core* core, Node* node, str name) noexcept:
    """The record of the tag, made if need be, and above it too; FAULT, and nothing changed, when
    memory is out. Runs no user code: nothing is raised, for a traceback could run the collector."""
    cdef uint32_t found = tag_find_locked(node, name), parent = NONE
    if found != NONE:
        return found
    if node.parent != NULL:
        parent = tag_intern_locked(core, node.parent, name)
        if parent == FAULT:
            return FAULT
    if tag_reserve(&core.tags) < 0:
        tag_release_locked(core, parent)
        return FAULT
    if dict_put_number(node.tags, name, tag_next(&core.tags)) < 0:
        PyErr_Clear()
        tag_release_locked(core, parent)
        return FAULT
    Py_INCREF(name)                               # Tag.name owns it
    return tag_take(&core.tags, <PyObject*>name, node.id, parent)


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
        PyDict_DelItem(<object>core.nodes[tag.node].tags, <object>name)
        tag_give(&core.tags, t)
        Py_DECREF(<object>name)
        t = parent


cdef inline void entry_drop_tags_locked(Core* core, Entry* e) noexcept:
    cdef uint32_t t
    while e.links != NONE:
        t = link_remove_first(&core.tags, e)
        if core.tags.records[t].total == 0:
            tag_release_locked(core, t)
