# Namespace: the object of users. A view is two pointers. It keeps its cache alive and its namespace
# from being forgotten, and leads only to namespaces below. The class is a table of contents: each
# call stands in the room of its verb.

@cython.no_gc_clear                  # a finalizer may still use the view; Store breaks the cycles
cdef class Namespace:
    """One namespace of a cache: a view that reaches its own entries and those below it.

    Made by :meth:`namespace` (or as the root, by ``create_cache``). Two views of one path are
    equal and have one hash. Views are cheap: make one a request, or keep one, as you like.
    """

    cdef Store store
    cdef Node* node

    def __cinit__(self):
        if view_is_root(type_of(type(self))):
            # The root: usable memory from the first moment, closed until it is opened.
            self.store = Store.__new__(Store)
            self.store.name = "flowcache"
            store_open(self.store, False)
            relaxed_store_flag(&self.store.core.closed, True)
            self.node = self.store.core.root
            self.node.views += 1

    def __init__(self, *args, **kwargs):
        raise TypeError("a Namespace is made by namespace() of a cache")

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    # ------------------------------------------------------------------ identity

    @property
    def path(self):
        """The names from the root down to this namespace; ``()`` for the root."""
        return node_path(self.node)

    @property
    def name(self):
        """The last name of the path; for the root, the cache's ``name``."""
        return self.store.name if self.node.parent == NULL else <object>self.node.name

    def __repr__(self):
        if self.node.parent == NULL:
            return f"<flowcache.Cache {self.store.name!r}>"
        return f"<flowcache.Namespace {self.store.name!r} {'/'.join(map(repr, self.path))}>"

    def __eq__(self, other):
        if not isinstance(other, Namespace):
            return NotImplemented
        return self.node == (<Namespace>other).node

    def __hash__(self):
        return <Py_hash_t>(<size_t>self.node >> 4)

    def __sizeof__(self):
        """The bytes of this object; for the root, with the memory that all entries take."""
        cdef Py_ssize_t size = object.__sizeof__(self)
        return size + store_size(self.store) if self.node.parent == NULL else size

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        raise TypeError("a cache cannot be copied: a view is a handle to shared entries")

    def __reduce_ex__(self, protocol):
        raise TypeError("a cache cannot be pickled: it lives in its process")

    def namespace(self, /, *names, **settings):
        """\
namespace($self, /, *names, **settings)
--

Return the namespace at the path of ``names`` below this one, made if need be.

Each name is a non-empty ``str`` of at most 256 characters that neither begins nor ends with white
space (``InvalidNamespaceError``, ``TypeError``); a path has at most 64 names. ``settings`` are
those of :meth:`configure`, for the last name, and the most that its own view may set. Costs one
dictionary look-up a name where the namespaces exist.
        """
        return view_make(self, names, settings)

    def namespaces(self):
        """Return an iterator over the names of the namespaces right below, oldest first."""
        return names_below(self.store, self.node)

    def configure(self, **settings):
        """Change the named settings of this namespace; the others stay as they are.

        ``default_ttl`` (seconds, ``None``: never), ``max_entries``, ``max_weight``,
        ``max_pending`` (``None``: no limit), ``reserved`` (entries that pressure from outside never
        takes), ``share`` (weight against its siblings, 1.0), ``guaranteed`` (the part of its fair
        share that it never lends, 0.5), ``child_limits`` (:class:`Limits` for namespaces made right
        below from now on), ``eviction`` (``"lru"`` or ``"tinylfu"``, for those below, too). A lower
        limit evicts at once. All but TTL and ``eviction`` are given from above, by
        ``namespace(name, ...)`` or ``child_limits``: this sets no more, but for the root. Those
        reserved below never exceed its own. Bad values raise and change nothing.
        """
        configure(self.store, self.node, settings, False)

    @property
    def limits(self):
        """The settings in force here, as :class:`Limits`, but for ``child_limits``."""
        return limits_of(self.store, self.node)

    @property
    def enabled(self):
        """Whether entries are stored here; ``False`` switches off all that is here and below.

        ``False`` clears the namespace and fences its loads. Then each look-up misses, and nothing
        is stored here or below; calls for one key share one load all the same.
        """
        return not relaxed_load_flag(&self.node.is_off)

    @enabled.setter
    def enabled(self, enabled):
        enable(self.store, self.node, enabled)

    @property
    def maxsize(self):
        """The bound set here on ``currsize``: ``max_weight`` or ``max_entries``; ``None``: none."""
        return size_bound(self.store, self.node)

    @property
    def currsize(self):
        """The entries held here and below; where ``max_weight`` is set here, their weight."""
        return size_held(self.store, self.node)

    def stats(self):
        """Return the :class:`Stats` of this namespace and those below it: O(namespaces below)."""
        return stats_of(self.store, self.node)

    def reset_stats(self):
        """Set the counts of this namespace and those below to zero; totals above do not change."""
        reset_counts(self.store, self.node)

    def subscribe(self, listener, /, kinds=None):
        """Call ``listener(event)`` for events here and below; return a function that ends that.

        ``kinds``: one kind or several of hit, miss, stale_hit, set, remove, load, load_error,
        refresh, sweep; all by default. Listeners run after the change is complete; one that raises
        is logged. No tenant is current in a listener that hears of ``remove``.
        """
        return face.subscribe(self, listener, kinds)

    def for_current_tenant(self, path=None):
        """Return a namespace that looks up ``tenancy.current_tenant`` at every call.

        ``path(tenant)`` gives the name or names below this one, by default ``f"tenant:{tenant}"``.
        With no tenant set a call raises ``TenantNotSetError``.
        """
        return face.for_current_tenant(self, path)

    # ------------------------------------------------------------------ one key

    def get(self, key, /, default=None):
        """Return the fresh value of ``key``, else ``default``. Counts a hit or a miss. O(1)."""
        return look_or(self.store, self.node, key, default, True)

    def peek(self, key, /, default=None):
        """Return the fresh value of ``key``, else ``default``; neither order nor counts change."""
        return look_or(self.store, self.node, key, default, False)

    def set(self, key, value, /, *, ttl=UNSET, tags=(), stale=None, sliding=None, jitter=None,
            wait=None):
        """Store ``value``, replacing value, TTL and tags of ``key``. O(1) but for evictions.

        ``ttl``: seconds, a ``timedelta``, ``None`` for never, or a callable that tells them of the
        value; by default ``default_ttl``; 0 stores nothing, and removes the old entry. ``tags``:
        non-empty ``str`` of at most 256 characters, one or several. ``stale``: seconds past the TTL
        (``True``: no end) in which ``fetch`` may serve the value while it loads a new one.
        ``sliding``: seconds; without a hit for so long the entry ends, and a hit renews it, never
        beyond its TTL. ``jitter``: from 0 to below 1; the TTL is drawn from ``ttl * [1 - jitter,
        1]``. Raises ``TypeError``, ``ValueError``, ``EntryTooHeavyError``, ``WeigherError``.
        """
        check_wait(wait)
        set_one(self.store, self.node, key, value, ttl, tags, stale, sliding, jitter)

    def add(self, key, value, /, *, ttl=UNSET, tags=(), stale=None, sliding=None, jitter=None):
        """Store ``value`` only if ``key`` has no fresh entry; return whether it was stored.

        Where the namespace is off it says ``True``, and stores nothing.
        """
        return add_or_not(self.store, self.node, key, value, ttl, tags, stale, sliding, jitter)

    def delete(self, key, /, *, wait=None):
        """Remove ``key``; return whether it had a fresh entry. A running load is not stored."""
        check_wait(wait)
        return delete_one(self.store, self.node, key)

    def pop(self, key, /, default=UNSET):
        """Remove ``key`` and return its fresh value, else ``default``, else raise ``KeyError``."""
        return pop_one(self.store, self.node, key, default)

    def popitem(self):
        """Remove the least recent fresh entry and return ``(key, value)``; ``KeyError`` if none."""
        return pop_oldest(self.store, self.node)

    def touch(self, key, /, ttl=UNSET):
        """Give the fresh entry of ``key`` a new TTL from now; return whether there was one.

        Neither order nor counts change. ``ttl=0`` expires it. One that slides goes on to do so.
        """
        return retime(self.store, self.node, key, ttl)

    def ttl(self, key, /):
        """Return the seconds that ``key`` stays fresh, or ``None``: for ever; else ``KeyError``."""
        return seconds_left(self.store, self.node, key)

    def incr(self, key, /, delta=1, *, default=0, ttl=UNSET):
        """Add ``delta`` to the counter at ``key``, atomically, and return the sum.

        An absent counter starts at ``default``, with ``ttl``; a present one keeps its TTL, tags and
        weight. Raises ``TypeError`` where the value, ``delta`` or ``default`` is no ``int``.
        """
        return add_to_counter(self.store, self.node, key, delta, default, ttl)

    # ------------------------------------------------------------------ as a mutable mapping

    def __getitem__(self, key):
        return look_or_raise(self.store, self.node, key)

    def __setitem__(self, key, value):
        set_one(self.store, self.node, key, value, UNSET, (), None)

    def __delitem__(self, key):
        delete_or_raise(self.store, self.node, key)

    def __contains__(self, key):
        return look(self.store, self.node, key, False) is not MISSING

    def __len__(self):
        """The number of this namespace's own fresh entries. O(1), and O(entries due here)."""
        return fresh_count(self.store, self.node)

    def __iter__(self):
        return iter(fresh_keys(self.store, self.node, -1))

    def keys(self):
        """Return a ``KeysView`` of the fresh keys, least recent first.

        Each iteration is over the keys as they are when it begins; O(n).
        """
        return face.KeysView(self)

    def values(self):
        """Return a ``ValuesView`` of the fresh values, in the order of :meth:`keys`."""
        return face.Values(self)

    def items(self):
        """Return an ``ItemsView`` of the fresh keys and values, in the order of :meth:`keys`."""
        return face.Items(self)

    def setdefault(self, key, /, default=None):
        """Return the fresh value of ``key``, else store and return ``default``. Counted. O(1)."""
        return set_default(self.store, self.node, key, default)

    def update(self, other=(), /, **more):
        """Store each pair of a mapping or an iterable of pairs, then each keyword."""
        set_many(self.store, self.node, pairs_of(other, more), UNSET, (), None)

    # ------------------------------------------------------------------ many keys

    def get_many(self, keys, /):
        """Return a ``dict`` of the keys that have a fresh entry. Each look-up is counted."""
        return look_many(self.store, self.node, keys)

    def set_many(self, mapping, /, *, ttl=UNSET, tags=(), stale=None, sliding=None, jitter=None):
        """Store each item of a mapping with one TTL and tags; all are checked before any is."""
        set_many(self.store, self.node, pairs_of(mapping), ttl, tags, stale, sliding, jitter)

    def delete_many(self, keys, /):
        """Remove the keys; return the number of those with a fresh entry."""
        return delete_many(self.store, self.node, keys)

    def clear(self, *, wait=None):
        """Remove every entry of this namespace and of those below it, and of no other.

        Returns their number. Loads that run there are not stored. Costs O(namespaces below), and
        O(removed entries) up to some thousand; later writes or ``sweep()`` release the others.
        """
        check_wait(wait)
        return clear_all(self.store, self.node)

    def invalidate_tag(self, tag, /, *, wait=None):
        """Remove the entries, here and below, that bear the tag; return their number.

        Loads that run with the tag are not stored. Costs O(removed entries).
        """
        check_wait(wait)
        return invalidate_tag(self.store, self.node, tag)

    def invalidate_tags(self, tags, /, *, match="any", wait=None):
        """Remove the entries, here and below, that bear one of the tags, or (``match="all"``) each.

        Returns their number. Costs O(entries that bear the tags); with ``"all"``, the rarest one.
        """
        check_wait(wait)
        return invalidate_tags(self.store, self.node, tags, match)

    def invalidate_prefix(self, prefix, /, *, wait=None):
        """Remove this namespace's own entries whose ``str`` keys start so; return their number.

        Loads of such keys are not stored. Costs O(this namespace's own entries).
        """
        check_wait(wait)
        return invalidate_prefix(self.store, self.node, prefix)

    def invalidate_where(self, predicate, /):
        """Remove the entries, here and below, of which ``predicate(key, value)`` is true.

        Returns their number. No load that runs here or below is stored. All entries are examined
        first: if ``predicate`` raises, none is removed. A call and O(1) of memory for each entry.
        """
        return invalidate_where(self.store, self.node, predicate)

    def expire(self, key, /):
        """End the TTL of ``key`` now; return whether it had a fresh entry.

        Within its stale window ``fetch`` still serves the entry, and starts a background load.
        Without a window it is removed. A running load of it is not stored. O(log n).
        """
        return expire_one(self.store, self.node, key)

    def expire_tag(self, tag, /):
        """End the TTL of the entries, here and below, that bear the tag; return their number.

        Each is treated as by :meth:`expire`; loads with the tag are not stored. O(entries with it).
        """
        return expire_tag(self.store, self.node, tag)

    # ------------------------------------------------------------------ inspection

    def inspect(self, key, /):
        """Return the :class:`Inspection` of ``key``; ``None`` if it is neither held nor loading.

        It has TTL, age, tags, weight and the running load. Neither order nor counts change. O(1).
        """
        return inspection_of(self.store, self.node, key)

    def tags(self):
        """Return a ``dict`` of tags: the number of entries, here and below, with each. O(tags)."""
        return tags_counted(self.store, self.node)

    def children(self, *, top=50, by="entries"):
        """Return :class:`Children`: the ``top`` namespaces right below by a field, and the rest.

        ``by``: the name of a field of :class:`Stats`. Reads them in slices, as they are then; idle
        namespaces do not become more recent. O(namespaces below).
        """
        return children_of(self.store, self.node, top, by)

    def advice(self):
        """Return :class:`Advice`: the hit rates that more room would give, here and below.

        The first call in a cache begins to keep traces of evicted entries. Rates are ``None`` until
        they can be told. ``ConfigurationError`` with ``eviction="tinylfu"``. O(namespaces below).
        """
        return advice_of(self.store, self.node)

    # ------------------------------------------------------------------ loading

    def fetch(self, key, loader, /, **options):
        """\
fetch($self, key, loader, /, *, ttl=..., tags=(), stale=None, stale_if_error=None, \
fallback_on=None, refresh_ahead=None, sliding=None, jitter=None, store_if=None, pass_old=False, \
timeout=None)
--

Return the fresh value of ``key``; load it if there is none.

``loader`` takes nothing and returns the value, or ``Loaded(value, ...)``. While it loads, all calls
for the key, from threads, tasks or other event loops, wait for that load. They return its value or
raise its exception. An exception is not stored. A loader made with ``async def`` makes this
:meth:`afetch`: await the result.

``ttl``, ``tags``, ``stale``, ``sliding``, ``jitter`` as for :meth:`set`. ``stale_if_error``:
seconds past the TTL in which the old value stands in for a load that raises; the key is then not
tried again for a second, doubling to 30. ``fallback_on``: the exception types, or a predicate, that
it covers; by default every ``Exception``. ``refresh_ahead``: the part of the TTL, between 0
and 1, after which a hit starts a background load. ``store_if(value)``: whether to keep it.
``pass_old``: the loader is called with the value that is held, stale or fresh, or ``MISSING``.
``timeout``: seconds to wait; then the stale value, else ``LoadTimeoutError``; the load goes on.

Raises the loader's exceptions, ``RecursiveLoadError``, ``LoadTimeoutError``, ``TooManyLoadsError``,
``TypeError`` and ``ValueError`` for bad arguments. On the thread of an event loop it cannot wait
for a task of that loop. If such a task is loading the key, it calls ``loader`` itself, at once. A
hit costs one look-up, and reads no option but ``refresh_ahead``.
        """
        return face.fetch(self, key, loader, **options)

    def afetch(self, key, loader, /, **options):
        """\
afetch($self, key, loader, /, *, ttl=..., tags=(), stale=None, stale_if_error=None, \
fallback_on=None, refresh_ahead=None, sliding=None, jitter=None, store_if=None, pass_old=False, \
timeout=None)
--

Await the fresh value of ``key``; load it if there is none.

``loader`` is a coroutine function, any callable that returns an awaitable, or a plain callable. The
load runs in a task of its own. The cancellation of one caller affects no other, and the task is
cancelled when no caller waits any more. All else is as for :meth:`fetch`. A hit makes no coroutine
and does not suspend. Its result can be awaited once, gathered, made a task, or dropped.
        """
        return face.afetch(self, key, loader, **options)

    def refresh(self, key, loader, /, **options):
        """Load ``key`` even if it is fresh, and return the value. Options as for :meth:`fetch`."""
        return face.refresh(self, key, loader, **options)

    def arefresh(self, key, loader, /, **options):
        """Load ``key`` even if it is fresh; await the value. Options as for :meth:`fetch`."""
        return face.arefresh(self, key, loader, **options)

    def fetch_many(self, keys, loader, /, **options):
        """Return a ``dict`` of ``keys``; ``loader(missing)`` is called once for those not held.

        It returns a mapping; keys that it leaves out are left out of the result. Options: ``ttl``,
        ``tags``, ``stale``, ``store_if``.
        """
        return face.fetch_many(self, keys, loader, **options)

    def afetch_many(self, keys, loader, /, **options):
        """Await a ``dict`` of ``keys``; ``loader(missing)`` is awaited once for those not held."""
        return face.afetch_many(self, keys, loader, **options)

    def wrap(self, function, /, **options):
        """Return ``function`` cached here, sync or async like it. Options: see ``cached``."""
        return face.wrap(self, function, **options)

    def cached(self, function=None, /, **options):
        """Decorate a function so that its results are cached here.

        ``key`` and ``tags`` may be callables of the arguments. Without ``key`` the key is the
        function's qualified name and its arguments, as a tuple. ``typed=True`` tells ``1`` from
        ``1.0`` and ``True``; ``bind=True`` makes one key of ``f(1)``, ``f(x=1)`` and a call that
        leaves out a default. All other options but ``pass_old`` are those of :meth:`fetch`. Without
        parentheses, ``@ns.cached``, all of them are the defaults.

        ``tenant="tenant_id"``: the function's parameter of that name says whose call it is, and the
        result is kept in that tenant's namespace below this one: ``path(tenant)``, by default
        ``f"tenant:{tenant}"``. A tenant that cannot name a namespace raises as for
        :meth:`namespace`, and the function is not called.
        """
        return face.cached(self, function, **options)

    # ------------------------------------------------------------------ for the Python face

    def _open(self, max_entries, max_weight, weigher, default_ttl, child_limits, max_pending_age,
              bint require_namespace, int64_t max_idle, clock, str name, eviction,
              uint32_t tenant_depth, double max_loss):
        """Begin the life of a root. The arguments were checked."""
        settings = {"default_ttl": default_ttl, "max_entries": max_entries,
                    "max_weight": max_weight, "child_limits": child_limits, "eviction": eviction}
        cdef Store store = store_made(name, clock, weigher, max_pending_age, require_namespace,
                                      max_idle, settings_checked(settings), tenant_depth, max_loss)
        if self.store.core.opened:
            # Calls under way, and views, would be left with the other entries.
            raise RuntimeError("a Cache is initialised once")
        store.core.root.views += 1
        self.node.views -= 1
        self.node = store.core.root
        self.store = store

    def _close(self):
        """Refuse all further use, fence the running loads, and drop every entry."""
        store_close(self.store)

    def _is_closed(self):
        return bool(core_is_closed(&self.store.core))

    def _now(self):
        return store_now(self.store)

    def _store(self):
        """The store itself, which a background thread may refer to weakly. See _root_of."""
        return self.store

    def _sweep(self):
        """Expire and reclaim some due entries; return their number, and whether more are due."""
        return sweep_some(self.store, self.node)

    def _listed(self):
        """The fresh keys and their values, as two lists; order and counts do not change."""
        return fresh_items(self.store, self.node)

    def _tagged(self, str tag not None):
        """How many entries bear the tag, here and below."""
        return bearers_of(self.store, self.node, tag)

    def _fetch(self, key, loader, Options options not None, on_miss=None):
        """Answer a sync call from what is held or by a load; before that, call ``on_miss``."""
        return fetch_missing(self.store, self.node, self, key, key_hash(self.node, key), options,
                             loader, NULL, 0, NULL, on_miss, NULL)

    def _look_up(self, key, Options options not None, bint in_task=False):
        """(value, whether it is due) if what is held answers a call, else None or False."""
        return looked_up(self.store, self.node, self, key, options, in_task)

    def _stand_in(self, key, Options options not None, bint timed_out):
        """(value,) if what is held may stand in for a load that raised or is late, else None."""
        return stand_in(self.store, self.node, key, options, timed_out)

    def _begin(self, key, Options options not None, run, list loads not None, bint behind=False,
               bint anew=False):
        """Register a load for a run, or find the one to join, or that none is needed."""
        return load_begin(self.store, self.node, self, key, options, run, loads, behind, anew)

    def _finish(self, Load load not None, Options options not None, produced, double seconds,
                double counted, bint anew=False):
        """End a load: store the loader's result if nothing has invalidated it, and hand it over."""
        load_complete(self.store, self.node, self, load, options, produced, seconds, counted, anew)

    def _leave_out(self, Load load not None, Options options not None):
        """End a load of a key that is to be absent: what it was to replace goes."""
        load_finish(self.store, self.node, load, options, None, UNSET, (), False, -1)

    def _abandon(self, Load load not None, double seconds=-1.0, bint failed=False):
        """End a load without a value; one that took some seconds, 0 or more, is counted."""
        load_abandon(&self.store.core, self.node, load, seconds, failed)

    def _join(self):
        """Count a miss that joins a running load."""
        count_joined(self.store, self.node)

    def _held(self, key, /):
        """None, or (value, seconds left, ttl, seconds kept past it, kept for stale=)."""
        return held_for(self.store, self.node, key)

    def _emit(self, str kind not None, key, cause=None, value=None, error=None, double seconds=0.0):
        """Tell listeners what the face has seen."""
        emit_named(self.store, self.node, kind, key, cause, value, error, seconds)

    def _listen(self, listener, int mask):
        """Let `listener` hear the kinds of `mask`; return what _unlisten takes."""
        return listen(self.store, self.node, listener, mask)

    def _unlisten(self, token):
        """End what _listen began. Twice is once."""
        unlisten(self.store, self.node, token)

    def _check(self):
        """Recompute every count and link of the whole cache; AssertionError if any is wrong."""
        check_store(self.store)


