# Looks that count nowhere: one key, the tags, the namespaces right below.

cdef enum:
    SLICE = 64                    # namespaces that one hold of the lock looks at


cdef object inspection_of(Store store, Node* node, object key):
    """The facts of the key's entry and of its running load; None: neither exists."""
    cdef Core* core = &store.core
    cdef uint32_t i, link
    cdef double age = 0, left = 0, grace = 0, sliding = 0
    cdef int64_t weight = 0
    cdef Entry* e
    cdef Aim aim
    cdef Load running = aim_at(store, node, key, &aim)
    cdef bint held = False
    names = []
    lock_acquire(&core.lock)
    try:
        i = store_find_locked(core, node, key, aim.hash)
        if core_is_closed(core):
            raise closed_error()
        if i != NONE:
            e = entry_at(&core.slab, i)
            held = entry_last(e) > aim.now
            left = e.deadline - aim.now
            age = entry_age(&core.slab, i, aim.now)
            if entry_slide(&core.slab, i) != NULL:
                sliding = entry_slide(&core.slab, i).seconds
            grace = entry_grace(e)
            weight = entry_weight(&core.slab, i)
            link = e.links
            while held and link != NONE:
                names.append(<object>core.tags.records[link_at(&core.tags, link).tag].name)
                link = link_at(&core.tags, link).next
    finally:
        lock_release(&core.lock)
    if not held and running is None:
        return None
    names.reverse()                               # into the order in which they were given
    shown_tags = []
    for name in names:
        if not (<str>name).startswith(FUNCTION_TAG):
            shown_tags.append(name)
    return face.Inspection(
        held=held,
        fresh=held and left > 0,
        ttl=None if held and isinf(left) else fmax(left, 0) if held else 0.0,
        age=None if not held or isinf(age) else age,
        grace=grace if held else 0.0,
        sliding=sliding if held and sliding else None,
        tags=tuple(shown_tags),
        weight=weight if held else 0,
        loading=None if running is None else fmax(aim.now - running.started, 0),
        background=running is not None and running.background,
    )


cdef dict tags_counted(Store store, Node* node):
    """How many entries bear each tag, here and below. O(tags), and O(what is due)."""
    cdef Core* core = &store.core
    cdef double now
    cdef uint32_t steps = SETTLE
    counts = {}
    node_guard_closed(store)
    now = store_now(store)
    lock_acquire(&core.lock)
    try:
        while node_settle_one_locked(core, node, now, True, &steps):
            pass
        if node.tags != NULL:
            for name, record in (<dict>node.tags).items():
                if not (<str>name).startswith(FUNCTION_TAG):
                    counts[name] = core.tags.records[<uint32_t>record].total
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return counts


cdef struct Seen:                 # one child, as a hold of the lock found it
    bint found
    Counters counters
    Held held
    double share


cdef object by_most(tuple child):
    """The place of (figure, order, ...) in a list that begins with the most."""
    return -child[0], child[1]


cdef int rest_add(list rest, object stats, tuple fields) except -1:
    cdef Py_ssize_t n
    for n in range(len(fields)):
        rest[n] += getattr(stats, fields[n])
    return 0


cdef object children_of(Store store, Node* node, object top, object by):
    """The `top` namespaces right below that lead by a figure, and the sum of the others.

    Reads a slice of them at a time, by name: nothing is held, so the idle keep their order.
    """
    cdef Core* core = &store.core
    cdef Seen[SLICE] seen
    cdef Node* child
    cdef Py_ssize_t begin, n, count, most
    cdef double shares = 0
    cdef int64_t bound
    fields = tuple(face.Stats.__slots__)
    if isinstance(top, bool) or not isinstance(top, int):
        raise TypeError(f"top: must be an int of at least 0, got {type(top).__name__}")
    if top < 0:
        raise ValueError(f"top: must be an int of at least 0, got {shown(top)}")
    if not isinstance(by, str):
        raise TypeError(f"by: must be a str, got {type(by).__name__}")
    if by not in fields:
        raise ValueError(f"by: must be one of {', '.join(fields)}; got {shown(by)}")
    most = min(top, PY_SSIZE_T_MAX // 4)
    node_guard_closed(store)
    names = list(<dict>node.children)
    lock_acquire(&core.lock)
    bound = node.max_entries
    if node.own:
        shares = 1.0                              # its own entries count as one more child
    lock_release(&core.lock)
    rest = [0] * len(fields)
    leading = []
    total = 0
    for begin in range(0, PyList_GET_SIZE(names), SLICE):
        count = min(SLICE, PyList_GET_SIZE(names) - begin)
        lock_acquire(&core.lock)
        for n in range(count):
            child = node_child_locked(node, <PyObject*>names[begin + n])
            seen[n].found = child != NULL
            if child == NULL:
                continue                          # forgotten since
            memset(&seen[n].counters, 0, sizeof(Counters))
            node_total_locked(child, &seen[n].counters)
            node_held_locked(core, child, &seen[n].held)
            seen[n].share = child.share
        lock_release(&core.lock)
        for n in range(count):
            if not seen[n].found:
                continue
            total += 1
            stats = stats_made(&seen[n].counters, &seen[n].held)
            if stats.entries:
                shares += seen[n].share
            leading.append((getattr(stats, by), total, names[begin + n], stats, seen[n].share))
        if len(leading) > most + SLICE:
            leading.sort(key=by_most)
            for one in leading[most:]:
                rest_add(rest, one[3], fields)
            del leading[most:]
    leading.sort(key=by_most)
    for one in leading[most:]:
        rest_add(rest, one[3], fields)
    listed = []
    for _, _, name, stats, share in leading[:most]:
        fair = None
        if bound >= 0:
            fair = bound * share / (shares if stats.entries else shares + share)
        listed.append(face.Child(name=name, stats=stats, fair_share=fair))
    return face.Children(
        top=tuple(listed), rest=face.Stats(*rest), others=total - len(listed))


cdef object size_held(Store store, Node* node):
    """As currsize of cachetools: the weight where that is bounded, else the entries."""
    cdef Core* core = &store.core
    cdef double now
    cdef int64_t held
    cdef uint32_t steps = SETTLE
    node_guard_closed(store)
    now = store_now(store)
    lock_acquire(&core.lock)
    while node_settle_one_locked(core, node, now, True, &steps):
        pass
    held = node.weight if node.max_weight >= 0 else node.entries
    lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
    return held


cdef object size_bound(Store store, Node* node):
    """As maxsize of cachetools: the bound on size_held; None: it has none."""
    cdef Core* core = &store.core
    cdef int64_t bound
    node_guard_closed(store)
    lock_acquire(&core.lock)
    bound = node.max_weight if node.max_weight >= 0 else node.max_entries
    lock_release(&core.lock)
    return None if bound < 0 else bound
