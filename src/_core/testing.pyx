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
    def salt(Namespace cache not None, uint64_t secret):
        """Let the hashes of keys be the same ones each time; the cache is new and empty."""
        cdef Core* core = &cache.store.core
        core.secret = secret
        core.salts = 1
        node_salt_locked(core, core.root)

    @staticmethod
    def hash(Namespace namespace not None, key):
        """The hash of the key there, as the table and the sketch have it."""
        return key_hash(namespace.node, key)

    @staticmethod
    def order(Namespace namespace not None):
        """The number of young entries, the keys in order with their marks, and the sketch as
        (lines, lines in use, epoch); without one: None."""
        cdef Core* core = &namespace.store.core
        cdef Node* node = namespace.node
        cdef uint32_t i = node.order.oldest
        listed = []
        while i != NONE:
            listed.append((<object>entry_at(&core.slab, i).key, entry_at(&core.slab, i).mark))
            i = entry_at(&core.slab, i).newer
        sketch = None
        if node.sketch != NULL:
            sketch = node.sketch.wanted, node.sketch.filled, node.sketch.epoch
        return node.young, listed, sketch

    @staticmethod
    def ledger(Namespace namespace not None):
        """What the ledger of the namespace notes: the part of keys that have ghosts, the evictions
        counted, and by name of tenant its entries, fair share, floor, pull, credit, and whether it
        is limited; None: it keeps no ledger."""
        cdef Node* node = namespace.node
        cdef Node* child = node.child
        if node.ledger == NULL:
            return None
        told = {}
        while child != NULL:
            told[<object>child.name] = (
                child.entries, account_fair_locked(node, child.account),
                account_floor_locked(node, child.account), child.account.pull,
                child.account.credit, bool(child.account.limited))
            child = child.next
        sample = node.ledger.ghosts.sample if node.ledger.ghosts != NULL else 0
        return sample, node.ledger.clock, told

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
    def lease_reading(double reading, int64_t ticks):
        """Take this for the last reading of the clock of leases, made so many ticks ago.

        After a negative number of ticks the counter is behind that reading, as one that was set
        back.
        """
        lease_note(reading, lease_counter() - <uint64_t>ticks)

    @staticmethod
    def namespaces_held(Namespace namespace not None):
        """How many namespaces the whole cache remembers, its root included."""
        return namespace.store.core.nodes_used - namespace.store.core.free_count
