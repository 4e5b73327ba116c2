# The running loads of a cache, and their fences.

cdef enum:
    MOST_LOST = 16384             # tags that a load remembers to have lost


@cython.final
@cython.freelist(32)
@cython.no_gc_clear                  # its end needs its namespace; Store breaks the cycles
cdef class Load:
    """One running load: its key and tags, and whether its result may still be stored.

    ``_begin`` of a namespace registers it there, until ``_finish`` or ``_abandon``. Each
    invalidation of its key meanwhile fences it; a fence is never removed.

    A load is settled once, with an outcome; its waiters are then woken. The end of a load publishes
    the outcome first, and then looks for waiters; a waiter first adds itself, and then looks for
    the outcome: none sleeps on.
    """

    cdef readonly object namespace    # the view that began it, which holds both below; or None
    cdef Core* core
    cdef Node* node                 # NULL: it was not begun
    cdef readonly object key
    cdef tuple borne                  # tags of the call that began it and of those that joined it
    cdef frozenset many_borne         # the same, if they are many; else None
    cdef bint is_fenced
    cdef readonly double started      # cache clock
    cdef readonly bint background
    cdef public double until          # the latest deadline for its value, on the clock; INFINITY
    cdef public bint is_fill          # its value comes from the tier: it is counted as no load
    cdef int64_t n_losses             # invalidations of tags that it did not bear when they came
    cdef dict lost                    # those tags, each with the number of its first
    cdef bint has_lost_all            # it is fenced and remembers none: each tag may be lost
    cdef bint finishing               # its value is about to be stored: no more tags
    cdef bint registered              # in the table, in Node.running and in the counts
    cdef bint has_place               # counts in Node.places; in the list of Core.place_newest
    cdef readonly uint32_t forks      # process_forks when it was registered
    cdef uint32_t hash                # of the key, mixed
    cdef uint64_t number              # Core.loads_begun when it was registered
    cdef PyObject* next_in_bucket     # borrowed; Node.running owns the loads of the table
    cdef PyObject* newer              # neighbours in Node.running
    cdef PyObject* older
    cdef PyObject* place_newer        # neighbours in the list of those that have a place; borrowed
    cdef PyObject* place_older
    cdef object leader                # the record of its run, or None: see load_leader
    cdef readonly object outcome      # None until it is settled
    cdef dict sleepers                # the calls that wait for it; None: none has yet
    cdef public object around_load    # that of its cache when it began: see Store
    cdef public Load stands_in_for    # a registered load in whose place it is stored, or None
    cdef list edges                   # loads that its loader waits for; None: none yet
    cdef bint is_led                  # led by compiled code; the fields below tell where
    cdef bint joined                  # another call may wait for it, or has
    cdef readonly unsigned long thread
    cdef readonly object greenlet
    cdef readonly int64_t loss        # see _finish: the first invalidation that covered its tags
    cdef object __weakref__

    def __init__(self, key, tags=()):
        checked = (() if tags is () else tags_checked(tags)) or ()
        lost = {}
        if self.lost is not None:
            raise RuntimeError("a Load is initialised once")
        self.key = key
        self.forks = process_forks
        self.borne = checked
        self.many_borne = frozenset(checked) if len(checked) > FEW_TAGS else None
        self.until = INFINITY
        self.lost = lost                          # made here: a fence must not need memory

    @property
    def fenced(self):
        return bool(relaxed_load_flag(&self.is_fenced))

    @property
    def losses(self):
        return relaxed_load_i64(&self.n_losses)

    @property
    def run(self):
        """The run that leads the load; one led by compiled code gets it when it is asked for."""
        return load_leader(self)

    @run.setter
    def run(self, leader):
        with cython.critical_section(self):
            self.leader = leader

    @property
    def waiters(self):
        """The calls that wait, as the keys of a dict."""
        with cython.critical_section(self):
            if self.sleepers is None:
                self.sleepers = {}
            return self.sleepers

    @property
    def waits(self):
        """The loads that this one's loader waits for; `deadlock` looks after them."""
        return load_edges(self)

    def settle(self, outcome not None):
        """Publish the outcome unless there is one already, and wake the waiters."""
        load_settle(self, outcome)