cdef dict pairs_of(object other, dict more=None):
    """A dict of what a mapping, an iterable of pairs or another namespace holds now, and `more`."""
    if isinstance(other, Namespace):
        # By dict() each key would be looked up, and may be gone by then.
        pairs = dict(zip(*fresh_items((<Namespace>other).store, (<Namespace>other).node)))
    else:
        pairs = dict(other)
    if more is not None:
        pairs.update(more)
    return pairs


# ------------------------------------------------------------------------------------------- views

cdef Namespace view_new(Store store):
    """A view of nothing yet. Made before the look-up: an allocation may run the collector."""
    cdef PyObject* spare
    cdef Namespace view
    if store.tier is not None:
        view = <Namespace>view_of_type(tiered_type, ())
        view.store = store
        return view
    spare = spare_take(type_of(Namespace))
    if spare == NULL:
        view = Namespace.__new__(Namespace)
        view.store = store
    else:
        # A spare holds None for its store, and its one reference passes to `view`.
        (<Namespace>spare).store = store
        PyObject_GC_Track(spare)
        view = <Namespace>spare
        Py_DECREF(view)
    return view


cdef inline void view_attach_locked(Namespace view, Node* node) noexcept:
    """Let a new view be of this namespace, and hold it. Lock held."""
    view.node = node
    node_hold_locked(&view.store.core, node)


