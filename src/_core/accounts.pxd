# Accounts: what a ledger notes of the tenants that share the room of a namespace by utility.
#
# The scheme is told in ledger. Here are its structs, its rings and its sums, which know a tenant as
# a member of heaps, by its share, and by the entries that it holds.

cdef struct Account:
    Member* tenant                # borrowed: the node that owns this, or the ledger's own node
    Account* next                 # the ring of those that are visited; NULL: it is not in it
    Account* previous
    Account* parked_next          # the ring of the parked; NULL: it is not in it
    Account* parked_previous
    double share
    double pull                   # by which its share counts where utility chooses
    double credit                 # hits that it may still lose to others
    double[2] near                # misses with a ghost in the next eighth, and quarter, of room
    double utility                # what it adds to Ledger.utility and Ledger.sizes
    double size
    uint64_t seen                 # the clock at its last visit
    uint32_t out                  # its evictions, by which ghosts tell how deep they lie
    uint32_t out_seen             # the same at its last visit
    bint limited                  # it would hold more if it could
    bint is_own                   # of the namespace's own entries, which count as one more child

cdef struct Ledger:               # of a namespace whose children are tenants
    Account own
    Account* cursor               # the next to be visited
    Account* parked               # those that hold no more than their floor, and are in no heap
    uint32_t visited              # accounts in the ring
    uint32_t limited
    uint32_t lenders              # tenants that may hold less than their fair share
    uint64_t clock                # evictions
    uint64_t due                  # how much of a visit is due
    int64_t held                  # by the limited
    double shares                 # of the limited
    double pulled                 # the same, each times its pull
    double utility                # of the limited: the sum of utility times size
    double sizes
    double max_loss               # hits that a tenant may lose, for each of its misses
    int64_t fitted                # the bound that the ghosts were made for
    Ghosts* ghosts                # owned; NULL until the first eviction
    Heap by_pull                  # tenants above their floor by -entries / (share * pull)

cdef enum:
    UNSTEADY = 1 << 20            # so many times smaller a sum is added up anew

cdef double GUARANTEED = 0.5      # the part of its fair share that a tenant keeps by default


cdef Account* account_new(Member* tenant) noexcept nogil:
    """The account of a new tenant, of share 1; NULL: memory is out."""
    cdef Account* account = <Account*>calloc(1, sizeof(Account))
    if account != NULL:
        account.tenant = tenant
        account.share = 1.0
        account.pull = 1.0
    return account


cdef Ledger* ledger_new(Member* node, double max_loss) noexcept nogil:
    """The ledger of a new namespace; NULL: memory is out."""
    cdef Ledger* ledger = <Ledger*>calloc(1, sizeof(Ledger))
    if ledger != NULL:
        ledger.own.tenant = node
        ledger.own.share = 1.0
        ledger.own.pull = 1.0
        ledger.own.is_own = True
        ledger.max_loss = max_loss
    return ledger


cdef inline void account_join(Ledger* ledger, Account* account) noexcept nogil:
    """Put an account into the ring of those that are visited, as the last of a round."""
    if account.next != NULL:
        return
    if ledger.cursor == NULL:
        account.next = account
        account.previous = account
        ledger.cursor = account
    else:
        account.next = ledger.cursor
        account.previous = ledger.cursor.previous
        account.previous.next = account
        account.next.previous = account
    ledger.visited += 1


cdef inline void account_leave(Ledger* ledger, Account* account) noexcept nogil:
    if account.next == NULL:
        return
    if ledger.cursor == account:
        ledger.cursor = account.next if account.next != account else NULL
    account.previous.next = account.next
    account.next.previous = account.previous
    account.next = NULL
    account.previous = NULL
    ledger.visited -= 1


cdef inline void account_park(Ledger* ledger, Account* account) noexcept nogil:
    """Put an account, which is in no heap, into the ring of the parked."""
    if account.parked_next != NULL:
        return
    if ledger.parked == NULL:
        account.parked_next = account
        account.parked_previous = account
        ledger.parked = account
    else:
        account.parked_next = ledger.parked
        account.parked_previous = ledger.parked.parked_previous
        account.parked_previous.parked_next = account
        account.parked_next.parked_previous = account


cdef inline void account_unpark(Ledger* ledger, Account* account) noexcept nogil:
    if account.parked_next == NULL:
        return
    if ledger.parked == account:
        ledger.parked = account.parked_next if account.parked_next != account else NULL
    account.parked_previous.parked_next = account.parked_next
    account.parked_next.parked_previous = account.parked_previous
    account.parked_next = NULL
    account.parked_previous = NULL


cdef inline void account_measure(Ledger* ledger, Account* account, double utility,
                                 double size) noexcept nogil:
    """Let an account add this to the sums of utility."""
    ledger.utility += utility * size - account.utility * account.size
    ledger.sizes += size - account.size
    account.utility = utility
    account.size = size


cdef inline void account_limit(Ledger* ledger, Account* account, int64_t held) noexcept nogil:
    """Count an account, of a tenant that holds so many entries, among the limited."""
    if account.limited:
        return
    account.limited = True
    ledger.limited += 1
    ledger.held += held
    ledger.shares += account.share
    ledger.pulled += account.share * account.pull
    account_join(ledger, account)


cdef void ledger_sum(Ledger* ledger) noexcept nogil:
    """Add the shares of the limited up anew. O(accounts visited)."""
    cdef Account* account = ledger.cursor
    cdef uint32_t _
    ledger.shares = 0
    ledger.pulled = 0
    for _ in range(ledger.visited):
        if account.limited:
            ledger.shares += account.share
            ledger.pulled += account.share * account.pull
        account = account.next


cdef inline void account_unlimit(Ledger* ledger, Account* account, int64_t held) noexcept nogil:
    if not account.limited:
        return
    account_measure(ledger, account, 0, 0)
    account.limited = False
    ledger.limited -= 1
    ledger.held -= held
    ledger.shares -= account.share
    ledger.pulled -= account.share * account.pull
    if ledger.limited == 0:
        ledger.shares = 0
        ledger.pulled = 0
        ledger.utility = 0
        ledger.sizes = 0
    elif ledger.shares * UNSTEADY < account.share:        # little, beside the errors of rounding
        ledger_sum(ledger)


cdef inline void account_end(Ledger* ledger, Account* account, int64_t held) noexcept nogil:
    """Take an account out of every ring and sum; it is in no heap."""
    account_unlimit(ledger, account, held)
    account_leave(ledger, account)
    account_unpark(ledger, account)


cdef inline void ledger_empty(Ledger* ledger) noexcept nogil:
    """Begin anew where no tenant holds anything, and none is in a heap any more."""
    while ledger.cursor != NULL:
        ledger.cursor.limited = False
        ledger.cursor.utility = 0
        ledger.cursor.size = 0
        account_leave(ledger, ledger.cursor)
    while ledger.parked != NULL:
        account_unpark(ledger, ledger.parked)
    ledger.limited = 0
    ledger.held = 0
    ledger.shares = 0
    ledger.pulled = 0
    ledger.utility = 0
    ledger.sizes = 0
    ledger.by_pull.n = 0


cdef inline void ledger_free(Ledger* ledger) noexcept nogil:
    """Free it; NULL is none."""
    if ledger != NULL:
        heap_free(&ledger.by_pull)
        ghosts_free(ledger.ghosts)
        free(ledger)