cdef uint32_t process_forks = 0       # forks that this process is a child of, since the import


def forks_since_import():
    """Return the number of forks between the process that imported flowcache and this one."""
    return process_forks


cdef Load load_new(object key, tuple tags):
    """A load of the key that bears the tags, which were checked."""
    cdef Load load = Load.__new__(Load)
    load.key = key
    load.borne = tags
    if len(tags) > FEW_TAGS:
        load.many_borne = frozenset(tags)
    load.until = INFINITY
    load.lost = {}
    return load


cdef list load_edges(Load load):
    with cython.critical_section(load):
        if load.edges is None:
            load.edges = []
        return load.edges


cdef object load_leader(Load load):
    """The run that leads the load, or None; made here for the first call that asks."""
    with cython.critical_section(load):
        leader = load.leader
    if leader is None and load.is_led:
        made = face.run_of(load)
        with cython.critical_section(load):
            if load.leader is None:
                load.leader = made
            leader = load.leader
        if load.outcome is not None:              # its end looks the other way round
            leader.end()
    return leader


cdef object outcome_of(object value, int64_t loss):
    """The outcome of a load with a value. Without the frame of its class's own constructor."""
    kind = face.Outcome
    outcome = kind.__new__(kind)
    outcome.value = value
    if loss:
        outcome.loss = loss
    return outcome


cdef int load_settle(Load load, object outcome) except -1:
    # One atomic step decides between the runner, a loop that closes and a caller that ends it.
    with cython.critical_section(load):
        if load.outcome is None:
            load.outcome = outcome
        sleepers = load.sleepers                  # a call that asks later sees the outcome
    if sleepers:
        waiters_wake(sleepers)
    return 0


cdef int load_give_up(Load load) except -1:
    """End a load that compiled code leads, without a value: calls that have joined begin anew."""
    load_unregister(load)
    if load.joined:
        load_settle(load, face.ABANDONED)
        if load.leader is not None:
            load.leader.end()
    return 0


cdef int64_t load_first_loss(Load load, tuple tags) except -1:
    """The number of the first invalidation that covered one of the tags; 0 if none did."""
    cdef int64_t first = 0, number
    if relaxed_load_flag(&load.has_lost_all):
        return 1
    if not load.lost:
        return 0
    for tag in tags:
        number = load.lost.get(tag, 0)
        if number and (first == 0 or number < first):
            first = number
    return first


cdef inline bint load_bears_locked(Load load, object tag) noexcept:
    return tag in (<object>load.borne if load.many_borne is None else <object>load.many_borne)


cdef bint load_stands_locked(Load load, tuple tags, double now):
    """Whether the load's result may be stored under these tags. Runs no user code."""
    if load.is_fenced or now - load.started > load.core.max_pending_age:
        return False
    if tags is not None:
        for tag in tags:
            if tag in load.lost:
                return False
    return True


cdef tuple tags_together(tuple tags, tuple more):
    """Both, each tag once, those of `tags` first; `tags` itself if there is nothing to add."""
    cdef list added = []
    cdef set known = set(tags)
    for tag in more:
        if tag not in known:
            known.add(tag)
            added.append(tag)
    return tags_once(tags + tuple(added)) if added else tags


cdef bint load_may_be_late_locked(Load load, double now) noexcept:
    """Whether an invalidation by another process may have come since it began, unheard of.

    Without the lease a load of before its end is unsafe: `wait="fleet"` waits for no process that
    is cut off. One that began after that has heard of nothing either, and is safe for the time in
    which the other processes may be late as well. Otherwise each call would load by itself.
    """
    cdef Core* core = load.core
    if core.lease_length <= 0 or load.node.untiered:
        return False
    if now < relaxed_load_double(&core.lease) or now < relaxed_load_double(&core.lease_stale):
        return False
    return (load.started <= relaxed_load_double(&core.lease_ended)
            or now - load.started > core.lease_length)


