# Tenants: the namespaces of tenants below one namespace, and the calls of the current tenant's.
#
# A call of the current tenant's namespace is one step: the tenant is read from the context, its
# namespace is found, and the function that the call has in Namespace runs on a view of it. The view
# lives as long as the call, so that all that holds for a view that a program keeps holds here.
#
# Which namespace a tenant has is recorded for the tenants seen last, so that the namespace's name
# is neither built nor hashed again. A record holds nothing: a namespace is forgotten, removed or
# cleared as if there were no record of it. A record is used only while Core.nodes has, at the same
# id, the same address with the same salt. A cache gives each salt to one namespace only, so no
# other namespace is taken for the recorded one, at any address and id. Records are kept by the text
# of the tenant's name, and only for the path `tenant:{name}`: a path of the user's own is called
# each time.

cdef extern from "Python.h":
    object PyMethod_New(object function, object instance)

cdef extern from *:
    """
    /* Run the function of a method of Namespace on a view. A method in C is called as it is
       declared, without a copy of the arguments. */
    static PyObject *flowcache_call_method(PyObject *method, PyObject *view, PyObject *const *args,
                                           Py_ssize_t nargs, PyObject *names) {
        if (Py_IS_TYPE(method, &PyMethodDescr_Type)) {
            PyMethodDef *def = ((PyMethodDescrObject *)method)->d_method;
            int flags = def->ml_flags & (METH_VARARGS | METH_FASTCALL | METH_NOARGS | METH_O
                                         | METH_KEYWORDS | METH_METHOD);
            if (flags == (METH_FASTCALL | METH_KEYWORDS))
                return ((flowcache_fast)(void (*)(void))def->ml_meth)(view, args, nargs, names);
            if (flags == METH_O && nargs == 1 && names == NULL)
                return def->ml_meth(view, args[0]);
            if (flags == METH_NOARGS && nargs == 0 && names == NULL)
                return def->ml_meth(view, NULL);
        }
        return flowcache_pass_on(method, view, args, nargs, names);
    }
    """
    object call_method "flowcache_call_method"(PyObject* method, PyObject* view, PyObject** args,
                                               Py_ssize_t nargs, PyObject* names)

cdef struct Recent:
    PyObject* owned               # the object of the record; NULL: the place is free
    Node* node                   # borrowed, and not looked into before Core.nodes has it, too
    uint64_t salt                 # of the node
    size_t hash
    uint32_t id                   # of the node

cdef struct Recents:
    Recent* records
    uint32_t size                 # a power of two, or 0

cdef enum:
    FEWEST_RECENT = 8
    MOST_RECENT = 1024


cdef inline bint recent_stands_locked(Core* core, Recent* recent) noexcept:
    """Whether the namespace of a record is still the one that it was made for."""
    return (recent.owned != NULL and core.nodes[recent.id] == recent.node
            and recent.node.salt == recent.salt)


cdef void recents_grow_locked(Core* core, Recents* recents) noexcept:
    """Double the places; without memory they stay as they are, for records are only a short cut."""
    cdef uint32_t size = recents.size * 2 if recents.size else FEWEST_RECENT, n
    cdef Recent* grown = <Recent*>calloc(size, sizeof(Recent))
    cdef Recent* record
    cdef Recent* place
    if grown == NULL:
        return
    for n in range(recents.size):
        record = &recents.records[n]
        place = &grown[record.hash & (size - 1)]
        if place.owned == NULL and recent_stands_locked(core, record):
            place[0] = record[0]
        elif record.owned != NULL:
            Py_DECREF(<object>record.owned)       # the record's reference: no user code runs
    free(recents.records)
    recents.records = grown
    recents.size = size


cdef void recents_put_locked(Core* core, Recents* recents, size_t hash, object owned,
                             Node* node) noexcept:
    """Record a namespace, in place of the present record."""
    cdef Recent* place = NULL
    cdef PyObject* before
    if recents.size:
        place = &recents.records[hash & (recents.size - 1)]
    if place == NULL or (recents.size < MOST_RECENT and place.hash != hash
                         and recent_stands_locked(core, place)):
        recents_grow_locked(core, recents)
        if recents.size == 0:
            return
        place = &recents.records[hash & (recents.size - 1)]
    before = place.owned
    Py_INCREF(owned)                              # Recent.owned
    place.owned = <PyObject*>owned
    place.node = node
    place.salt = node.salt
    place.hash = hash
    place.id = node.id
    Py_XDECREF(before)                            # Recent.owned's, before: no user code runs


cdef void recents_free(Recents* recents) noexcept:
    cdef uint32_t n
    for n in range(recents.size):
        Py_XDECREF(recents.records[n].owned)
    free(recents.records)
    recents.records = NULL
    recents.size = 0


