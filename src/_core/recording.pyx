# Samples of the keys that are looked up: a listener that is passed over but for one of many events.
#
# While a recorder listens, each look-up takes the way of events. Without one, nothing is left.


@cython.final
cdef class Recorder:
    """A listener that keeps the place and the key of one of ``every`` look-ups, at random.

    It keeps at most ``most``, and calls ``on_end`` with the first of them past ``seconds``.
    """

    cdef readonly int64_t seen        # look-ups that came past
    cdef readonly list samples        # (kind, path, key)
    cdef object on_end
    cdef uint64_t state               # of the random numbers
    cdef int64_t every
    cdef int64_t left                 # look-ups to pass over before the next one is kept
    cdef Py_ssize_t most
    cdef double deadline

    def __init__(self, int64_t every, double seconds, Py_ssize_t most, on_end):
        if every < 1:
            raise ValueError(f"every: must be at least 1, got {every}")
        self.samples = []
        self.on_end = on_end
        self.every = every
        self.most = most
        self.deadline = clock_read() + seconds
        self.state = <uint64_t><size_t><PyObject*>self ^ <uint64_t>(self.deadline * 1e6)
        recorder_draw(self)

    def __call__(self, event):
        if clock_read() >= self.deadline:
            self.on_end()
        elif PyList_GET_SIZE(self.samples) < self.most:
            self.samples.append((event.kind, event.path, event.key))


cdef inline void recorder_draw(Recorder recorder) noexcept:
    """Choose the next look-up: on average `every` from here, so that no rhythm hides a key."""
    recorder.state ^= recorder.state << 13
    recorder.state ^= recorder.state >> 7
    recorder.state ^= recorder.state << 17
    recorder.left = <int64_t>(recorder.state % <uint64_t>(2 * recorder.every - 1))


cdef inline bint recorder_is_due(Recorder recorder) noexcept:
    """Count a look-up; whether it is one to be kept. Core.lock is held."""
    recorder.seen += 1
    if recorder.left > 0:
        recorder.left -= 1
        return False
    recorder_draw(recorder)
    return True
