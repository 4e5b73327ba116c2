# The most frequent calls, with their arguments parsed by hand: Cython's parsing costs as much as
# the look-up. Rare forms of a call go to the methods of the class, which these replace: see
# fastcall_install.

cdef extern from *:
    """
    /* Vectorcall by hand, so that a hit looks at no option: the names are compared by pointer for
       the one that concerns hits, and everything else waits for the miss. */
    typedef PyObject *(*flowcache_fast)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
    static Py_ssize_t flowcache_name_at(PyObject *names, PyObject *wanted) {
        Py_ssize_t n = names == NULL ? 0 : PyTuple_GET_SIZE(names);
        while (--n >= 0) {
            PyObject *name = PyTuple_GET_ITEM(names, n);
            if (name == wanted || flowcache_str_equal(name, wanted))
                break;
        }
        return n;
    }
    static PyObject *flowcache_pass_on(PyObject *function, PyObject *self, PyObject *const *args,
                                       Py_ssize_t nargs, PyObject *names) {
        PyObject *few[12], **all = few, *result;
        Py_ssize_t n = nargs + (names == NULL ? 0 : PyTuple_GET_SIZE(names)), i;
        if (n + 1 > 12) {
            all = PyMem_Malloc((n + 1) * sizeof(PyObject *));
            if (all == NULL)
                return PyErr_NoMemory();
        }
        all[0] = self;
        for (i = 0; i < n; i++)
            all[i + 1] = args[i];
        result = PyObject_Vectorcall(function, all, nargs + 1, names);
        if (all != few)
            PyMem_Free(all);
        return result;
    }
    /* 0 or 1 for what can be called as well; -1: an object of another kind. */
    static int flowcache_loader_is_async(PyObject *loader) {
        if (PyMethod_Check(loader))
            loader = PyMethod_GET_FUNCTION(loader);
        if (PyFunction_Check(loader))
            return (((PyCodeObject *)PyFunction_GET_CODE(loader))->co_flags
                    & (CO_COROUTINE | CO_ITERABLE_COROUTINE)) != 0;
        if (PyCFunction_Check(loader) || PyType_Check(loader))
            return 0;
        return -1;
    }
    /* Put a function in the place of a method of the class, whose documentation it takes over. */
    static int flowcache_replace(PyTypeObject *type, PyMethodDef *def, PyObject *method,
                                 void *function) {
        PyMethodDef *old = ((PyMethodDescrObject *)method)->d_method;
        PyObject *descriptor;
        int failed;
        def->ml_name = old->ml_name;
        def->ml_meth = (PyCFunction)function;
        def->ml_flags = METH_FASTCALL | METH_KEYWORDS;
        def->ml_doc = old->ml_doc;
        descriptor = PyDescr_NewMethod(type, def);
        if (descriptor == NULL)
            return -1;
        failed = PyDict_SetItemString(type->tp_dict, def->ml_name, descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(type);
        return failed;
    }
    /* A heap type does not inherit the flags. A method descriptor is called as `f(self, ...)`, and
       not bound first. */
    static void flowcache_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_call = PyVectorcall_Call;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR;
        PyType_Modified(type);
    }
    static int flowcache_add_method(PyTypeObject *type, PyObject *name, PyObject *method) {
        int failed = PyDict_SetItem(type->tp_dict, name, method);
        PyType_Modified(type);
        return failed;
    }
    static PyMethodDef flowcache_fast_get, flowcache_fast_set, flowcache_fast_fetch;
    static PyMethodDef flowcache_fast_afetch, flowcache_fast_namespace;
    static PyMethodDef flowcache_fast_fetch_many, flowcache_fast_afetch_many;
    """
    # The position of a name among those of a call, a tuple or NULL; -1: it is not among them.
    Py_ssize_t name_at "flowcache_name_at"(PyObject* names, PyObject* wanted)
    object pass_on "flowcache_pass_on"(PyObject* function, PyObject* me, PyObject** args,
                                       Py_ssize_t nargs, PyObject* names)
    bint is_function "PyFunction_Check"(PyObject* o)
    int loader_flag "flowcache_loader_is_async"(PyObject* loader)
    int method_replace "flowcache_replace"(PyTypeObject* type, void* definition, object method,
                                           void* function) except -1
    void enable_vectorcall "flowcache_enable_vectorcall"(PyTypeObject* type, Py_ssize_t offset)
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    ctypedef PyObject* (*Vectorcall "vectorcallfunc")(PyObject*, PyObject**, size_t, PyObject*)
    int method_add "flowcache_add_method"(PyTypeObject* type, object name, object method) except -1
    void* fast_get "&flowcache_fast_get"
    void* fast_set "&flowcache_fast_set"
    void* fast_fetch "&flowcache_fast_fetch"
    void* fast_afetch "&flowcache_fast_afetch"
    void* fast_namespace "&flowcache_fast_namespace"
    void* fast_fetch_many "&flowcache_fast_fetch_many"
    void* fast_afetch_many "&flowcache_fast_afetch_many"


