# The ledger: tenants lend each other room, and what each loses by it is counted.
#
# With sharing="utility" room moves to the tenants in which it saves most misses. LRU is a stack: a
# tenant with a larger share would still hold the entries that it lost last. So a miss tells by the
# depth of its ghost (see ghosts) two things. Within an eighth or a quarter of the tenant's size: it
# would have been a hit with so much more room. These misses, for the room, are its utility. Within
# its fair share: it would have been a hit by max-min fairness. It is a lost hit, and is paid for:
#
#   credit   grows by max_loss with each other miss, up to a bound; a lost hit takes one. Misses
#            before the first eviction count too: the fair share would have missed as well.
#   floor    entries of a tenant that are not taken while another is above its own: the fair share
#            where there is no credit, the guaranteed part of it where credit is full.
#   pull     by which a share counts: it grows where the utility is above the mean, and shrinks
#            where it is below, and the floor is not reached.
#
# So a tenant's lost hits stay below max_loss times its misses, and the entries that it once lent.
# Of the tenants above their floor the one that holds most for its share times its pull gives way;
# where there is none, the fullest by share. The clock is evictions. A hit writes nothing.
#
# The fair share is the share of what those tenants do not hold that want no more (the unlimited). A
# tenant wants more, and is limited, if it was evicted from lately, or holds its fair share, or
# fills what its pull leaves it. The limited are visited in turn, a part of a visit with each
# eviction.
#
# Tenants above their floor are in the heap `by_pull`, and the others in a ring, the parked. A store
# or a visit puts a tenant back into the heap, and each eviction looks at a few of the ring.

cdef enum:
    MEASURED = 16                 # samples that a fair share must be worth, to be lent
    TRIED = 8                     # parked accounts that an eviction looks at
    ROUNDS = 32                   # visits to each of the limited while all entries are evicted
    RETRY = 1024                  # evictions after which ghosts are tried again when memory was out
    MOST_SEARCHED = 128           # accounts in the heap that one search corrects or parks


cdef inline Node* node_towards_locked(Node* node, Node* top) noexcept nogil:
    """The child of `top` on the way down to `node`, which lies below it."""
    while node.parent != top:
        node = node.parent
    return node


cdef inline int64_t account_held_locked(Account* account) noexcept nogil:
    cdef Node* node = <Node*>account.tenant
    return node.own if account.is_own else node.entries


cdef inline double account_ratio_locked(Account* account, int64_t extra) noexcept nogil:
    return <double>(account_held_locked(account) + extra) / (account.share * account.pull)


cdef inline double account_fair_locked(Node* top, Account* account) noexcept nogil:
    """The entries that the tenant would hold by max-min fairness, if it wanted them; INFINITY: no
    tenant wants more than it holds."""
    cdef Ledger* ledger = top.ledger
    cdef double fair
    cdef int64_t most = (<Node*>account.tenant).max_entries
    if ledger.limited == 0 or top.max_entries < 0:
        return INFINITY
    fair = <double>(top.max_entries - top.entries + ledger.held) * account.share / ledger.shares
    if not account.is_own and most >= 0 and <double>most < fair:
        return <double>most
    return fair


cdef inline double account_most_credit(Ledger* ledger, double fair) noexcept nogil:
    return fmax(4.0 * ledger.ghosts.sample, fair / 4)


cdef double account_part_locked(Node* top, Account* account) noexcept nogil:
    """The floor, without regard to a reservation. INFINITY: as by fair shares, all may give way."""
    cdef Ledger* ledger = top.ledger
    cdef double fair = account_fair_locked(top, account), part
    if (account.is_own or ledger.ghosts == NULL or isinf(fair) or account.credit <= 0
            or fair < <double>MEASURED * ledger.ghosts.sample):
        return fair
    part = fmin(account.credit / account_most_credit(ledger, fair), 1)
    return fair * (1 - (1 - (<Node*>account.tenant).guaranteed) * part)


cdef double account_floor_locked(Node* top, Account* account) noexcept nogil:
    """The entries of a tenant that are not taken while another is above its own floor."""
    return fmax(<double>(<Node*>account.tenant).reserved, account_part_locked(top, account))


# ---------------------------------------------------------------------------- the heap and the ring

