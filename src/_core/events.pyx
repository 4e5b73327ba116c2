# Who listens. A kind that nobody listens to costs one test of a bit.

KINDS = ("hit", "miss", "stale_hit", "set", "remove", "load", "load_error", "refresh", "sweep")
CAUSES = ("deleted", "replaced", "expired", "evicted", "over_limit", "tag", "prefix", "cleared")

cdef enum Kind:
    HIT, MISS, STALE_HIT, SET, REMOVE, LOAD, LOAD_ERROR, REFRESH, SWEEP


cdef tuple listeners_of(Store store, Space* space, Kind kind):
    """Who wants this kind, of the namespace and those above it, or None.

    A tuple: the cache's name, the path, the listeners.
    """
    cdef Space* above = space
    wanted = None
    while above != NULL:
        if above.listeners != NULL:
            for mask, listener in <list>above.listeners:
                if <int>mask & (1 << <int>kind):
                    if wanted is None:
                        wanted = []
                    wanted.append(listener)
        above = above.parent
    if wanted is None:
        return None
    return (store.name, space_path(space), wanted)


cdef int emit(Store store, Space* space, Kind kind, object key, object cause, object value,
              object error=None, double seconds=0.0) except -1:
    """Tell whoever listens for `kind` here or above. For callers that saw the bit set, hold the
    namespace and have completed the change."""
    lock_acquire(&store.core.lock)
    try:
        targets = listeners_of(store, space, kind)
    finally:
        lock_release(&store.core.lock)
    if targets is not None:
        name, path, listeners = targets
        face_dispatch(listeners, KINDS[<int>kind], path, key, cause, value, error, seconds, name)
    return 0


cdef void listeners_count_locked(Core* core, uint32_t mask, int by) noexcept:
    """Count a listener that came (`by` 1) or went (-1), kind by kind; Core.mask follows."""
    cdef int kind
    for kind in range(KINDS_COUNT):
        if mask & (1 << kind):
            core.listening[kind] += by
            if core.listening[kind]:
                poke_u32(&core.mask, core.mask | <uint32_t>1 << kind)
            else:
                poke_u32(&core.mask, core.mask & ~(<uint32_t>1 << kind))
