# Scopes: the current tenant.
#
# One context variable holds the innermost scope of a context. Scopes never change, and each refers
# to the one around it. The start of a block adds a scope, and its end removes it. So a copied
# context (a task's, a thread's) sees the tenant of the moment at which it was copied. It does so as
# long as it runs, also after the block that set the tenant has ended.
#
# - The end of a block removes its own scope, from the context in which it began, and no other. If
#   its scope is not the innermost, those inside stay, and a warning is issued.
# - A block can end in another context: its generator was collected, or closed, by other code. Then
#   its scope is taken out of the context in which it began, if that one is not running just now.
#   If it is, the block is lost: its scope counts no more in that context, and in a copy of it no
#   tenant is set. Such a copy may have been made before the end, for the block's own tenant, or
#   after it, for another's. Nothing tells which, so that neither is served.
# - set() changes the tenant of the innermost block until that ends, or its token is reset. Outside
#   all blocks it changes that of the context.
#
# - Before 3.12 a collection can start within the change of any variable of a context, and end a
#   generator. CPython then forgets what the finalizer changed (see contexts), so that a block that
#   ends there is lost too.
#
# get() pays for one look at the variable and one at the block. All else happens at the ends.

cdef extern from *:
    """
    /* Without the GIL the thread whose context it is may be using it. */
    #ifdef Py_GIL_DISABLED
    #define FLOWCACHE_MENDS_CONTEXTS 0
    #else
    #define FLOWCACHE_MENDS_CONTEXTS 1
    #endif
    """
    bint MENDS_CONTEXTS "FLOWCACHE_MENDS_CONTEXTS"

cdef extern from "Python.h":
    int PyContext_Enter(PyObject* context)
    int PyContext_Exit(PyObject* context)
    object PyWeakref_NewRef(PyObject* target, PyObject* callback)
    int PyErr_WarnEx(object category, const char* message, Py_ssize_t stack_level) except -1

cdef object scope_variable = PyContextVar_New(b"flowcache.tenancy.scope", NULL)
cdef object NO_TENANT = object()              # in a scope: none is current
cdef str NOT_SET = 'no current tenant is set: use `with tenant("..."):` or the middleware'

cdef enum:
    FRESH = 0                                 # not entered yet
    OPEN = 1
    ENDED = 2


@cython.final
cdef class Scope:
    # The current tenant or NO_TENANT, since a block began or a `set` was made in it.
    cdef object tenant                        # owned
    cdef Scope outer                          # owned; the current scope when the block has ended
    cdef TenantBlock block                    # owned; None: outside all blocks
    cdef object context                       # owned; weak, to the context in which it was made


cdef inline Scope scope_new(object tenant, Scope outer, TenantBlock block, object context):
    cdef Scope scope = Scope.__new__(Scope)
    scope.tenant = tenant
    scope.outer = outer
    scope.block = block
    scope.context = context
    return scope


cdef inline Scope scope_innermost():
    """The innermost scope of the running context, as the variable has it."""
    cdef PyObject* value = NULL
    PyContextVar_Get(scope_variable, NULL, &value)
    if value is NULL:
        return None
    cdef object found = <object>value
    Py_DECREF(found)                          # PyContextVar_Get gave one reference, `found` has one
    return <Scope>found


cdef inline int scope_store(Scope innermost) except -1:
    """Make this the innermost scope of the running context."""
    context_hold()
    PyContextVar_Set(scope_variable, innermost)
    return context_let_go()


cdef inline bint is_running(object context):
    """True if the weak reference is to the context that this thread runs in."""
    cdef object target = context()
    return <PyObject*>target is context_running()


cdef object context_here():
    """A weak reference to the running context."""
    if context_running() is NULL:
        scope_store(None)                     # makes one
    return PyWeakref_NewRef(context_running(), NULL)


cdef Scope scope_settled(Scope scope):
    """The innermost scope that counts: without those of blocks of this context that are lost."""
    while (scope is not None and scope.block is not None and relaxed_load_flag(&scope.block.is_lost)
           and is_running(scope.block.home)):
        scope = scope.outer
    return scope


cdef Scope scope_around(Scope scope):
    """The scope around a block that begins now.

    The scopes around one of another context end there, and are left out. Otherwise a chain of
    tasks, each started from the block of the one before, would gather all of them.
    """
    if scope is None or scope.outer is None or is_running(scope.block.home):
        return scope
    return scope_new(scope.tenant, None, scope.block, scope.context)


