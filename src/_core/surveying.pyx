# The counts of a namespace and of those right below it, however many: for metrics and the page.
# Metrics may ask for those some levels below: the tenants of a cache with a tenant_depth.
#
# A walk reads each namespace once. The lock is let go after each slice, and what is read in one
# slice is not read again: the parts of a survey add up to its total, exactly.

cdef enum:
    WALKED = 256                  # namespaces that one hold of the lock reads
    MOST_NAMED = 4096             # children that a survey tells of by name
    MOST_LEADING = 4096           # children that a survey ranks
    AT_SECONDS = 18               # where the only double among the fields of Counters stands

cdef struct Tally:                # what was read of one child, or of all
    Counters counters
    Held held
    double share
    uint64_t life                 # of counters that have not been set to zero: see Node
    uint32_t rank                 # no two namespaces of a cache ever have the same
    PyObject* name                # owned by those that lead or were asked for; see Survey.spare

cdef inline int64_t tally_figure(Tally* tally, int by) noexcept nogil:
    if by < AT_SECONDS:
        return (<int64_t*>&tally.counters)[by]
    if by == AT_SECONDS:
        return <int64_t>tally.counters.load_seconds
    return (<int64_t*>&tally.held)[by - AT_SECONDS - 1]

# The order of the fields of Counters, then what is held.
FIGURES = (
    "hits", "misses", "stale_hits", "coalesced", "loads", "load_failures", "sets", "evictions",
    "evictions_caused", "rejections", "expirations", "invalidations", "tier_hits", "tier_misses",
    "tier_stores", "tier_errors", "untiered", "lost_hits", "load_seconds", "entries", "weight",
    "pending", "fair_entries", "lent", "borrowed",
)