@cython.no_gc_clear                  # a finalizer may still make a call; Store breaks the cycles
cdef class Tenants:
    """The namespaces of tenants below one namespace, each at ``path(tenant)``."""

    cdef readonly Namespace _above
    cdef readonly object _path        # callable, or None: f"tenant:{tenant}"
    cdef Recents recents              # by the tenant's name, which each record owns, an exact str

    def __cinit__(self, Namespace above not None, path=None, /):
        self._above = above
        self._path = path

    def __dealloc__(self):
        recents_free(&self.recents)

    def _namespace_of(self, tenant, str argument not None):
        """Return a tenant's namespace; errors in the tenant's name call it `argument`."""
        return tenants_view(self, tenant, argument)

    def _current(self):
        """Return the current tenant's namespace."""
        return tenants_current(self)


cdef Node* tenants_recent_locked(Tenants self, PyObject* tenant, size_t hash) noexcept:
    """The namespace recorded for a tenant, or NULL."""
    cdef Core* core = &self._above.store.core
    cdef Recent* recent
    if self.recents.size == 0:
        return NULL
    recent = &self.recents.records[hash & (self.recents.size - 1)]
    if (recent.hash != hash or not recent_stands_locked(core, recent)
            or (recent.owned != tenant and not str_equal(recent.owned, tenant))):
        return NULL
    return recent.node


cdef inline Namespace tenants_view(Tenants self, object tenant, str argument):
    """A view of the tenant's namespace, made if need be. May run a path of the user's."""
    cdef Store store = self._above.store
    cdef Core* core = &store.core
    cdef Namespace view
    cdef Node* node
    cdef size_t hashed
    if self._path is None and is_str(<PyObject*>tenant) and not core_is_closed(core):
        hashed = <size_t>hash(tenant)
        view = view_new(store)                    # may run the collector, so it comes first
        lock_acquire(&core.lock)
        node = tenants_recent_locked(self, <PyObject*>tenant, hashed)
        if node != NULL:
            view_attach_locked(view, node)
        lock_release(&core.lock)
        if node != NULL:
            return view
    return tenants_find(self, tenant, argument)


cdef Namespace tenants_find(Tenants self, object tenant, str argument):
    """The same without a record; makes one."""
    cdef Core* core = &self._above.store.core
    cdef str name = name_checked(tenant, argument)
    cdef Namespace view
    if self._path is None:
        names = (f"tenant:{name}",)
    else:
        made = self._path(name)
        names = (made,) if is_str(<PyObject*>made) else face.names_in(made)
    view = view_make(self._above, names, {})
    if self._path is None:
        hashed = hash(name)
        lock_acquire(&core.lock)
        recents_put_locked(core, &self.recents, <size_t><Py_hash_t>hashed, name, view.node)
        lock_release(&core.lock)
    return view


cdef inline Namespace tenants_current(Tenants self):
    """A view of the current tenant's namespace; `TenantNotSetError` if no tenant is current."""
    cdef object tenant = tenant_now()
    if tenant is NO_TENANT:
        raise TenantNotSetError(NOT_SET)
    # `current_tenant.set` takes anything: an empty tenant would be a shared one.
    if tenant is None:
        raise TenantNotSetError("no current tenant is set: current_tenant.set(None) was called")
    return tenants_view(self, tenant, "current_tenant")


@cython.final
cdef class TenantCall:
    # A call of the current tenant's namespace: a method of Namespace, on a view of the namespace
    # of the tenant that is current at the call. In a class it binds as a function does.

    cdef Vectorcall vectorcall
    cdef object method                # owned; a method or a slot of Namespace

    def __cinit__(self, method, /):
        self.vectorcall = <Vectorcall>tenant_call
        self.method = method

    def __call__(self, /, Tenants tenants not None, *args, **kwargs):
        return getattr(tenants_current(tenants), self.method.__name__)(*args, **kwargs)

    def __get__(self, instance, owner):
        return self if instance is None else PyMethod_New(self, instance)

    @property
    def __wrapped__(self):
        return self.method

    @property
    def __name__(self):
        return self.method.__name__

    @property
    def __qualname__(self):
        return f"CurrentTenant.{self.method.__name__}"

    @property
    def __doc__(self):
        return self.method.__doc__

    def __repr__(self):
        return f"<call {self.method.__name__!r} of the current tenant's namespace>"


cdef object tenant_call(PyObject* me, PyObject** args, size_t nargsf, PyObject* names):
    cdef Py_ssize_t nargs = PyVectorcall_NARGS(nargsf)
    cdef Namespace view
    if nargs == 0 or not isinstance(<object>args[0], Tenants):
        raise TypeError(f"{(<TenantCall>me).__name__}() is a call of for_current_tenant()")
    view = tenants_current(<Tenants>args[0])
    if view.store.tier is None:
        return call_method(<PyObject*>(<TenantCall>me).method, <PyObject*>view, args + 1, nargs - 1,
                           names)
    # Its views have calls of their own.
    method = getattr(type(view), (<TenantCall>me).method.__name__)
    return pass_on(<PyObject*>method, <PyObject*>view, args + 1, nargs - 1, names)


cdef Py_ssize_t tenant_call_offset():
    cdef TenantCall one = TenantCall.__new__(TenantCall, None)
    return <char*>&one.vectorcall - <char*><PyObject*>one