cdef object slow_get = Namespace.get
cdef object slow_set = Namespace.set
cdef object slow_fetch = Namespace.fetch
cdef object slow_afetch = Namespace.afetch
cdef object slow_namespace = Namespace.namespace
cdef object slow_fetch_many = Namespace.fetch_many
cdef object slow_afetch_many = Namespace.afetch_many
cdef str TTL_NAME = "ttl"
cdef str TAGS_NAME = "tags"
cdef str STALE_NAME = "stale"
cdef str REFRESH_AHEAD = "refresh_ahead"


cdef object namespace_get(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    if names != NULL or nargs < 1 or nargs > 2:
        return pass_on(<PyObject*>slow_get, me, args, nargs, names)
    value = look((<Namespace>me).store, (<Namespace>me).node, <object>args[0], True)
    if value is MISSING:
        return <object>args[1] if nargs == 2 else None
    return value


cdef object namespace_set(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef PyObject* ttl = <PyObject*>UNSET
    cdef PyObject* tags = NULL
    cdef PyObject* stale = NULL
    cdef PyObject* name
    cdef PyObject** names_of_tags = NULL
    cdef Py_ssize_t n, n_tags = 0
    cdef double seconds = (<Namespace>me).node.default_ttl
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
        return pass_on(<PyObject*>slow_set, me, args, nargs, names)
    if tags != NULL:
        if PyTuple_CheckExact(tags):
            names_of_tags, n_tags = tuple_items(tags, 0), PyTuple_GET_SIZE(tags)
        elif is_str(tags):
            names_of_tags, n_tags = &tags, 1
        else:
            plain = False
    if ttl != <PyObject*>UNSET and plain:
        plain = not PyCallable_Check(<object>ttl)
        if plain:
            seconds = seconds_of(<object>ttl, "ttl", True)
    if (plain and stale == NULL
            and store_put_plain((<Namespace>me).store, (<Namespace>me).node, args[0], args[1],
                                seconds, names_of_tags, n_tags)):
        return None
    set_one((<Namespace>me).store, (<Namespace>me).node, <object>args[0], <object>args[1],
            <object>ttl, <object>tags if tags != NULL else (),
            <object>stale if stale != NULL else None)
    return None


cdef inline int loader_kind(PyObject* loader) except -2:
    """1: called as an `async def` is; 0: another callable; -1: cannot be called."""
    cdef int flag = loader_flag(loader)
    if flag >= 0:
        return flag
    return object_is_async(<object>loader) if PyCallable_Check(<object>loader) else -1


cdef bint object_is_async(object loader) except -1:
    while type(loader) is partial:
        loader = loader.func
        flag = loader_flag(<PyObject*>loader)
        if flag >= 0:
            return flag
    return face.is_async(loader)


cdef double ahead_given(PyObject* names, PyObject** values) except -1:
    """The `refresh_ahead` of a call that was given `values` under `names`; INFINITY: none."""
    cdef Py_ssize_t n = name_at(names, <PyObject*>REFRESH_AHEAD)
    if n < 0 or values[n] == <PyObject*>None:
        return INFINITY
    return fraction_of(<object>values[n], REFRESH_AHEAD)


cdef object namespace_fetch(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef int kind = loader_kind(args[1]) if nargs == 2 else -1
    if kind >= 0:
        value = fresh_hit((<Namespace>me).store, (<Namespace>me).node, <object>args[0],
                          INFINITY if names == NULL else ahead_given(names, args + 2))
        if value is not MISSING:
            return ready_of(value) if kind else value
        if not kind:
            options = options_named("fetch", names, args + 2)
            return fetch_missing(
                (<Namespace>me).store, (<Namespace>me).node, <object>me, <object>args[0],
                key_hash((<Namespace>me).node, <object>args[0]), options, <object>args[1],
                args + 2, 0, NULL, None, NULL)
        return face.aanswer(<object>me, <object>args[0], <object>args[1],
                            options_named("afetch", names, args + 2))
    return pass_on(<PyObject*>slow_fetch, me, args, nargs, names)


cdef object namespace_afetch(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    if nargs == 2 and (is_function(args[1]) or PyCallable_Check(<object>args[1])):
        value = fresh_hit((<Namespace>me).store, (<Namespace>me).node, <object>args[0],
                          INFINITY if names == NULL else ahead_given(names, args + 2))
        if value is not MISSING:
            return ready_of(value)
        return face.aanswer(<object>me, <object>args[0], <object>args[1],
                            options_named("afetch", names, args + 2))
    return pass_on(<PyObject*>slow_afetch, me, args, nargs, names)


cdef object namespace_namespace(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef Namespace parent = <Namespace>me
    cdef Core* core = &parent.store.core
    cdef Node* found
    cdef Namespace view
    if nargs == 1 and names == NULL and is_str(args[0]) and not core_is_closed(core):
        view = view_new(parent.store)
        lock_acquire(&core.lock)
        found = node_child_locked(parent.node, args[0])
        if found != NULL:
            view_attach_locked(view, found)
        lock_release(&core.lock)
        if found != NULL:
            return view
    return pass_on(<PyObject*>slow_namespace, me, args, nargs, names)


cdef object fetch_listed(PyObject* me, PyObject** args, PyObject* names, bint is_async):
    """Answer from what is held. For the rest, what was found goes on to the face."""
    cdef Namespace view = <Namespace>me
    cdef tuple keys = keys_checked(<object>args[0])
    cdef dict missing = {}
    cdef dict found
    # Checked first: a call that is refused changes no count.
    cdef Options options = options_named("afetch_many" if is_async else "fetch_many", names,
                                         args + 2)
    node_guard(view.store, view.node)
    found = look_fresh(view.store, view.node, keys, missing)
    if found is not None and not missing:
        return ready_of(found) if is_async else found
    load = face.afetch_rest if is_async else face.fetch_rest
    return load(view, keys, <object>args[1], options, found, missing)


cdef object namespace_fetch_many(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef int kind
    if nargs == 2 and name_at(names, <PyObject*>REFRESH_AHEAD) < 0:
        kind = loader_kind(args[1])
        if kind >= 0:
            return fetch_listed(me, args, names, kind)
    return pass_on(<PyObject*>slow_fetch_many, me, args, nargs, names)


cdef object namespace_afetch_many(PyObject* me, PyObject** args, Py_ssize_t nargs,
                                  PyObject* names):
    if (nargs == 2 and name_at(names, <PyObject*>REFRESH_AHEAD) < 0
            and PyCallable_Check(<object>args[1])):
        return fetch_listed(me, args, names, True)
    return pass_on(<PyObject*>slow_afetch_many, me, args, nargs, names)


cdef int fastcall_install() except -1:
    """Put the functions of this room in the places of the methods that they speed up."""
    cdef PyTypeObject* view = type_of(Namespace)
    method_replace(view, fast_get, slow_get, <void*>namespace_get)
    method_replace(view, fast_set, slow_set, <void*>namespace_set)
    method_replace(view, fast_fetch, slow_fetch, <void*>namespace_fetch)
    method_replace(view, fast_afetch, slow_afetch, <void*>namespace_afetch)
    method_replace(view, fast_namespace, slow_namespace, <void*>namespace_namespace)
    method_replace(view, fast_fetch_many, slow_fetch_many, <void*>namespace_fetch_many)
    method_replace(view, fast_afetch_many, slow_afetch_many, <void*>namespace_afetch_many)
    return 0
