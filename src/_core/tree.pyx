# The tree of namespaces. A Node is what the core keeps of one namespace; Core is what it keeps of
# one cache.
#
# Nothing here runs a user's code. Dictionaries hold exact str keys and int values; for children the
# values are the addresses of their structs, which live as long as the namespaces. The caller drops
# the objects of a forgotten namespace, once the tree is whole.

cdef struct Counters:
    int64_t hits
    int64_t misses
    int64_t stale_hits
    int64_t coalesced
    int64_t loads
    int64_t load_failures
    int64_t sets
    int64_t evictions             # entries of this namespace that pressure took
    int64_t evictions_caused      # entries of any namespace that were evicted for a store here
    int64_t rejections            # evictions of the younger of two entries: see tinylfu
    int64_t expirations
    int64_t invalidations
    int64_t tier_hits             # values that the second tier gave
    int64_t tier_misses
    int64_t tier_stores
    int64_t tier_errors
    int64_t untiered              # values that cannot travel, and stayed in the process
    int64_t lost_hits             # hits that a fair share would have had: see ledger
    double load_seconds

# Kinds of events, in the order of KINDS in events.pyx.
cdef enum Kind:
    HIT, MISS, STALE_HIT, SET, REMOVE, LOAD, LOAD_ERROR, REFRESH, SWEEP, KINDS_COUNT

# What a namespace was given from above: its own view sets no more. See settings.
cdef struct Given:
    int64_t max_entries           # -1: no limit
    int64_t max_weight            # -1: no limit
    int64_t max_pending           # -1: no limit
    int64_t reserved
    double share
    double guaranteed

cdef enum:
    TIMED = 1                     # an entry with an end to its TTL has been here
    SLIDING = 2                   # one whose deadline hits renew has been here

cdef struct Node:
    Member member                 # comes first: heaps know it by that
    # The fields that a hit touches share a cache line.
    Order order                   # its entries, oldest to newest
    uint32_t id                   # Entry.node; index into Core.nodes
    uint64_t salt                 # mixed into each key's hash
    uint32_t own                  # entries, stale ones included
    uint32_t own_stale            # those of them past their deadline
    uint8_t timing                # what a hit has to look at: TIMED, SLIDING
    uint8_t is_idle               # here, because the making and the end of a view ask
    uint8_t is_tinylfu            # its order is that of tinylfu, and no LRU
    uint8_t own_eviction          # this was set here
    uint32_t border               # the oldest young entry; NONE: none is young
    uint32_t young                # entries from there to the newest; 0 without TinyLFU
    uint32_t views                # live Namespace objects, and listeners
    Counters counters             # its own
    Counters forgotten            # of namespaces below that are no more
    uint64_t life                 # another for each node, and each time that it counts from zero

    Node* parent                 # NULL: the root, or a namespace that is no more
    Node* child                  # first child
    Node* next                   # siblings
    Node* previous
    uint32_t children_count
    uint32_t depth                # 0: the root
    PyObject* name                # owned; an exact str, the root: None
    PyObject* children            # owned dict: name -> id
    PyObject* tags                # owned dict: tag -> record; NULL until the first
    PyObject* running             # first of the running Loads; the list owns those in it
    PyObject* listeners           # owned list of (mask, listener); NULL until the first
    PyObject* child_limits        # owned dict of settings that children start with; NULL: none

    int64_t entries               # here and below
    int64_t weight                # here and below
    int64_t own_weight
    int64_t pending               # running loads, here and below
    int64_t own_pending
    int64_t places                # running loads that count toward max_pending, here and below

    double default_ttl            # in force here, inherited or set
    bint own_ttl                  # it was set here
    bint is_off                   # nothing is stored, as it was switched off here or above
    bint own_off                  # here
    bint configured               # something was set here by name, so that it is never idle
    bint untiered                 # stays in the process, whatever tier the cache has
    int64_t max_entries           # -1: no limit
    int64_t max_weight            # -1: no limit
    int64_t max_pending           # -1: no limit
    int64_t reserved              # entries
    int64_t reserved_below        # the sum of what the children demand
    double share
    double guaranteed             # the part of its fair share that it never lends
    Given given                   # not of the root

    Heap deadlines                # its own entries
    uint32_t compacting           # entries when heap_compact became due (see reclaim); 0: it is not
    Heap due                      # children by the earliest deadline in them
    Heap by_entries               # children by -entries / share
    Heap by_weight                # children by -weight / share; only with a weigher
    Haunted haunted
    Account* account              # owned; NULL but for tenants that share by utility
    Ledger* ledger                # owned; NULL but where the children are such tenants
    Sketch* sketch                # owned; NULL: none has been needed since it was empty

    Node* idle_newer
    Node* idle_older