cdef bint load_join(Load running, Load load, double now) except -1:
    """Let a call join a running load; False: it must begin its own.

    The running load bears the call's tags from now on. It cannot if one of them was invalidated
    since it began, or if its value is being stored. With too many tags it is not stored at all.
    """
    cdef Core* core = running.core
    cdef tuple borne, together
    cdef frozenset many
    cdef bint joins = False, is_settled = False
    while not is_settled:
        lock_acquire(&core.lock)
        borne = running.borne
        lock_release(&core.lock)
        together = tags_together(borne, load.borne) if load.borne else borne
        many = frozenset(together) if len(together) > FEW_TAGS else None
        lock_acquire(&core.lock)
        is_settled = running.borne is borne
        if is_settled:
            joins = (running.registered and not running.is_fenced
                     and now - running.started <= core.max_pending_age
                     and not load_may_be_late_locked(running, now))
            for tag in load.borne:
                joins = joins and tag not in running.lost
            if joins and together is not borne:
                if running.finishing:
                    joins = False
                elif len(together) > MOST_TAGS:
                    relaxed_store_flag(&running.is_fenced, True)
                else:
                    running.borne = together
                    running.many_borne = many
            if joins:
                running.joined = True
        lock_release(&core.lock)
    return joins


cdef tuple load_close_tags(Load load, tuple tags):
    """Let no call add tags any more; return all tags of the load's value; None: no tag."""
    cdef tuple borne
    lock_acquire(&load.core.lock)
    load.finishing = True
    borne = load.borne
    lock_release(&load.core.lock)
    if borne is not tags:
        tags = tags_together(tags, borne)
    return tags or None


# The table of running loads: chained buckets by hash, newest first. A load is removed by identity,
# and only a search compares keys, so that no key can keep a load there. Only growth, at the start
# of a registration, needs memory: an end or a fence cannot fail.


cdef inline PyObject** loads_bucket_locked(Core* core, uint32_t hash) noexcept nogil:
    return &core.loads[hash & (core.loads_size - 1)]


cdef int loads_reserve_locked(Core* core) noexcept:
    """Make sure that one more load fits; -1, and nothing changed, when memory is out."""
    cdef uint32_t size = core.loads_size * 2 if core.loads_size else 8, n
    cdef PyObject** old = core.loads
    cdef PyObject** grown
    cdef PyObject** link
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
            link = &grown[(<Load>at).hash & (size - 1)]
            while link[0] != NULL:
                link = &(<Load>link[0]).next_in_bucket
            (<Load>at).next_in_bucket = NULL
            link[0] = at
            at = next
    free(old)
    core.loads = grown
    core.loads_size = size
    return 0


cdef Load load_find(Core* core, Node* node, object key, uint32_t hash, uint64_t* state):
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
        at = loads_bucket_locked(core, hash)[0] if core.loads_count else NULL
        while at != NULL:
            load = <Load>at
            if load.hash == hash and load.node == node:
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


# Places. Each load takes one of the `max_pending` of its namespace and of all those above it. A
# load that another load of the same tenant waits for takes none, since its refusal would refuse a
# load that has a place. A load that is too old, or that a fork left behind, releases its place when
# one is needed. The loads with a place are a list by age, so that each is examined once.

cdef inline bint load_is_lost_locked(Load load, Core* core, double now) noexcept:
    """Whether the load is too old to be stored, or runs in a process that forked this one."""
    return now - load.started > core.max_pending_age or load.forks != process_forks


cdef bint load_has_place_within_locked(Load outer, Core* core, Node* node, double now) noexcept:
    """Whether a load of `node` that `outer` waits for needs no place of its own."""
    return (outer.registered and outer.core == core and not load_is_lost_locked(outer, core, now)
            and node_tenant_locked(core, outer.node) == node_tenant_locked(core, node))


cdef void place_take_locked(Core* core, Load load) noexcept:
    cdef Node* node = load.node
    load.has_place = True
    load.place_newer = NULL
    load.place_older = core.place_newest
    if core.place_newest != NULL:
        (<Load>core.place_newest).place_newer = <PyObject*>load
    else:
        core.place_oldest = <PyObject*>load
    core.place_newest = <PyObject*>load
    while node != NULL:
        node.places += 1
        node = node.parent


