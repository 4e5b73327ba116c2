# A cache with a second tier. Its hits are those of any cache; a key that is not held, and each
# write, goes to the tier's front in the Python half. The front and the bus use what stands here, of
# the process's own half: fills, fences, the lease, and the class of the views.

# ------------------------------------------------------------------------------------------- fills

# A fill brings a value that the tier has into the process: the read behind a `get`, or a `set`. It
# is registered before its first request (rule 1 of the tier), is no load, joins and is joined by
# none, and any number of one key may run. Fences know a fill's key by its hash alone: to fence one
# too many is harmless. The list owns its fills.


cdef void fill_fence(Load fill) noexcept:
    relaxed_store_flag(&fill.is_fenced, True)


cdef void fills_fence_key(Core* core, Node* node, uint32_t hash, Load own) noexcept:
    """Fence the fills of a key, but not one's own."""
    cdef PyObject* at
    lock_acquire(&core.lock)
    at = core.fills
    while at != NULL:
        if (<Load>at).hash == hash and (<Load>at).node == node and at != <PyObject*>own:
            fill_fence(<Load>at)
        at = (<Load>at).older
    lock_release(&core.lock)


def _fill(Namespace namespace not None, key):
    """Register a fill of the key and return it. It has to be ended."""
    cdef Core* core = &namespace.store.core
    cdef Load fill = Load(key)
    node_guard(namespace.store, namespace.node)
    fill.hash = key_hash(namespace.node, key)
    fill.started = store_now(namespace.store)
    fill.core = core
    fill.node = namespace.node
    lock_acquire(&core.lock)
    fill.older = core.fills
    if core.fills != NULL:
        (<Load>core.fills).newer = <PyObject*>fill
    core.fills = <PyObject*>fill
    Py_INCREF(fill)                               # the list owns it
    lock_release(&core.lock)
    return fill


def _fill_end(Load fill not None):
    """End a fill, whether or not it stored."""
    cdef Core* core = fill.core
    cdef bint listed
    if core == NULL:
        return
    lock_acquire(&core.lock)
    listed = fill.newer != NULL or fill.older != NULL or core.fills == <PyObject*>fill
    if listed:
        if fill.newer != NULL:
            (<Load>fill.newer).older = fill.older
        else:
            core.fills = fill.older
        if fill.older != NULL:
            (<Load>fill.older).newer = fill.newer
        fill.newer = NULL
        fill.older = NULL
    fill.core = NULL                              # its namespace may be forgotten from now on
    lock_release(&core.lock)
    if listed:
        Py_DECREF(fill)                           # what the list owned; the caller has another


def _fill_store(Namespace namespace not None, Load fill not None, value, double ttl, double until,
                double grace, bint stale_ok, tags):
    """Store a fill's value if nothing has fenced it; say whether it was stored.

    ``ttl``: seconds (``inf``: for ever); ``until``: its deadline, on the clock of leases;
    ``grace``: seconds for which it is held past that.
    """
    cdef Store store = namespace.store
    cdef Terms terms
    if core_is_closed(&store.core) or fill.core == NULL or relaxed_load_flag(&fill.is_fenced):
        return False
    terms.ttl = ttl
    terms.age = 0
    terms.grace = grace
    terms.stale_ok = stale_ok
    terms.only_absent = False
    terms.found = False
    checked = tags_checked(tags)
    terms.weight = weigh(store, fill.key, value)
    terms_end(&terms, until, store_now(store))
    if terms.ttl <= 0:
        return False
    return put(store, namespace.node, fill.key, value, &terms, <tuple>checked, fill.hash, fill)


def _terms(Namespace namespace not None, key, value, ttl, tags, stale, jitter=None,
           bint tells=True):
    """Check what a store is asked for; return TTL, grace, whether that is stale_ok, and tags.

    Changes nothing. The TTL is 0 where nothing is stored, as the namespace is off. One that is to
    be told of the value is asked, if the call takes such a TTL.
    """
    cdef Store store = namespace.store
    cdef Node* node = namespace.node
    cdef Terms terms
    cdef double part = jitter_of(jitter)
    node_guard(store, node)
    terms_of(store, node, &terms, ttl_given(ttl) if tells else ttl, stale)
    checked = None if tags is () else tags_checked(tags)
    key_hash(node, key)
    if callable(ttl):
        terms.ttl = ttl_told(ttl, value)
    terms.ttl = ttl_drawn(&store.core, terms.ttl, part)
    if relaxed_load_flag(&node.is_off):
        terms.ttl = 0
    if store.weigher is not None and terms.ttl > 0:
        node_check_weight(node, weigh(store, key, value))
    return terms.ttl, terms.grace, bool(terms.stale_ok), () if checked is None else checked


def _tags(tags):
    """Check tags; return them as a tuple of exact ``str``."""
    checked = None if tags is () else tags_checked(tags, False)
    return () if checked is None else checked


def _close_tags(Load load not None, tags):
    """Let no caller add tags to a running load any more; return all that its value is to bear."""
    if load.core == NULL:
        return tags
    together = load_close_tags(load, () if not tags else tags_checked(tags, False))
    return () if together is None else together


