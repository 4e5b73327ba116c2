# Settings of a namespace: their checks, and those in force.

cdef object SETTINGS = frozenset((
    "default_ttl", "max_entries", "max_weight", "max_pending", "reserved", "share", "tiered",
    "child_limits", "eviction", "guaranteed"))


cdef dict settings_checked(dict settings, int depth=0):
    """The same settings with each value in the core's own form; raises and changes nothing.

    Names and values are exact str, int and float and dictionaries of such, so that dropping or
    reading them runs no user code.
    """
    cdef double share, part
    checked = {}
    if depth > DEEPEST:
        raise ConfigurationError(f"child_limits: at most {DEEPEST} levels, one in another")
    for given, value in settings.items():
        name = given if is_str(<PyObject*>given) else str.__str__(given)
        if name == "default_ttl":
            value = seconds_of(value, name, True)
        elif name in ("max_entries", "max_weight", "max_pending"):
            value = count_of(value, name, 1)
        elif name == "reserved":
            value = count_of(value, name, 0)
        elif name == "share":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"share: must be a number, got {type(value).__name__}")
            try:
                share = value
            except OverflowError:
                share = INFINITY
            if not 1e-9 <= share <= 1e9:
                raise ValueError(f"share: must be a number from 1e-9 to 1e9, got {shown(value)}")
            value = share
        elif name == "guaranteed":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"guaranteed: must be a number, got {type(value).__name__}")
            if not 0 <= value <= 1:
                raise ValueError(f"guaranteed: must be a number from 0 to 1, got {shown(value)}")
            part = value
            value = part
        elif name == "tiered":
            if not isinstance(value, bool):
                raise TypeError(f"tiered: must be a bool, got {type(value).__name__}")
        elif name == "eviction":
            if not isinstance(value, str):
                raise TypeError(f"eviction: must be a str, got {type(value).__name__}")
            if value not in ("lru", "tinylfu"):
                raise ValueError(f'eviction: must be "lru" or "tinylfu", got {shown(value)}')
            value = 1 if value == "tinylfu" else 0
        elif name == "child_limits":
            if value is not None and not isinstance(value, face.Limits):
                raise TypeError("child_limits: must be a flowcache.Limits or None, "
                                f"got {type(value).__name__}")
            if value is not None:
                value = settings_checked(value.as_settings(), depth + 1)
        else:
            raise TypeError(f"{name}: no such setting; accepted are {', '.join(sorted(SETTINGS))}")
        checked[name] = value
    return checked


def check_settings(settings):
    """Raise ``TypeError`` or ``ValueError`` if a setting is not acceptable; change nothing."""
    settings_checked(dict(settings))


cdef int settings_check_weigher(Store store, dict checked) except -1:
    """Refuse a limit on weight, here or for children, where nothing is weighed."""
    if store.weigher is None:
        if checked.get("max_weight", -1) >= 0:
            raise ConfigurationError("max_weight: this cache has no weigher")
        if checked.get("child_limits") is not None:
            settings_check_weigher(store, checked["child_limits"])
    return 0


cdef int settings_check_sharing(Store store, dict checked) except -1:
    """Refuse TinyLFU, here or for children, where tenants share by utility."""
    if store.core.tenant_depth:
        if checked.get("eviction"):
            raise ConfigurationError(
                'eviction: must be "lru" in a cache with sharing="utility", got "tinylfu"')
        if checked.get("child_limits") is not None:
            settings_check_sharing(store, checked["child_limits"])
    return 0


cdef struct Settings:
    bint has_ttl
    bint has_limits
    bint untiered
    bint has_eviction
    bint is_tinylfu
    double default_ttl
    int64_t max_entries
    int64_t max_weight
    int64_t max_pending
    int64_t reserved
    double share
    double guaranteed
    PyObject* child_limits        # borrowed from the checked settings; NULL: none


cdef int settings_read_locked(Settings* into, Node* node, dict checked) except -1:
    """Checked settings as a struct; omitted ones as in `node` (NULL: the defaults).

    Allocates nothing, so that putting them in force cannot fail half way.
    """
    into.has_ttl = "default_ttl" in checked
    into.default_ttl = checked["default_ttl"] if into.has_ttl else 0
    into.max_entries = -1 if node == NULL else node.max_entries
    into.max_weight = -1 if node == NULL else node.max_weight
    into.max_pending = -1 if node == NULL else node.max_pending
    into.reserved = 0 if node == NULL else node.reserved
    into.share = 1.0 if node == NULL else node.share
    into.guaranteed = GUARANTEED if node == NULL else node.guaranteed
    into.untiered = node != NULL and node.untiered
    into.has_limits = "child_limits" in checked
    into.child_limits = NULL
    into.has_eviction = "eviction" in checked
    into.is_tinylfu = checked["eviction"] if into.has_eviction else False
    if "max_entries" in checked:
        into.max_entries = checked["max_entries"]
    if "max_weight" in checked:
        into.max_weight = checked["max_weight"]
    if "max_pending" in checked:
        into.max_pending = checked["max_pending"]
    if "reserved" in checked:
        into.reserved = checked["reserved"]
    if "share" in checked:
        into.share = checked["share"]
    if "guaranteed" in checked:
        into.guaranteed = checked["guaranteed"]
    if "tiered" in checked:
        if into.untiered and checked["tiered"]:
            raise ConfigurationError("tiered: this namespace, or one above it, was told to stay "
                                     "in the process")
        into.untiered = not checked["tiered"]
    if into.has_limits and checked["child_limits"] is not None:
        into.child_limits = PyDict_GetItemWithError(checked, "child_limits")
    return 0


