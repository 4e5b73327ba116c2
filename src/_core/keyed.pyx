# The calls of a namespace that name one key.

cdef class Keyed(View):
    """The calls that name one key."""

    def get(self, key, /, default=None):
        """Return the fresh value of ``key``, else ``default``. Counts a hit or a miss. O(1)."""
        value = look(self, key, True)
        return default if value is MISSING else value

    def peek(self, key, /, default=None):
        """Return the fresh value of ``key``, else ``default``; neither order nor counts change."""
        value = look(self, key, False)
        return default if value is MISSING else value

    def set(self, key, value, /, *, ttl=UNSET, tags=(), stale=None):
        """Store ``value``, replacing value, TTL and tags of ``key``. O(1) but for evictions.

        ``ttl``: seconds, a ``timedelta``, or ``None`` for never; by default the namespace's
        ``default_ttl``; 0 stores nothing, and takes away what was there. ``tags``: non-empty
        ``str`` of at most 256 characters, one or several. ``stale``: seconds past the TTL
        (``True``: no end) in which ``fetch`` may serve the value while it loads a new one. Raises
        ``TypeError`` or ``ValueError`` for bad arguments, ``EntryTooHeavyError``, ``WeigherError``.
        """
        set_one(self, key, value, ttl, tags, stale)

    def add(self, key, value, /, *, ttl=UNSET, tags=(), stale=None):
        """Store ``value`` only if ``key`` has no fresh entry; say whether it was stored."""
        cdef bint found = False
        return add_one(self, key, value, ttl, tags, stale, &found)

    def delete(self, key, /):
        """Remove ``key``; say whether it had a fresh entry. A running load of it is not stored."""
        cdef bint fresh = False
        take(self, key, DELETED, &fresh)
        return fresh

    def pop(self, key, /, default=UNSET):
        """Remove ``key`` and return its fresh value, else ``default``, else raise ``KeyError``."""
        cdef bint fresh = False
        value = take(self, key, DELETED, &fresh)
        if fresh:
            return value
        if default is UNSET:
            raise KeyError(key)
        return default

    def popitem(self):
        """Remove the least recent fresh entry and return ``(key, value)``; ``KeyError`` if none."""
        cdef Store store = self.store
        cdef Space* space = self.space
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

    def touch(self, key, /, ttl=UNSET):
        """Give the fresh entry of ``key`` a new TTL from now; say whether there was one.

        Neither order nor counts change. ``ttl=0`` expires it.
        """
        cdef Store store = self.store
        cdef Space* space = self.space
        cdef Core* core = &store.core
        cdef Terms terms
        cdef uint32_t hash, i
        cdef double now
        cdef Entry* e
        space_guard(store, space)
        terms_of(store, space, &terms, ttl, None)
        hash = key_hash(space, key)
        now = store_now(store)
        lock_acquire(&core.lock)
        try:
            i = store_find_locked(core, space, key, hash)
            if i == NONE or entry_at(&core.slab, i).deadline <= now:
                return False
            if terms.ttl <= 0:
                entry_unlink_locked(core, i, EXPIRED)
            else:
                if heap_reserve(&space.deadlines, space.deadlines.n + 1) < 0:
                    raise MemoryError()
                e = entry_at(&core.slab, i)
                if entry_counts_as_stale(e):
                    # A clock that went back had it counted; it is fresh again.
                    e.keep = -e.keep
                    space.own_stale -= 1
                e.deadline = now + terms.ttl
                e.ttl = -<float>terms.ttl if signbit(e.ttl) else <float>terms.ttl
                entry_schedule_locked(core, space, i)
        finally:
            lock_release(&core.lock)
        if core_has_limbo(core):
            store_drain(store)
        return True

    def ttl(self, key, /):
        """Return the seconds that ``key`` stays fresh, or ``None``: for ever; else ``KeyError``."""
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef uint32_t hash = key_hash(self.space, key), i
        cdef double now = store_now(store), deadline = 0, most = 0
        lock_acquire(&core.lock)
        try:
            space_guard(store, self.space)
            i = store_find_locked(core, self.space, key, hash)
            if i != NONE:
                deadline = entry_at(&core.slab, i).deadline
                most = fabs(entry_at(&core.slab, i).ttl)
        finally:
            lock_release(&core.lock)
        if i == NONE or deadline <= now:
            raise KeyError(key)
        if isinf(deadline):
            return None
        # The difference of two rounded sums may exceed the TTL by the last bit.
        return min(deadline - now, most)

    def incr(self, key, /, delta=1, *, default=0, ttl=UNSET):
        """Add ``delta`` to the counter at ``key``, atomically, and return the sum.

        An absent counter starts at ``default``, with ``ttl``; one that is there keeps its TTL, tags
        and weight. Raises ``TypeError`` where the value, ``delta`` or ``default`` is no ``int``.
        """
        cdef Store store = self.store
        cdef Space* space = self.space
        cdef Terms terms
        cdef uint32_t hash
        space_guard(store, space)
        for what, number in (("delta", delta), ("default", default)):
            if type(number) is not int:
                raise TypeError(f"{what}: must be an int, got {type(number).__name__}")
        terms_of(store, space, &terms, ttl, None)
        terms.only_absent = True
        hash = key_hash(space, key)
        terms.weight = weigh(store, key, default + delta)
        for _ in range(OFTEN):
            total = raise_counter(self, key, hash, delta)
            if total is not None:
                return total
            # ttl=0, or a cache whose room is all reserved, keeps none; but somebody may have made
            # the counter since.
            terms.found = False
            put(store, space, key, default + delta, &terms, None, hash)
            if not terms.found:
                break
        return default + delta


