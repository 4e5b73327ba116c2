# Checks of arguments, with errors that name the argument. Nothing here knows a cache.

cdef extern from *:
    """
    static inline int flowcache_str_equal(PyObject *a, PyObject *b) {
        Py_ssize_t length = PyUnicode_GET_LENGTH(a);
        int kind = PyUnicode_KIND(a);
        return length == PyUnicode_GET_LENGTH(b) && kind == PyUnicode_KIND(b)
            && memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * kind) == 0;
    }
    static inline Py_hash_t flowcache_str_hash(PyObject *s) {
    #ifdef Py_GIL_DISABLED
        return _Py_atomic_load_ssize_relaxed(&((PyASCIIObject *)s)->hash);
    #else
        return ((PyASCIIObject *)s)->hash;
    #endif
    }
    static inline int flowcache_is_tracked(PyObject *o) {
        return PyType_IS_GC(Py_TYPE(o));
    }
    """
    # By pointer: a comparison of two exact str runs no user code and takes no reference.
    bint str_equal "flowcache_str_equal"(PyObject* a, PyObject* b) nogil
    Py_hash_t str_hash "flowcache_str_hash"(PyObject* s) nogil
    Py_ssize_t str_length "PyUnicode_GET_LENGTH"(PyObject* s) nogil
    bint may_refer "flowcache_is_tracked"(PyObject* o) nogil
    bint is_str "PyUnicode_CheckExact"(PyObject* o) nogil
    int compare_keys "PyObject_RichCompareBool"(PyObject* a, PyObject* b, int op) noexcept
    int compare_or_raise "PyObject_RichCompareBool"(PyObject* a, PyObject* b, int op) except -1
    const uint32_t FAULT "(UINT32_MAX - 1)"
    bint PyTuple_CheckExact(PyObject* o)
    PyObject* PyTuple_GET_ITEM(PyObject* names, Py_ssize_t n)
    PyObject** tuple_items "&PyTuple_GET_ITEM"(PyObject* tuple, int first)
    object PyTuple_New(Py_ssize_t n)
    void PyTuple_SET_ITEM(object made, Py_ssize_t n, object item)
    Py_ssize_t PyTuple_GET_SIZE(PyObject* names)


cdef class _Unset:
    """The default of an argument for which None means something."""

    def __repr__(self):
        return "<not given>"

    def __reduce__(self):
        return "UNSET"


# A variable of C, which the hot path compares with at no cost; threads that count the references of
# one object hold each other up. The face finds it by name.
cdef object UNSET = _Unset()

globals()["UNSET"] = UNSET


def listed_keys(keys):
    """Return the keys of a call as a ``list``; ``TypeError`` for one text in their place."""
    if not isinstance(keys, (str, bytes, bytearray)):
        try:
            several = iter(keys)
        except TypeError:
            pass
        else:
            return list(several)
    raise TypeError(f"keys: must be an iterable of keys, got one {type(keys).__name__}")


cdef object timedelta = None


cdef bint is_timedelta(object value) except -1:
    global timedelta
    if timedelta is None:                         # imported here: it would be a part of every start
        from datetime import timedelta
    return isinstance(value, timedelta)


cdef double seconds_of(object value, str name, bint allow_none, bint allow_true=False) except? -1:
    """A duration in seconds: INFINITY for None (or True) where that is allowed."""
    cdef double seconds
    if value is None and allow_none:
        return INFINITY
    if isinstance(value, bool):
        if value and allow_true:
            return INFINITY
        if allow_true:
            return 0
    elif isinstance(value, (int, float)):
        try:
            seconds = value
        except OverflowError:
            raise ValueError(f"{name}: too large a number of seconds") from None
        if seconds >= 0:
            return seconds
        raise ValueError(f"{name}: must not be negative or NaN, got {shown(value)}")
    elif is_timedelta(value):
        seconds = value.total_seconds()
        if seconds >= 0:
            return seconds
        raise ValueError(f"{name}: must not be negative, got {shown(value)}")
    raise TypeError(f"{name}: must be seconds as an int or a float, a timedelta"
                    f"{', True' if allow_true else ''}{' or None' if allow_none else ''}, "
                    f"got {type(value).__name__}")


def duration(value, name, allow_none=False):
    """Return a duration in seconds as a float; ``inf`` for ``None`` if that is allowed.

    Raises ``TypeError`` or ``ValueError`` that names the argument.
    """
    return seconds_of(value, name, allow_none)


cdef double sliding_of(object sliding) except -1:
    """The seconds for which a hit renews an entry; 0 for None, and for ever."""
    cdef double seconds
    if sliding is None:
        return 0
    seconds = seconds_of(sliding, "sliding", False)
    if not <float>seconds > 0:
        raise ValueError("sliding: must be more than 0 seconds, or None")
    return 0 if isinf(<float>seconds) else seconds