# A walk over a namespace and all below it, a slice at a time: parents before children, so that
# counts which a forgotten namespace leaves to its parent are never met twice.
cdef struct Walk:
    Node* top
    Node* at                      # the namespace that comes next; NULL: the walk has ended
    Walk* next                    # in the list of Core.walks

cdef struct Core:
    Slab slab
    Table table
    Tags tags
    Node* root
    Node** nodes                # by id; NULL: free
    uint32_t nodes_used
    uint32_t nodes_capacity
    uint32_t* free_ids
    uint32_t free_count
    uint32_t next_rank
    uint64_t secret               # makes this cache's salts its own
    uint64_t salts                # salts handed out
    Node* idle_newest
    Node* idle_oldest
    uint32_t idle_count
    uint32_t max_idle
    uint32_t limbo_first          # entries that are out of every structure and wait to be dropped
    uint32_t limbo_last
    uint32_t limbo_count
    uint32_t at_once              # entries that one call may put in limbo; more are debris
    uint32_t debris_first         # entries out of reach, whose memory goes later
    uint32_t debris_last
    uint32_t debris_count
    Node* debris                 # the same, cut off from a namespace all together: see removing
    uint32_t mask                 # kinds of events that have a listener
    uint32_t listening[KINDS_COUNT]   # how many listeners, by kind
    bint opened                   # false: closed, and of no cache yet
    bint closed
    bint require_namespace
    double max_pending_age
    uint32_t tenant_names         # how many names of a path make a tenant
    uint32_t tenant_depth         # of the tenants that share by utility; 0: all is shared fairly
    double max_loss               # hits that each of them may lose, for each of its misses
    PyObject** loads              # buckets of running loads by hash, borrowed: see loads
    uint32_t loads_size           # buckets; a power of two, or 0
    uint32_t loads_count
    uint64_t loads_begun          # loads registered so far
    uint64_t loads_changes        # goes up with each that begins or ends
    uint64_t draws                # the state of the random numbers that jitter draws
    uint64_t lives                # numbers of Node.life handed out
    Walk* walks                   # those under way; each belongs to its Survey
    bint notes_misses             # there are ghosts, or tenants share by utility
    Ghosts* ghosts                # owned; NULL until advice is asked for
    uint32_t ghosts_made          # how often there were new ones
    PyObject* place_newest        # Loads that have a place, by age: see loads. Borrowed
    PyObject* place_oldest
    PyObject* fills               # first of what is being brought from the tier: see lease
    double lease                  # when it ends, on the clock of leases
    double lease_stale            # when even stale use of what is held ends
    double lease_ended            # when the last one ended, or will; a cut sets the others to 0
    double lease_length           # seconds; 0: there is no tier
    int64_t lapsed_hits           # look-ups between the two
    Lock lock


cdef inline bint core_hears(Core* core, int kind) noexcept nogil:
    """Whether the kind of event has a listener."""
    return relaxed_load_u32(&core.mask) & (<uint32_t>1 << kind) != 0


cdef inline bint core_is_closed(Core* core) noexcept nogil:
    return relaxed_load_flag(&core.closed)


