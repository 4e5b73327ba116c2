# The references that the collector is shown.

ctypedef int (*Visit)(PyObject*, void*) noexcept
ctypedef int (*Traverse)(PyObject*, Visit, void*) noexcept
ctypedef int (*Clear)(PyObject*) noexcept

cdef extern from *:
    """
    typedef int (*flowcache_traverse)(PyObject *, visitproc, void *);
    static flowcache_traverse flowcache_own_traverse;
    static inquiry flowcache_own_clear;
    static void flowcache_patch_store(PyTypeObject *type, flowcache_traverse traverse,
                                      inquiry clear) {
        flowcache_own_traverse = type->tp_traverse;
        flowcache_own_clear = type->tp_clear;
        type->tp_traverse = traverse;
        type->tp_clear = clear;
    }
    """
    Traverse own_traverse "flowcache_own_traverse"
    Clear own_clear "flowcache_own_clear"
    void patch_store "flowcache_patch_store"(PyTypeObject* type, void* traverse, void* clear)
    PyTypeObject* type_of "(PyTypeObject *)"(object type)


cdef int store_traverse(PyObject* me, Visit visit, void* arg) noexcept:
    """Show the collector the references in C memory. Takes no lock and changes no reference count.

    Only entries that may refer to something are looked at: a bit an entry says which.
    """
    cdef Core* core = &(<Store>me).core
    cdef uint32_t w, bit, n
    cdef uint64_t word
    cdef Entry* e
    cdef Node* node
    cdef PyObject* running
    cdef int stop = own_traverse(me, visit, arg)
    if stop or core.root == NULL:
        return stop
    for w in range(core.slab.n_pages * PAGE_WORDS):
        word = core.slab.tracked[w]
        bit = 0
        while word:
            if word & 1:
                e = entry_at(&core.slab, (w << 6) + bit)
                if e.key != NULL:
                    stop = visit(e.key, arg)
                    if stop:
                        return stop
                    stop = visit(e.value, arg)
                    if stop:
                        return stop
            word >>= 1
            bit += 1
    for n in range(core.nodes_used):
        node = core.nodes[n]
        if node == NULL:
            continue
        if node.listeners != NULL:
            stop = visit(node.listeners, arg)
            if stop:
                return stop
        running = node.running
        while running != NULL:
            stop = visit(running, arg)
            if stop:
                return stop
            running = (<Load>running).older
    return 0


cdef int store_clear(PyObject* me) noexcept:
    """Drop every reference that could be part of a cycle; the store stays whole, and empty.

    `me` is only borrowed, and is not kept: dropping entries may drop the last other reference.
    """
    store_release_entries(<Store>me)
    return own_clear(me)
