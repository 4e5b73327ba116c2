# Listeners. A kind without a listener costs one test of a bit.

KINDS = ("hit", "miss", "stale_hit", "set", "remove", "load", "load_error", "refresh", "sweep")
CAUSES = ("deleted", "replaced", "expired", "evicted", "over_limit", "tag", "prefix", "cleared")


cdef tuple listeners_of_locked(Store store, Node* node, Kind kind):
    """The listeners for this kind, of the namespace and those above it, or None.

    A tuple: the cache's name, the path, the listeners.
    """
    cdef Node* ancestor = node
    wanted = None
    while ancestor != NULL:
        if ancestor.listeners != NULL:
            for mask, listener in <list>ancestor.listeners:
                if <int>mask & (1 << <int>kind):
                    if type(listener) is Recorder and not recorder_is_due(<Recorder>listener):
                        continue
                    if wanted is None:
                        wanted = []
                    wanted.append(listener)
        ancestor = ancestor.parent
    if wanted is None:
        return None
    return (store.name, node_path(node), wanted)


cdef int emit(Store store, Node* node, Kind kind, object key, object cause, object value,
              object error=None, double seconds=0.0) except -1:
    """Call the listeners for `kind` here or above. For callers that saw the bit set, hold the
    namespace and have completed the change."""
    lock_acquire(&store.core.lock)
    try:
        targets = listeners_of_locked(store, node, kind)
    finally:
        lock_release(&store.core.lock)
    if targets is not None:
        name, path, listeners = targets
        face.dispatch(listeners, KINDS[<int>kind], path, key, cause, value, error, seconds, name)
    return 0


cdef void listeners_count_locked(Core* core, uint32_t mask, int by) noexcept:
    """Count a listener that came (`by` 1) or went (-1), kind by kind; Core.mask follows."""
    cdef int kind
    for kind in range(KINDS_COUNT):
        if mask & (1 << kind):
            core.listening[kind] += by
            if core.listening[kind]:
                relaxed_store_u32(&core.mask, core.mask | <uint32_t>1 << kind)
            else:
                relaxed_store_u32(&core.mask, core.mask & ~(<uint32_t>1 << kind))


cdef tuple listen(Store store, Node* node, object listener, int mask):
    """Let `listener` receive the kinds of `mask`; return the token for unlisten."""
    cdef Core* core = &store.core
    node_guard_closed(store)
    token = (mask, listener)
    made = []
    lock_acquire(&core.lock)
    try:
        if node.listeners == NULL:
            Py_INCREF(made)                       # Node.listeners owns it
            node.listeners = <PyObject*>made
        (<list>node.listeners).append(token)
        node.views += 1                          # a namespace with a listener is not idle
        listeners_count_locked(core, <uint32_t>mask, 1)
    finally:
        lock_release(&core.lock)
    return token


cdef object unlisten(Store store, Node* node, object token):
    """End a subscription of listen. A second call has no effect."""
    cdef Core* core = &store.core
    cdef Py_ssize_t at
    cdef list listeners
    lock_acquire(&core.lock)
    try:
        if node.listeners != NULL:
            listeners = <list>node.listeners
            for at in range(len(listeners)):
                if listeners[at] is token:
                    del listeners[at]
                    node.views -= 1
                    listeners_count_locked(core, <uint32_t>token[0], -1)
                    break
    finally:
        lock_release(&core.lock)


cdef object emit_named(Store store, Node* node, str kind, object key, object cause, object value,
                       object error, double seconds):
    """Emit an event of the face to listeners."""
    cdef int number = KINDS.index(kind)
    if core_hears(&store.core, number):
        emit(store, node, <Kind>number, key, cause, value, error, seconds)