cdef inline bint core_has_limbo(Core* core) noexcept nogil:
    """Whether something waits to be dropped: true for the thread that has just put it there."""
    return relaxed_load_u32(&core.limbo_first) != NONE


cdef inline bint node_has_loads(Node* node) noexcept nogil:
    return relaxed_load_i64(&node.own_pending) != 0


cdef extern from *:
    """
    /* -1, with the exception set: no handler, whose traceback could run the collector. */
    static int flowcache_dict_put_number(PyObject *dict, PyObject *name, size_t number) {
        PyObject *value = PyLong_FromSize_t(number);
        int failed = value == NULL ? -1 : PyDict_SetItem(dict, name, value);
        Py_XDECREF(value);
        return failed;
    }
    """
    int dict_put_number "flowcache_dict_put_number"(PyObject* dict, object name,
                                                    size_t number) noexcept
    size_t PyLong_AsSize_t(PyObject* number) noexcept

cdef enum:
    DEEPEST = 64                  # names in a path: recursion follows the tree


cdef inline uint32_t node_heap_index(Node* node, Ranking by) noexcept nogil:
    """Where the namespace is in a heap of its parent's, or NONE."""
    return node.member.heap_index[<int>by]


cdef inline double node_bound_locked(Node* node) noexcept nogil:
    """The earliest moment at which something may be due in the namespace or below it."""
    cdef double bound = INFINITY
    if node.deadlines.n:
        bound = node.deadlines.keys[0]
    if node.due.n and node.due.keys[0] < bound:
        bound = node.due.keys[0]
    return bound


cdef inline void node_due_by_locked(Core* core, Node* node, double key) noexcept nogil:
    """Let the namespaces above know of something due at `key`."""
    cdef Node* parent = node.parent
    while parent != NULL:
        if node_heap_index(node, BY_DUE) == NONE:
            heap_push(core.nodes, BY_DUE, &parent.due, key, node.id)
        elif key < parent.due.keys[node_heap_index(node, BY_DUE)]:
            heap_rekey(core.nodes, BY_DUE, &parent.due, node_heap_index(node, BY_DUE), key)
        else:
            return
        node = parent
        parent = node.parent


cdef inline bint node_is_within_locked(Node* node, Node* top) noexcept nogil:
    while node != NULL and node.depth > top.depth:
        node = node.parent
    return node == top


cdef inline void order_reset_locked(Node* node) noexcept nogil:
    """Begin an empty order: the entries that were in it are gone, or another's."""
    node.order.newest = NONE
    node.order.oldest = NONE
    node.border = NONE
    node.young = 0


cdef inline void order_forget_locked(Node* node) noexcept nogil:
    """Forget how often keys were stored."""
    sketch_free(node.sketch)
    node.sketch = NULL


cdef inline Node* node_tenant_locked(Core* core, Node* node) noexcept nogil:
    """The tenant's namespace, that itself or below which it is; above the tenants': itself."""
    while node.depth > core.tenant_names:
        node = node.parent
    return node


cdef inline object closed_error():
    return CacheClosedError("the cache is closed")


cdef object node_path(Node* node):
    """The names from the root down, as a tuple."""
    names = []
    while node.parent != NULL:
        names.append(<object>node.name)
        node = node.parent
    names.reverse()
    return tuple(names)


cdef object node_label(Node* node):
    return "/".join(map(repr, node_path(node))) if node.parent != NULL else "(the root)"


# ---------------------------------------------------------------------------------------- the idle

cdef inline void idle_unlink_locked(Core* core, Node* node) noexcept nogil:
    if node.idle_newer != NULL:
        node.idle_newer.idle_older = node.idle_older
    else:
        core.idle_newest = node.idle_older
    if node.idle_older != NULL:
        node.idle_older.idle_newer = node.idle_newer
    else:
        core.idle_oldest = node.idle_newer
    node.is_idle = False
    relaxed_store_u32(&core.idle_count, core.idle_count - 1)


