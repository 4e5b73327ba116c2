# The hot path of fetch and afetch, what awaiting a hit awaits, and the table of running loads.

@cython.no_gc_clear                  # as View: its end needs its namespace; Store breaks the cycles
cdef class Load:
    """One running load: what it is for, and whether its result may still be stored.

    It is registered with its namespace from ``_begin`` to ``_finish`` or ``_abandon``. Whatever
    invalidates its key meanwhile fences it; a fence is never taken down.
    """

    cdef readonly Namespace namespace
    cdef readonly object key
    cdef readonly tuple tags
    cdef readonly bint fenced
    cdef readonly double started      # cache clock
    cdef readonly bint background
    cdef int64_t n_losses             # invalidations of tags that it did not bear when they came
    cdef dict lost                    # those tags, each with the number of its first
    cdef bint begun
    cdef bint registered              # in the table, in Space.running and in the counts
    cdef uint32_t hash                # of the key, mixed
    cdef uint64_t number              # Core.loads_begun when it was registered
    cdef PyObject* next_in_bucket     # borrowed; Space.running owns whom the table holds
    cdef PyObject* newer              # neighbours in Space.running
    cdef PyObject* older
    cdef object __weakref__

    def __init__(self, Namespace namespace not None, key, tags=()):
        checked = (() if tags is () else tags_checked(tags)) or ()
        lost = {}
        if self.namespace is not None:
            raise RuntimeError("a Load is initialised once")
        self.key = key
        self.tags = checked
        self.lost = lost                          # made here: a fence must not need memory
        self.namespace = namespace

    @property
    def losses(self):
        return peek_i64(&self.n_losses)

    def first_loss(self, tags):
        """The number of the first invalidation that covered one of the tags; 0 if none did."""
        first = 0
        for tag in tags:
            number = self.lost.get(tag, 0)
            if number and (first == 0 or number < first):
                first = number
        return first


cdef bint load_stands(Load load, tuple tags, double now):
    """Whether the load's result may be stored under these tags. Runs no user code."""
    if load.fenced or now - load.started > load.namespace.store.core.max_pending_age:
        return False
    if tags is not None:
        for tag in tags:
            if tag in load.lost:
                return False
    return True


cdef bint load_may_be_joined(Load load, double now):
    return (not peek_flag(&load.fenced)
            and now - load.started <= load.namespace.store.core.max_pending_age)


# The table of running loads: chained buckets by hash, newest first. A load is taken out by what it
# is, and only a search compares keys, so that no key can keep a load there. Nothing but its growth,
# which a registration begins with, needs memory: an end or a fence cannot fail.

cdef inline PyObject** loads_bucket(Core* core, uint32_t hash) noexcept nogil:
    return &core.loads[hash & (core.loads_size - 1)]


cdef int loads_reserve_locked(Core* core) noexcept:
    """Make sure that one more load fits; -1, and nothing changed, when memory is out."""
    cdef uint32_t size = core.loads_size * 2 if core.loads_size else 8, n
    cdef PyObject** old = core.loads
    cdef PyObject** grown
    cdef PyObject** place
    cdef PyObject* at
    cdef PyObject* next
    if core.loads_count < core.loads_size:
        return 0
    grown = <PyObject**>calloc(size, sizeof(PyObject*))
    if grown == NULL:
        return -1
    for n in range(core.loads_size):
        at = old[n]
        while at != NULL:                         # oldest of the bucket last, as they were
            next = (<Load>at).next_in_bucket
            place = &grown[(<Load>at).hash & (size - 1)]
            while place[0] != NULL:
                place = &(<Load>place[0]).next_in_bucket
            (<Load>at).next_in_bucket = NULL
            place[0] = at
            at = next
    free(old)
    core.loads = grown
    core.loads_size = size
    return 0


cdef Load load_find(Core* core, Space* space, object key, uint32_t hash, uint64_t* state):
    """The newest load of the key that runs in the namespace, or None. Lock not held.

    May run the key's __eq__. `state`, if given, receives Core.loads_changes as it was at the end.
    """
    cdef PyObject* at
    cdef Load load
    cdef uint64_t changes
    cdef bint same
    for _ in range(1000):
        lock_acquire(&core.lock)
        changes = core.loads_changes
        if state != NULL:
            state[0] = changes
        at = loads_bucket(core, hash)[0] if core.loads_count else NULL
        while at != NULL:
            load = <Load>at
            if load.hash == hash and load.namespace.space == space:
                if load.key is key:
                    break
                lock_release(&core.lock)
                same = compare_or_raise(<PyObject*>load.key, <PyObject*>key, Py_EQ)
                lock_acquire(&core.lock)
                if changes != core.loads_changes or same:
                    break
            at = load.next_in_bucket
        if changes == core.loads_changes:
            lock_release(&core.lock)
            return None if at == NULL else load
        lock_release(&core.lock)
        load = None                               # perhaps the last reference: not under the lock
    raise RuntimeError("key: its __eq__ begins or ends a load each time it is asked")


