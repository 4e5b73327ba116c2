# The options of a loading call, checked once: for a cached function when it is decorated, else by
# the call. Only this room applies them to an entry.

cdef tuple OPTIONS = (
    "ttl", "tags", "stale", "stale_if_error", "fallback_on", "refresh_ahead", "sliding", "jitter",
    "store_if", "pass_old", "timeout")
cdef tuple OF_FUNCTIONS = ("key", "typed", "bind", "tenant", "path")


cdef object unexpected(str name, list unknown):
    """The error about options that a call does not take; it tells which are taken."""
    cdef tuple accepted = OF_FUNCTIONS + OPTIONS if name == "wrap" else OPTIONS
    if not takes_old(name):
        accepted = tuple([option for option in accepted if option != "pass_old"])
    return TypeError(f"{name}() got an unexpected option {shown(min(unknown))}; "
                     f"accepted are {', '.join(accepted)}")


cdef bint takes_old(str name) except -1:
    """Whether a call may give its loader what is held; others have arguments of their own."""
    return name not in ("fetch_many", "afetch_many", "wrap")


@cython.final
cdef class Options:
    """The checked options of a loading call. They do not change once they are made."""

    cdef bint initialised
    cdef bint has_ttl
    cdef double ttl                   # seconds; INFINITY: never expires
    cdef bint has_window
    cdef double window                # seconds past its TTL in which a stale value is served
    cdef double stale_if_error        # seconds past it in which it may cover an error; -1: never
    cdef double sliding               # seconds for which a hit renews the entry; 0: none does
    cdef double jitter                # the part of the TTL that may be taken off it
    cdef object ttl_of                # None, or tells the TTL of a value
    cdef readonly object fallback_on  # None: each Exception; a tuple of types, or a predicate
    cdef readonly bint pass_old       # the loader takes what is held
    cdef double refresh_ahead         # the part of a TTL after which a hit loads; INFINITY: never
    cdef readonly tuple tags          # of exact str; () for none
    cdef readonly object store_if     # None, or tells whether to store a value
    cdef readonly object timeout      # None, or seconds as a float

    def __cinit__(self):
        self.stale_if_error = -1
        self.refresh_ahead = INFINITY
        self.tags = ()

    def __init__(self, str name not None, dict given not None):
        if self.initialised:
            raise RuntimeError("Options are initialised once")
        self.initialised = True
        unknown = []
        for option, value in given.items():
            if not options_take(self, option, value):
                unknown.append(option)
        options_check(self, name)
        if unknown:
            raise unexpected(name, unknown)

    @property
    def covers_errors(self):
        """Whether ``stale_if_error`` was given."""
        return self.stale_if_error >= 0

    def with_tags(self, tags, /, *more):
        """Return the same options with other tags, and `more` beside them."""
        cdef Options other = Options.__new__(Options)
        checked = (() if tags is () else tags_checked(tags)) or ()
        if more:
            checked = tags_checked(checked + more)
        other.initialised = True
        other.has_ttl = self.has_ttl
        other.ttl = self.ttl
        other.has_window = self.has_window
        other.window = self.window
        other.stale_if_error = self.stale_if_error
        other.fallback_on = self.fallback_on
        other.refresh_ahead = self.refresh_ahead
        other.sliding = self.sliding
        other.jitter = self.jitter
        other.ttl_of = self.ttl_of
        other.pass_old = self.pass_old
        other.store_if = self.store_if
        other.timeout = self.timeout
        other.tags = checked
        return other


cdef bint options_take(Options options, str option, object value) except -1:
    """Check one option and take it; False if there is none of that name. May run user code."""
    if option == "ttl":
        if callable(value):
            face.check_sync(value, "ttl")
            options.ttl_of = value
        elif value is not UNSET:
            options.has_ttl = True
            options.ttl = seconds_of(value, "ttl", True)
    elif option == "tags":
        options.tags = (() if value is () else tags_checked(value)) or ()
    elif option == "stale":
        options.has_window = value is not UNSET
        if options.has_window and value is not None:
            options.window = seconds_of(value, "stale", False, True)
    elif option == "stale_if_error":
        if value is not None:
            options.stale_if_error = seconds_of(value, "stale_if_error", False)
    elif option == "fallback_on":
        options.fallback_on = errors_named(value)
    elif option == "sliding":
        options.sliding = sliding_of(value)
    elif option == "jitter":
        options.jitter = jitter_of(value)
    elif option == "pass_old":
        if not isinstance(value, bool):
            raise TypeError(f"pass_old: must be a bool, got {type(value).__name__}")
        options.pass_old = value
    elif option == "refresh_ahead":
        if value is not None:
            options.refresh_ahead = fraction_of(value, "refresh_ahead")
    elif option == "store_if":
        if value is not None:
            if not callable(value):
                raise TypeError(f"store_if: must be callable or None, got {type(value).__name__}")
            face.check_sync(value, "store_if")
        options.store_if = value
    elif option == "timeout":
        if value is not None:
            options.timeout = seconds_of(value, "timeout", False)
    else:
        return False
    return True


