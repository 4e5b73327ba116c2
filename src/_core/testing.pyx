# Probes of the core's inside for tests and benches: flowcache._core._testing.

class _testing:
    """Probes of a namespace, for tests and benches."""

    @staticmethod
    def slice(Namespace namespace not None, int at_once, int splits):
        """Set the number of entries that a call removes itself, and that a part of the table may
        hold.

        So that tests see with few entries what happens to many.
        """
        namespace.store.core.at_once = at_once
        namespace.store.core.table.splits = splits

    @staticmethod
    def seed(Namespace namespace not None, uint64_t seed):
        """Let the TTLs that ``jitter`` draws be the same ones each time."""
        namespace.store.core.draws = seed

    @staticmethod
    def parts(Namespace namespace not None):
        """How many parts the table is cut into."""
        cdef Table* table = &namespace.store.core.table
        cdef uint32_t p = 0, parts = 0
        while p < (<uint32_t>1) << table.bits:
            p += (<uint32_t>1) << (table.bits - table.parts[p].bits)
            parts += 1
        return parts

    @staticmethod
    def debris(Namespace namespace not None):
        """How many entries are out of reach and still hold their memory."""
        cdef Core* core = &namespace.store.core
        cdef Node* cut = core.debris
        cdef uint32_t debris = core.debris_count
        while cut != NULL:
            debris += cut.own
            cut = cut.next
        return debris

    @staticmethod
    def probe_length(Namespace namespace not None, key):
        """The number of the table's buckets that a look-up of the key examines at most."""
        cdef Core* core = &namespace.store.core
        cdef uint32_t hash = key_hash(namespace.node, key), b, tried = 1
        cdef Part* part = table_part(&core.table, hash)
        b = part_home(part, hash)
        while part.buckets[b].overflow and tried < part_most(part):
            b = part_next(part, hash, tried)
            tried += 1
        return tried

    @staticmethod
    def namespaces_held(Namespace namespace not None):
        """How many namespaces the whole cache remembers, its root included."""
        return namespace.store.core.nodes_used - namespace.store.core.free_count