cdef Scope scope_rebuilt(list inside, Scope outer):
    """The scopes in `inside`, innermost first, around `outer`."""
    cdef Scope scope
    while inside:
        scope = inside.pop()
        outer = scope_new(scope.tenant, outer, scope.block, scope.context)
    return outer


cdef Scope scope_without(Scope innermost, TenantBlock block):
    """The same scopes without that of the block."""
    cdef list inside = []
    cdef Scope scope = innermost
    while scope is not None and scope.block is not block:
        inside.append(scope)
        scope = scope.outer
    return innermost if scope is None else scope_rebuilt(inside, scope.outer)


cdef bint scope_mend(object context, TenantBlock block):
    """Take the block's scope out of another context; False if that is running, and cannot be."""
    cdef int collected
    if not MENDS_CONTEXTS:
        return False
    if PyContext_Enter(<PyObject*>context) < 0:
        PyErr_Clear()
        return False
    collected = collections_off()
    try:
        scope_store(scope_without(scope_innermost(), block))
    except MemoryError:
        return False
    finally:
        collections_on(collected)
        PyContext_Exit(<PyObject*>context)
    return True


cdef object tenant_settled(Scope scope):
    """The tenant where the innermost scope is that of a lost block."""
    cdef Scope settled
    cdef int collected = collections_off()
    try:
        settled = scope_settled(scope)
        if settled is not scope:
            scope_store(settled)              # copies from here on are right again
    finally:
        collections_on(collected)
    if settled is None:
        return NO_TENANT
    if (settled.block is None or not relaxed_load_flag(&settled.block.is_lost)
            or is_running(settled.context)):
        return settled.tenant
    return NO_TENANT


cdef inline object tenant_now():
    """The current tenant, or NO_TENANT."""
    cdef Scope scope = scope_innermost()
    if scope is None:
        return NO_TENANT
    if scope.block is not None and relaxed_load_flag(&scope.block.is_lost):
        return tenant_settled(scope)
    return scope.tenant


cdef class TenantBlock:
    """A block of code with a tenant, or without one; made by ``tenant(...)``, ``no_tenant()``."""

    cdef object tenant                        # owned; or NO_TENANT
    cdef object home                          # owned; weak, to the context in which it began
    cdef Scope inherited                      # owned until the end; see scope_around
    cdef int state
    cdef bint is_lost                         # it ended, and the context in which it began shows it

    def __init__(self, tenant=NO_TENANT, /):
        self.tenant = tenant

    def __enter__(self):
        cdef Scope innermost, around
        cdef int collected
        if self.state != FRESH:
            raise RuntimeError(
                "tenant: a block begins once; call tenant(...) or no_tenant() for each `with`")
        collected = collections_off()
        try:
            self.home = context_here()
            innermost = scope_settled(scope_innermost())
            around = scope_around(innermost)
            scope_store(scope_new(self.tenant, around, self, self.home))
            if around is not innermost:
                self.inherited = innermost
        finally:
            collections_on(collected)
        self.state = OPEN
        return None if self.tenant is NO_TENANT else self.tenant

    def __exit__(self, *error):
        cdef Scope innermost, left, inherited = self.inherited
        cdef int collected
        cdef object home
        if self.state != OPEN:
            raise RuntimeError("tenant: the block is not open")
        self.state = ENDED
        self.inherited = None
        relaxed_store_flag(&self.is_lost, True)        # until its scope is out of that context
        home = self.home()
        if home is not None and <PyObject*>home is context_running():
            collected = collections_off()
            try:
                innermost = scope_innermost()
                left = scope_settled(scope_without(innermost, self))
                # The same scope object as before, with all around it. asgiref would take another
                # object for a change, and copy it to the context that this one is a copy of.
                if (inherited is not None and left is not None
                        and left.block is inherited.block and left.tenant is inherited.tenant):
                    left = inherited
                scope_store(left)
            finally:
                collections_on(collected)
            if <PyObject*>home is not context_collected:
                relaxed_store_flag(&self.is_lost, False)
            if innermost is None or innermost.block is not self:
                PyErr_WarnEx(TenantScopeWarning, OUT_OF_ORDER, 1)
            return
        # Copies of a context that is gone were all made before the block ended: they keep it.
        if home is None or (scope_mend(home, self) and <PyObject*>home is not context_collected):
            relaxed_store_flag(&self.is_lost, False)
        PyErr_WarnEx(TenantScopeWarning, ELSEWHERE, 1)