cdef Load load_register(Core* core, Space* space, Load load, double now):
    """Put the load into the table, or return the one that is to be joined. May run __eq__."""
    cdef Load running
    cdef uint64_t changes
    cdef PyObject** bucket
    for _ in range(1000):
        running = load_find(core, space, load.key, load.hash, &changes)
        if running is not None and load_may_be_joined(running, now):
            return running
        lock_acquire(&core.lock)
        try:
            if core_is_closed(core):
                raise closed_error()
            if changes != core.loads_changes:
                continue
            if space.max_pending >= 0 and space.own_pending >= space.max_pending:
                raise TooManyLoadsError(
                    f"namespace {space_label(space)} already has max_pending={space.max_pending} "
                    "loads running")
            if loads_reserve_locked(core) < 0:
                raise MemoryError()
            if running is not None:
                poke_flag(&running.fenced, True)   # too old, if it was not fenced before
            poke_u64(&core.loads_begun, core.loads_begun + 1)
            core.loads_changes += 1
            core.loads_count += 1
            load.number = core.loads_begun
            load.begun = True
            poke_flag(&load.registered, True)
            bucket = loads_bucket(core, load.hash)
            load.next_in_bucket = bucket[0]
            bucket[0] = <PyObject*>load
            Py_INCREF(load)                       # Space.running owns it
            load.newer = NULL
            load.older = space.running
            if space.running != NULL:
                (<Load>space.running).newer = <PyObject*>load
            space.running = <PyObject*>load
            poke_i64(&space.own_pending, space.own_pending + 1)
            while space != NULL:
                space.pending += 1
                space = space.parent
        finally:
            lock_release(&core.lock)
        return load
    raise RuntimeError("key: its __eq__ begins or ends a load each time it is asked")


cdef void load_unregister(Load load) noexcept:
    """Take the load out of the table, if it is there. Runs no user code, and cannot fail."""
    cdef Core* core
    cdef Space* space
    cdef PyObject** place
    if load.namespace is None:
        return
    core = &load.namespace.store.core
    space = load.namespace.space
    lock_acquire(&core.lock)
    if not load.registered:
        lock_release(&core.lock)
        return
    poke_flag(&load.registered, False)
    place = loads_bucket(core, load.hash)
    while place[0] != <PyObject*>load:
        place = &(<Load>place[0]).next_in_bucket
    place[0] = load.next_in_bucket
    if load.newer != NULL:
        (<Load>load.newer).older = load.older
    else:
        space.running = load.older
    if load.older != NULL:
        (<Load>load.older).newer = load.newer
    core.loads_changes += 1
    core.loads_count -= 1
    poke_i64(&space.own_pending, space.own_pending - 1)
    while space != NULL:
        space.pending -= 1
        space = space.parent
    lock_release(&core.lock)
    Py_DECREF(load)                               # what Space.running owned; the caller has another


cdef void fence_key_locked(Core* core, Space* space, Load found, uint32_t hash,
                           uint64_t since) noexcept:
    """Let the load of a key end in vain. Runs no user code.

    ``found`` is what :c:func:`load_find` found before the change; whatever has the key's hash and
    began since then (``since``: Core.loads_begun at that time) may be the key's too.
    """
    cdef PyObject* at
    if found is not None:
        poke_flag(&found.fenced, True)
    if core.loads_begun != since and core.loads_count:
        at = loads_bucket(core, hash)[0]
        while at != NULL:
            if ((<Load>at).number > since and (<Load>at).hash == hash
                    and (<Load>at).namespace.space == space):
                poke_flag(&(<Load>at).fenced, True)
            at = (<Load>at).next_in_bucket


cdef void fence_all_locked(Space* space) noexcept:
    cdef PyObject* at = space.running
    while at != NULL:
        poke_flag(&(<Load>at).fenced, True)
        at = (<Load>at).older


cdef void fence_below_locked(Space* space) noexcept:
    cdef Space* child = space.child
    fence_all_locked(space)
    while child != NULL:
        if child.pending:
            fence_below_locked(child)
        child = child.next