cdef bint add_one(View view, object key, object value, object ttl, object tags, object stale,
                  bint* found) except -1:
    """What ``add`` does; ``found``: something fresh was there."""
    cdef Terms terms
    cdef uint32_t hash
    cdef bint stored
    space_guard(view.store, view.space)
    terms_of(view.store, view.space, &terms, ttl, stale)
    terms.only_absent = True
    checked = None if tags is () else tags_checked(tags)
    hash = key_hash(view.space, key)
    if view.store.weigher is not None:
        terms.weight = weigh(view.store, key, value)
    stored = put(view.store, view.space, key, value, &terms, <tuple>checked, hash)
    found[0] = terms.found
    return stored


cdef inline int set_one(View view, object key, object value, object ttl, object tags,
                        object stale) except -1:
    cdef Terms terms
    cdef uint32_t hash
    space_guard(view.store, view.space)
    terms_of(view.store, view.space, &terms, ttl, stale)
    checked = None if tags is () else tags_checked(tags)
    hash = key_hash(view.space, key)
    if view.store.weigher is not None:
        terms.weight = weigh(view.store, key, value)
    put(view.store, view.space, key, value, &terms, <tuple>checked, hash)
    return 0


# get and set as nearly everybody calls them, with their arguments taken apart by hand: Cython's way
# costs as much as the look-up. What is out of the ordinary goes to the methods above.

cdef extern from *:
    """
    static PyMethodDef flowcache_get_def, flowcache_set_def;
    static const char *flowcache_doc_of(PyObject *descriptor) {
        return ((PyMethodDescrObject *)descriptor)->d_method->ml_doc;
    }
    """
    void* get_def "&flowcache_get_def"
    void* set_def "&flowcache_set_def"
    const char* doc_of "flowcache_doc_of"(PyObject* descriptor)
    bint PyTuple_CheckExact(PyObject* o)
    PyObject* PyTuple_GET_ITEM(PyObject* names, Py_ssize_t n)
    PyObject** tuple_items "&PyTuple_GET_ITEM"(PyObject* tuple, int first)
    Py_ssize_t PyTuple_GET_SIZE(PyObject* names)


cdef str TTL_NAME = "ttl"
cdef str TAGS_NAME = "tags"
cdef str STALE_NAME = "stale"


cdef object namespace_get(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    if names != NULL or nargs < 1 or nargs > 2:
        ask = Keyed.get
        return pass_on(<PyObject*>ask, me, args, nargs, names)
    value = look(<View>me, <object>args[0], True)
    if value is MISSING:
        return <object>args[1] if nargs == 2 else None
    return value


cdef object namespace_set(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef PyObject* ttl = <PyObject*>UNSET
    cdef PyObject* tags = NULL
    cdef PyObject* stale = NULL
    cdef PyObject* name
    cdef PyObject* dropped[2]
    cdef PyObject** names_of_tags = NULL
    cdef Py_ssize_t n, n_tags = 0
    cdef double seconds = (<View>me).space.default_ttl
    cdef bint known = nargs == 2, plain = True
    if names != NULL and known:
        for n in range(PyTuple_GET_SIZE(names)):
            # Interned, as the names in code are; another str of the same text takes the long way.
            name = PyTuple_GET_ITEM(names, n)
            if name == <PyObject*>TTL_NAME:
                ttl = args[2 + n]
            elif name == <PyObject*>TAGS_NAME:
                tags = args[2 + n]
            elif name == <PyObject*>STALE_NAME:
                stale = args[2 + n]
            else:
                known = False
    if not known:
        ask = Keyed.set
        return pass_on(<PyObject*>ask, me, args, nargs, names)
    if tags != NULL:
        if PyTuple_CheckExact(tags):
            names_of_tags, n_tags = tuple_items(tags, 0), PyTuple_GET_SIZE(tags)
        elif is_str(tags):
            names_of_tags, n_tags = &tags, 1
        else:
            plain = False
    if plain and stale == NULL:
        if ttl != <PyObject*>UNSET:
            seconds = seconds_of(<object>ttl, "ttl", True)
        dropped[0] = NULL
        dropped[1] = NULL
        if store_put_plain((<View>me).store, (<View>me).space, args[0], args[1], seconds,
                           names_of_tags, n_tags, dropped):
            Py_XDECREF(dropped[0])                # what Entry.value owned
            Py_XDECREF(dropped[1])                # what Entry.key owned
            return None
    set_one(<View>me, <object>args[0], <object>args[1], <object>ttl,
            <object>tags if tags != NULL else (), <object>stale if stale != NULL else None)
    return None
