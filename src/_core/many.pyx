# The calls of a namespace that touch many keys.

cdef class Many(Mapping):
    """The calls that touch many keys."""

    def get_many(self, keys, /):
        """Return a ``dict`` of the keys that have a fresh entry. Each look-up is counted."""
        found = {}
        space_guard(self.store, self.space)
        keys = list(keys)
        for key in keys:
            hash(key)                             # all are checked before any is looked up
        for key in keys:
            value = look(self, key, True)
            if value is not MISSING:
                found[key] = value
        return found

    def set_many(self, mapping, /, *, ttl=UNSET, tags=(), stale=None):
        """Store each item of a mapping with one TTL and tags; all are checked before any is."""
        cdef Terms terms
        cdef Store store = self.store
        cdef Space* space = self.space
        space_guard(store, space)
        terms_of(store, space, &terms, ttl, stale)
        tags = None if tags is () else tags_checked(tags)
        pairs = PyDict_Items(pairs_of(mapping))
        hashes = []
        weights = []
        for key, _ in pairs:
            hashes.append(key_hash(space, key))
        for key, value in pairs:
            weights.append(weigh(store, key, value))
        if terms.ttl > 0:
            for weight in weights:
                space_check_weight(space, <int64_t>weight)
        for (key, value), hash, weight in zip(pairs, hashes, weights):
            terms.weight = weight
            put(store, space, key, value, &terms, <tuple>tags, <uint32_t>hash)

    def delete_many(self, keys, /):
        """Remove the keys; return how many of them had a fresh entry."""
        cdef bint fresh = False
        cdef Py_ssize_t removed = 0
        space_guard(self.store, self.space)
        keys = list(keys)
        for key in keys:
            hash(key)                             # all are checked before any is removed
        for key in keys:
            take(self, key, DELETED, &fresh)
            removed += fresh
        return removed

    def clear(self):
        """Remove every entry of this namespace and of those below it, and of no other.

        Returns how many. Loads that run there are not stored. Costs O(namespaces below), and
        O(what is removed) up to some thousand entries; the memory of more comes back a little at
        a time, with later writes or ``sweep()``.
        """
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef double now = store_now(store)
        cdef int64_t removed
        space_guard_closed(store)
        lock_acquire(&core.lock)
        removed = clear_locked(store, self.space, now)
        lock_release(&core.lock)
        if core_has_limbo(core):
            store_drain(store)
        return removed

    def invalidate_tag(self, tag, /):
        """Remove the entries, here and below, that bear the tag; return how many.

        Loads that run with the tag are not stored. Costs O(what is removed).
        """
        if not isinstance(tag, str):
            raise TypeError(f"tag: must be a str, got {type(tag).__name__}")
        return invalidate(self, tags_checked(tag), False)

    def invalidate_tags(self, tags, /, *, match="any"):
        """Remove the entries, here and below, that bear one of the tags, or (``match="all"``) each.

        Returns how many. Costs O(entries that bear the tags), with ``"all"`` the rarest of them.
        """
        if match not in ("any", "all"):
            raise ValueError(f'match: must be "any" or "all", got {match!r}')
        return invalidate(self, tags_checked(tags), match == "all")

    def invalidate_prefix(self, prefix, /):
        """Remove this namespace's own entries whose ``str`` keys start so; return how many.

        Loads of such keys are not stored. Costs O(this namespace's own entries).
        """
        cdef Store store = self.store
        cdef Core* core = &store.core
        cdef Space* space = self.space
        cdef double now = store_now(store)
        cdef int64_t removed = 0
        cdef uint32_t i, newer, far
        cdef Entry* e
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: must be a str, got {type(prefix).__name__}")
        prefix = str.__str__(prefix)
        space_guard(store, space)
        lock_acquire(&core.lock)
        try:
            if space_has_loads(space):
                fence_prefix_locked(space, prefix)
            # All of them are looked at, and a look at all seats costs less.
            sieve_begin(core, space, space.own)
            i = space.order.oldest
            far = i
            for _ in range(AHEAD):
                if far != NONE:
                    far = entry_at(&core.slab, far).newer
            while i != NONE:
                e = entry_at(&core.slab, i)
                newer = e.newer
                if far != NONE:
                    prefetch(entry_at(&core.slab, far).key)
                    far = entry_at(&core.slab, far).newer
                if (PyUnicode_Check(<object>e.key)
                        and PyUnicode_Tailmatch(<object>e.key, prefix, 0, PY_SSIZE_T_MAX, -1) == 1):
                    removed += remove_one_locked(core, i, PREFIX, now)
                i = newer
            sieve_end(core, space)
        finally:
            lock_release(&core.lock)
        if core_has_limbo(core):
            store_drain(store)
        return removed