cdef inline void idle_consider_locked(Core* core, Node* node) noexcept nogil:
    """List the namespace as the most recent idle one, if nothing holds it any more."""
    if (node.views == 0 and node.entries == 0 and node.pending == 0 and node.child == NULL
            and not node.configured and not node.is_idle and node.parent != NULL):
        node.idle_newer = NULL
        node.idle_older = core.idle_newest
        if core.idle_newest != NULL:
            core.idle_newest.idle_newer = node
        else:
            core.idle_oldest = node
        core.idle_newest = node
        node.is_idle = True
        relaxed_store_u32(&core.idle_count, core.idle_count + 1)


cdef inline void node_hold_locked(Core* core, Node* node) noexcept:
    """Hold the namespace as a view does: it is not forgotten."""
    node.views += 1
    if node.is_idle:
        idle_unlink_locked(core, node)


cdef inline void node_let_go_locked(Core* core, Node* node) noexcept:
    node.views -= 1
    if node.views == 0:
        idle_consider_locked(core, node)


# ------------------------------------------------------------------------------------------ counts

cdef inline void counters_add(Counters* into, Counters* what) noexcept nogil:
    into.hits += what.hits
    into.misses += what.misses
    into.stale_hits += what.stale_hits
    into.coalesced += what.coalesced
    into.loads += what.loads
    into.load_failures += what.load_failures
    into.sets += what.sets
    into.evictions += what.evictions
    into.evictions_caused += what.evictions_caused
    into.rejections += what.rejections
    into.expirations += what.expirations
    into.invalidations += what.invalidations
    into.tier_hits += what.tier_hits
    into.tier_misses += what.tier_misses
    into.tier_stores += what.tier_stores
    into.tier_errors += what.tier_errors
    into.untiered += what.untiered
    into.lost_hits += what.lost_hits
    into.load_seconds += what.load_seconds


cdef void node_total_locked(Node* node, Counters* into) noexcept nogil:
    """Add what happened in the namespace and below it. Costs O(namespaces below)."""
    cdef Node* child = node.child
    counters_add(into, &node.counters)
    counters_add(into, &node.forgotten)
    while child != NULL:
        node_total_locked(child, into)
        child = child.next


cdef void node_reset_locked(Core* core, Node* node) noexcept nogil:
    cdef Node* child = node.child
    core.lives += 1
    node.life = core.lives
    memset(&node.counters, 0, sizeof(Counters))
    memset(&node.forgotten, 0, sizeof(Counters))
    while child != NULL:
        node_reset_locked(core, child)
        child = child.next


# ------------------------------------------------------------------------------------------- walks

cdef inline Node* node_after_locked(Node* node, Node* top) noexcept nogil:
    """The first namespace of a walk below `top` that comes after all that is below `node`."""
    while node != top:
        if node.next != NULL:
            return node.next
        node = node.parent
    return NULL


cdef inline void walk_step_locked(Walk* walk) noexcept nogil:
    walk.at = walk.at.child if walk.at.child != NULL else node_after_locked(walk.at, walk.top)


cdef void walk_end_locked(Core* core, Walk* walk) noexcept nogil:
    """Take the walk out of the list, if it is there."""
    cdef Walk** link = &core.walks
    while link[0] != NULL and link[0] != walk:
        link = &link[0].next
    if link[0] != NULL:
        link[0] = walk.next
    walk.at = NULL


cdef inline void walks_leave_locked(Core* core, Node* node) noexcept nogil:
    """Let no walk come to a namespace that is about to be forgotten; it has none below."""
    cdef Walk* walk = core.walks
    while walk != NULL:
        if walk.at == node:
            walk.at = node_after_locked(node, walk.top)
        walk = walk.next


# --------------------------------------------------------------------------------- birth and death

cdef inline int64_t node_demand_locked(Node* node) noexcept nogil:
    return node.reserved if node.reserved > node.reserved_below else node.reserved_below