cdef void place_give_locked(Core* core, Load load) noexcept:
    """Release the load's place, if it has one."""
    cdef Node* node = load.node
    if not load.has_place:
        return
    load.has_place = False
    if load.place_newer != NULL:
        (<Load>load.place_newer).place_older = load.place_older
    else:
        core.place_newest = load.place_older
    if load.place_older != NULL:
        (<Load>load.place_older).place_newer = load.place_newer
    else:
        core.place_oldest = load.place_newer
    while node != NULL:
        node.places -= 1
        node = node.parent


cdef Node* node_without_place_locked(Core* core, Node* node, double now) noexcept:
    """The namespace, here or above, whose max_pending is reached; NULL: there is a place."""
    cdef Load oldest
    while node != NULL:
        while node.max_pending >= 0 and node.places >= node.max_pending:
            if core.place_oldest == NULL:
                return node
            oldest = <Load>core.place_oldest
            if not load_is_lost_locked(oldest, core, now):
                return node
            relaxed_store_flag(&oldest.is_fenced, True)
            place_give_locked(core, oldest)
        node = node.parent
    return NULL


cdef Load load_register(Core* core, Node* node, object view, Load load, Load outer, double now,
                        bint alone=False):
    """Put the load into the table, or return the one that is to be joined. May run __eq__.

    `view` is of this namespace, and holds it until the load is no more. `outer`, or None, is the
    load that waits for this one. With `alone` none is joined: None if one runs.
    """
    cdef Load running
    cdef Node* full = NULL
    cdef bint wants_place
    cdef uint64_t changes
    cdef PyObject** bucket
    for _ in range(1000):
        running = load_find(core, node, load.key, load.hash, &changes)
        if running is not None:
            if alone:
                return None
            if load_join(running, load, now):
                return running
        lock_acquire(&core.lock)
        try:
            if core_is_closed(core):
                raise closed_error()
            if changes != core.loads_changes:
                continue
            wants_place = (outer is None
                           or not load_has_place_within_locked(outer, core, node, now))
            if wants_place:
                full = node_without_place_locked(core, node, now)
                if full != NULL:
                    raise TooManyLoadsError(
                        f"namespace {node_label(full)} already has "
                        f"max_pending={full.max_pending} loads running")
            if loads_reserve_locked(core) < 0:
                raise MemoryError()
            if running is not None:
                relaxed_store_flag(&running.is_fenced, True)   # too old, if nothing fenced it
            relaxed_store_u64(&core.loads_begun, core.loads_begun + 1)
            core.loads_changes += 1
            core.loads_count += 1
            load.number = core.loads_begun
            load.namespace = view
            load.core = core
            load.node = node
            load.forks = process_forks
            relaxed_store_flag(&load.registered, True)
            if wants_place:
                place_take_locked(core, load)
            bucket = loads_bucket_locked(core, load.hash)
            load.next_in_bucket = bucket[0]
            bucket[0] = <PyObject*>load
            Py_INCREF(load)                       # Node.running owns it
            load.newer = NULL
            load.older = node.running
            if node.running != NULL:
                (<Load>node.running).newer = <PyObject*>load
            node.running = <PyObject*>load
            relaxed_store_i64(&node.own_pending, node.own_pending + 1)
            while node != NULL:
                node.pending += 1
                node = node.parent
        finally:
            lock_release(&core.lock)
        return load
    raise RuntimeError("key: its __eq__ begins or ends a load each time it is asked")


cdef void load_unregister(Load load) noexcept:
    """Take the load out of the table, if it is there. Runs no user code, and cannot fail."""
    cdef Core* core
    cdef Node* node
    cdef PyObject** link
    if load.node == NULL:
        return
    core = load.core
    node = load.node
    lock_acquire(&core.lock)
    if not load.registered:
        lock_release(&core.lock)
        return
    relaxed_store_flag(&load.registered, False)
    place_give_locked(core, load)
    link = loads_bucket_locked(core, load.hash)
    while link[0] != <PyObject*>load:
        link = &(<Load>link[0]).next_in_bucket
    link[0] = load.next_in_bucket
    if load.newer != NULL:
        (<Load>load.newer).older = load.older
    else:
        node.running = load.older
    if load.older != NULL:
        (<Load>load.older).newer = load.newer
    core.loads_changes += 1
    core.loads_count -= 1
    relaxed_store_i64(&node.own_pending, node.own_pending - 1)
    while node != NULL:
        node.pending -= 1
        node = node.parent
    lock_release(&core.lock)
    Py_DECREF(load)                               # Node.running's; the caller has another