def _is_off(Namespace namespace not None):
    """Whether nothing is stored here, as it was switched off."""
    return bool(relaxed_load_flag(&namespace.node.is_off))


def _is_loading(Namespace namespace not None, key):
    """Whether a load of the key runs here, to be joined."""
    if not node_has_loads(namespace.node):
        return False
    running = load_find(&namespace.store.core, namespace.node, key,
                        key_hash(namespace.node, key), NULL)
    return running is not None


def _tally(Namespace namespace not None, str name not None, int64_t number=1, key=UNSET):
    """Count what became of a call that went to the tier; ``key``: the one that was missed here."""
    cdef Core* core = &namespace.store.core
    cdef Counters* counters = &namespace.node.counters
    cdef uint32_t hash = 0
    cdef double now = 0
    if key is not UNSET:
        hash = key_hash(namespace.node, key)
        now = store_now(namespace.store)
    lock_acquire(&core.lock)
    if name == "misses":
        counters.misses += number
        if hash and core.notes_misses:
            miss_note_locked(core, namespace.node, hash, now)
    elif name == "hits":
        counters.tier_hits += number
    elif name == "absent":
        counters.tier_misses += number
    elif name == "stores":
        counters.tier_stores += number
    elif name == "errors":
        counters.tier_errors += number
    elif name == "untiered":
        counters.untiered += number
    lock_release(&core.lock)


# ------------------------------------------------------------------------------------------ fences

# The tier's state is another one before a fence comes: a fill that begins later reads that. So the
# fence of fills comes first, and what is held is removed, and running loads are fenced, after it.


def _fence_key(Namespace namespace not None, key, Load own=None):
    """Fence the fills of a key but ``own``."""
    cdef Node* node = namespace.node
    fills_fence_key(&namespace.store.core, node, key_hash(node, key), own)


def _fence_below(Namespace namespace not None):
    """Fence the fills of a namespace and of those below it."""
    cdef Core* core = &namespace.store.core
    cdef PyObject* at
    lock_acquire(&core.lock)
    at = core.fills
    while at != NULL:
        if node_is_within_locked((<Load>at).node, namespace.node):
            fill_fence(<Load>at)
        at = (<Load>at).older
    lock_release(&core.lock)


def _fence_tags(Namespace namespace not None, tuple tags not None, bint every=False):
    """Fence the fills, here and below, that bear one of the tags, or may turn out to."""
    cdef Core* core = &namespace.store.core
    cdef PyObject* at
    lock_acquire(&core.lock)
    at = core.fills
    while at != NULL:
        if node_is_within_locked((<Load>at).node, namespace.node):
            load_lose_tags_locked(<Load>at, tags, every)
        at = (<Load>at).older
    lock_release(&core.lock)


def _fence_prefix(Namespace namespace not None, str prefix not None):
    """Fence the fills of ``str`` keys of a namespace that begin so."""
    cdef Core* core = &namespace.store.core
    cdef PyObject* at
    lock_acquire(&core.lock)
    at = core.fills
    while at != NULL:
        if (<Load>at).node == namespace.node and (
                not is_str(<PyObject*>(<Load>at).key)
                or PyUnicode_Tailmatch((<Load>at).key, prefix, 0, PY_SSIZE_T_MAX, -1) == 1):
            fill_fence(<Load>at)
        at = (<Load>at).older
    lock_release(&core.lock)


cdef int64_t void_locked(Store store, Node* node, double now, bint deep) noexcept:
    """Clear a namespace, and with `deep` those below it, but what stays in the process."""
    cdef Node* child = node.child
    cdef int64_t removed = 0
    if node.untiered:
        return 0
    while deep and child != NULL:
        if child.entries or child.pending:
            removed += void_locked(store, child, now, True)
        child = child.next
    return removed + clear_own_locked(store, node, now)


def _void(Namespace namespace not None, bint deep=True):
    """Remove what may lie in the tier too, and fence what runs: what is held may be out of date."""
    cdef Store store = namespace.store
    cdef double now = store_now(store)
    _fence_below(namespace)
    if core_is_closed(&store.core):
        return
    lock_acquire(&store.core.lock)
    void_locked(store, namespace.node, now, deep)
    lock_release(&store.core.lock)
    if core_has_limbo(&store.core):
        store_drain(store)


# ------------------------------------------------------------------------------------------- lease

def _lend(Store store not None, double until, double stale_until):
    """Let what is held be served until a time on the clock of leases, stale until another."""
    cdef double ended = stale_until if stale_until > until else until
    if until <= 0:
        ended = lease_now()
        if relaxed_load_double(&store.core.lease_ended) < ended:
            ended = relaxed_load_double(&store.core.lease_ended)
    relaxed_store_double(&store.core.lease_ended, ended)
    relaxed_store_double(&store.core.lease_stale, stale_until)
    relaxed_store_double(&store.core.lease, until)
    lease_read()                                  # no look-up compares it with an earlier reading


def _lapsed_hits(Store store not None):
    """How many look-ups were made after the lease, while stale use was allowed."""
    return store.core.lapsed_hits


