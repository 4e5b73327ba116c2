# The tasks that wait for a load, and the event loop that runs them.

cdef extern from "Python.h":
    list PyDict_Keys(dict several)
    PyObject* PyImport_GetModuleDict()

cdef str ASYNCIO = "asyncio"


cdef inline object asked_of(str name, str attribute):
    """The result of a function of a module; None if the module is not, or only partly, imported."""
    cdef PyObject* module = PyDict_GetItemWithError(<object>PyImport_GetModuleDict(), name)
    if module == NULL:
        return None
    ask = getattr(<object>module, attribute, None)
    return None if ask is None else ask()


cdef object running_loop():
    """The event loop that runs on this thread, or None."""
    return asked_of(ASYNCIO, "_get_running_loop")


@cython.final
cdef class TaskWaiter:
    """A task that is suspended on a future of its own loop: no loop sees another's future."""

    cdef readonly object loop
    cdef readonly object future       # True: woken; False: it waited long enough

    def __init__(self, loop not None):
        self.loop = loop
        self.future = loop.create_future()

    def wake(self):
        """Let the task go on, if it still waits; on its loop's own thread."""
        if not self.future.done():
            self.future.set_result(True)

    def expire(self):
        """Let the task go on without an outcome."""
        if not self.future.done():
            self.future.set_result(False)


cdef int waiters_wake(dict waiters) except -1:
    """Wake all waiters of a load, and empty the dict."""
    cdef list waiting = PyDict_Keys(waiters)      # in one step
    # Mostly the task of the call that leads the load.
    if (PyList_GET_SIZE(waiting) == 1 and type(waiting[0]) is TaskWaiter
            and (<TaskWaiter>waiting[0]).loop is running_loop()):
        (<TaskWaiter>waiting[0]).wake()
        waiters.clear()
    else:
        face.wake(waiters)
    return 0
