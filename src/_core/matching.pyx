# Invalidation by a predicate, which is a user's code. So nothing is locked while it runs: the
# entries are listed first, and go at the end, all together.

cdef extern from "Python.h":
    object PyBytes_FromStringAndSize(const char* text, Py_ssize_t length)
    char* PyBytes_AS_STRING(object text)

cdef struct Nodes:                # namespaces that are held, so that none is forgotten
    Node** nodes
    uint32_t n
    uint32_t capacity


cdef int nodes_hold_locked(Core* core, Node* node, Nodes* held) noexcept:
    """Hold the namespaces with entries, here and below; -1 when memory is out."""
    cdef Node* child = node.child
    cdef void* grown
    cdef uint32_t wanted
    if node.own:
        if held.n == held.capacity:
            wanted = held.capacity * 2 if held.capacity else 8
            grown = realloc(held.nodes, wanted * sizeof(Node*))
            if grown == NULL:
                return -1
            held.nodes = <Node**>grown
            held.capacity = wanted
        held.nodes[held.n] = node
        held.n += 1
        node_hold_locked(core, node)
    while child != NULL:
        if child.entries and nodes_hold_locked(core, child, held) < 0:
            return -1
        child = child.next
    return 0


cdef void nodes_let_go(Store store, Nodes* held) noexcept:
    cdef Core* core = &store.core
    cdef uint32_t n
    lock_acquire(&core.lock)
    for n in range(held.n):
        node_let_go_locked(core, held.nodes[n])
    lock_release(&core.lock)
    free(held.nodes)
    if relaxed_load_u32(&core.idle_count) > core.max_idle:
        store_trim_idle(store, held.n + 4)


cdef tuple entries_listed(Store store, Node* node):
    """(keys, values, indices) of all entries of the namespace's own; the indices as bytes."""
    cdef Core* core = &store.core
    cdef uint32_t i
    cdef uint32_t* indices
    cdef Py_ssize_t n
    cdef list keys, values
    while True:
        n = relaxed_load_u32(&node.own)
        keys = list_blank(n)
        values = list_blank(n)
        packed = PyBytes_FromStringAndSize(NULL, n * <Py_ssize_t>sizeof(uint32_t))
        indices = <uint32_t*>PyBytes_AS_STRING(packed)
        lock_acquire(&core.lock)
        if n < node.own:
            lock_release(&core.lock)
            continue
        n = 0
        i = node.order.oldest
        while i != NONE:
            entry_list_locked(entry_at(&core.slab, i), keys, values, n)
            indices[n] = i
            n += 1
            i = entry_at(&core.slab, i).newer
        lock_release(&core.lock)
        list_finish(keys, n)
        list_finish(values, n)
        return keys, values, packed


cdef int match_own(Store store, Node* node, object predicate, uint32_t number,
                   list matched) except -1:
    """Append (number, index, key, value) of the entries that the predicate is true of."""
    cdef Py_ssize_t n
    keys, values, packed = entries_listed(store, node)
    for n in range(PyList_GET_SIZE(keys)):
        if face.plain_result(predicate(keys[n], values[n]), "predicate"):
            matched.append((number, (<uint32_t*>PyBytes_AS_STRING(packed))[n], keys[n], values[n]))
    return 0


cdef int64_t invalidate_where(Store store, Node* node, object predicate) except -1:
    """Remove the entries, here and below, that the predicate is true of; how many.

    The loads that run here are fenced before the first entry is examined. The predicate's result
    for their values is not known yet. An entry is the examined one if its key and value are the
    same objects. Both are held, so no other objects have their addresses.
    """
    cdef Core* core = &store.core
    cdef Nodes held
    cdef Node* owner
    cdef Entry* e
    cdef uint32_t n, i
    cdef int64_t removed = 0
    cdef double now
    cdef int failed
    if not callable(predicate):
        raise TypeError(f"predicate: must be callable, got {type(predicate).__name__}")
    face.check_sync(predicate, "predicate")
    node_guard_closed(store)
    memset(&held, 0, sizeof(Nodes))
    matched = []
    try:
        lock_acquire(&core.lock)
        fence_below_locked(node)
        failed = nodes_hold_locked(core, node, &held)
        lock_release(&core.lock)
        if failed < 0:
            raise MemoryError()
        for n in range(held.n):
            match_own(store, held.nodes[n], predicate, n, matched)
        now = store_now(store)
        lock_acquire(&core.lock)
        try:
            if core_is_closed(core):
                raise closed_error()
            for number, index, key, value in matched:
                owner = held.nodes[<uint32_t>number]
                i = <uint32_t>index
                if i >= core.slab.used:
                    continue
                e = entry_at(&core.slab, i)
                # An entry in limbo still has all three.
                if (e.node == owner.id and e.key == <PyObject*>key
                        and e.value == <PyObject*>value
                        and table_holds(&core.table, e.hash, i)):
                    removed += remove_one_locked(core, i, DELETED, now)
        finally:
            lock_release(&core.lock)
    finally:
        nodes_let_go(store, &held)
    if core_has_limbo(core):
        store_drain(store)
    return removed