def _root_of(Store store not None):
    """A view of a store's root, for a background thread."""
    cdef Namespace view = view_new(store)
    lock_acquire(&store.core.lock)
    view_attach_locked(view, store.core.root)
    lock_release(&store.core.lock)
    return view


def _below(Store store not None, names):
    """The namespace of a path if there is one, else ``None``: none is made."""
    cdef Namespace view = view_new(store)
    cdef Core* core = &store.core
    cdef Node* node = core.root
    lock_acquire(&core.lock)
    try:
        for name in names:
            node = node_child_locked(node, <PyObject*>name)
            if node == NULL:
                break
        else:
            view_attach_locked(view, node)
    finally:
        lock_release(&core.lock)
    return None if node == NULL else view


def _tier_of(Namespace namespace not None):
    """The tier that a namespace's values go to, or ``None``."""
    return None if namespace.node.untiered else namespace.store.tier


def _open_tier(Namespace root not None, tier not None, double lease):
    """Give a cache that is not in use yet a second tier; ``lease``: the seconds of its leases."""
    root.store.core.lease_length = lease
    root.store.clock = LEASED
    root.store.tier = tier


# ------------------------------------------------------------------------------------------- views

cdef extern from *:
    """
    static PyMethodDef flowcache_tiered_get, flowcache_tiered_fetch, flowcache_tiered_afetch;
    static PyObject *flowcache_method_like(PyTypeObject *type, PyMethodDef *def, PyObject *method,
                                           void *function) {
        PyMethodDef *like = ((PyMethodDescrObject *)method)->d_method;
        def->ml_name = like->ml_name;
        def->ml_meth = (PyCFunction)function;
        def->ml_flags = METH_FASTCALL | METH_KEYWORDS;
        def->ml_doc = like->ml_doc;
        return PyDescr_NewMethod(type, def);
    }
    """
    void* tiered_get_definition "&flowcache_tiered_get"
    void* tiered_fetch_definition "&flowcache_tiered_fetch"
    void* tiered_afetch_definition "&flowcache_tiered_afetch"
    object method_like "flowcache_method_like"(PyTypeObject* type, void* definition, object method,
                                               void* function)


cdef object tiered_get(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef Namespace namespace = <Namespace>me
    if names != NULL or nargs < 1 or nargs > 2:
        ask = slow_get if namespace.node.untiered else namespace.store.tier.get_by_name
        return pass_on(<PyObject*>ask, me, args, nargs, names)
    value = look(namespace.store, namespace.node, <object>args[0], True)
    if value is not MISSING:
        return value
    default = <object>args[1] if nargs == 2 else None
    if namespace.node.untiered:
        return default
    return namespace.store.tier.get(namespace, <object>args[0], default)


cdef object tiered_fetch(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef Namespace namespace = <Namespace>me
    cdef int kind
    if namespace.node.untiered:
        return namespace_fetch(me, args, nargs, names)
    if nargs == 2:
        kind = loader_kind(args[1])
        if kind >= 0:
            value = fresh_hit(namespace.store, namespace.node, <object>args[0],
                              INFINITY if names == NULL else ahead_given(names, args + 2))
            if value is not MISSING:
                return ready_of(value) if kind else value
    ask = namespace.store.tier.fetch
    return pass_on(<PyObject*>ask, me, args, nargs, names)


cdef object tiered_afetch(PyObject* me, PyObject** args, Py_ssize_t nargs, PyObject* names):
    cdef Namespace namespace = <Namespace>me
    if namespace.node.untiered:
        return namespace_afetch(me, args, nargs, names)
    if nargs == 2 and (is_function(args[1]) or PyCallable_Check(<object>args[1])):
        value = fresh_hit(namespace.store, namespace.node, <object>args[0],
                          INFINITY if names == NULL else ahead_given(names, args + 2))
        if value is not MISSING:
            return ready_of(value)
    ask = namespace.store.tier.afetch
    return pass_on(<PyObject*>ask, me, args, nargs, names)


cdef object tiered_kind = Namespace

_tiered_get = method_like(type_of(Namespace), tiered_get_definition, slow_get, <void*>tiered_get)
_tiered_fetch = method_like(
    type_of(Namespace), tiered_fetch_definition, slow_fetch, <void*>tiered_fetch)
_tiered_afetch = method_like(
    type_of(Namespace), tiered_afetch_definition, slow_afetch, <void*>tiered_afetch)


def _take_views(type kind not None):
    """Make the views of caches that have a tier of this class, which adds no field."""
    if not issubclass(kind, Namespace) or kind.__basicsize__ != Namespace.__basicsize__:
        raise TypeError("kind: must be a subclass of Namespace without fields")
    global tiered_kind
    tiered_kind = kind                            # holds what the pointer only borrows
    view_take_tiered(type_of(kind))


def _views():
    """The class of the views of caches that have a tier."""
    return tiered_kind


def _add_methods(functions):
    """Put functions of the Python half into the class Namespace, as its methods."""
    for function in functions:
        method_add(type_of(Namespace), function.__name__, function)
