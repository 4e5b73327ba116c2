# Called: the compiled half of a cached function. A hit with positional arguments builds no tuple,
# no partial and no frame: the key's hash is computed as a tuple's is, and compared item by item.

cdef extern from *:
    """
    /* How CPython hashes a tuple (xxHash's accumulation), on 64 bits, one item at a time. Checked
       at import against the interpreter's own; where they differ the short cut is not taken. */
    #define FLOWCACHE_PRIME1 11400714785074694791ULL
    #define FLOWCACHE_PRIME2 14029467366897019727ULL
    #define FLOWCACHE_PRIME5 2870177450012600261ULL
    static inline uint64_t flowcache_tuple_item(uint64_t sum, Py_hash_t item) {
        sum += (uint64_t)item * FLOWCACHE_PRIME2;
        sum = (sum << 31) | (sum >> 33);
        return sum * FLOWCACHE_PRIME1;
    }
    static inline Py_hash_t flowcache_tuple_end(uint64_t sum, Py_ssize_t length) {
        sum += (uint64_t)length ^ (FLOWCACHE_PRIME5 ^ 3527539ULL);
        return sum == (uint64_t)-1 ? 1546275796 : (Py_hash_t)sum;
    }
    /* 1: the key is the tuple of the label and the arguments; 0: cannot tell without running code.
       Labels are compared by identity: a function has one, and hands out no other of its text. */
    static inline int flowcache_is_call(PyObject *key, PyObject *label, PyObject *const *args,
                                        Py_ssize_t nargs) {
        Py_ssize_t n;
        if (!PyTuple_CheckExact(key) || PyTuple_GET_SIZE(key) != nargs + 1
                || PyTuple_GET_ITEM(key, 0) != label)
            return 0;
        for (n = 0; n < nargs; n++) {
            PyObject *held = PyTuple_GET_ITEM(key, n + 1), *given = args[n];
            if (held == given)
                continue;
            if (PyUnicode_CheckExact(held) && PyUnicode_CheckExact(given)) {
                if (!flowcache_str_equal(held, given))
                    return 0;
            } else if (!PyLong_CheckExact(held) || !PyLong_CheckExact(given)
                       || PyObject_RichCompareBool(held, given, Py_EQ) != 1) {
                return 0;
            }
        }
        return 1;
    }
    /* A heap type does not inherit the flags. A method descriptor is called as `f(self, ...)`, and
       not bound first. */
    static void flowcache_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_call = PyVectorcall_Call;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR;
        PyType_Modified(type);
    }
    """
    const uint64_t TUPLE_BEGIN "FLOWCACHE_PRIME5"
    uint64_t tuple_item "flowcache_tuple_item"(uint64_t sum, Py_hash_t item) nogil
    Py_hash_t tuple_end "flowcache_tuple_end"(uint64_t sum, Py_ssize_t length) nogil
    bint is_call "flowcache_is_call"(PyObject* key, PyObject* label, PyObject** args,
                                     Py_ssize_t nargs)
    void enable_vectorcall "flowcache_enable_vectorcall"(PyTypeObject* type, Py_ssize_t offset)
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    ctypedef PyObject* (*Vectorcall "vectorcallfunc")(PyObject*, PyObject**, size_t, PyObject*)


cdef bint hashes_agree(tuple example):
    cdef uint64_t sum = TUPLE_BEGIN
    for item in example:
        sum = tuple_item(sum, hash(item))
    return tuple_end(sum, len(example)) == hash(example)


cdef bint HASHES_AGREE = (
    hashes_agree(("flowcache", 7)) and hashes_agree((b"x", -3.5, None)) and hashes_agree(("x",)))


@cython.final
cdef class Counts:
    """The calls of a cached function for one tenant."""

    cdef int64_t calls_made
    cdef int64_t misses_met

    @property
    def calls(self):
        return self.calls_made

    @property
    def misses(self):
        return self.misses_met

    def miss(self):
        count_up(&self.misses_met)