cdef void fence_key_locked(Core* core, Node* node, Load found, uint32_t hash,
                           uint64_t since) noexcept:
    """Let the load of a key end in vain. Runs no user code.

    ``found`` is the result of :c:func:`load_find` before the change. A load with the key's hash
    that began since then (``since``: Core.loads_begun at that time) may be the key's too.
    """
    cdef PyObject* at
    if found is not None:
        relaxed_store_flag(&found.is_fenced, True)
    if core.loads_begun != since and core.loads_count:
        at = loads_bucket_locked(core, hash)[0]
        while at != NULL:
            if ((<Load>at).number > since and (<Load>at).hash == hash
                    and (<Load>at).node == node):
                relaxed_store_flag(&(<Load>at).is_fenced, True)
            at = (<Load>at).next_in_bucket


cdef void fence_all_locked(Node* node) noexcept:
    cdef PyObject* at = node.running
    while at != NULL:
        relaxed_store_flag(&(<Load>at).is_fenced, True)
        at = (<Load>at).older


cdef void fence_below_locked(Node* node) noexcept:
    cdef Node* child = node.child
    fence_all_locked(node)
    while child != NULL:
        if child.pending:
            fence_below_locked(child)
        child = child.next


cdef void fence_and_forget_locked(Load load) noexcept:
    """Fence a load that need not remember what it loses: from here on it has lost all tags."""
    relaxed_store_flag(&load.is_fenced, True)
    relaxed_store_flag(&load.has_lost_all, True)
    load.lost.clear()                             # of str and int: no user code


cdef void load_lose_tags_locked(Load load, tuple tags, bint every) noexcept:
    """Fence the load if it bears the tags (`every`: all of them); else let it remember the loss.

    A load may learn its tags only at its end, so that with `every` each of the tags counts as lost:
    a result that might have been covered is not stored. One that would have to remember too many
    tags is fenced: what loads remember is bounded.
    """
    cdef Py_ssize_t borne = 0
    if load.is_fenced:
        return
    for tag in tags:
        borne += load_bears_locked(load, tag)
    if borne == len(tags) if every else borne > 0:
        relaxed_store_flag(&load.is_fenced, True)
        return
    relaxed_store_i64(&load.n_losses, load.n_losses + 1)
    for tag in tags:
        if load_bears_locked(load, tag) or tag in load.lost:
            continue
        if len(load.lost) == MOST_LOST:
            fence_and_forget_locked(load)
            break
        if dict_put_number(<PyObject*>load.lost, tag, load.n_losses) < 0:
            PyErr_Clear()                         # no memory to remember it by
            fence_and_forget_locked(load)
            break


cdef void fence_tags_locked(Core* core, Node* node, tuple tags, bint every, double now) noexcept:
    """Fence the loads, here and below, that bear the tags, and those that are too old to be stored;
    the others remember that the tags are lost."""
    cdef Node* child = node.child
    cdef PyObject* at = node.running
    cdef Load load
    while at != NULL:
        load = <Load>at
        at = load.older
        if not load.is_fenced and load_is_lost_locked(load, core, now):
            fence_and_forget_locked(load)
        load_lose_tags_locked(load, tags, every)
    while child != NULL:
        if child.pending:
            fence_tags_locked(core, child, tags, every, now)
        child = child.next


cdef void fence_prefix_locked(Node* node, str prefix) noexcept:
    cdef PyObject* at = node.running
    while at != NULL:
        if (PyUnicode_Check((<Load>at).key)
                and PyUnicode_Tailmatch((<Load>at).key, prefix, 0, PY_SSIZE_T_MAX, -1) == 1):
            relaxed_store_flag(&(<Load>at).is_fenced, True)
        at = (<Load>at).older