cdef void fence_tags_locked(Space* space, tuple tags, bint every) noexcept:
    """Fence the loads, here and below, that bear the tags; the others remember that they are lost.

    A load may learn its tags only at its end, so that with `every` each of the tags counts as lost:
    a result that might have been covered is not stored.
    """
    cdef Space* child = space.child
    cdef PyObject* at = space.running
    cdef Py_ssize_t borne
    cdef Load load
    while at != NULL:
        load = <Load>at
        at = load.older
        if load.fenced:
            continue
        borne = 0
        for tag in tags:
            borne += tag in load.tags
        if borne == len(tags) if every else borne > 0:
            poke_flag(&load.fenced, True)
            continue
        poke_i64(&load.n_losses, load.n_losses + 1)
        for tag in tags:
            if (tag not in load.tags and tag not in load.lost
                    and dict_put_number(<PyObject*>load.lost, tag, load.n_losses) < 0):
                PyErr_Clear()                     # no memory to remember it by
                poke_flag(&load.fenced, True)
    while child != NULL:
        if child.pending:
            fence_tags_locked(child, tags, every)
        child = child.next


cdef void fence_prefix_locked(Space* space, str prefix) noexcept:
    cdef PyObject* at = space.running
    while at != NULL:
        if (PyUnicode_Check((<Load>at).key)
                and PyUnicode_Tailmatch((<Load>at).key, prefix, 0, PY_SSIZE_T_MAX, -1) == 1):
            poke_flag(&(<Load>at).fenced, True)
        at = (<Load>at).older


# ------------------------------------------------------------------------------- awaiting a hit

cdef extern from *:
    """
    static PyAsyncMethods flowcache_ready_async;
    static void flowcache_patch_ready(PyTypeObject *type,
                                      PySendResult (*send)(PyObject *, PyObject *, PyObject **)) {
        /* Cython fills tp_as_async for __await__; am_send has no spelling in it. */
        if (type->tp_as_async != NULL)
            flowcache_ready_async = *type->tp_as_async;
        flowcache_ready_async.am_send = send;
        type->tp_as_async = &flowcache_ready_async;
        PyType_Modified(type);
    }
    /* Sets the flag and tells what it was: of several threads one gets the value. */
    #ifdef Py_GIL_DISABLED
    #define flowcache_claim(flag) _Py_atomic_exchange_int((flag), 1)
    #else
    static inline int flowcache_claim(int *flag) {
        int before = *flag;
        *flag = 1;
        return before;
    }
    #endif
    """
    bint ready_claim "flowcache_claim"(int* flag)
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    void patch_ready "flowcache_patch_ready"(
        PyTypeObject* type, PySendResult (*send)(PyObject*, PyObject*, PyObject**) noexcept)