cdef class Called:
    """Calls a function through a namespace. The Python face's Cached is its only subclass."""

    cdef Vectorcall vectorcall
    cdef Namespace namespace          # where the short cut looks; None: it is not taken
    cdef str label
    cdef uint64_t begun           # the hash of a key, as far as the label makes it
    cdef bint is_async
    cdef bint hits_answer         # False: a hit may be due for a load behind it
    cdef public int64_t _calls
    cdef public int64_t _misses

    def __cinit__(self):
        self.vectorcall = <Vectorcall>called_call

    def __init__(self, *args, **kwargs):
        raise TypeError("made by wrap() or cached() of a namespace")

    def __call__(self, *args, **kwargs):
        """Return what is held for these arguments, or call the function."""
        return type(self)._call(self, *args, **kwargs)

    def _set_up(self, bint is_async, bint hits_answer):
        self.is_async = is_async
        self.hits_answer = hits_answer

    def _take_short_cut(self, Namespace namespace not None, str label not None):
        """From now on, look ``(label, *args)`` up in ``namespace`` without asking Python."""
        if self.namespace is not None:
            # A call that hashes its arguments just now only borrows it.
            raise RuntimeError("a cached function is initialised once")
        if HASHES_AGREE and self.hits_answer:
            self.begun = tuple_item(TUPLE_BEGIN, hash(label))
            self.label = label
            self.namespace = namespace

    def _answer(self, Namespace namespace not None, key, args, kwargs, Counts counts=None):
        """Return the fresh value of ``key`` there, or what ``_load`` makes of the call.

        The call is counted in ``counts``, which is a tenant's, or as the function's own.
        """
        cdef int64_t* calls = &self._calls if counts is None else &counts.calls_made
        if self.hits_answer:
            value = fresh_hit(namespace.store, namespace.node, key)
            if value is not MISSING:
                count_up(calls)
                return ready_of(value) if self.is_async else value
        count_up(calls)
        return self._load(namespace, key, args, kwargs)

    def _count_miss(self):
        count_up(&self._misses)


cdef inline object called_hit(Called me, PyObject** args, Py_ssize_t nargs):
    """The fresh value of (label, *args), counted as a hit; MISSING if it takes more to tell."""
    cdef Store store = me.namespace.store
    cdef Node* node = me.namespace.node
    cdef Core* core = &store.core
    cdef uint64_t sum = me.begun
    cdef Py_hash_t hashed
    cdef uint32_t mixed, b, slot, i, tried = 0
    cdef Py_ssize_t n
    cdef Part* part
    cdef Bucket* bucket
    cdef Entry* e
    cdef double now = 0
    if store.clock is not None or core_hears(core, HIT):
        return MISSING
    for n in range(nargs):
        hashed = -1
        if is_str(args[n]):
            hashed = str_hash(args[n])
        if hashed == -1:
            hashed = hash(<object>args[n])
        sum = tuple_item(sum, hashed)
    mixed = hash_mix(node, tuple_end(sum, nargs + 1))
    value = MISSING
    lock_acquire(&core.lock)
    if node.expires:
        table_ask(&core.table, mixed)
        now = clock_read()
    part = table_part(&core.table, mixed)
    b = part_home(part, mixed)
    while value is MISSING:
        bucket = &part.buckets[b]
        for slot in range(SLOTS):
            if bucket.hash[slot] == mixed:
                i = bucket.entry[slot]
                e = entry_at(&core.slab, i)
                if e.node == node.id and is_call(e.key, <PyObject*>me.label, args, nargs):
                    if e.deadline > now:
                        value = <object>e.value
                        count_up(&me._calls)
                        node.counters.hits += 1
                        lru_touch(&core.slab, &node.order, e, i)
                    break
        else:
            tried += 1
            if bucket.overflow and tried < part_most(part):
                b = part_next(part, mixed, tried)
                continue
        break
    lock_release(&core.lock)
    return value


cdef object called_call(PyObject* me, PyObject** args, size_t nargsf, PyObject* names):
    cdef Called called = <Called>me
    cdef Py_ssize_t nargs = PyVectorcall_NARGS(nargsf)
    if called.namespace is not None and names == NULL:
        value = called_hit(called, args, nargs)
        if value is not MISSING:
            return ready_of(value) if called.is_async else value
    ask = type(called)._call
    return pass_on(<PyObject*>ask, me, args, nargs, names)


def _enable_vectorcall(type called):
    """Let a subclass of Called be called, and found in a class, as fast as a function is."""
    if not issubclass(called, Called):
        raise TypeError("called: must be a subclass of Called")
    enable_vectorcall(type_of(called), called_offset())


cdef Py_ssize_t called_offset():
    cdef Called one = Called.__new__(Called)
    return <char*>&one.vectorcall - <char*><PyObject*>one