# Constant texts: a warning is remembered by its text, and tenants' names come from outside.
cdef const char* OUT_OF_ORDER = (
    b"a block of tenant() ended before one that began within it, whose tenant stays current")
cdef const char* ELSEWHERE = (
    b"a block of tenant() ended in another context than it began in, as one that holds a `yield` "
    b"does; the tenant that is current here stays")
cdef const char* RESET_LATE = (
    b"current_tenant.reset() came after the block in which set() was called had ended, or while "
    b"one within it is open, whose tenant stays current")


@cython.final
cdef class TenantToken:
    """The result of ``current_tenant.set()``, for ``current_tenant.reset()``."""

    cdef Scope old                            # owned; the innermost scope before; None: none
    cdef TenantBlock block                    # owned; the one in which it was set; None: none
    cdef object context                       # owned; weak, to the context in which it was set
    cdef bint is_used

    MISSING = Token.MISSING

    def __init__(self):
        raise TypeError("TenantToken: made by current_tenant.set()")

    @property
    def var(self):
        """The variable that made the token."""
        return current_tenant

    @property
    def old_value(self):
        """The tenant before; ``TenantToken.MISSING`` if there was none."""
        if self.old is None or self.old.tenant is NO_TENANT:
            return Token.MISSING
        return self.old.tenant

    def __repr__(self):
        return f"<TenantToken{' used' if self.is_used else ''} at {id(self):#x}>"


@cython.final
cdef class TenantVariable:
    """The type of ``flowcache.tenancy.current_tenant``."""

    def __init__(self):
        raise TypeError("TenantVariable: there is one, flowcache.tenancy.current_tenant")

    @property
    def name(self):
        """The variable's name."""
        return "current_tenant"

    def get(self, default=NO_TENANT, /):
        """Return the tenant of the innermost scope that is open, or ``default`` if there is none.

        Without ``default`` it raises ``TenantNotSetError`` then, which is a ``LookupError``.
        """
        cdef object tenant = tenant_now()
        if tenant is not NO_TENANT:
            return tenant
        if default is not NO_TENANT:
            return default
        raise TenantNotSetError(NOT_SET)

    def set(self, tenant, /):
        """Make ``tenant`` current until the block that this is called in ends; return a token.

        Outside all blocks it stays current in this context. The name is checked when it is used.
        """
        cdef Scope innermost, outer = None
        cdef TenantToken token = TenantToken.__new__(TenantToken)
        cdef int collected = collections_off()
        try:
            token.context = context_here()
            innermost = scope_settled(scope_innermost())
            if innermost is not None:
                token.block = innermost.block
                outer = innermost.outer
            token.old = innermost
            scope_store(scope_new(tenant, outer, token.block, token.context))
        finally:
            collections_on(collected)
        return token

    def reset(self, token, /):
        """Restore the tenant before the ``set`` that returned ``token``.

        It never changes the tenant of a block that began since, or of the one around a block that
        has ended: it warns instead. Raises ``ValueError`` in another context than that of the
        ``set``, and ``RuntimeError`` for a token that was used.
        """
        cdef TenantToken made
        cdef Scope scope, old
        cdef list inside = []
        cdef int collected
        cdef bint is_late
        if not isinstance(token, TenantToken):
            raise TypeError(f"token: must be a TenantToken, got {type(token).__name__}")
        made = <TenantToken>token
        if made.is_used:
            raise RuntimeError(f"token: {token!r} has already been used once")
        if not is_running(made.context):
            raise ValueError(f"token: {token!r} was made in a different context")
        collected = collections_off()
        try:
            scope = scope_settled(scope_innermost())
            while scope is not None and scope.block is not made.block:
                inside.append(scope)
                scope = scope.outer
            is_late = len(inside) > 0 or (scope is None and made.block is not None)
            if scope is not None or made.block is None:
                old = made.old
                if old is not None:
                    old = scope_new(old.tenant, None if scope is None else scope.outer, old.block,
                                    old.context)
                scope_store(scope_rebuilt(inside, old))
            made.is_used = True
        finally:
            collections_on(collected)
        if is_late:
            PyErr_WarnEx(TenantScopeWarning, RESET_LATE, 1)

    def __repr__(self):
        return "<flowcache.tenancy.current_tenant>"

    def __copy__(self):
        return self

    def __deepcopy__(self, memo, /):
        return self

    def __reduce__(self):
        return _current_tenant, ()


current_tenant = TenantVariable.__new__(TenantVariable)


def _current_tenant():
    """Return the variable, as a pickle of it does."""
    return current_tenant