cdef void account_raise_locked(Core* core, Node* top, Account* account) noexcept nogil:
    """Let the heap, or the ring of the parked, know that a tenant holds more, or pulls less.

    The heap of many tenants is told of the opposite as well: see node_lower_by_locked.
    """
    cdef Ledger* ledger = top.ledger
    cdef Node* node = <Node*>account.tenant
    cdef uint32_t index = node_heap_index(node, BY_PULL)
    cdef double key = -account_ratio_locked(account, 0)
    if index != NONE:
        if key < ledger.by_pull.keys[index] or top.children_count > LAGGING:
            heap_rekey(core.nodes, BY_PULL, &ledger.by_pull, index, key)
    elif node.entries > account_floor_locked(top, account):
        account_unpark(ledger, account)
        heap_push(core.nodes, BY_PULL, &ledger.by_pull, key, node.id)
    elif node.entries:
        account_park(ledger, account)


cdef void ledger_add_locked(Core* core, Node* node, int64_t entries) noexcept nogil:
    """Count entries that came to the namespace or went, toward its tenant."""
    if node.ledger != NULL and node.ledger.own.limited:
        node.ledger.held += entries
    while node != NULL and node.account == NULL:
        node = node.parent
    if node == NULL:
        return
    if node.account.limited:
        node.parent.ledger.held += entries
    if entries > 0 or (node.parent.children_count > LAGGING
                       and node_heap_index(node, BY_PULL) != NONE):
        account_raise_locked(core, node.parent, node.account)


cdef void account_drop_locked(Core* core, Node* top, Node* child) noexcept nogil:
    """Take a tenant out of the heap; it is parked, if it holds anything."""
    heap_remove(core.nodes, BY_PULL, &top.ledger.by_pull, node_heap_index(child, BY_PULL))
    if child.entries:
        account_park(top.ledger, child.account)


cdef void accounts_unpark_locked(Core* core, Node* top) noexcept nogil:
    """Look whether some of the parked are above their floor by now."""
    cdef Ledger* ledger = top.ledger
    cdef Account* first = ledger.parked
    cdef Account* account
    cdef Node* node
    cdef int _
    for _ in range(TRIED):
        account = ledger.parked
        if account == NULL:
            return
        node = <Node*>account.tenant
        ledger.parked = account.parked_next
        if node.entries == 0:
            account_unpark(ledger, account)
        elif node.entries > account_floor_locked(top, account):
            account_raise_locked(core, top, account)
        if ledger.parked == first:
            return                                # all of them were looked at


cdef Node* account_fullest_locked(Core* core, Node* top) noexcept nogil:
    """Of the tenants in the heap that are above their floor, the fullest by pull; NULL: none is
    found. A floor may have risen since a tenant came into the heap."""
    cdef Heap* heap = &top.ledger.by_pull
    cdef Node* child
    cdef double key
    cdef int _
    for _ in range(MOST_SEARCHED):
        if heap.n == 0:
            break
        child = core.nodes[heap.ids[0]]
        key = -account_ratio_locked(child.account, 0)
        if child.entries <= account_floor_locked(top, child.account):
            account_drop_locked(core, top, child)
        elif key > heap.keys[0]:
            heap_rekey(core.nodes, BY_PULL, heap, 0, key)
        else:
            return child
    return NULL


# ------------------------------------------------------------------------------------------- visits

cdef void account_pull_locked(Core* core, Node* top, Account* account, double pull) noexcept nogil:
    """Let a share count by another pull."""
    if account.limited:
        top.ledger.pulled += account.share * (pull - account.pull)
    account.pull = pull
    account_raise_locked(core, top, account)


cdef double account_utility_locked(Account* account, double held) noexcept nogil:
    """Misses lately, for each entry of room more that would have saved them."""
    if held < 1:
        return 0
    return fmax(account.near[0] * 8, (account.near[0] + account.near[1]) * 4) / held