cdef inline bint is_above(int64_t value, int64_t given) noexcept nogil:
    """Whether a limit, -1 for none, allows more than what was given."""
    return given >= 0 and (value < 0 or value > given)


cdef int node_check_given_locked(Node* node, Settings* settings) except -1:
    """Refuse what a view asks of its own namespace beyond what the namespace was given."""
    cdef Given* given = &node.given
    if is_above(settings.max_entries, given.max_entries):
        raise not_given("max_entries", settings.max_entries, given.max_entries)
    if is_above(settings.max_weight, given.max_weight):
        raise not_given("max_weight", settings.max_weight, given.max_weight)
    if is_above(settings.max_pending, given.max_pending):
        raise not_given("max_pending", settings.max_pending, given.max_pending)
    if settings.reserved > given.reserved:
        raise not_given("reserved", settings.reserved, given.reserved)
    if settings.share > given.share:
        raise not_given("share", settings.share, given.share)
    if settings.guaranteed > given.guaranteed:
        raise not_given("guaranteed", settings.guaranteed, given.guaranteed)
    return 0


cdef object not_given(str name, object value, object given):
    return ConfigurationError(
        f"{name}: at most {given:g}, as the namespace was given from above, got "
        f"{'None' if value < 0 else format(value, 'g')}; "
        "a namespace above can set more: parent.namespace(name, ...)")


cdef void node_give_locked(Node* node, Settings* settings, dict checked) noexcept:
    """Let what was named from above, which is in force now, be the most that the view may set."""
    if "max_entries" in checked:
        node.given.max_entries = settings.max_entries
    if "max_weight" in checked:
        node.given.max_weight = settings.max_weight
    if "max_pending" in checked:
        node.given.max_pending = settings.max_pending
    if "reserved" in checked:
        node.given.reserved = settings.reserved
    if "share" in checked:
        node.given.share = settings.share
    if "guaranteed" in checked:
        node.given.guaranteed = settings.guaranteed


cdef int node_check_reservations_locked(Node* parent, Node* node, Settings* settings) except -1:
    """Refuse reservations that exceed a limit at or above them, or what those above have reserved.

    `node` NULL: one to be made. The root has nothing reserved, and limits only what it holds.
    """
    cdef int64_t reserved = settings.reserved
    cdef int64_t limit = settings.max_entries
    cdef int64_t below = 0 if node == NULL else node.reserved_below
    cdef int64_t demand = reserved if reserved > below else below
    cdef int64_t before = 0 if node == NULL else node_demand_locked(node)
    cdef int64_t was
    if limit >= 0 and demand > limit:
        raise ConfigurationError(f"reserved: {demand} entries are reserved here or below, more "
                                 f"than max_entries={limit}")
    if parent != NULL and below > reserved:
        raise ConfigurationError(f"reserved: {below} entries are reserved below, more than "
                                 f"reserved={reserved}")
    while parent != NULL:
        was = node_demand_locked(parent)
        below = parent.reserved_below + demand - before
        demand = parent.reserved if parent.reserved > below else below
        before = was
        if parent.parent != NULL and below > parent.reserved and demand > was:
            raise ConfigurationError(
                f"reserved: {below} entries would be reserved below namespace "
                f"{node_label(parent)}, more than its reserved={parent.reserved}")
        if parent.max_entries >= 0 and demand > parent.max_entries and demand > was:
            raise ConfigurationError(
                f"reserved: {demand} entries would be reserved below namespace "
                f"{node_label(parent)}, more than its max_entries={parent.max_entries}")
        parent = parent.parent
    return 0


cdef void node_inherit_ttl_locked(Node* node, double ttl) noexcept:
    """Pass a default TTL on to those below that have none of their own."""
    cdef Node* child = node.child
    relaxed_store_double(&node.default_ttl, ttl)
    while child != NULL:
        if not child.own_ttl:
            node_inherit_ttl_locked(child, ttl)
        child = child.next