cdef double jitter_of(object jitter) except -1:
    """The part of a TTL that may be taken off it; 0 for None."""
    if jitter is None:
        return 0
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)):
        raise TypeError(f"jitter: must be a number or None, got {type(jitter).__name__}")
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter: must be at least 0 and below 1, got {shown(jitter)}")
    return jitter


cdef int64_t count_of(object value, str name, int64_t least) except? -2:
    """A bound: an int of at least `least`, or -1 for None; one that may be 0 cannot be None."""
    if value is None and least:
        return -1
    accepted = f"an int of at least {least} and below 2**62{' or None' if least else ''}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: must be {accepted}, got {type(value).__name__}")
    value = int.__int__(value)                    # a subclass may compare as it likes
    if not least <= value < 1 << 62:
        raise ValueError(f"{name}: must be {accepted}, got {shown(value)}")
    return value


cdef str name_checked(object name, str argument="name"):
    """A valid namespace name as an exact str."""
    if not isinstance(name, str):
        raise TypeError(f"{argument}: must be a str, got {type(name).__name__}")
    cdef str text = name if is_str(<PyObject*>name) else str.__str__(name)
    cdef Py_ssize_t length = len(text)
    if length == 0:
        raise InvalidNamespaceError(f"{argument}: must not be empty")
    if length > 256:
        raise InvalidNamespaceError(f"{argument}: at most 256 characters, got {length}")
    if Py_UNICODE_ISSPACE(text[0]) or Py_UNICODE_ISSPACE(text[length - 1]):
        raise InvalidNamespaceError(
            f"{argument}: must not begin or end with white space, got {text!r}")
    return text


def check_name(name, argument="name"):
    """Return what can name a namespace as an exact ``str``, else raise an error that says why."""
    return name_checked(name, argument)


cdef enum:
    MOST_TAGS = 1024              # that an entry may bear
    LONGEST_TAG = 256             # characters
    FEW_TAGS = 8                  # so many may be compared each with each


# The prefix of the tags that cached functions add: internal, and shown by no call.
cdef str FUNCTION_TAG = "flowcache.function:"


cdef tuple tags_once(tuple tags):
    """Exact str, each once if they are more than a few: a store compares only a few."""
    if len(tags) <= FEW_TAGS:
        return tags
    once = dict.fromkeys(tags)
    return tags if len(once) == len(tags) else tuple(once)


cdef tuple tags_checked(object tags, bint bounded=True):
    """Tags as a tuple of exact str, or None for no tag. `bounded`: they are an entry's."""
    cdef Py_ssize_t length
    if tags is None:
        raise TypeError("tags: must be a str or an iterable of str, got None")
    if isinstance(tags, str):
        tags = (tags,)
    elif isinstance(tags, (bytes, bytearray)):
        raise TypeError(f"tags: must be a str or an iterable of str, got {type(tags).__name__}")
    elif type(tags) is not tuple:
        try:
            several = iter(tags)
        except TypeError:
            raise TypeError("tags: must be a str or an iterable of str, "
                            f"got {type(tags).__name__}") from None
        read = []
        for tag in several:
            read.append(tag)
            if bounded and len(read) > MOST_TAGS:
                break                         # it may have no end
        tags = tuple(read)
    if bounded and len(<tuple>tags) > MOST_TAGS:
        raise InvalidTagError(f"tags: an entry has at most {MOST_TAGS} tags, got more")
    if not tags:
        return None
    plain = True
    for tag in <tuple>tags:
        if not isinstance(tag, str):
            raise TypeError(f"tags: each must be a str, got {type(tag).__name__}")
        length = len(<str?>tag) if is_str(<PyObject*>tag) else str.__len__(tag)
        if length == 0:
            raise InvalidTagError("tags: a tag must not be empty")
        if length > LONGEST_TAG:
            raise InvalidTagError(
                f"tags: a tag has at most {LONGEST_TAG} characters, got {length}")
        plain = plain and is_str(<PyObject*>tag)
    if plain:
        return tags_once(<tuple>tags)
    exact = []
    for tag in <tuple>tags:
        exact.append(tag if is_str(<PyObject*>tag) else str.__str__(tag))
    return tags_once(tuple(exact))


cdef class _Missing:
    """What a loader with ``pass_old=True`` is called with where nothing is held."""

    def __repr__(self):
        return "flowcache.MISSING"

    def __reduce__(self):
        return "MISSING"


# As UNSET.
cdef object MISSING = _Missing()

globals()["MISSING"] = MISSING


cdef double ttl_told(object tell, object value) except? -1:
    """The TTL in seconds that a callable tells of a value."""
    return seconds_of(face.plain_result(tell(value), "ttl"), "ttl", True)


cdef int check_wait(object wait) except -1:
    if wait is not None and not (isinstance(wait, str) and wait == "fleet"):
        raise ValueError(f'wait: must be None or "fleet", got {shown(wait)}')
    return 0
