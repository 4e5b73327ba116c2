# Spares: views that were dropped, for the next ones, and replacements of their type's slots.

# A request makes a view and drops it again, so both are done by hand, with a few spare objects
# where the GIL guards them: by Cython's own deallocator and free list, namespace(...).get takes 6 %
# more instructions.
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
    static PyTypeObject *flowcache_view_type, *flowcache_tiered_type;
    #define flowcache_is_root(t) ((t) != flowcache_view_type && (t) != flowcache_tiered_type)
    /* A view made by hand would be of nothing. A subclass, which is a root, is another matter. */
    static PyObject *flowcache_view_refuse(PyTypeObject *type, PyObject *args, PyObject *names) {
        if (flowcache_is_root(type))
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
    #define flowcache_view_new(type, none) flowcache_own_new((type), (none), NULL)
    #define flowcache_take_tiered(type) ((void)(flowcache_tiered_type = (type)))
    """
    bint view_is_root "flowcache_is_root"(PyTypeObject* type)
    object view_of_type "flowcache_view_new"(PyTypeObject* type, object none)
    void view_take_tiered "flowcache_take_tiered"(PyTypeObject* type)
    PyTypeObject* tiered_type "flowcache_tiered_type"
    PyObject* spare_take "flowcache_spare_take"(PyTypeObject* type)
    void spare_give "flowcache_spare_give"(PyObject* view, PyTypeObject* type)
    void patch_view "flowcache_patch_view"(PyTypeObject* type, void* dealloc)
