# Namespace: the whole of what users hold. Loading, statistics and events are mostly the Python
# face's; fetch and afetch themselves are added to the type by the front door.

cdef class Namespace(Many):
    """One namespace of a cache: a view that reaches its own entries and those below it.

    Made by :meth:`namespace` (or as the root, by ``create_cache``). Two views of one path are
    equal and have one hash. Views are cheap: make one a request, or keep one, as you like.
    """

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    def refresh(self, key, loader, /, **options):
        """Load ``key`` even if it is fresh, and return the value. Options as for :meth:`fetch`."""
        return face_refresh(self, key, loader, **options)

    def arefresh(self, key, loader, /, **options):
        """Load ``key`` even if it is fresh; await the value. Options as for :meth:`fetch`."""
        return face_arefresh(self, key, loader, **options)

    def fetch_many(self, keys, loader, /, **options):
        """Return a ``dict`` of ``keys``; ``loader(missing)`` is called once for those not held.

        It returns a mapping; keys that it leaves out are left out of the result. Options: ``ttl``,
        ``tags``, ``stale``, ``store_if``.
        """
        return face_fetch_many(self, keys, loader, **options)

    def afetch_many(self, keys, loader, /, **options):
        """Await a ``dict`` of ``keys``; ``loader(missing)`` is awaited once for those not held."""
        return face_afetch_many(self, keys, loader, **options)

    def wrap(self, function, /, **options):
        """Return ``function`` cached here, sync or async by what it is. Options: see ``cached``."""
        return face_wrap(self, function, **options)

    def cached(self, **options):
        """Decorate a function so that its results are cached here.

        ``key`` and ``tags`` may be callables of the arguments; without ``key`` it is the function's
        qualified name and its arguments, as a tuple (``typed=True`` tells ``1`` from ``1.0`` and
        ``True``). ``ttl``, ``stale``, ``stale_if_error``, ``refresh_ahead``, ``store_if``,
        ``timeout`` as for :meth:`fetch`.
        """
        return face_cached(self, **options)

    def for_current_tenant(self, path=None, /):
        """Return a namespace that looks up ``tenancy.current_tenant`` at every call.

        ``path(tenant)`` gives the name or names below this one, by default ``f"tenant:{tenant}"``.
        With no tenant set a call raises ``TenantNotSetError``.
        """
        return face_for_current_tenant(self, path)

    def subscribe(self, listener, /, kinds=None):
        """Call ``listener(event)`` for events here and below; return a function that ends it.

        ``kinds``: one kind or several of hit, miss, stale_hit, set, remove, load, load_error,
        refresh, sweep; all by default. Listeners run after the change is complete; one that raises
        is logged.
        """
        return face_subscribe(self, listener, kinds)

    @property
    def limits(self):
        """The settings in force here, as :class:`Limits`, but for ``child_limits``."""
        cdef Core* core = &self.store.core
        cdef Settings now
        cdef double ttl
        unchanged = {}
        space_guard_closed(self.store)
        lock_acquire(&core.lock)                  # all of them as one configure() left them
        settings_read(&now, self.space, unchanged)
        ttl = self.space.default_ttl
        lock_release(&core.lock)
        given = {
            "default_ttl": None if isinf(ttl) else ttl,
            "max_entries": None if now.max_entries < 0 else now.max_entries,
            "max_weight": None if now.max_weight < 0 else now.max_weight,
            "max_pending": None if now.max_pending < 0 else now.max_pending,
            "reserved": now.reserved,
            "share": now.share,
        }
        return face_limits_type(**given)

    def stats(self):
        """Return the :class:`Stats` of this namespace and those below it: O(namespaces below)."""
        cdef Counters total
        cdef Core* core = &self.store.core
        cdef int64_t entries, weight, pending
        space_guard_closed(self.store)
        memset(&total, 0, sizeof(Counters))
        lock_acquire(&core.lock)
        space_total(self.space, &total)
        entries = self.space.entries
        weight = self.space.weight
        pending = self.space.pending
        lock_release(&core.lock)
        return face_stats(
            total.hits, total.misses, total.stale_hits, total.coalesced, total.loads,
            total.load_failures, total.load_seconds, total.sets, total.evictions,
            total.evictions_caused, total.expirations, total.invalidations, entries, weight,
            pending)

    def reset_stats(self):
        """Set the counts of this namespace and those below to zero; totals above do not change."""
        cdef Counters total
        cdef Core* core = &self.store.core
        space_guard_closed(self.store)
        memset(&total, 0, sizeof(Counters))
        lock_acquire(&core.lock)
        space_total(self.space, &total)
        space_reset(self.space)
        if self.space.parent != NULL:
            counters_add(&self.space.parent.forgotten, &total)
        lock_release(&core.lock)

    # ---------------------------------------------------------------------- for the Python face

    def _now(self):
        return store_now(self.store)

    def _begin(self, Load load not None, bint background=False):
        """Register a load; return it, or the one already running that is to be joined."""
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef Space* space = self.space
        cdef double now = store_now(store)
        space_guard(store, space)
        if load.namespace is None or load.namespace.space != space or load.begun:
            raise ValueError("load: it is another namespace's, or was begun before")
        load.hash = key_hash(space, load.key)
        load.started = now
        load.background = background
        return load_register(core, space, load, now)

    def _finish(self, Load load not None, value, ttl=UNSET, tags=(), stale=None, keep=None):
        """End a load: store its value if nothing has invalidated it; say whether it was stored."""
        cdef Store store = self.store
        cdef Space* space = self.space
        cdef Terms terms
        cdef double kept
        cdef uint32_t hash
        cdef bint registered = peek_flag(&load.registered)
        try:
            if not registered or core_is_closed(&store.core) or peek_flag(&load.fenced):
                return False
            terms_of(store, space, &terms, ttl, stale)
            if keep is not None:
                kept = seconds_of(keep, "stale_if_error", False)
                if kept > terms.keep:
                    terms.keep = kept
                    # Kept for errors beyond what `stale` allows: serving is the call's to ask.
                    terms.serves = False
            tags = None if tags is () else tags_checked(tags)
            hash = key_hash(space, load.key)
            terms.weight = weigh(store, load.key, value)
            if core_is_closed(&store.core):
                return False
            return put(store, space, load.key, value, &terms, <tuple>tags, hash, load)
        finally:
            load_unregister(load)

    def _abandon(self, Load load not None):
        """End a load without a value."""
        load_unregister(load)

    def _held(self, key, /):
        """None, or (value, seconds left, ttl, seconds kept past it, kept for stale=)."""
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef uint32_t hash = key_hash(self.space, key), i
        cdef double now = store_now(store), left = 0, ttl = 0, keep = 0
        cdef bint serves = False
        cdef Entry* e
        value = MISSING
        lock_acquire(&core.lock)
        try:
            space_guard(store, self.space)
            i = store_find_locked(core, self.space, key, hash)
            if i != NONE:
                e = entry_at(&core.slab, i)
                if entry_last(e) > now:
                    value = <object>e.value
                    left = e.deadline - now
                    ttl = fabs(e.ttl)
                    keep = entry_keep(e)
                    serves = signbit(e.ttl)
        finally:
            lock_release(&core.lock)
        # Made here: a tuple's allocation may run the collector, and with it whoever removes e.
        return None if value is MISSING else (value, left, ttl, keep, serves)

    def _touch_hit(self, key, /):
        """Make what is held for the key the most recent."""
        cdef Core* core = &self.store.core
        cdef uint32_t hash = key_hash(self.space, key), i
        lock_acquire(&core.lock)
        try:
            i = store_find_locked(core, self.space, key, hash)
            if i != NONE:
                lru_touch(&core.slab, &self.space.order, entry_at(&core.slab, i), i)
        finally:
            lock_release(&core.lock)

    def _count(self, str name not None, amount=1):
        """Add to one of this namespace's own counters."""
        cdef Counters* counters = &self.space.counters
        cdef Core* core = &self.store.core
        cdef double seconds = amount
        cdef int64_t n = 0 if name == "load_seconds" else amount
        lock_acquire(&core.lock)
        if name == "misses":
            counters.misses += n
        elif name == "hits":
            counters.hits += n
        elif name == "stale_hits":
            counters.stale_hits += n
        elif name == "coalesced":
            counters.coalesced += n
        elif name == "loads":
            counters.loads += n
        elif name == "load_failures":
            counters.load_failures += n
        elif name == "load_seconds":
            counters.load_seconds += seconds
        lock_release(&core.lock)

    def _emit(self, str kind not None, key, cause=None, value=None, error=None, double seconds=0.0):
        """Tell listeners what the face has seen."""
        cdef int number = KINDS.index(kind)
        if core_hears(&self.store.core, number):
            emit(self.store, self.space, <Kind>number, key, cause, value, error, seconds)

    def _listen(self, listener, int mask):
        """Let `listener` hear the kinds of `mask`; return what _unlisten takes."""
        cdef Core* core = &self.store.core
        cdef Space* space = self.space
        space_guard_closed(self.store)
        token = (mask, listener)
        made = []
        lock_acquire(&core.lock)
        try:
            if space.listeners == NULL:
                Py_INCREF(made)                       # Space.listeners owns it
                space.listeners = <PyObject*>made
            (<list>space.listeners).append(token)
            space.views += 1                          # who is listened to is not idle
            listeners_count_locked(core, <uint32_t>mask, 1)
        finally:
            lock_release(&core.lock)
        return token

    def _unlisten(self, token):
        """End what _listen began. Twice is once."""
        cdef Core* core = &self.store.core
        cdef Py_ssize_t at
        cdef list listeners
        lock_acquire(&core.lock)
        try:
            if self.space.listeners != NULL:
                listeners = <list>self.space.listeners
                for at in range(len(listeners)):
                    if listeners[at] is token:
                        del listeners[at]
                        self.space.views -= 1
                        listeners_count_locked(core, <uint32_t>token[0], -1)
                        break
        finally:
            lock_release(&core.lock)

    def _sweep(self):
        """Expire some of what is due, here and below, and reclaim some debris.

        Returns how many expired, and whether there may be more to do.
        """
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef double now = store_now(store)
        cdef Py_ssize_t swept = 0
        cdef uint32_t steps = SETTLE
        space_guard_closed(store)
        lock_acquire(&core.lock)
        while space_settle_one_locked(core, self.space, now, True, &steps):
            swept += 1
        if core.limbo_count < core.at_once:
            debris_reclaim_locked(core, core.at_once - core.limbo_count)
        more = steps == 0 or debris_is_left(core)
        lock_release(&core.lock)
        store_drain(store)
        return swept, more

    def _close(self):
        """Refuse all further use, let running loads end in vain, and drop every entry."""
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef Slab taken
        lock_acquire(&core.lock)
        if core_is_closed(core):
            lock_release(&core.lock)
            return
        poke_flag(&core.closed, True)
        if core_hears(core, REMOVE):
            clear_locked(store, core.root, -INFINITY)
        else:
            fence_below_locked(core.root)
        lock_release(&core.lock)
        try:
            store_drain(store)
        finally:
            # Nobody will be there to hand the rest back a little at a time.
            lock_acquire(&core.lock)
            store_take_all_locked(core, &taken)
            lock_release(&core.lock)
            slab_drop(&taken)

    def _slice(self, int at_once, int splits):
        """Set how many entries a call removes itself, and how many a part of the table may hold.

        So that tests see with few entries what happens to many.
        """
        self.store.core.at_once = at_once
        self.store.core.table.splits = splits

    def _parts(self):
        """How many parts the table is cut into."""
        cdef Table* table = &self.store.core.table
        cdef uint32_t p = 0, parts = 0
        while p < (<uint32_t>1) << table.bits:
            p += (<uint32_t>1) << (table.bits - table.parts[p].bits)
            parts += 1
        return parts

    def _debris(self):
        """How many entries are out of reach and still hold their memory."""
        cdef Core* core = &self.store.core
        cdef Space* cut = core.debris
        debris = core.debris_count
        while cut != NULL:
            debris += cut.own
            cut = cut.next
        return debris

    def _tagged(self, str tag not None):
        """How many entries bear the tag, here and below."""
        cdef uint32_t t
        cdef Core* core = &self.store.core
        lock_acquire(&core.lock)
        try:
            t = tag_find(self.space, tag)
            return 0 if t == NONE else core.tags.records[t].total
        finally:
            lock_release(&core.lock)

    def _is_closed(self):
        return bool(core_is_closed(&self.store.core))

    def _store(self):
        """The store itself: what a background thread may hold weakly. See _root_of."""
        return self.store

    def _check(self):
        """Recompute every count and link of the whole cache; AssertionError if any is wrong."""
        check_store(self.store)

    def _probe_length(self, key, /):
        """The number of the table's buckets that a look-up of the key examines at most."""
        cdef Core* core = &self.store.core
        cdef uint32_t hash = key_hash(self.space, key), b, tried = 1
        cdef Part* part = table_part(&core.table, hash)
        b = part_home(part, hash)
        while part.buckets[b].overflow and tried < part_most(part):
            b = part_next(part, hash, tried)
            tried += 1
        return tried

    def _namespaces_held(self):
        """How many namespaces the whole cache remembers, its root included."""
        return self.store.core.spaces_used - self.store.core.free_count


def _root_of(Store store not None):
    """A view of a store's root, for a background thread."""
    cdef Namespace view = view_new(store)
    lock_acquire(&store.core.lock)
    view_attach(view, store.core.root)
    lock_release(&store.core.lock)
    return view