cdef void node_demand_changed_locked(Node* node, int64_t before) noexcept nogil:
    """Pass a change of what a namespace demands (`before`: until now) on to those above it."""
    cdef int64_t after, demanded
    while node.parent != NULL:
        after = node_demand_locked(node)
        if after == before:
            return
        demanded = node_demand_locked(node.parent)
        node.parent.reserved_below += after - before
        before = demanded
        node = node.parent


cdef int node_id_reserve_locked(Core* core) noexcept nogil:
    """Make sure that one more id can be taken; -1 when memory is out."""
    cdef void* grown
    cdef uint32_t wanted
    if core.free_count or core.nodes_used < core.nodes_capacity:
        return 0
    if core.nodes_used == NO_NODE:                # an entry has 29 bits for the id
        return -1
    wanted = core.nodes_capacity * 2 if core.nodes_capacity else 8
    grown = realloc(core.nodes, wanted * sizeof(Node*))
    if grown == NULL:
        return -1
    core.nodes = <Node**>grown
    grown = realloc(core.free_ids, wanted * sizeof(uint32_t))
    if grown == NULL:
        return -1
    core.free_ids = <uint32_t*>grown
    core.nodes_capacity = wanted
    return 0


cdef inline uint32_t node_next_id_locked(Core* core) noexcept nogil:
    return core.free_ids[core.free_count - 1] if core.free_count else core.nodes_used


cdef inline void node_take_id_locked(Core* core, Node* node) noexcept nogil:
    node.id = node_next_id_locked(core)
    if core.free_count:
        core.free_count -= 1
    else:
        core.nodes_used += 1
    core.nodes[node.id] = node


cdef inline void node_give_id_locked(Core* core, uint32_t id) noexcept nogil:
    core.nodes[id] = NULL
    core.free_ids[core.free_count] = id
    core.free_count += 1


cdef inline void node_salt_locked(Core* core, Node* node) noexcept nogil:
    node.salt = (core.secret ^ core.salts) * <uint64_t>0x9E3779B97F4A7C15
    node.salt ^= node.salt >> 29


cdef inline void node_leave_heaps_locked(Node* node) noexcept nogil:
    """Note that the namespace is in no heap."""
    cdef int by
    for by in range(4):
        node.member.heap_index[by] = NONE


cdef Node* node_new_locked(Core* core, Node* parent, object name, dict children) except NULL:
    """Make a namespace without settings below `parent` (NULL: the root). Every allocation first.

    `children` is its new dictionary: to make it here could run the collector, and user code.
    """
    cdef Node* node = NULL
    cdef uint32_t wanted
    if node_id_reserve_locked(core) < 0:
        raise MemoryError()
    if parent != NULL:
        wanted = parent.children_count + 1
        if (heap_reserve(&parent.due, wanted) < 0
                or heap_reserve(&parent.by_entries, wanted) < 0
                or (core.slab.weighs and heap_reserve(&parent.by_weight, wanted) < 0)
                or (parent.ledger != NULL and heap_reserve(&parent.ledger.by_pull, wanted) < 0)):
            raise MemoryError()
    node = <Node*>calloc(1, sizeof(Node))
    if node == NULL:
        raise MemoryError()
    node.share = 1.0
    node.guaranteed = GUARANTEED
    if parent != NULL:
        node.depth = parent.depth + 1
    if parent != NULL and parent.ledger != NULL:
        node.account = account_new(&node.member)
    if node.depth + 1 == core.tenant_depth:
        node.ledger = ledger_new(&node.member, core.max_loss)
    if ((parent != NULL and parent.ledger != NULL and node.account == NULL)
            or (node.depth + 1 == core.tenant_depth and node.ledger == NULL)):
        node_free(node)
        raise MemoryError()
    if parent != NULL and dict_put_number(parent.children, name, <size_t>node) < 0:
        node_free(node)
        return NULL
    if node.account != NULL:
        parent.ledger.lenders += 1
    node_take_id_locked(core, node)
    order_reset_locked(node)
    node.parent = parent
    node.member.rank = core.next_rank
    core.next_rank += 1
    core.lives += 1
    node.life = core.lives
    core.salts += 1
    node_salt_locked(core, node)
    Py_INCREF(name)                               # Node.name owns it
    node.name = <PyObject*>name
    Py_INCREF(children)                           # Node.children owns it
    node.children = <PyObject*>children
    node.max_entries = -1
    node.max_weight = -1
    node.max_pending = -1
    node.given.max_entries = -1
    node.given.max_weight = -1
    node.given.max_pending = -1
    node.given.share = 1.0
    node.given.guaranteed = GUARANTEED
    node_leave_heaps_locked(node)
    if parent != NULL:
        node.untiered = parent.untiered
        relaxed_store_double(&node.default_ttl, parent.default_ttl)
        node.is_off = parent.is_off
        node.is_tinylfu = parent.is_tinylfu
        node.next = parent.child
        if parent.child != NULL:
            parent.child.previous = node
        parent.child = node
        parent.children_count += 1
        if parent.is_idle:
            idle_unlink_locked(core, parent)
    return node


