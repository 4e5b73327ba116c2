# The lock of a cache, and what is read without it.

cdef extern from * nogil:
    """
    /* One lock a cache on a build without the GIL; with the GIL there is nothing to lock, because
       no structure is ever left half changed where the GIL could be let go.

       A fork stops all threads where none is within a lock. But CPython hands a lock that was
       waited for on to who waited, and that thread, if it has not come to run by then, is not in
       the child: all locks are listed, and the child opens them. */
    #ifdef Py_GIL_DISABLED
    typedef struct flowcache_lock {
        PyMutex mutex;
        struct flowcache_lock *next;
        struct flowcache_lock **link;     /* what points here */
    } flowcache_lock;
    static flowcache_lock *flowcache_locks;
    static PyMutex flowcache_locks_mutex;
    #define flowcache_acquire(lock) PyMutex_Lock(&(lock)->mutex)
    #define flowcache_release(lock) PyMutex_Unlock(&(lock)->mutex)
    static void flowcache_lock_list(flowcache_lock *lock) {
        PyMutex_Lock(&flowcache_locks_mutex);
        lock->next = flowcache_locks;
        lock->link = &flowcache_locks;
        if (lock->next != NULL)
            lock->next->link = &lock->next;
        flowcache_locks = lock;
        PyMutex_Unlock(&flowcache_locks_mutex);
    }
    static void flowcache_lock_unlist(flowcache_lock *lock) {
        PyMutex_Lock(&flowcache_locks_mutex);
        *lock->link = lock->next;
        if (lock->next != NULL)
            lock->next->link = lock->link;
        PyMutex_Unlock(&flowcache_locks_mutex);
    }
    static void flowcache_locks_open(void) {
        flowcache_lock *lock;
        memset(&flowcache_locks_mutex, 0, sizeof(PyMutex));
        for (lock = flowcache_locks; lock != NULL; lock = lock->next)
            memset(&lock->mutex, 0, sizeof(PyMutex));
    }
    #else
    typedef char flowcache_lock;
    #define flowcache_acquire(lock) ((void)(lock))
    #define flowcache_release(lock) ((void)(lock))
    #define flowcache_lock_list(lock) ((void)(lock))
    #define flowcache_lock_unlist(lock) ((void)(lock))
    #define flowcache_locks_open() ((void)0)
    #endif
    """
    ctypedef struct Lock "flowcache_lock":
        pass
    void lock_acquire "flowcache_acquire"(Lock* lock)
    void lock_release "flowcache_release"(Lock* lock)
    void lock_list "flowcache_lock_list"(Lock* lock)
    void lock_unlist "flowcache_lock_unlist"(Lock* lock)
    void locks_open "flowcache_locks_open"()

cdef extern from * nogil:
    """
    /* What is read without the lock, as a hint or for a value that one write sets whole. Without
       the GIL both sides say so; whoever decides by such a number looks again with the lock. */
    #ifdef Py_GIL_DISABLED
    #define flowcache_peek_flag(place) _Py_atomic_load_int_relaxed(place)
    #define flowcache_peek_u32(place) _Py_atomic_load_uint32_relaxed(place)
    #define flowcache_peek_u64(place) _Py_atomic_load_uint64_relaxed(place)
    #define flowcache_peek_i64(place) _Py_atomic_load_int64_relaxed(place)
    #define flowcache_peek_ptr(place) ((PyObject *)_Py_atomic_load_ptr_acquire(place))
    #define flowcache_poke_ptr(place, value) _Py_atomic_store_ptr_release((place), (value))
    #define flowcache_count_up(place) ((void)_Py_atomic_add_int64((place), 1))
    #define flowcache_poke_flag(place, value) _Py_atomic_store_int_relaxed((place), (value))
    #define flowcache_poke_u32(place, value) _Py_atomic_store_uint32_relaxed((place), (value))
    #define flowcache_poke_u64(place, value) _Py_atomic_store_uint64_relaxed((place), (value))
    #define flowcache_poke_i64(place, value) _Py_atomic_store_int64_relaxed((place), (value))
    static inline double flowcache_peek_double(double *place) {
        uint64_t bits = _Py_atomic_load_uint64_relaxed((uint64_t *)place);
        double value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }
    static inline void flowcache_poke_double(double *place, double value) {
        uint64_t bits;
        memcpy(&bits, &value, sizeof(bits));
        _Py_atomic_store_uint64_relaxed((uint64_t *)place, bits);
    }
    #else
    #define flowcache_peek_flag(place) (*(place))
    #define flowcache_peek_u32(place) (*(place))
    #define flowcache_peek_u64(place) (*(place))
    #define flowcache_peek_i64(place) (*(place))
    #define flowcache_peek_ptr(place) (*(place))
    #define flowcache_poke_ptr(place, value) ((void)(*(place) = (value)))
    #define flowcache_count_up(place) ((void)(*(place) += 1))
    #define flowcache_peek_double(place) (*(place))
    #define flowcache_poke_flag(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_u32(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_u64(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_i64(place, value) ((void)(*(place) = (value)))
    #define flowcache_poke_double(place, value) ((void)(*(place) = (value)))
    #endif
    """
    bint peek_flag "flowcache_peek_flag"(bint* place)
    uint32_t peek_u32 "flowcache_peek_u32"(uint32_t* place)
    uint64_t peek_u64 "flowcache_peek_u64"(uint64_t* place)
    int64_t peek_i64 "flowcache_peek_i64"(int64_t* place)
    PyObject* peek_ptr "flowcache_peek_ptr"(PyObject** place)
    void poke_ptr "flowcache_poke_ptr"(PyObject** place, PyObject* value)
    void count_up "flowcache_count_up"(int64_t* place)
    double peek_double "flowcache_peek_double"(double* place)
    void poke_flag "flowcache_poke_flag"(bint* place, bint value)
    void poke_u32 "flowcache_poke_u32"(uint32_t* place, uint32_t value)
    void poke_u64 "flowcache_poke_u64"(uint64_t* place, uint64_t value)
    void poke_i64 "flowcache_poke_i64"(int64_t* place, int64_t value)
    void poke_double "flowcache_poke_double"(double* place, double value)