cdef void account_visit_locked(Core* core, Node* top, Account* account) noexcept nogil:
    """Look at a tenant in its turn: does it want more, and is its pull right?"""
    cdef Ledger* ledger = top.ledger
    cdef double held = <double>account_held_locked(account)
    cdef double fair = account_fair_locked(top, account)
    cdef double target = 0, pull = account.pull, mean, utility, faded
    if account.limited:
        target = (pull * account.share / ledger.pulled
                  * <double>(top.max_entries - top.entries + ledger.held))
    if not (account.out != account.out_seen or held >= fair
            or (account.limited and pull < 1 and held >= 0.9 * target)):
        account_unlimit(ledger, account, account_held_locked(account))
        pull += (1 - pull) / 4
        if -0.0625 < pull - 1 < 0.0625:
            pull = 1
            account_leave(ledger, account)
        if not account.is_own:
            account_pull_locked(core, top, account, pull)
        return
    account.out_seen = account.out
    account_limit(ledger, account, account_held_locked(account))
    if account.is_own:
        return
    if ledger.lenders == 0:                       # there is nothing to be had
        account_pull_locked(core, top, account, 1)
        return
    utility = account_utility_locked(account, held)
    account_measure(ledger, account, utility, held)
    mean = ledger.utility / ledger.sizes if ledger.sizes > 0 else 0
    if utility > 1.1 * mean and (held >= 0.9 * target or target < fair):
        pull *= 17.0 / 16
    elif 1.1 * utility < mean and target > account_floor_locked(top, account):
        pull *= 15.0 / 16
    pull *= fmin(fmax(ledger.shares / ledger.pulled, 0.99), 1.01)
    account_pull_locked(core, top, account, fmin(fmax(pull, 1e-6), 1e6))
    faded = exp2(-<double>(ledger.clock - account.seen) / <double>top.max_entries)
    account.near[0] *= faded
    account.near[1] *= faded
    account.seen = ledger.clock


# ----------------------------------------------------------------------------- evictions and misses

cdef Ghost* ledger_slot_locked(Core* core, Node* top, Node* tenant, uint32_t hash) noexcept nogil:
    """The slot for a ghost: its own, a free one, or that of the ghost which lies deepest."""
    cdef Ghosts* ghosts = top.ledger.ghosts
    cdef Ghost* bucket = ghosts_bucket(ghosts, hash)
    cdef Ghost* chosen = ghosts_find(ghosts, hash, tenant.id)
    cdef Node* owner
    cdef double depth, deepest = -1
    cdef uint32_t k
    if chosen != NULL:
        return chosen
    for k in range(GHOSTS_A_BUCKET):
        owner = core.nodes[bucket[k].node] if bucket[k].hash else NULL
        if owner == NULL or owner.account == NULL or owner.parent != top:
            return &bucket[k]
        depth = (<double><uint32_t>(owner.account.out - bucket[k].out)
                 / fmax(fmax(<double>owner.entries, account_fair_locked(top, owner.account)), 1))
        if depth > deepest:
            deepest = depth
            chosen = &bucket[k]
    return chosen


cdef void ledger_fit_locked(Core* core, Node* top, double now) noexcept nogil:
    """Have ghosts for what the namespace may hold. Without memory for them nothing is lent."""
    cdef Ledger* ledger = top.ledger
    cdef Ghosts* made
    cdef int64_t span, wanted
    ledger.fitted = top.max_entries
    if ledger.ghosts != NULL:
        span = <int64_t>ledger.ghosts.buckets * ledger.ghosts.sample
        wanted = <int64_t>ghosts_buckets(top.max_entries) * ghosts_sample(top.max_entries)
        if wanted <= span <= 2 * wanted:
            return
    # Misses are noted where there is advice.
    made = ghosts_new(top.max_entries, now) if ghosts_fit_locked(core, now) == 0 else NULL
    ghosts_free(ledger.ghosts)
    ledger.ghosts = made


