# What more room would give a namespace, counted as its keys are missed: see ghosts.


cdef int ghosts_fit_locked(Core* core, double now) noexcept nogil:
    """Have ghosts for what the cache may hold; begin anew where it may hold much more, or less.

    -1, and nothing changed, when memory is out.
    """
    cdef int64_t most = core.root.max_entries
    cdef int64_t likely = max(core.root.entries * 2, <int64_t>MOST_GHOSTS)
    cdef int64_t span, wanted
    cdef Ghosts* made
    if most < 0 or most > likely:
        most = likely
    if core.ghosts != NULL:
        span = <int64_t>core.ghosts.buckets * core.ghosts.sample
        wanted = <int64_t>ghosts_buckets(most) * ghosts_sample(most)
        if wanted <= span <= 2 * wanted:
            return 0
    made = ghosts_new(most, now)
    if made == NULL:
        return -1
    ghosts_free(core.ghosts)
    core.ghosts = made
    core.ghosts_made += 1                         # so that what is told of each namespace is void
    core.notes_misses = True
    return 0


cdef inline Haunted* node_haunted_locked(Core* core, Node* node) noexcept nogil:
    """What the ghosts of now have told of the namespace."""
    if node.haunted.of != core.ghosts_made:
        memset(&node.haunted, 0, sizeof(Haunted))
        node.haunted.of = core.ghosts_made
    return &node.haunted


cdef Ghost* ghost_slot_locked(Core* core, Node* node, uint32_t hash) noexcept nogil:
    """The slot for a ghost: its own, a free one, or that of the ghost which lies deepest."""
    cdef Ghost* bucket = ghosts_bucket(core.ghosts, hash)
    cdef Ghost* chosen = ghosts_find(core.ghosts, hash, node.id)
    cdef Node* owner
    cdef double depth, deepest = -1
    cdef uint32_t k
    if chosen != NULL:
        return chosen
    for k in range(GHOSTS_A_BUCKET):
        owner = core.nodes[bucket[k].node] if bucket[k].hash else NULL
        if owner == NULL:
            return &bucket[k]
        depth = (<double><uint32_t>(node_haunted_locked(core, owner).out - bucket[k].out)
                 / (<double>owner.own + 1))
        if depth > deepest:
            deepest = depth
            chosen = &bucket[k]
    return chosen


cdef void ghost_leave_locked(Core* core, Node* node, Entry* e) noexcept nogil:
    """Note that an entry of the namespace is evicted, for lack of room."""
    cdef Ghost* ghost
    cdef Haunted* haunted = node_haunted_locked(core, node)
    haunted.out += 1
    if ghosts_take_part(core.ghosts, e.hash):
        ghost = ghost_slot_locked(core, node, e.hash)
        ghost.hash = e.hash
        ghost.node = node.id
        ghost.out = haunted.out
        ghost.deadline = <float>(e.deadline - core.ghosts.begun)


cdef inline void ghosts_part_locked(Core* core, Node* node) noexcept nogil:
    """Let ghosts of before a clear() lie too deep to tell: no room would have kept them."""
    cdef int64_t most = core.root.max_entries
    # The count has 32 bits: four steps of the largest size would bring it round.
    node_haunted_locked(core, node).out += <uint32_t>(
        APART if most < 0 else min(2 * most, <int64_t>APART))


cdef void ghost_miss_locked(Core* core, Node* node, uint32_t hash, double now) noexcept nogil:
    """Note a miss; and by how much more room there would have been none.

    Where entries were evicted before there were ghosts, misses tell nothing until as many have been
    evicted as the namespace holds.
    """
    cdef Haunted* haunted = node_haunted_locked(core, node)
    cdef Ghost* ghost
    cdef uint64_t depth
    cdef bint told = node.counters.evictions <= haunted.out or haunted.out >= node.own
    haunted.misses += told
    if not ghosts_take_part(core.ghosts, hash):
        return
    ghost = ghosts_find(core.ghosts, hash, node.id)
    if ghost == NULL:
        return
    ghost.hash = 0
    depth = <uint32_t>(haunted.out - ghost.out)   # entries that would have stayed beside it
    if told and ghost.deadline > now - core.ghosts.begun and depth < node.own:
        haunted.near[0 if depth * 4 < node.own else 1 if depth * 2 < node.own else 2] += (
            core.ghosts.sample)