cdef void view_dealloc(PyObject* me) noexcept:
    """Replaces tp_dealloc of Namespace. Takes no reference to what is dying."""
    cdef Node* node = (<Namespace>me).node
    cdef Core* core
    PyObject_GC_UnTrack(me)
    if node != NULL:
        core = &(<Namespace>me).store.core
        lock_acquire(&core.lock)
        node_let_go_locked(core, node)
        lock_release(&core.lock)
        if relaxed_load_u32(&core.idle_count) > core.max_idle:
            store_trim_idle((<Namespace>me).store, 4)
        (<Namespace>me).node = NULL
    (<Namespace>me).store = None
    spare_give(me, type_of(Namespace))


cdef void views_unmake(Store store, list made) noexcept:
    """Forget the namespaces that a refused call made, deepest first, but those in use by now."""
    cdef Core* core = &store.core
    cdef Node* node
    cdef Node* gone = NULL
    cdef Py_ssize_t n = PyList_GET_SIZE(made)
    lock_acquire(&core.lock)
    while n > 0:
        n -= 1
        node = (<Namespace>made[n]).node
        if node == NULL:                         # the one that could not be made
            continue
        if (node.views > 1 or node.entries or node.pending or node.child != NULL
                or node.configured or core.limbo_count):
            break
        (<Namespace>made[n]).node = NULL         # the view, which is dropped next, is of nothing
        node_forget_locked(core, node)
        node.next = gone
        gone = node
    lock_release(&core.lock)
    nodes_free(gone)