cdef void node_keep_here_locked(Node* node) noexcept:
    """Let a namespace and those below it stay in the process, whatever tier there is."""
    cdef Node* child = node.child
    node.untiered = True
    while child != NULL:
        node_keep_here_locked(child)
        child = child.next


cdef void node_inherit_eviction_locked(Core* core, Node* node, bint is_tinylfu) noexcept:
    """Pass a policy on to those below that have none of their own."""
    cdef Node* child = node.child
    order_switch_locked(core, node, is_tinylfu)
    while child != NULL:
        if not child.own_eviction:
            node_inherit_eviction_locked(core, child, is_tinylfu)
        child = child.next


cdef void node_apply_locked(Store store, Node* node, Settings* settings) noexcept:
    """Put settings in force. Allocates nothing and runs no user code."""
    cdef Core* core = &store.core
    cdef int64_t before = node_demand_locked(node)
    cdef Node* ancestor = node
    cdef PyObject* old
    if settings.has_ttl:
        node.own_ttl = True
        node_inherit_ttl_locked(node, settings.default_ttl)
    if settings.untiered and not node.untiered:
        node_keep_here_locked(node)
    if settings.has_eviction:
        node.own_eviction = True
        node_inherit_eviction_locked(core, node, settings.is_tinylfu)
    node.max_entries = settings.max_entries
    relaxed_store_i64(&node.max_weight, settings.max_weight)
    node.max_pending = settings.max_pending
    node.reserved = settings.reserved
    node_demand_changed_locked(node, before)
    if settings.share != node.share:
        node.share = settings.share
        if node_heap_index(node, BY_ENTRIES) != NONE:
            heap_rekey(core.nodes, BY_ENTRIES, &node.parent.by_entries,
                       node_heap_index(node, BY_ENTRIES), -node_ratio_locked(node, BY_ENTRIES, 0))
        if node_heap_index(node, BY_WEIGHT) != NONE:
            heap_rekey(core.nodes, BY_WEIGHT, &node.parent.by_weight,
                       node_heap_index(node, BY_WEIGHT), -node_ratio_locked(node, BY_WEIGHT, 0))
    if node.account != NULL:
        account_change_locked(core, node, settings.share, settings.guaranteed)
    node.guaranteed = settings.guaranteed
    if settings.has_limits:
        old = node.child_limits
        Py_XINCREF(settings.child_limits)         # Node.child_limits owns it
        node.child_limits = settings.child_limits
        Py_XDECREF(old)
    # Entries reserved before may now be taken, here and above.
    while ancestor.parent != NULL:
        node_raise_by_locked(core, ancestor, BY_ENTRIES)
        if core.slab.weighs:
            node_raise_by_locked(core, ancestor, BY_WEIGHT)
        if ancestor.parent.children_count > LAGGING:      # or more is reserved than before
            node_lower_by_locked(core, ancestor, BY_ENTRIES)
            if core.slab.weighs:
                node_lower_by_locked(core, ancestor, BY_WEIGHT)
        ancestor = ancestor.parent


cdef Node* node_make_locked(Store store, Node* parent, str name, dict children) except NULL:
    """Make a child that starts with its parent's child_limits. Lock held; runs no user code."""
    cdef Node* node
    cdef Settings settings
    if parent.depth == DEEPEST:
        raise InvalidNamespaceError(f"name: a path has at most {DEEPEST} names")
    if parent.child_limits == NULL:
        return node_new_locked(&store.core, parent, name, children)
    settings_read_locked(&settings, NULL, <dict>parent.child_limits)
    node_check_reservations_locked(parent, NULL, &settings)
    node = node_new_locked(&store.core, parent, name, children)
    node_apply_locked(store, node, &settings)
    node_give_locked(node, &settings, <dict>parent.child_limits)
    return node


cdef Store store_made(str name, object clock, object weigher, double max_pending_age,
                      bint require_namespace, int64_t max_idle, dict checked,
                      uint32_t tenant_depth, double max_loss):
    """A store that is open, with checked settings in force at its root.

    `tenant_depth`: of the tenants that share by utility; 0: all is shared fairly.
    """
    cdef Store store = Store.__new__(Store)
    cdef Settings settings
    store.name = name
    store.clock = clock
    store.weigher = weigher
    settings_check_weigher(store, checked)
    store_open(store, weigher is not None, tenant_depth, max_loss)
    settings_check_sharing(store, checked)
    store.core.max_pending_age = max_pending_age
    store.core.require_namespace = require_namespace
    store.core.max_idle = <uint32_t>min(max_idle, 1 << 30)
    settings_read_locked(&settings, store.core.root, checked)
    node_check_reservations_locked(NULL, store.core.root, &settings)
    node_apply_locked(store, store.core.root, &settings)
    store.core.opened = True
    return store