cdef void tally_add(Tally* into, Tally* what) noexcept nogil:
    counters_add(&into.counters, &what.counters)
    cdef int n
    for n in range(<int>(sizeof(Held) // sizeof(int64_t))):
        (<int64_t*>&into.held)[n] += (<int64_t*>&what.held)[n]


cdef inline void node_ask(Node* node) noexcept nogil:
    """Ask the processor for what a walk reads of a namespace."""
    cdef size_t line
    for line in range(0, sizeof(Node), 64):
        prefetch(<const char*>node + line)


@cython.final
@cython.no_gc_clear                  # its end needs its namespace, whose Store lists the walks
cdef class Survey:
    """A walk over a namespace and all below: totals, those named, and those that lead by a figure.

    The children are those right below, by name; with a ``depth`` above 1 those so many levels
    below, by a tuple of names. What lies between counts as the namespace's own.

    ``step()`` until it says ``False``; then ``total``, ``named``, ``leading``, ``own_entries``,
    ``children`` and ``shares`` are those of the walk. No look counts, and none makes a
    namespace more recent.
    """

    cdef Namespace namespace
    cdef Walk walk
    cdef bint begun
    cdef bint ended
    cdef Tally sum                    # all that was read
    cdef Tally tally                  # the child that is being read; without a name: none is
    cdef bint owns_name               # of `tally`: between two slices
    cdef Tally* leaders               # a heap, the least first
    cdef Py_ssize_t leaders_n
    cdef Py_ssize_t most
    cdef int by
    cdef Tally* asked
    cdef uint64_t wanted              # bits of the ranks of `asked`
    cdef Py_ssize_t asked_n
    cdef int64_t own_held
    cdef uint32_t depth               # of the children, below the namespace
    cdef list spare                   # with a depth above 1: the names of the next child
    cdef readonly int64_t children
    cdef readonly double shares       # of the children that hold entries; the own count as one more

    def __init__(self, Namespace namespace not None, names=(), Py_ssize_t top=0, str by="entries",
                 uint32_t depth=1):
        cdef Node* child
        cdef Core* core
        cdef tuple given = tuple(names)
        if self.leaders != NULL:
            raise RuntimeError("a Survey is initialised once")
        if len(given) > MOST_NAMED:
            raise ValueError(f"names: must be at most {MOST_NAMED}, got {len(given)}")
        if not 0 <= top <= MOST_LEADING:
            raise ValueError(f"top: must be from 0 to {MOST_LEADING}, got {top}")
        if by not in FIGURES:
            raise ValueError(f"by: must be one of {', '.join(FIGURES)}; got {shown(by)}")
        if depth < 1:
            raise ValueError("depth: must be at least 1, got 0")
        paths = [(name,) if depth == 1 else name for name in given]
        for path in paths:
            if type(path) is not tuple or len(path) != depth:
                raise TypeError(f"names: each must be a tuple of {depth} str, got {shown(path)}")
            for name in path:
                if type(name) is not str:
                    raise TypeError(f"names: each must be a str, got {type(name).__name__}")
        node_guard_closed(namespace.store)
        self.namespace = namespace
        self.by = FIGURES.index(by)
        self.most = top
        self.depth = depth
        self.leaders = <Tally*>calloc(top + 1, sizeof(Tally))
        self.asked = <Tally*>calloc(len(given) + 1, sizeof(Tally))
        if self.leaders == NULL or self.asked == NULL:
            raise MemoryError()
        core = &namespace.store.core
        lock_acquire(&core.lock)
        for path in paths:
            child = namespace.node
            for name in <tuple>path:
                if child != NULL:
                    child = node_child_locked(child, <PyObject*>name)
            if child == NULL or survey_named(self, child.member.rank) != NULL:
                continue
            self.asked[self.asked_n].rank = child.member.rank
            self.asked_n += 1
            self.wanted |= <uint64_t>1 << (child.member.rank & 63)
        self.walk.top = namespace.node
        self.walk.at = namespace.node
        self.walk.next = core.walks
        core.walks = &self.walk
        self.begun = True
        lock_release(&core.lock)

    def __dealloc__(self):
        cdef Py_ssize_t n
        if self.begun and not self.ended:
            lock_acquire(&self.namespace.store.core.lock)
            walk_end_locked(&self.namespace.store.core, &self.walk)
            lock_release(&self.namespace.store.core.lock)
        if self.owns_name:
            Py_XDECREF(self.tally.name)
        for n in range(self.leaders_n):
            Py_XDECREF(self.leaders[n].name)
        for n in range(self.asked_n):
            Py_XDECREF(self.asked[n].name)
        free(self.leaders)
        free(self.asked)

    def step(self):
        """Read the next slice; return whether more is left."""
        return survey_step(self)

    @property
    def total(self):
        """The :class:`Stats` of all that was read."""
        survey_check_ended(self)
        return tally_stats(&self.sum)

    @property
    def life(self):
        """A number that changes when the namespace's own counts are set to zero."""
        survey_check_ended(self)
        return self.sum.life

    @property
    def own_entries(self):
        """The entries of the namespace itself, of no child."""
        survey_check_ended(self)
        return self.own_held

    @property
    def named(self):
        """``{name: (life, share, stats)}`` of the children that were asked for and are there."""
        cdef Py_ssize_t n
        survey_check_ended(self)
        told = {}
        for n in range(self.asked_n):
            if self.asked[n].name != NULL:
                told[tally_name(&self.asked[n])] = tally_told(&self.asked[n])
        return told

    @property
    def leading(self):
        """``[(name, life, share, stats), ...]`` of the leading children, the most first."""
        cdef Py_ssize_t n
        survey_check_ended(self)
        told = []
        for n in range(self.leaders_n):
            told.append((tally_name(&self.leaders[n]), *tally_told(&self.leaders[n])))
        by = FIGURES[self.by]
        told.sort(key=lambda one: (-getattr(one[3], by), one[1]))
        return told


cdef int survey_check_ended(Survey survey) except -1:
    if not survey.ended:
        raise RuntimeError("a Survey tells nothing before step() has said False")
    return 0


cdef object tally_stats(Tally* tally):
    return stats_made(&tally.counters, &tally.held)


cdef tuple tally_told(Tally* tally):
    return (tally.life, tally.share, tally_stats(tally))


cdef object tally_name(Tally* tally):
    name = <object>tally.name
    return tuple(name) if isinstance(name, list) else name


cdef inline Tally* survey_named(Survey survey, uint32_t rank) noexcept:
    """The part of the child with this rank, if it was asked for by name; else NULL."""
    cdef Py_ssize_t n
    if survey.wanted >> (rank & 63) & 1:
        for n in range(survey.asked_n):
            if survey.asked[n].rank == rank:
                return &survey.asked[n]
    return NULL


cdef void leading_sift(Survey survey, Py_ssize_t at) noexcept:
    """Let the part at this index of the heap sink to its place; the least stays first."""
    cdef Tally moved = survey.leaders[at]
    cdef Py_ssize_t below
    while True:
        below = 2 * at + 1
        if below >= survey.leaders_n:
            break
        if below + 1 < survey.leaders_n and (
                tally_figure(&survey.leaders[below + 1], survey.by)
                < tally_figure(&survey.leaders[below], survey.by)):
            below += 1
        if tally_figure(&moved, survey.by) <= tally_figure(&survey.leaders[below], survey.by):
            break
        survey.leaders[at] = survey.leaders[below]
        at = below
    survey.leaders[at] = moved


cdef void leading_offer(Survey survey, Tally* tally) noexcept:
    """Keep the part if it leads. The heap owns the names."""
    cdef Py_ssize_t n
    cdef PyObject* dropped = NULL
    if survey.most == 0:
        return
    if survey.leaders_n < survey.most:
        survey.leaders[survey.leaders_n] = tally[0]
        Py_XINCREF(tally.name)
        survey.leaders_n += 1
        if survey.leaders_n == survey.most:
            for n in range(survey.most // 2, -1, -1):
                leading_sift(survey, n)
    elif tally_figure(tally, survey.by) > tally_figure(&survey.leaders[0], survey.by):
        dropped = survey.leaders[0].name          # exact str: their end runs no code
        survey.leaders[0] = tally[0]
        Py_XINCREF(tally.name)
        leading_sift(survey, 0)
        Py_XDECREF(dropped)


cdef void survey_end_part(Survey survey) noexcept:
    """Put away the child that was read."""
    cdef Tally* wanted
    if survey.tally.name == NULL:
        return
    tally_add(&survey.sum, &survey.tally)
    wanted = survey_named(survey, survey.tally.rank)
    if wanted != NULL:
        wanted[0] = survey.tally
        Py_XINCREF(wanted.name)
    leading_offer(survey, &survey.tally)
    if survey.owns_name:
        Py_XDECREF(survey.tally.name)
        survey.owns_name = False
    survey.tally.name = NULL


cdef void survey_take_names_locked(Survey survey, Node* node) noexcept:
    """Let the child that is being read own the list that was spare, with the names of its path."""
    cdef PyObject* names = <PyObject*>survey.spare
    cdef uint32_t n
    for n in range(survey.depth, 0, -1):
        survey.spare[n - 1] = <object>node.name   # in place of None: no user code runs
        node = node.parent
    Py_INCREF(<object>names)                      # Tally.name owns it
    survey.tally.name = names
    survey.owns_name = True
    survey.spare = None


cdef void survey_read_locked(Survey survey, Node* node) noexcept:
    """Read one namespace, its parent before it."""
    cdef Tally* tally = &survey.tally
    cdef uint32_t below = node.depth - survey.walk.top.depth
    if below < survey.depth:
        survey_end_part(survey)
        counters_add(&survey.sum.counters, &node.counters)
        counters_add(&survey.sum.counters, &node.forgotten)
        survey.sum.held.entries += node.own
        survey.sum.held.weight += node.own_weight
        survey.sum.held.pending += node.own_pending
        survey.own_held += node.own
        if below == 0:
            survey.sum.life = node.life
            if node.own:
                survey.shares += 1.0
        if node.account != NULL:
            account_tell_locked(node, &survey.sum.held)
        return
    if below == survey.depth:
        survey_end_part(survey)
        survey.children += 1
        memset(tally, 0, sizeof(Tally))
        if below == 1:
            tally.name = node.name
        else:
            survey_take_names_locked(survey, node)
        tally.rank = node.member.rank
        tally.life = node.life
        tally.share = node.share
        tally.held.entries = node.entries
        tally.held.weight = node.weight
        tally.held.pending = node.pending
        if node.entries:
            survey.shares += node.share
    if node.account != NULL:
        account_tell_locked(node, &tally.held)
    counters_add(&tally.counters, &node.counters)
    counters_add(&tally.counters, &node.forgotten)


cdef object survey_step(Survey survey):
    """Read a slice; False: the walk has ended."""
    cdef Core* core
    cdef Node* node
    if survey.ended:
        return False
    core = &survey.namespace.store.core
    if survey.depth > 1 and survey.spare is None:
        survey.spare = [None] * survey.depth
    lock_acquire(&core.lock)
    if core_is_closed(core):
        lock_release(&core.lock)
        raise closed_error()
    for _ in range(WALKED):
        node = survey.walk.at
        if node == NULL or (survey.depth > 1 and survey.spare is None):
            break
        walk_step_locked(&survey.walk)
        if survey.walk.at != NULL:
            node_ask(survey.walk.at)
        survey_read_locked(survey, node)
    if survey.walk.at == NULL:
        survey_end_part(survey)
        walk_end_locked(core, &survey.walk)
        survey.ended = True
    elif survey.tally.name != NULL and not survey.owns_name:
        Py_XINCREF(survey.tally.name)              # it may be forgotten before the next slice
        survey.owns_name = True
    lock_release(&core.lock)
    return not survey.ended


def running_loads(Namespace namespace not None, Py_ssize_t most):
    """``[(path, key, age, background), ...]`` of the loads here and below, at most so many.

    Oldest first. Reads at most some thousand of the cache's running loads.
    """
    cdef Core* core = &namespace.store.core
    cdef PyObject* at
    cdef Load load
    cdef uint32_t n
    cdef double now = store_now(namespace.store)
    cdef list found = [None] * 1024               # made here: an allocation may run the collector
    cdef Py_ssize_t count = 0
    node_guard_closed(namespace.store)
    lock_acquire(&core.lock)
    for n in range(core.loads_size):
        at = core.loads[n]
        while at != NULL and count < 1024:
            load = <Load>at
            if node_is_within_locked(load.node, namespace.node):
                found[count] = load
                count += 1
            at = load.next_in_bucket
        if count == 1024:
            break
    load = None
    lock_release(&core.lock)
    del found[count:]
    found.sort(key=load_start)
    told = []
    for load in found[:most]:
        view = load.namespace
        told.append((() if view is None else view.path, load.key,
                     fmax(now - load.started, 0), load.background))
    return told


cdef object load_start(Load load):
    return load.started


def existing(Namespace namespace not None, names):
    """The namespace at the path of ``names`` below, or None. It is not made if it is not there."""
    cdef Store store = namespace.store
    cdef Node* node = namespace.node
    cdef Namespace view
    cdef tuple path = tuple(names)
    node_guard_closed(store)
    view = view_new(store)
    lock_acquire(&store.core.lock)
    for name in path:
        node = node_child_locked(node, <PyObject*>name) if is_str(<PyObject*>name) else NULL
        if node == NULL:
            break
    if node != NULL:
        view_attach_locked(view, node)
    lock_release(&store.core.lock)
    return None if node == NULL else view