@cython.final
@cython.freelist(64)
@cython.trashcan(True)               # one may be the value of another
cdef class Ready:
    """What ``afetch`` returns on a hit: awaited once, it gives the value without suspending."""

    cdef object value                 # of whoever sets `spent`
    cdef int spent

    def __init__(self):
        raise TypeError("made by afetch()")

    def __repr__(self):
        return f"<flowcache afetch() hit at {<size_t><PyObject*>self:#x}>"

    @property
    def __name__(self):
        """What a task calls it."""
        return "afetch"

    @property
    def __qualname__(self):
        """What a task calls it."""
        return "afetch"

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Finish: raises ``StopIteration`` with the value, as a coroutine does at its end."""
        if value is not None and not self.spent:
            raise TypeError("can't send non-None value to a just-started afetch() result")
        raise _stop(ready_take(self))

    def throw(self, kind, value=None, traceback=None, /):
        """Raise the exception here: nothing waits inside that could handle it."""
        if traceback is not None and not isinstance(traceback, TracebackType):
            raise TypeError("throw() third argument must be a traceback object")
        if isinstance(kind, type) and issubclass(kind, BaseException):
            if not isinstance(value, kind):
                value = kind() if value is None else (
                    kind(*value) if isinstance(value, tuple) else kind(value))
        elif not isinstance(kind, BaseException):
            raise TypeError("exceptions must be classes or instances deriving from BaseException, "
                            f"not {type(kind).__name__}")
        elif value is not None:
            raise TypeError("instance exception may not have a separate value")
        else:
            value = kind
        ready_take(self)
        raise value if traceback is None else value.with_traceback(traceback)

    def close(self):
        """Drop the value; a later await is refused."""
        if not ready_claim(&self.spent):
            self.value = None


cdef object _stop(object value):
    # Made by hand: raising the class with a tuple or an exception as its argument would unpack it.
    stop = StopIteration()
    stop.value = value
    return stop


cdef object ready_take(Ready ready):
    if ready_claim(&ready.spent):
        raise RuntimeError("cannot reuse already awaited afetch() result")
    value = ready.value
    ready.value = None
    return value


cdef PySendResult ready_send(PyObject* me, PyObject* argument, PyObject** result) noexcept:
    cdef Ready ready = <Ready>me
    if ready_claim(&ready.spent):
        result[0] = NULL
        PyErr_SetString(RuntimeError, b"cannot reuse already awaited afetch() result")
        return PYGEN_ERROR
    result[0] = <PyObject*>ready.value
    Py_INCREF(<object>result[0])                  # the awaiter's
    ready.value = None
    return PYGEN_RETURN


cdef inline Ready ready_of(object value):
    cdef Ready ready = Ready.__new__(Ready)
    ready.value = value
    ready.spent = 0
    return ready


# ------------------------------------------------------------------------------- hits

cdef extern from *:
    """
    /* Vectorcall by hand, so that a hit looks at no option: the names are compared by pointer for
       the one that concerns hits, and everything else waits for the miss. */
    typedef PyObject *(*flowcache_fast)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
    static int flowcache_has_name(PyObject *names, PyObject *wanted) {
        Py_ssize_t n, i;
        if (names == NULL)
            return 0;
        n = PyTuple_GET_SIZE(names);
        for (i = 0; i < n; i++) {
            PyObject *name = PyTuple_GET_ITEM(names, i);
            if (name == wanted || flowcache_str_equal(name, wanted))
                return 1;
        }
        return 0;
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
    static int flowcache_loader_is_async(PyObject *loader) {
        if (PyMethod_Check(loader))
            loader = PyMethod_GET_FUNCTION(loader);
        if (PyFunction_Check(loader))
            return (((PyCodeObject *)PyFunction_GET_CODE(loader))->co_flags
                    & (CO_COROUTINE | CO_ITERABLE_COROUTINE)) != 0;
        if (PyCFunction_Check(loader) || PyType_Check(loader))
            return 0;
        return -1;                                /* a callable object: ask Python */
    }
    static int flowcache_add_method(PyTypeObject *type, PyMethodDef *def, const char *name,
                                    void *function, const char *doc) {
        PyObject *descriptor;
        int failed;
        def->ml_name = name;
        def->ml_meth = (PyCFunction)function;
        def->ml_flags = METH_FASTCALL | METH_KEYWORDS;
        def->ml_doc = doc;
        descriptor = PyDescr_NewMethod(type, def);
        if (descriptor == NULL)
            return -1;
        failed = PyDict_SetItemString(type->tp_dict, name, descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(type);
        return failed;
    }
    static PyMethodDef flowcache_fetch_def, flowcache_afetch_def, flowcache_namespace_def;
    """
    bint has_name "flowcache_has_name"(PyObject* names, PyObject* wanted)
    object pass_on "flowcache_pass_on"(PyObject* function, PyObject* me, PyObject** args,
                                       Py_ssize_t nargs, PyObject* names)
    int loader_flag "flowcache_loader_is_async"(PyObject* loader)
    int add_method "flowcache_add_method"(PyTypeObject* type, void* definition, const char* name,
                                          void* function, const char* doc) except -1
    void* fetch_def "&flowcache_fetch_def"
    void* afetch_def "&flowcache_afetch_def"
    void* namespace_def "&flowcache_namespace_def"


cdef str REFRESH_AHEAD = "refresh_ahead"


cdef inline bint loader_is_async(PyObject* loader) except -1:
    cdef int flag = loader_flag(loader)
    return flag if flag >= 0 else object_is_async(<object>loader)


cdef bint object_is_async(object loader) except -1:
    while type(loader) is partial:
        loader = loader.func
        flag = loader_flag(<PyObject*>loader)
        if flag >= 0:
            return flag
    return face_is_async(loader)


cdef inline object fresh_hit(PyObject* me, PyObject* key):
    """The fresh value, counted as a hit and made the newest, or MISSING, with nothing counted."""
    cdef Namespace view = <Namespace>me
    cdef Store store = view.store
    cdef Space* space = view.space
    cdef Core* core = &store.core
    cdef uint32_t hash = key_hash(space, <object>key), i
    cdef Entry* e
    cdef double now = 0
    if store.clock is not None:
        now = store_now(store)
    value = MISSING
    lock_acquire(&core.lock)
    try:
        if space.expires and store.clock is None:
            table_ask(&core.table, hash)
            now = clock_read()
        i = store_find_locked(core, space, <object>key, hash)
        if i != NONE:
            e = entry_at(&core.slab, i)
            if e.deadline > now:
                value = <object>e.value
                space.counters.hits += 1
                lru_touch(&core.slab, &space.order, e, i)
    finally:
        lock_release(&core.lock)
    if value is MISSING:
        space_guard(store, space)
    elif core_hears(core, HIT):
        emit(store, space, HIT, <object>key, None, value)
    return value


cdef object namespace_fetch(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    if nargs == 2 and not has_name(names, <PyObject*>REFRESH_AHEAD):
        is_async = loader_is_async(args[1])
        if is_async or PyCallable_Check(<object>args[1]):
            value = fresh_hit(me, args[0])
            if value is not MISSING:
                return ready_of(value) if is_async else value
            return pass_on(<PyObject*>(face_afetch if is_async else face_fetch), me, args, nargs,
                           names)
    return pass_on(<PyObject*>face_fetch_any, me, args, nargs, names)


cdef object namespace_afetch(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    if (nargs == 2 and not has_name(names, <PyObject*>REFRESH_AHEAD)
            and PyCallable_Check(<object>args[1])):
        value = fresh_hit(me, args[0])
        if value is not MISSING:
            return ready_of(value)
    return pass_on(<PyObject*>face_afetch, me, args, nargs, names)


cdef object view_namespace(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef Namespace above = <Namespace>me
    cdef Core* core = &above.store.core
    cdef Space* found
    cdef Namespace view
    if nargs == 1 and names == NULL and is_str(args[0]) and not core_is_closed(core):
        view = view_new(above.store)
        lock_acquire(&core.lock)
        found = space_child(above.space, args[0])
        if found != NULL:
            view_attach(view, found)
        lock_release(&core.lock)
        if found != NULL:
            return view
    make = Namespace._namespace
    return pass_on(<PyObject*>make, me, args, nargs, names)


cdef const char* NAMESPACE_DOC = b"""\
namespace($self, /, *names, **settings)
--

Return the namespace at the path of ``names`` below this one, made if need be.

Each name is a non-empty ``str`` of at most 256 characters that neither begins nor ends with white
space (``InvalidNamespaceError``, ``TypeError``); a path has at most 64 names. ``settings`` are
those of :meth:`configure`, for the last name. Costs one dictionary look-up a name where the
namespaces exist.
"""
cdef const char* FETCH_DOC = b"""\
fetch($self, key, loader, /, *, ttl=..., tags=(), stale=None, stale_if_error=None, \
refresh_ahead=None, store_if=None, timeout=None)
--

Return the fresh value of ``key``; load it if there is none.

``loader`` takes nothing and returns the value, or ``Loaded(value, ...)``. Whoever asks for the key
while it loads, from threads, tasks or other event loops, waits for that one load and gets its value
or its exception. An exception is not stored. A loader made with ``async def`` makes this
:meth:`afetch`: await what it returns.

``ttl``, ``tags``, ``stale`` as for :meth:`set`. ``stale_if_error``: seconds past the TTL in which
the old value stands in for a load that raises. ``refresh_ahead``: the part of the TTL, between 0
and 1, after which a hit starts a background load. ``store_if(value)``: whether to keep it.
``timeout``: seconds to wait; then the stale value, else ``LoadTimeoutError``; the load goes on.

Raises what the loader raises, ``RecursiveLoadError``, ``LoadTimeoutError``, ``TooManyLoadsError``,
``TypeError`` and ``ValueError`` for bad arguments. On the thread of an event loop one of whose
tasks is loading the key it cannot wait for that task: it calls ``loader`` itself, at once.
A hit costs one look-up, and looks at no option but ``refresh_ahead``.
"""
cdef const char* AFETCH_DOC = b"""\
afetch($self, key, loader, /, *, ttl=..., tags=(), stale=None, stale_if_error=None, \
refresh_ahead=None, store_if=None, timeout=None)
--

Await the fresh value of ``key``; load it if there is none.

``loader`` is a coroutine function, any callable that returns an awaitable, or a plain callable. The
load runs in a task of its own: cancelling one caller hurts no other, and the task is cancelled when
nobody waits for it any more. All else as for :meth:`fetch`. A hit makes no coroutine and does not
suspend; what it returns can be awaited once, gathered, made a task, or dropped.
"""
