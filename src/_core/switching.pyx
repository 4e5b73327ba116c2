# Switching a namespace off, with all below it: its entries are removed, and none is stored.


cdef void node_switch_locked(Node* node, bint off_above) noexcept:
    """Recompute the switches, here and below. Costs O(namespaces below)."""
    cdef Node* child = node.child
    relaxed_store_flag(&node.is_off, node.own_off or off_above)
    while child != NULL:
        node_switch_locked(child, node.is_off)
        child = child.next


cdef object enable(Store store, Node* node, object enabled):
    """Switch a namespace on or off. One above it that is off keeps it off."""
    cdef Core* core = &store.core
    cdef double now
    cdef bint off
    if not isinstance(enabled, bool):
        raise TypeError(f"enabled: must be a bool, got {type(enabled).__name__}")
    off = not enabled
    node_guard_closed(store)
    now = store_now(store)
    lock_acquire(&core.lock)
    try:
        if core_is_closed(core):
            raise closed_error()
        if node.own_off != off:
            node.own_off = off
            node.configured = True
            node_switch_locked(node, node.parent != NULL and node.parent.is_off)
        if node.is_off:
            clear_locked(store, node, now)
    finally:
        lock_release(&core.lock)
    if core_has_limbo(core):
        store_drain(store)
