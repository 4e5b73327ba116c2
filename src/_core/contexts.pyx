# Contexts: changes of context variables, and the collections that come in the middle of one.
#
# Before 3.12 any allocation may start a collection, also one within the change of a variable. Where
# a finalizer then changes a variable of the same context, CPython goes on reading contents that are
# freed, forgets the finalizer's change, and may remember a value of the variable that is freed. So
# the core starts no collection within a change of its own; and where a collection runs that may
# have started within a change of other code, the contents are held until no collection runs.

cdef extern from *:
    """
    /* The context that this thread runs in, borrowed; NULL until something is set in it. */
    static inline PyObject *flowcache_context(void) {
        return PyThreadState_Get()->context;
    }
    #if PY_VERSION_HEX < 0x030C0000
    #define FLOWCACHE_COLLECTS_ANYWHERE 1
    static PyObject *flowcache_collected = NULL;
    static inline int flowcache_collections_off(void) { return PyGC_Disable(); }
    static inline void flowcache_collections_on(int were) { if (were) PyGC_Enable(); }
    #else
    #define FLOWCACHE_COLLECTS_ANYWHERE 0
    #define flowcache_collected ((PyObject *)NULL)
    static inline int flowcache_collections_off(void) { return 0; }
    static inline void flowcache_collections_on(int were) { (void)were; }
    #endif
    static inline void flowcache_collected_set(PyObject *context) {
    #if FLOWCACHE_COLLECTS_ANYWHERE
        flowcache_collected = context;
    #else
        (void)context;
    #endif
    }
    """
    bint COLLECTS_ANYWHERE "FLOWCACHE_COLLECTS_ANYWHERE"
    # The context in which a collection started that is not over; compared, never followed.
    PyObject* context_collected "flowcache_collected"
    void context_collected_set "flowcache_collected_set"(PyObject* context)
    PyObject* context_running "flowcache_context"()
    int collections_off "flowcache_collections_off"()
    void collections_on "flowcache_collections_on"(int were)

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    object PyContextVar_New(const char* name, PyObject* default)
    int PyContextVar_Get(object variable, PyObject* default, PyObject** value) except -1
    object PyContextVar_Set(object variable, object value)
    int PyContextVar_Reset(object variable, object token) except -1

cdef list contents_held = []                  # copies of contexts, whose contents may be in use


cdef inline int context_hold() except -1:
    """Before a change: hold the contents that an interrupted change may still read."""
    if context_collected is not NULL and context_collected is context_running():
        contents_held.append(PyContext_CopyCurrent())
    return 0


cdef inline int context_let_go() except -1:
    """After a change: let go of what was held, where no collection runs. May run finalizers."""
    if PyList_GET_SIZE(contents_held) and context_collected is NULL:
        contents_held.clear()
    return 0


cdef object context_set(object variable, object value):
    """Set the variable, with no collection in between; return the token."""
    cdef int collected = collections_off()
    try:
        context_hold()
        token = PyContextVar_Set(variable, value)
    finally:
        collections_on(collected)
    context_let_go()
    return token


cdef int context_reset(object variable, object token) except -1:
    """Undo a ``context_set``, with no collection in between."""
    cdef int collected = collections_off()
    try:
        context_hold()
        PyContextVar_Reset(variable, token)
    finally:
        collections_on(collected)
    return context_let_go()


def _note_start(phase, info):
    """Of `gc.callbacks`, the first: note the context in which a collection starts.

    The callbacks of other code run within the collection too. So the one that notes its end is made
    the last of them: the interpreter is at the first then, and so passes none by.
    """
    if phase != "start":
        return
    context_collected_set(context_running())
    cdef list callbacks = gc.callbacks
    cdef Py_ssize_t n = len(callbacks)
    if n == 0 or callbacks[n - 1] is not _note_stop:
        if _note_stop in callbacks:
            callbacks.remove(_note_stop)
        callbacks.append(_note_stop)


def _note_stop(phase, info):
    """Of `gc.callbacks`, the last: note the end of a collection."""
    if phase == "stop":
        context_collected_set(NULL)


if COLLECTS_ANYWHERE:
    gc.callbacks.insert(0, _note_start)
    gc.callbacks.append(_note_stop)
