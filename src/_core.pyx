# cython: language_level=3, binding=False, embedsignature=False, auto_pickle=False
# cython: autotestdict=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False, nonecheck=False
# cython: cdivision=True, optimize.use_switch=True, overflowcheck=False, profile=False
# cython: freethreading_compatible=True
# distutils: language=c
#
# flowcache._core: the compiled core.
#
# One extension made of included rooms, so that the compiler sees through all of them. Floor by
# floor, a room uses only those that stand above it in this list: tests/core/test_floors.py.
#
# structures: no Python object but the pointers that they carry
#   clock      the time
#   memory     large blocks
#   pages      regions of them, for the slab
#   lock       one lock a cache, and loads without it
#   entry      Entry, and the slab that entries live in
#   table      (namespace, key) -> entry
#   lru        one list a namespace, oldest to newest
#   heap       entries by deadline, children by deadline and by fullness
#   tags       (namespace, tag) -> entries
#   sketch     how often keys were stored, about
#   ghosts     what is left of entries that were evicted
#   accounts   what is noted of tenants that share by utility
# namespaces
#   arguments  checks of arguments
#   options    the options of a loading call, and what they mean for an entry
#   tree       the structs of a namespace (Node) and of a cache (Core); the tree; the idle
#   tinylfu    the order of a namespace's entries, LRU or TinyLFU; the entry that gives way
#   haunting   misses that more room would have turned into hits
#   ledger     the room that tenants lend each other, and the hits that they lose by it
#   fairness   the namespace that gives way
#   waiters    tasks that wait for a load
#   loads      running loads, and their fences
#   contexts   changes of context variables, and collections within them
#   current    the load that the calling code is part of
#   lease      the clock of a cache with a second tier
# one cache
#   store      Store, which owns a Core; keys and tags by name
#   settings   limits: their checks, and the effect of a change
#   recording  samples of the keys that are looked up
#   events     listeners
#   reclaim    entries that leave: limbo, debris, drops
#   expiring   entries that are due
#   evicting   making room
#   collector  the references that the collector is shown
# the verbs of a namespace
#   lookup, storing, removing, listing, fetching
#   leading    loads that compiled code leads
#   switching  a namespace off, and on again
#   aging      another TTL for an entry; soft invalidation: a TTL that ends now
#   matching   invalidation by a predicate
#   inspecting one key, tags, children: read without an effect on counters
#   advising   the hit rate that more room would give
#   check      every count recomputed
# objects of users
#   scopes     the current tenant
#   spares     views that were dropped, for the next ones
#   namespace  Namespace: a table of contents
#   awaitable  the result of afetch on a hit
#   fastcall   the hot calls, with their arguments parsed by hand
#   tenants    the namespaces of tenants below one; the calls of the current tenant's
#   cached     hits of cached functions
#   surveying  the counts of many namespaces, and the running loads, for metrics
#   tiered     what a second tier asks of the process's own half
#   testing    probes for tests and benches
#
# GLOSSARY
#
#   node        the core's struct of one namespace; a Namespace object is a view of a node
#   heap index  the position of an entry in its namespace's heap, or of a node in its parent's
#   grace       the seconds for which an entry is held past its TTL; stale_ok: `fetch` may serve it
#               then without being asked to
#   limbo       entries that have left every structure; the call drops their references at its end
#   debris      entries that no look-up can meet, whose memory comes back a little at a time
#   compact     to put a heap together again after many entries gave up their heap index
#   prefetcher  an index that goes ahead of a walk, and asks the processor for what it will touch
#   fence       to mark a running load, or a fill, so that its result is not stored
#   fill        what brings a value of the second tier into the process
#   lease       the time until which what lies in the tier too may be served from here
#   relaxed     loaded or stored without the lock: a hint, or a value of one word
#   victim      the entry that gives way
#
# INVARIANTS
#
# 1. No Python code runs while a structure is half changed. Hashing, weighing, the user's clock and
#    the checks of arguments come first; references are dropped, and listeners called, last. An
#    entry that is removed leaves every structure at once and waits in limbo, with its references,
#    until store_drain lets it go. Only a look-up can meet a user's __eq__, and only where two keys
#    are not both str. It then holds only a reference to the candidate, and starts again if that
#    part of the table has changed (store_find_by_eq_locked). No index survives such a moment.
#
# 2. The collector sees everything. store_traverse walks the slab, limbo included, without a lock or
#    a reference count. A bit an entry says whether its key or value can refer to anything at all.
#    Collections run inside allocations on older interpreters, so that a function that allocates
#    something the collector knows does so before it looks at the structures.
#
# 3. Ownership. Entry.key and Entry.value own one reference each, from store_put_locked to
#    store_drain. Node owns its name and its dictionaries; Tag owns its name. Namespace owns its
#    Store; nothing in the Store owns a Namespace but a running Load, which its end takes out.
#    Dropping the last view therefore frees a cache at once, without the collector.
#
# 4. Every allocation can fail. In store_put_locked all of them come before the first change. No
#    list comprehension makes its items: Cython 3.3 lets go of one twice if the list cannot grow.
#
# 5. Counts are kept, not recomputed. Node.entries, weight and pending count the namespace and all
#    below it. Counters count its own; parents keep those of forgotten namespaces. _check()
#    recomputes them all.
#
# 6. Cost follows what is touched. Heap keys are lower bounds (see heap), so that a hit, a removal
#    or a later deadline moves nothing in any heap.
#
# 7. A function whose name ends in _locked expects Core.lock, and runs no user code but through
#    store_find_by_eq_locked, which lets the lock go. With the GIL the lock is nothing. Without it,
#    no reference is dropped under the lock that could be the last one and run a finalizer. Fields
#    used without the lock go through relaxed loads and stores (see lock).
#
# 8. A load is stored only if nothing has fenced it. An invalidation marks the running loads that it
#    covers, under the lock and together with the change. Keyed writes look for the load before, for
#    that may run __eq__; one that has begun since is marked by its hash alone.