cdef Namespace view_make(Namespace self, tuple names, dict settings):
    cdef Store store = self.store
    cdef Core* core = &store.core
    cdef Node* node = self.node
    cdef Namespace view
    if core_is_closed(core):
        raise closed_error()
    if not names:
        raise TypeError("namespace() takes at least one name")
    view = view_new(store)
    lock_acquire(&core.lock)
    try:
        for name in names:
            node = node_child_locked(node, <PyObject*>name) if is_str(<PyObject*>name) else NULL
            if node == NULL:
                break
        else:
            view_attach_locked(view, node)
            names = None
    finally:
        lock_release(&core.lock)
    if names is not None:
        return view_make_missing(self, names, settings)
    if settings:
        configure(store, view.node, settings, True)
    return view


cdef Namespace view_make_missing(Namespace self, object names, dict settings):
    """The rarer half of namespace(): check all names and settings, make what is missing."""
    cdef Store store = self.store
    cdef Core* core = &store.core
    cdef Node* node = self.node
    cdef Node* child
    cdef Node* found
    cdef Namespace view
    cdef Namespace parent = self
    names = [name_checked(name) for name in names]
    if settings:
        settings_checked(settings)
    if node.depth + len(names) > DEEPEST:
        raise InvalidNamespaceError(f"name: a path has at most {DEEPEST} names")
    made = []
    try:
        for name in names:
            children = {}
            view = view_new(store)
            made.append(view)                 # once the namespace is made, nothing may fail
            lock_acquire(&core.lock)
            try:
                if core_is_closed(core):
                    raise closed_error()
                child = found = node_child_locked(parent.node, <PyObject*>name)
                if child == NULL:
                    child = node_make_locked(store, parent.node, name, children)
                view_attach_locked(view, child)      # holds it while those below are made
            finally:
                lock_release(&core.lock)
            if found != NULL:
                made.pop()
            parent = view
        if settings:
            configure(store, parent.node, settings, True)
    except BaseException:
        views_unmake(store, made)
        raise
    if relaxed_load_u32(&core.idle_count) > core.max_idle:
        store_trim_idle(store, 4)
    return parent
