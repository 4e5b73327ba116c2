# The awaitable result of afetch on a hit.

cdef extern from *:
    """
    static PyAsyncMethods flowcache_ready_async;
    static void flowcache_patch_ready(PyTypeObject *type,
                                      PySendResult (*send)(PyObject *, PyObject *, PyObject **)) {
        /* Cython fills tp_as_async for __await__; am_send has no spelling in it. */
        if (type->tp_as_async != NULL)
            flowcache_ready_async = *type->tp_as_async;
        flowcache_ready_async.am_send = send;
        type->tp_as_async = &flowcache_ready_async;
        PyType_Modified(type);
    }
    /* Sets the flag and tells what it was: of several threads one gets the value. */
    #ifdef Py_GIL_DISABLED
    #define flowcache_claim(flag) _Py_atomic_exchange_int((flag), 1)
    #else
    static inline int flowcache_claim(int *flag) {
        int before = *flag;
        *flag = 1;
        return before;
    }
    #endif
    """
    bint ready_claim "flowcache_claim"(int* flag)
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    void patch_ready "flowcache_patch_ready"(
        PyTypeObject* type, PySendResult (*send)(PyObject*, PyObject*, PyObject**) noexcept)


@cython.final
@cython.freelist(64)
@cython.trashcan(True)               # one may be the value of another
cdef class Ready:
    """What ``afetch`` returns on a hit: awaited once, it gives the value without suspending."""

    cdef object value                 # taken by the call that sets `spent`
    cdef int spent

    def __init__(self):
        raise TypeError("made by afetch()")

    def __repr__(self):
        return f"<flowcache afetch() hit at {<size_t><PyObject*>self:#x}>"

    @property
    def __name__(self):
        """What a task calls it."""
        return "afetch"

    @property
    def __qualname__(self):
        """What a task calls it."""
        return "afetch"

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Finish: raises ``StopIteration`` with the value, as a coroutine does at its end."""
        if value is not None and not self.spent:
            raise TypeError("can't send non-None value to a just-started afetch() result")
        raise _stop(ready_take(self))

    def throw(self, kind, value=None, traceback=None, /):
        """Raise the exception here: nothing waits inside that could handle it."""
        if traceback is not None and not isinstance(traceback, TracebackType):
            raise TypeError("throw() third argument must be a traceback object")
        if isinstance(kind, type) and issubclass(kind, BaseException):
            if not isinstance(value, kind):
                value = kind() if value is None else (
                    kind(*value) if isinstance(value, tuple) else kind(value))
        elif not isinstance(kind, BaseException):
            raise TypeError("exceptions must be classes or instances deriving from BaseException, "
                            f"not {type(kind).__name__}")
        elif value is not None:
            raise TypeError("instance exception may not have a separate value")
        else:
            value = kind
        ready_take(self)
        raise value if traceback is None else value.with_traceback(traceback)

    def close(self):
        """Drop the value; a later await is refused."""
        if not ready_claim(&self.spent):
            self.value = None


cdef object _stop(object value):
    # Made by hand: raising the class with a tuple or an exception as its argument would unpack it.
    stop = StopIteration()
    stop.value = value
    return stop


cdef object ready_take(Ready ready):
    if ready_claim(&ready.spent):
        raise RuntimeError("cannot reuse already awaited afetch() result")
    value = ready.value
    ready.value = None
    return value


cdef PySendResult ready_send(PyObject* me, PyObject* argument, PyObject** result) noexcept:
    cdef Ready ready = <Ready>me
    if ready_claim(&ready.spent):
        result[0] = NULL
        PyErr_SetString(RuntimeError, b"cannot reuse already awaited afetch() result")
        return PYGEN_ERROR
    result[0] = <PyObject*>ready.value
    Py_INCREF(<object>result[0])                  # the awaiter's
    ready.value = None
    return PYGEN_RETURN


cdef inline Ready ready_of(object value):
    cdef Ready ready = Ready.__new__(Ready)
    ready.value = value
    ready.spent = 0
    return ready
