# A namespace as a mutable mapping over its own fresh entries.

cdef class Mapping(Keyed):
    """A mutable mapping over a namespace's own fresh entries."""

    def __getitem__(self, key):
        value = look(self, key, True)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key, value):
        self.set(key, value)

    def __delitem__(self, key):
        cdef bint fresh = False
        take(self, key, DELETED, &fresh)
        if not fresh:
            raise KeyError(key)

    def __contains__(self, key):
        return look(self, key, False) is not MISSING

    def __len__(self):
        """The number of this namespace's own fresh entries. O(1), and O(what is due here)."""
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef double now = store_now(store)
        cdef Py_ssize_t n
        cdef uint32_t steps = SETTLE
        space_guard_closed(store)
        lock_acquire(&core.lock)
        while space_settle_one_locked(core, self.space, now, False, &steps):
            pass
        n = self.space.own - self.space.own_stale
        if steps == 0:
            # So many are due that they are only counted; they go a few a call.
            n -= heap_due(core, &self.space.deadlines, 0, now, False)
        lock_release(&core.lock)
        if core_has_limbo(core):
            store_drain(store)
        return n

    def __iter__(self):
        return iter(fresh_keys(self, -1))

    def keys(self):
        """Return a ``KeysView`` of the fresh keys, least recent first.

        Each iteration is over the keys as they are when it begins; O(n).
        """
        return face_keys(self)

    def values(self):
        """Return a ``ValuesView`` of the fresh values, in the order of :meth:`keys`."""
        return face_values(self)

    def items(self):
        """Return an ``ItemsView`` of the fresh keys and values, in the order of :meth:`keys`."""
        return face_items(self)

    def _listed(self):
        """The fresh keys and their values, as two lists; order and counts do not change."""
        return fresh_items(self)

    def setdefault(self, key, /, default=None):
        """Return the fresh value of ``key``; if there is none, store ``default`` and return it.

        Counts a hit or a miss.
        """
        cdef bint found = True
        value = look(self, key, True)
        for _ in range(OFTEN):
            if value is not MISSING:
                return value
            add_one(self, key, default, UNSET, (), None, &found)
            # ttl=0, or a cache whose room is all reserved, keeps none; but somebody may have
            # stored one since.
            if not found:
                return default
            value = look(self, key, False)
        return default

    def update(self, other=(), /, **more):
        """Store each pair of a mapping or an iterable of pairs, then each keyword."""
        pairs = pairs_of(other)
        pairs.update(more)
        self.set_many(pairs)


cdef dict pairs_of(object other):
    """A dict of what a mapping, an iterable of pairs or another namespace holds now."""
    if isinstance(other, View):
        # By dict() each key would be looked up, and may be gone by then.
        return dict(zip(*fresh_items(<View>other)))
    return dict(other)