cimport cython
from cpython.dict cimport PyDict_DelItem, PyDict_GetItemWithError, PyDict_Items, PyDict_Next
from cpython.list cimport PyList_GET_SIZE, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_AsUnsignedLong
from cpython.object cimport Py_EQ, PyCallable_Check, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_Check, PyUnicode_Tailmatch

import gc
import os
from contextvars import Token
from functools import partial
from types import GenericAlias, TracebackType

from flowcache.errors import (
    CacheClosedError, ConfigurationError, EntryTooHeavyError, InvalidNamespaceError,
    InvalidTagError, NamespaceRequiredError, TenantNotSetError, TenantScopeWarning,
    TooManyLoadsError, WeigherError,
)
from flowcache.reports import shown

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    int PyList_SetSlice(object list, Py_ssize_t low, Py_ssize_t high, PyObject* items) except -1
    void PyErr_Clear()
    void Py_XDECREF(PyObject* o)
    void Py_XINCREF(PyObject* o)
    void PyErr_SetString(object kind, const char* message)
    bint Py_UNICODE_ISSPACE(Py_UCS4 character)

# The module of the Python half whose functions and types the core uses: see _connect.
cdef object face = None

include "_core/clock.pxd"
include "_core/memory.pxd"
include "_core/pages.pxd"
include "_core/lock.pxd"
include "_core/entry.pxd"
include "_core/table.pxd"
include "_core/lru.pxd"
include "_core/heap.pxd"
include "_core/tags.pxd"
include "_core/sketch.pxd"
include "_core/ghosts.pxd"
include "_core/accounts.pxd"

include "_core/arguments.pyx"
include "_core/options.pyx"
include "_core/tree.pyx"
include "_core/tinylfu.pyx"
include "_core/haunting.pyx"
include "_core/ledger.pyx"
include "_core/fairness.pyx"
include "_core/waiters.pyx"
include "_core/loads.pyx"
include "_core/contexts.pyx"
include "_core/current.pyx"
include "_core/lease.pyx"

include "_core/store.pyx"
include "_core/settings.pyx"
include "_core/recording.pyx"
include "_core/events.pyx"
include "_core/reclaim.pyx"
include "_core/expiring.pyx"
include "_core/evicting.pyx"
include "_core/collector.pyx"

include "_core/lookup.pyx"
include "_core/storing.pyx"
include "_core/removing.pyx"
include "_core/listing.pyx"
include "_core/fetching.pyx"
include "_core/leading.pyx"
include "_core/switching.pyx"
include "_core/aging.pyx"
include "_core/matching.pyx"
include "_core/inspecting.pyx"
include "_core/advising.pyx"
include "_core/check.pyx"

include "_core/scopes.pyx"
include "_core/spares.pxd"
include "_core/namespace.pyx"
include "_core/awaitable.pyx"
include "_core/fastcall.pyx"
include "_core/tenants.pyx"
include "_core/cached.pyx"
include "_core/surveying.pyx"
include "_core/tiered.pyx"
include "_core/testing.pyx"


def _connect(python_half not None):
    """Take the module of the Python half that the core calls. Called once, at import."""
    global face, loaded_type
    face = python_half
    kind = face.Loaded
    loaded_type = <PyObject*>kind


def _forked():
    """Open the locks that threads held in the parent process: here there is one thread."""
    global process_forks
    process_forks += 1
    locks_open()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
clock_read()                                  # the first reading chooses the clock, for all threads
patch_store(type_of(Store), <void*>store_traverse, <void*>store_clear)
patch_view(type_of(Namespace), <void*>view_dealloc)
patch_ready(type_of(Ready), ready_send)
enable_vectorcall(type_of(TenantCall), tenant_call_offset())
enable_vectorcall(type_of(Called), called_offset())
fastcall_install()
