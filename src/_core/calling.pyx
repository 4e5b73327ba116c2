# Called: the compiled half of a cached function. A hit with one plain argument builds no tuple, no
# partial and no frame: the key's hash is computed as a tuple's is, and compared item by item.

cdef extern from *:
    """
    /* How CPython hashes a tuple of two (xxHash's accumulation), on 64 bits. Checked at import
       against the interpreter's own; where they differ the short cut is not taken. */
    static Py_hash_t flowcache_pair_hash(Py_hash_t first, Py_hash_t second) {
        const uint64_t prime1 = 11400714785074694791ULL, prime2 = 14029467366897019727ULL;
        const uint64_t prime5 = 2870177450012600261ULL;
        uint64_t sum = prime5 + (uint64_t)first * prime2;
        sum = ((sum << 31) | (sum >> 33)) * prime1;
        sum += (uint64_t)second * prime2;
        sum = ((sum << 31) | (sum >> 33)) * prime1;
        sum += 2 ^ (prime5 ^ 3527539ULL);
        return sum == (uint64_t)-1 ? 1546275796 : (Py_hash_t)sum;
    }
    /* 1: equal; 0: cannot tell without running code. */
    static inline int flowcache_pair_is(PyObject *key, PyObject *first, PyObject *second) {
        PyObject *other;
        if (!PyTuple_CheckExact(key) || PyTuple_GET_SIZE(key) != 2
                || PyTuple_GET_ITEM(key, 0) != first)
            return 0;
        other = PyTuple_GET_ITEM(key, 1);
        if (other == second)
            return 1;
        if (PyUnicode_CheckExact(other) && PyUnicode_CheckExact(second))
            return flowcache_str_equal(other, second);
        if (PyLong_CheckExact(other) && PyLong_CheckExact(second))
            return PyObject_RichCompareBool(other, second, Py_EQ) == 1;
        return 0;
    }
    static void flowcache_enable_vectorcall(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_call = PyVectorcall_Call;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    Py_hash_t pair_hash "flowcache_pair_hash"(Py_hash_t first, Py_hash_t second) nogil
    bint pair_is "flowcache_pair_is"(PyObject* key, PyObject* first, PyObject* second)
    void enable_vectorcall "flowcache_enable_vectorcall"(PyTypeObject* type, Py_ssize_t offset)
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    ctypedef PyObject* (*Vectorcall "vectorcallfunc")(PyObject*, PyObject**, size_t, PyObject*)


cdef bint PAIRS_AGREE = (
    pair_hash(hash("flowcache"), hash(7)) == hash(("flowcache", 7))
    and pair_hash(hash(b"x"), hash(-3.5)) == hash((b"x", -3.5)))


cdef class Called:
    """Calls a function through a namespace. The Python face's Cached is its only subclass."""

    cdef Vectorcall vectorcall
    cdef Namespace place          # None: the short cut is not taken
    cdef str label
    cdef bint is_async
    cdef public int64_t _calls

    def __cinit__(self):
        self.vectorcall = <Vectorcall>called_call

    def _take_short_cut(self, Namespace place not None, str label not None, bint is_async):
        """Look ``(label, argument)`` up in ``place`` without asking Python."""
        if PAIRS_AGREE:
            self.place = place
            self.label = label
            self.is_async = is_async


cdef inline object called_hit(Called me, object argument):
    """The fresh value of (label, argument), counted as a hit; MISSING if it takes more to tell."""
    cdef Store store = me.place.store
    cdef Space* space = me.place.space
    cdef Core* core = &store.core
    cdef Py_hash_t hashed
    cdef uint32_t mixed, b, slot, i
    cdef Part* part
    cdef Bucket* bucket
    cdef Entry* e
    if store.clock is not None or core.mask & (1 << HIT):
        return MISSING
    hashed = pair_hash(hash(me.label), hash(argument))
    mixed = <uint32_t>(((<uint64_t>hashed ^ space.salt) * <uint64_t>0x9E3779B97F4A7C15) >> 32)
    if mixed == 0:
        mixed = 1
    value = MISSING
    lock_acquire(&core.lock)
    part = table_part(&core.table, mixed)
    b = part_home(&core.table, part, mixed)
    bucket = &part.buckets[b]
    for slot in range(SLOTS):
        if bucket.hash[slot] == mixed:
            i = bucket.entry[slot]
            e = entry_at(&core.slab, i)
            if (e.space == space.id
                    and pair_is(e.key, <PyObject*>me.label, <PyObject*>argument)
                    and (isinf(e.deadline) or e.deadline > clock_read())):
                value = <object>e.value
                space.counters.hits += 1
                lru_touch(&core.slab, &space.order, e, i)
                break
    lock_release(&core.lock)
    return value


cdef object called_call(PyObject* me, PyObject** args, size_t nargsf, PyObject* names):
    cdef Called called = <Called>me
    cdef Py_ssize_t nargs = PyVectorcall_NARGS(nargsf)
    if called.place is not None and nargs == 1 and names == NULL:
        value = called_hit(called, <object>args[0])
        if value is not MISSING:
            called._calls += 1
            return ready_of(value) if called.is_async else value
    ask = type(called)._call
    return pass_on(<PyObject*>ask, me, args, nargs, names)


def _enable_vectorcall(type called):
    """Let a subclass of Called be called as fast as it is; Python 3.11 does not pass that on."""
    if not issubclass(called, Called):
        raise TypeError("called: must be a subclass of Called")
    enable_vectorcall(type_of(called), called_offset())


cdef Py_ssize_t called_offset():
    cdef Called one = Called.__new__(Called)
    return <char*>&one.vectorcall - <char*><PyObject*>one
