# The lock of a cache, and loads and stores without it.

cdef extern from * nogil:
    """
    /* One lock a cache on a build without the GIL. With the GIL the lock does nothing, because no
       structure is ever half changed where the GIL could be released.

       A fork stops all threads where none is within a lock. But CPython hands a released lock to a
       waiting thread. If that thread has not run yet, the child has no such thread. So all locks
       are listed, and the child opens them. */
    #ifdef Py_GIL_DISABLED
    typedef struct flowcache_lock {
        PyMutex mutex;
        struct flowcache_lock *next;
        struct flowcache_lock **link;     /* the pointer to this */
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
    /* Loads without the lock, of a hint or of a value that one write sets whole. Without the GIL
       both sides are atomic. A decision by such a number is checked again with the lock. */
    #ifdef Py_GIL_DISABLED
    #define flowcache_load_flag(at) _Py_atomic_load_int_relaxed(at)
    #define flowcache_load_u32(at) _Py_atomic_load_uint32_relaxed(at)
    #define flowcache_load_u64(at) _Py_atomic_load_uint64_relaxed(at)
    #define flowcache_load_i64(at) _Py_atomic_load_int64_relaxed(at)
    #define flowcache_load_ptr(at) ((PyObject *)_Py_atomic_load_ptr_acquire(at))
    #define flowcache_store_ptr(at, value) _Py_atomic_store_ptr_release((at), (value))
    #define flowcache_count_up(at) ((void)_Py_atomic_add_int64((at), 1))
    #define flowcache_store_flag(at, value) _Py_atomic_store_int_relaxed((at), (value))
    #define flowcache_store_u32(at, value) _Py_atomic_store_uint32_relaxed((at), (value))
    #define flowcache_store_u64(at, value) _Py_atomic_store_uint64_relaxed((at), (value))
    #define flowcache_store_i64(at, value) _Py_atomic_store_int64_relaxed((at), (value))
    static inline double flowcache_load_double(double *at) {
        uint64_t bits = _Py_atomic_load_uint64_relaxed((uint64_t *)at);
        double value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }
    static inline void flowcache_store_double(double *at, double value) {
        uint64_t bits;
        memcpy(&bits, &value, sizeof(bits));
        _Py_atomic_store_uint64_relaxed((uint64_t *)at, bits);
    }
    #else
    #define flowcache_load_flag(at) (*(at))
    #define flowcache_load_u32(at) (*(at))
    #define flowcache_load_u64(at) (*(at))
    #define flowcache_load_i64(at) (*(at))
    #define flowcache_load_ptr(at) (*(at))
    #define flowcache_store_ptr(at, value) ((void)(*(at) = (value)))
    #define flowcache_count_up(at) ((void)(*(at) += 1))
    #define flowcache_load_double(at) (*(at))
    #define flowcache_store_flag(at, value) ((void)(*(at) = (value)))
    #define flowcache_store_u32(at, value) ((void)(*(at) = (value)))
    #define flowcache_store_u64(at, value) ((void)(*(at) = (value)))
    #define flowcache_store_i64(at, value) ((void)(*(at) = (value)))
    #define flowcache_store_double(at, value) ((void)(*(at) = (value)))
    #endif
    """
    bint relaxed_load_flag "flowcache_load_flag"(bint* at)
    uint32_t relaxed_load_u32 "flowcache_load_u32"(uint32_t* at)
    uint64_t relaxed_load_u64 "flowcache_load_u64"(uint64_t* at)
    int64_t relaxed_load_i64 "flowcache_load_i64"(int64_t* at)
    PyObject* acquire_load_ptr "flowcache_load_ptr"(PyObject** at)
    void release_store_ptr "flowcache_store_ptr"(PyObject** at, PyObject* value)
    void count_up "flowcache_count_up"(int64_t* at)
    double relaxed_load_double "flowcache_load_double"(double* at)
    void relaxed_store_flag "flowcache_store_flag"(bint* at, bint value)
    void relaxed_store_u32 "flowcache_store_u32"(uint32_t* at, uint32_t value)
    void relaxed_store_u64 "flowcache_store_u64"(uint64_t* at, uint64_t value)
    void relaxed_store_i64 "flowcache_store_i64"(int64_t* at, int64_t value)
    void relaxed_store_double "flowcache_store_double"(double* at, double value)
