# Namespace: what users hold. A view is two pointers; it keeps its cache alive and its namespace
# from being forgotten, and leads nowhere but down.

cdef object MISSING = object()

cdef enum:
    OFTEN = 100                   # tries of what others may thwart, as a clock that goes back does


cdef inline int space_guard(Store store, Space* space) except -1:
    """Refuse what cannot be used: a closed cache, or the root where a namespace is required."""
    if core_is_closed(&store.core):
        raise closed_error()
    if store.core.require_namespace and space.parent == NULL:
        raise NamespaceRequiredError(
            "this cache takes no entries at its root: use namespace(...) or for_current_tenant()")
    return 0


# A request makes a view and drops it again, so both are done by hand: without the chain of
# deallocators of five classes, and with a few spare objects where the GIL guards them.
cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define FLOWCACHE_SPARE 0
    #else
    #define FLOWCACHE_SPARE 64
    #endif
    static PyObject *flowcache_spare[FLOWCACHE_SPARE + 1];
    static int flowcache_spares = 0;
    static inline PyObject *flowcache_spare_take(PyTypeObject *type) {
        return flowcache_spares ? PyObject_Init(flowcache_spare[--flowcache_spares], type) : NULL;
    }
    static inline void flowcache_spare_give(PyObject *object, PyTypeObject *type) {
        if (Py_TYPE(object) == type && flowcache_spares < FLOWCACHE_SPARE)
            flowcache_spare[flowcache_spares++] = object;
        else
            Py_TYPE(object)->tp_free(object);
    }
    static newfunc flowcache_own_new;
    static PyTypeObject *flowcache_view_type;
    /* A view made by hand would be of nothing. A subclass, which is a root, is another matter. */
    static PyObject *flowcache_view_refuse(PyTypeObject *type, PyObject *args, PyObject *names) {
        if (type != flowcache_view_type)
            return flowcache_own_new(type, args, names);
        PyErr_SetString(PyExc_TypeError, "a Namespace is made by namespace() of a cache");
        return NULL;
    }
    static void flowcache_patch_view(PyTypeObject *type, destructor dealloc) {
        type->tp_dealloc = dealloc;
        flowcache_view_type = type;
        flowcache_own_new = type->tp_new;
        type->tp_new = flowcache_view_refuse;
    }
    """
    PyObject* spare_take "flowcache_spare_take"(PyTypeObject* type)
    void spare_give "flowcache_spare_give"(PyObject* view, PyTypeObject* type)
    void patch_view "flowcache_patch_view"(PyTypeObject* type, void* dealloc)
    void PyObject_GC_Track(PyObject* view)
    void PyObject_GC_UnTrack(PyObject* view)


cdef Namespace view_new(Store store):
    """A view of nothing yet. Made before the look-up: an allocation may run the collector."""
    cdef PyObject* spare = spare_take(type_of(Namespace))
    cdef Namespace view
    if spare == NULL:
        view = Namespace.__new__(Namespace)
        view.store = store
    else:
        # A spare holds None for its store, and its one reference passes to `view`.
        (<Namespace>spare).store = store
        PyObject_GC_Track(spare)
        view = <Namespace>spare
        Py_DECREF(view)
    return view


cdef inline void view_attach(Namespace view, Space* space) noexcept:
    """Let a new view be of this namespace, and hold it. Lock held."""
    view.space = space
    space_hold(&view.store.core, space)


cdef void view_dealloc(PyObject* me) noexcept:
    """Replaces tp_dealloc of Namespace. Takes no reference to what is dying."""
    cdef Space* space = (<View>me).space
    cdef Core* core
    PyObject_GC_UnTrack(me)
    if space != NULL:
        core = &(<View>me).store.core
        lock_acquire(&core.lock)
        space_let_go(core, space)
        lock_release(&core.lock)
        if peek_u32(&core.idle_count) > core.max_idle:
            store_trim_idle((<View>me).store, 4)
        (<View>me).space = NULL
    (<View>me).store = None
    spare_give(me, type_of(Namespace))


cdef void store_trim_idle(Store store, Py_ssize_t most) noexcept:
    """Forget the least recent idle namespaces beyond max_idle_namespaces, at most so many.

    Runs as views are dropped, with whatever exception is in flight, and so raises and asks nothing.
    """
    cdef Core* core = &store.core
    cdef Space* space
    cdef Space* gone = NULL
    lock_acquire(&core.lock)
    # An entry in limbo still names its namespace, for the listeners.
    while most > 0 and core.idle_count > core.max_idle and core.limbo_count == 0:
        most -= 1
        space = core.idle_oldest
        space_forget(core, space)
        space.next = gone
        gone = space
    lock_release(&core.lock)
    spaces_free(gone)


cdef void spaces_free(Space* gone) noexcept:
    """Free namespaces that were forgotten, a list of them by `next`."""
    cdef Space* space
    while gone != NULL:
        space = gone
        gone = space.next
        space_free(space)


cdef void views_unmake(Store store, list made) noexcept:
    """Forget the namespaces that a refused call made, deepest first, but those in use by now."""
    cdef Core* core = &store.core
    cdef Space* space
    cdef Space* gone = NULL
    cdef Py_ssize_t n = PyList_GET_SIZE(made)
    lock_acquire(&core.lock)
    while n > 0:
        n -= 1
        space = (<View>made[n]).space
        if space == NULL:                         # the one that could not be made
            continue
        if (space.views > 1 or space.entries or space.pending or space.child != NULL
                or space.configured or core.limbo_count):
            break
        (<View>made[n]).space = NULL              # the view, which is dropped next, is of nothing
        space_forget(core, space)
        space.next = gone
        gone = space
    lock_release(&core.lock)
    spaces_free(gone)


cdef int terms_of(Store store, Space* space, Terms* terms, object ttl, object stale) except -1:
    terms.ttl = peek_double(&space.default_ttl) if ttl is UNSET else seconds_of(ttl, "ttl", True)
    terms.keep = 0
    if stale is not None:
        terms.keep = seconds_of(stale, "stale", False, True)
    terms.serves = terms.keep > 0
    terms.only_absent = False
    terms.found = False
    terms.weight = 0
    return 0


cdef int64_t weigh(Store store, object key, object value) except -1:
    """What the weigher says of an entry. Runs user code; 0 without a weigher."""
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


cdef tuple tags_checked(object tags):
    """Tags as a tuple of exact str, or None for no tag."""
    cdef Py_ssize_t length
    if tags is None:
        raise TypeError("tags: must be a str or an iterable of str, got None")
    if isinstance(tags, str):
        tags = (tags,)
    elif isinstance(tags, (bytes, bytearray)):
        raise TypeError(f"tags: must be a str or an iterable of str, got {type(tags).__name__}")
    elif type(tags) is not tuple:
        try:
            several = iter(tags)
        except TypeError:
            raise TypeError("tags: must be a str or an iterable of str, "
                            f"got {type(tags).__name__}") from None
        tags = tuple(several)
    if not tags:
        return None
    plain = True
    for tag in <tuple>tags:
        if not isinstance(tag, str):
            raise TypeError(f"tags: each must be a str, got {type(tag).__name__}")
        length = len(<str?>tag) if is_str(<PyObject*>tag) else str.__len__(tag)
        if length == 0:
            raise InvalidTagError("tags: a tag must not be empty")
        if length > 256:
            raise InvalidTagError(f"tags: a tag has at most 256 characters, got {length}")
        plain = plain and is_str(<PyObject*>tag)
    if plain:
        return <tuple>tags
    exact = []
    for tag in <tuple>tags:
        exact.append(tag if is_str(<PyObject*>tag) else str.__str__(tag))
    return tuple(exact)


cdef bint put(Store store, Space* space, object key, object value, Terms* terms, tuple tags,
              uint32_t hash, Load load=None) except -1:
    """Store one entry and all that goes with it: fences, what is dropped, who is told."""
    cdef Core* core = &store.core
    cdef PyObject* dropped[2]                     # a value and a key that the store let go of
    cdef bint stored
    cdef double now = store_now(store)
    cdef uint64_t begun = peek_u64(&core.loads_begun)
    cdef Load running = None
    dropped[0] = NULL
    dropped[1] = NULL
    if load is None and space_has_loads(space):
        running = load_find(core, space, key, hash, NULL)
    try:
        lock_acquire(&core.lock)
        try:
            stored = store_put_locked(store, space, key, hash, value, terms, tags, now, load,
                                      dropped)
            if load is None and space_has_loads(space) and (stored or not terms.only_absent):
                fence_key_locked(core, space, running, hash, begun)
        finally:
            lock_release(&core.lock)
        # With a key beside it, it was evicted while nobody listened.
        if dropped[0] != NULL and dropped[1] == NULL and core_hears(core, REMOVE):
            emit(store, space, REMOVE, key, "replaced", <object>dropped[0])
    finally:
        Py_XDECREF(dropped[0])                    # what Entry.value owned
        Py_XDECREF(dropped[1])                    # what Entry.key owned
        if core_has_limbo(core):
            store_drain(store)
    if stored and core_hears(core, SET):
        emit(store, space, SET, key, None, value)
    return stored


cdef object take(View view, object key, Cause cause, bint* fresh):
    """Remove the entry of key and return its value; None, and `fresh` false, if none is held.

    An entry past its TTL goes as well, but is not `fresh`.
    """
    cdef Store store = view.store
    cdef Space* space = view.space
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


cdef object look(View view, object key, bint counts):
    """The fresh value, or MISSING; `counts`: as a hit or a miss, and it becomes the newest."""
    cdef Store store = view.store
    cdef Space* space = view.space
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(space, key), i
    cdef Entry* e
    cdef double now = 0
    if store.clock is not None:
        now = store_now(store)
    lock_acquire(&core.lock)
    try:
        if space.expires and store.clock is None:
            table_ask(&core.table, hash)
            now = clock_read()
        i = store_find_locked(core, space, key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if e.deadline <= now:
                if entry_last(e) <= now:
                    entry_unlink_locked(core, i, EXPIRED)
                i = NONE
            if i != NONE:
                value = <object>e.value
                if counts:
                    space.counters.hits += 1
                    lru_touch(&core.slab, &space.order, e, i)
        if i == NONE:
            space_guard(store, space)
            if counts:
                space.counters.misses += 1
    finally:
        lock_release(&core.lock)
    if i == NONE:
        if core_has_limbo(core):
            store_drain(store)
        if counts and core_hears(core, MISS):
            emit(store, space, MISS, key, None, None)
        return MISSING
    if counts and core_hears(core, HIT):
        emit(store, space, HIT, key, None, value)
    return value


cdef object raise_counter(View view, object key, uint32_t hash, object delta):
    """Add to a fresh int in place and return the sum; None if there is no fresh entry."""
    cdef Store store = view.store
    cdef Space* space = view.space
    cdef Core* core = &store.core
    cdef double now = store_now(store)
    cdef uint32_t i
    cdef Entry* e
    cdef uint64_t begun = peek_u64(&core.loads_begun)
    cdef Load running = None
    total = None
    old = None
    if space_has_loads(space):
        running = load_find(core, space, key, hash, NULL)
    lock_acquire(&core.lock)
    try:
        i = store_find_locked(core, space, key, hash)
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
            lru_touch(&core.slab, &space.order, e, i)
            space.counters.sets += 1
            if space_has_loads(space):
                fence_key_locked(core, space, running, hash, begun)
    finally:
        lock_release(&core.lock)
    if total is not None:
        if core_hears(core, REMOVE):
            emit(store, space, REMOVE, key, "replaced", old)
        if core_hears(core, SET):
            emit(store, space, SET, key, None, total)
    return total


@cython.no_gc_clear                  # a finalizer may still use the view; Store breaks the cycles
cdef class View:
    """Who and where a namespace is. The next rooms add what can be asked of it."""

    cdef Store store
    cdef Space* space

    def __cinit__(self):
        if type(self) is not Namespace:
            # The root: usable memory from the first moment, closed until it is opened.
            self.store = Store.__new__(Store)
            self.store.name = "flowcache"
            store_open(self.store, False)
            poke_flag(&self.store.core.closed, True)
            self.space = self.store.core.root
            self.space.views += 1

    def __init__(self, *args, **kwargs):
        raise TypeError("a Namespace is made by namespace() of a cache")

    def _open(self, max_entries, max_weight, weigher, default_ttl, child_limits, max_pending_age,
              bint require_namespace, int64_t max_idle, clock, str name):
        """Begin the life of a root. The arguments were checked."""
        cdef Store store = Store.__new__(Store)
        cdef Settings settings
        checked = settings_checked({
            "default_ttl": default_ttl, "max_entries": max_entries, "max_weight": max_weight,
            "child_limits": child_limits})
        store.name = name
        store.clock = clock
        store.weigher = weigher
        settings_check_weigher(store, checked)
        store_open(store, weigher is not None)
        store.core.max_pending_age = max_pending_age
        store.core.require_namespace = require_namespace
        store.core.max_idle = <uint32_t>min(max_idle, 1 << 30)
        settings_read(&settings, store.core.root, checked)
        space_check_reservations(NULL, store.core.root, &settings)
        space_apply_locked(store, store.core.root, &settings)
        store.core.opened = True
        if self.store.core.opened:
            # Calls under way, and views, would be left with the other entries.
            raise RuntimeError("a Cache is initialised once")
        store.core.root.views += 1
        self.space.views -= 1
        self.space = store.core.root
        self.store = store

    # ------------------------------------------------------------------ who and where

    @property
    def path(self):
        """The names from the root down to this namespace; ``()`` for the root."""
        return space_path(self.space)

    @property
    def name(self):
        """The last name of the path; for the root, the cache's ``name``."""
        return self.store.name if self.space.parent == NULL else <object>self.space.name

    def __repr__(self):
        if self.space.parent == NULL:
            return f"<flowcache.Cache {self.store.name!r}>"
        return f"<flowcache.Namespace {self.store.name!r} {'/'.join(map(repr, self.path))}>"

    def __eq__(self, other):
        if not isinstance(other, View):
            return NotImplemented
        return self.space == (<View>other).space

    def __hash__(self):
        return <Py_hash_t>(<size_t>self.space >> 4)

    def __sizeof__(self):
        """The bytes of this object; for the root, with the memory that all entries take."""
        cdef Py_ssize_t size = object.__sizeof__(self)
        return size + store_size(self.store) if self.space.parent == NULL else size

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        raise TypeError("a cache cannot be copied: a view is a handle to shared entries")

    def __reduce_ex__(self, protocol):
        raise TypeError("a cache cannot be pickled: it lives in its process")

    def _namespace(self, *names, **settings):
        """All of namespace() but for one name of a namespace that exists."""
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef Space* space = self.space
        cdef Namespace view
        if core_is_closed(core):
            raise closed_error()
        if not names:
            raise TypeError("namespace() takes at least one name")
        view = view_new(store)
        lock_acquire(&core.lock)
        try:
            for name in names:
                space = space_child(space, <PyObject*>name) if is_str(<PyObject*>name) else NULL
                if space == NULL:
                    break
            else:
                view_attach(view, space)
                names = None
        finally:
            lock_release(&core.lock)
        if names is not None:
            return self._make(names, settings)
        if settings:
            view.configure(**settings)
        return view

    cdef View _make(self, names, dict settings):
        """The rarer half of namespace(): check all names and settings, make what is missing."""
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef Space* space = self.space
        cdef Space* child
        cdef Space* found
        cdef Namespace view
        cdef View above = self
        checked = []
        for name in names:
            checked.append(name_checked(name))
        names = checked
        if settings:
            settings_checked(settings)
        if space.depth + len(names) > DEEPEST:
            raise InvalidNamespaceError(f"name: a path has at most {DEEPEST} names")
        made = []
        try:
            for name in names:
                children = {}
                view = view_new(store)
                made.append(view)                 # once the namespace is made, nothing may fail
                lock_acquire(&core.lock)
                try:
                    if core_is_closed(core):
                        raise closed_error()
                    child = found = space_child(above.space, <PyObject*>name)
                    if child == NULL:
                        child = space_make(store, above.space, name, children)
                    view_attach(view, child)      # holds it while those below are made
                finally:
                    lock_release(&core.lock)
                if found != NULL:
                    made.pop()
                above = view
            if settings:
                above.configure(**settings)
        except BaseException:
            views_unmake(store, made)
            raise
        if peek_u32(&core.idle_count) > core.max_idle:
            store_trim_idle(store, 4)
        return above

    def namespaces(self):
        """Return an iterator over the names of the namespaces right below, oldest first."""
        if core_is_closed(&self.store.core):
            raise closed_error()
        return iter(list((<dict>self.space.children)))

    def configure(self, **settings):
        """Change settings of this namespace; what is not named stays as it is.

        ``default_ttl`` (seconds, ``None``: never), ``max_entries``, ``max_weight``,
        ``max_pending`` (``None``: no limit), ``reserved`` (entries that pressure from outside
        never takes), ``share`` (weight against its siblings, 1.0), ``child_limits``
        (:class:`Limits` for namespaces made right below from now on). A lower limit evicts at
        once. Raises ``TypeError``, ``ValueError`` or ``ConfigurationError``, and changes nothing.
        """
        cdef Store store = self.store
        cdef Space* space = self.space
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