cdef void ledger_evict_locked(Core* core, Node* top, Node* victim, Entry* e,
                              double now) noexcept nogil:
    """Note that an entry of `victim`, at or below `top`, gives way for the limit of `top`."""
    cdef Ledger* ledger = top.ledger
    cdef Node* tenant = top if victim == top else node_towards_locked(victim, top)
    cdef Account* account = &ledger.own if victim == top else tenant.account
    cdef Ghost* ghost
    cdef uint64_t round = max(top.max_entries // ROUNDS, <int64_t>1)
    if (ledger.fitted != top.max_entries
            or (ledger.ghosts == NULL and ledger.clock % RETRY == 0)):
        ledger_fit_locked(core, top, now)
    account.out += 1
    ledger.clock += 1
    account_limit(ledger, account, account_held_locked(account))
    if ledger.ghosts != NULL and not account.is_own and ghosts_take_part(ledger.ghosts, e.hash):
        ghost = ledger_slot_locked(core, top, tenant, e.hash)
        ghost.hash = e.hash
        ghost.node = tenant.id
        ghost.out = account.out
        ghost.deadline = <float>(e.deadline - ledger.ghosts.begun)
    ledger.due += ledger.visited
    if ledger.due >= round:
        ledger.due = min(ledger.due - round, round)
        account = ledger.cursor
        ledger.cursor = account.next
        account_visit_locked(core, top, account)


cdef void ledger_miss_locked(Node* node, uint32_t hash, double now) noexcept nogil:
    """Note a miss of the tenant that the namespace is, or lies below."""
    cdef Ledger* ledger
    cdef Account* account
    cdef Ghost* ghost
    cdef double fair, most
    cdef int64_t depth
    while node != NULL and node.account == NULL:
        node = node.parent
    if node == NULL:
        return
    ledger = node.parent.ledger
    account = node.account
    fair = account_fair_locked(node.parent, account)
    if isinf(fair):
        if account.out == 0:                      # it holds all that it ever stored
            account.credit += ledger.max_loss     # bounded as soon as there is a fair share
        return
    if ledger.ghosts == NULL:
        return
    most = account_most_credit(ledger, fair)
    ghost = NULL
    if ghosts_take_part(ledger.ghosts, hash):
        ghost = ghosts_find(ledger.ghosts, hash, node.id)
    if ghost != NULL:
        ghost.hash = 0
        depth = <uint32_t>(account.out - ghost.out)
        if ghost.deadline > now - ledger.ghosts.begun:
            if depth * 8 <= node.entries:
                account.near[0] += ledger.ghosts.sample
            elif depth * 4 <= node.entries:
                account.near[1] += ledger.ghosts.sample
            if <double>node.entries < fair and <double>(node.entries + depth) <= fair:
                account.credit = fmin(account.credit, most) - ledger.ghosts.sample
                node.counters.lost_hits += ledger.ghosts.sample
                return
    account.credit = fmin(account.credit + ledger.max_loss, most)


cdef inline void miss_note_locked(Core* core, Node* node, uint32_t hash, double now) noexcept nogil:
    """Note a miss where misses are noted."""
    if core.ghosts != NULL:
        ghost_miss_locked(core, node, hash, now)
    if core.tenant_depth:
        ledger_miss_locked(node, hash, now)


cdef void account_clear_locked(Node* node) noexcept nogil:
    """Let no ghost of a tenant tell anything any more: no room would have kept what is cleared."""
    if node.parent.max_entries > 0:
        node.account.out += <uint32_t>min(2 * node.parent.max_entries, <int64_t>APART)


cdef void account_change_locked(Core* core, Node* node, double share,
                                double guaranteed) noexcept nogil:
    """Let the account of a tenant follow its settings."""
    cdef Ledger* ledger = node.parent.ledger
    cdef Account* account = node.account
    cdef bint limited = account.limited
    ledger.lenders += (guaranteed < 1) - (node.guaranteed < 1)
    if share != account.share:
        account_unlimit(ledger, account, node.entries)
        account.share = share
        if limited:
            account_limit(ledger, account, node.entries)
        account_raise_locked(core, node.parent, account)


# --------------------------------------------------------------------------------------- for a user

cdef struct Held:                 # what is held by a namespace and those below it
    int64_t entries
    int64_t weight
    int64_t pending
    int64_t fair_entries          # by max-min fairness; 0 while no tenant wants more than it holds
    int64_t lent
    int64_t borrowed


cdef inline void account_tell_locked(Node* node, Held* into) noexcept nogil:
    """Add how a tenant stands."""
    cdef double fair = account_fair_locked(node.parent, node.account)
    cdef int64_t entries
    if isinf(fair) or node.parent.ledger.limited == 0:
        return
    entries = <int64_t>fmax(fair, 0)
    into.fair_entries += entries
    if node.entries > entries:
        into.borrowed += node.entries - entries
    elif node.account.limited:
        into.lent += entries - node.entries


cdef void node_sharing_locked(Node* node, Held* into) noexcept nogil:
    """Add how the tenants here and below stand. O(namespaces above and of tenants)."""
    cdef Node* child = node.child
    if node.account != NULL:
        account_tell_locked(node, into)
        return
    while child != NULL:
        node_sharing_locked(child, into)
        child = child.next


cdef void node_held_locked(Core* core, Node* node, Held* into) noexcept nogil:
    """Tell what is held in the namespace and below it."""
    memset(into, 0, sizeof(Held))
    into.entries = node.entries
    into.weight = node.weight
    into.pending = node.pending
    if core.tenant_depth > node.depth or node.account != NULL:
        node_sharing_locked(node, into)