cdef inline Node* node_child_locked(Node* node, PyObject* name) noexcept:
    """The namespace of this name, an exact str, right below; NULL if there is none."""
    cdef PyObject* found = PyDict_GetItemWithError(<object>node.children, <object>name)
    return NULL if found == NULL else <Node*>PyLong_AsSize_t(found)


cdef void node_forget_locked(Core* core, Node* node) noexcept:
    """Take a namespace that nothing holds out of the tree; its counts stay with its parent.

    The caller frees it once the lock is let go.
    """
    cdef Node* parent = node.parent
    cdef int64_t before = node_demand_locked(parent)
    if node.is_idle:
        idle_unlink_locked(core, node)
    walks_leave_locked(core, node)
    node_total_locked(node, &parent.forgotten)
    parent.reserved_below -= node_demand_locked(node)
    node_demand_changed_locked(parent, before)
    if node_heap_index(node, BY_DUE) != NONE:
        heap_remove(core.nodes, BY_DUE, &parent.due, node_heap_index(node, BY_DUE))
    if node_heap_index(node, BY_ENTRIES) != NONE:
        heap_remove(core.nodes, BY_ENTRIES, &parent.by_entries, node_heap_index(node, BY_ENTRIES))
    if node_heap_index(node, BY_WEIGHT) != NONE:
        heap_remove(core.nodes, BY_WEIGHT, &parent.by_weight, node_heap_index(node, BY_WEIGHT))
    if node.account != NULL:
        if node_heap_index(node, BY_PULL) != NONE:
            heap_remove(core.nodes, BY_PULL, &parent.ledger.by_pull, node_heap_index(node, BY_PULL))
        account_end(parent.ledger, node.account, node.entries)
        parent.ledger.lenders -= node.guaranteed < 1
    if node.previous != NULL:
        node.previous.next = node.next
    else:
        parent.child = node.next
    if node.next != NULL:
        node.next.previous = node.previous
    parent.children_count -= 1
    del (<object>parent.children)[<object>node.name]
    node_give_id_locked(core, node.id)
    idle_consider_locked(core, parent)


cdef void node_free(Node* node) noexcept:
    """Free the struct and its objects. Entries, loads and the tree are gone or go with it."""
    heap_free(&node.deadlines)
    heap_free(&node.due)
    heap_free(&node.by_entries)
    heap_free(&node.by_weight)
    sketch_free(node.sketch)
    free(node.account)
    ledger_free(node.ledger)
    Py_XDECREF(node.name)
    Py_XDECREF(node.children)
    Py_XDECREF(node.tags)
    Py_XDECREF(node.listeners)
    Py_XDECREF(node.child_limits)
    free(node)


cdef void nodes_free(Node* gone) noexcept:
    """Free namespaces that were forgotten, a list of them by `next`."""
    cdef Node* node
    while gone != NULL:
        node = gone
        gone = node.next
        node_free(node)