cdef int options_check(Options options, str name) except -1:
    """Refuse what has no meaning together."""
    if options.sliding > 0 and not isinf(options.refresh_ahead):
        raise ValueError("sliding: has no meaning with refresh_ahead=, as hits move the deadline")
    if options.pass_old and not takes_old(name):
        raise TypeError(f"pass_old: {name} does not take it: its loader has arguments of its own")
    return 0


cdef object errors_named(object errors):
    """Exception types as a tuple, a predicate as it is, or None."""
    if errors is None:
        return None
    if isinstance(errors, type) or isinstance(errors, tuple):
        several = errors if isinstance(errors, tuple) else (errors,)
        for one in several:
            if not isinstance(one, type) or not issubclass(one, Exception):
                raise TypeError("fallback_on: each type must be a subclass of Exception, "
                                f"got {shown(one)}")
        return several
    if not callable(errors):
        raise TypeError("fallback_on: must be an exception type, a tuple of them, a predicate or "
                        f"None, got {type(errors).__name__}")
    face.check_sync(errors, "fallback_on")
    return errors


cdef Options options_plain = Options.__new__(Options)         # those of a call that names none


cdef Options options_named(str name, PyObject* names, PyObject** values):
    """The options of a call that was given `values` under `names`, a tuple or NULL."""
    cdef Options options
    cdef Py_ssize_t n
    if names == NULL:
        return options_plain
    options = Options.__new__(Options)
    options.initialised = True
    unknown = []
    for n in range(PyTuple_GET_SIZE(names)):
        if not options_take(options, <object>PyTuple_GET_ITEM(names, n), <object>values[n]):
            unknown.append(<object>PyTuple_GET_ITEM(names, n))
    options_check(options, name)
    if unknown:
        raise unexpected(name, unknown)
    return options


cdef double fraction_of(object value, str name) except -1:
    cdef double fraction
    if type(value) is float:
        fraction = value
        if 0 < fraction < 1:
            return fraction
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: must be a number or None, got {type(value).__name__}")
    if not 0 < value < 1:
        raise ValueError(f"{name}: must be above 0 and below 1, got {shown(value)}")
    return value


cdef inline double options_grace(Options options) noexcept:
    """The seconds past its TTL for which a value is held that is stored with these options."""
    cdef double window = options.window if options.has_window else 0
    return options.stale_if_error if options.stale_if_error > window else window


cdef inline bint options_stale_ok(Options options) noexcept:
    """Whether a later call may serve that value in its grace without an option.

    A value held for errors alone needs an option of the call.
    """
    return options.has_window and 0 < options.window >= options.stale_if_error


cdef inline bint options_take_stale(Options options, Entry* e, double now) noexcept:
    """Whether an entry past its TTL is served at once, with a background load."""
    cdef double window = entry_grace(e)
    if not options.has_window:
        window = window if entry_stale_ok(e) else 0
    elif options.window < window:
        window = options.window
    return window > 0 and now - e.deadline <= window and now < entry_last(e)


cdef inline bint entry_is_due(Entry* e, double now, double ahead) noexcept nogil:
    """Whether a fresh entry is past this part of its TTL, so that a hit loads it anew."""
    cdef double ttl
    if ahead >= 1:                                # INFINITY: a call without refresh_ahead=
        return False
    ttl = entry_ttl(e)
    return not isinf(ttl) and ttl - (e.deadline - now) > ahead * ttl


cdef inline bint options_cover(Options options, Entry* e, double now, bint timed_out) noexcept:
    """Whether the entry may stand in for a load that raised, or (`timed_out`) takes too long."""
    cdef double most = options.stale_if_error, over = now - e.deadline
    if over < 0:
        return timed_out or most >= 0
    if timed_out:
        if not options.has_window and most < 0:
            most = INFINITY                       # without an option: as long as it is held
        elif options.has_window and options.window > most:
            most = options.window
    return over <= most and over < entry_grace(e)
