"""The ledger of tenants that share by utility, in plain Python, for reading and not for speed.

What the core keeps in heaps is looked for here. Sums of doubles are kept step by step as there, so
that no comparison differs by an error of rounding.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from harness.model_nodes import Node

MEASURED: Final = 16
ROUNDS: Final = 32
RETRY: Final = 1024
MOST_GHOSTS: Final = 16_384
MOST_SAMPLE: Final = 16
RAISED: Final = 17 / 16
LOWERED: Final = 15 / 16


class Account:
    """What a ledger notes of a tenant; of `own`: of the entries of the namespace itself."""

    def __init__(self, node: Node, *, is_own: bool = False) -> None:
        self.node = node
        self.is_own = is_own
        self.share = 1.0
        self.pull = 1.0
        self.credit = 0.0
        self.near = [0.0, 0.0]
        self.utility = self.size = 0.0
        self.seen = self.out = self.out_seen = 0
        self.limited = False


class Ghost:
    """What is left of an evicted entry."""

    def __init__(self, hashed: int, account: Account, deadline: float) -> None:
        self.hashed = hashed
        self.account = account
        self.out = account.out
        self.deadline: float = struct.unpack("f", struct.pack("f", deadline))[0]


def sample_of(entries: int) -> int:
    sample = 1
    while sample < MOST_SAMPLE and 2 * entries // sample > MOST_GHOSTS:
        sample *= 2
    return sample


def buckets_of(entries: int) -> int:
    buckets = 1
    while buckets < 2 * entries // sample_of(entries) // 4:
        buckets *= 2
    return buckets


class Ledger:
    """That of a namespace whose children are tenants."""

    def __init__(self, top: Node, max_loss: float, newcomer: Callable[[], Node | None]) -> None:
        self.top = top
        self.max_loss = max_loss
        self.newcomer = newcomer
        """The namespace whose new entry the model counts already, and the core does not yet."""
        self.own = Account(top, is_own=True)
        self.accounts: dict[str, Account] = {}
        self.ring: list[Account] = []
        self.clock = self.due = 0
        self.shares = self.pulled = self.utility = self.sizes = 0.0
        self.fitted = 0
        self.sample = self.buckets = 0
        self.begun = 0.0
        self.ghosts: dict[int, list[Ghost | None]] = {}

    # What is held, and what would be

    def account(self, node: Node) -> Account:
        """The account of a tenant."""
        return self.accounts.setdefault(node.name, Account(node))

    def tenant(self, node: Node) -> Account:
        """The account that a namespace counts toward."""
        if node is self.top:
            return self.own
        while node.parent is not self.top:
            assert node.parent is not None
            node = node.parent
        return self.account(node)

    def held(self, account: Account) -> int:
        newcomer = self.newcomer()
        new = newcomer is not None and self.tenant(newcomer) is account
        return (len(account.node.entries) if account.is_own else account.node.count()) - new

    def room(self) -> int:
        """What those do not hold that want no more."""
        most = self.top.max_entries
        assert most is not None
        total = self.top.count() - (self.newcomer() is not None)
        return most - total + sum(self.held(one) for one in self.ring if one.limited)

    def fair(self, account: Account) -> float:
        if self.top.max_entries is None or not any(one.limited for one in self.ring):
            return math.inf
        fair = self.room() * account.share / self.shares
        if not account.is_own and account.node.max_entries is not None:
            fair = min(fair, account.node.max_entries)
        return fair

    def most_credit(self, fair: float) -> float:
        return max(4.0 * self.sample, fair / 4)

    def part(self, account: Account) -> float:
        """The floor, without regard to a reservation."""
        fair = self.fair(account)
        if account.is_own or not self.sample or math.isinf(fair) or account.credit <= 0:
            return fair
        if fair < MEASURED * self.sample:
            return fair
        part = min(account.credit / self.most_credit(fair), 1)
        return fair * (1 - (1 - account.node.guaranteed) * part)

    def floor(self, account: Account) -> float:
        return max(account.node.reserved, self.part(account))

    def ratio(self, account: Account, extra: int = 0) -> float:
        return (self.held(account) + extra) / (account.share * account.pull)

    # The victim

    def victim(
        self, storing: Node | None, fair: Node, below: Callable[[Node, Node | None], Node | None]
    ) -> Node:
        """The namespace that gives way; `fair`: the one that would by fair shares.

        `below(tenant, storing)` chooses in a tenant by fair shares.
        """
        extra = int(storing is not None)
        path = None
        own = self.held(self.own)
        own_floor = self.part(self.own)
        if storing is self.top:
            own = own + extra if own else 0
        elif storing is not None:
            path = self.tenant(storing)
            path = path if self.held(path) else None
        first = None if fair is self.top else self.tenant(fair)
        left = [self.account(child) for child in self.top.children.values()]
        while True:
            best, most = None, -1.0
            if path is not None and self.held(path) + extra > self.part(path):
                best, most = path, self.ratio(path, extra)
            if own > own_floor and own > most:
                best, most = self.own, float(own)
            if first is not None and first is not path:
                ratio = self.ratio(first)
                if ratio > most and self.held(first) > self.floor(first):
                    best, most = first, ratio
            above = [one for one in left if self.held(one) > self.floor(one)]
            fullest = max(above, key=self.ratio, default=None)
            if fullest is not None and fullest is not path and self.ratio(fullest) > most:
                best = fullest
            if best is None or best is first:
                return fair
            if best is self.own:
                return self.top
            found = below(best.node, storing if best is path else None)
            if found is not None:
                return found
            if best is path:
                path = None
            left = [one for one in left if one is not best]

    # What happens

    def limit(self, account: Account) -> None:
        if account.limited:
            return
        account.limited = True
        self.shares += account.share
        self.pulled += account.share * account.pull
        if account not in self.ring:
            self.ring.append(account)

    def unlimit(self, account: Account) -> None:
        if not account.limited:
            return
        self.measure(account, 0, 0)
        account.limited = False
        self.shares -= account.share
        self.pulled -= account.share * account.pull
        if not any(one.limited for one in self.ring):
            self.shares = self.pulled = self.utility = self.sizes = 0.0

    def measure(self, account: Account, utility: float, size: float) -> None:
        self.utility += utility * size - account.utility * account.size
        self.sizes += size - account.size
        account.utility, account.size = utility, size

    def fit(self, now: float) -> None:
        most = self.top.max_entries
        assert most is not None
        self.fitted = most
        wanted = buckets_of(most) * sample_of(most)
        if self.sample and wanted <= self.buckets * self.sample <= 2 * wanted:
            return
        self.sample, self.buckets = sample_of(most), buckets_of(most)
        self.begun, self.ghosts = now, {}

    def bucket(self, hashed: int) -> list[Ghost | None]:
        number = hashed // self.sample & (self.buckets - 1)
        return self.ghosts.setdefault(number, [None] * 4)

    def slot(self, hashed: int, account: Account) -> int:
        """The place in its bucket for a ghost: its own, a free one, or the deepest's."""
        bucket = self.bucket(hashed)
        for place, ghost in enumerate(bucket):
            if ghost is not None and ghost.hashed == hashed and ghost.account is account:
                return place
        chosen, deepest = 0, -1.0
        for place, ghost in enumerate(bucket):
            if ghost is None:
                return place
            owner = ghost.account
            depth = (owner.out - ghost.out) / max(self.held(owner), self.fair(owner), 1)
            if depth > deepest:
                chosen, deepest = place, depth
        return chosen

    def evict(self, victim: Node, hashed: int, deadline: float, now: float) -> None:
        """Note an eviction, before it takes place."""
        account = self.tenant(victim)
        most = self.top.max_entries
        assert most is not None
        if self.fitted != most or (not self.sample and self.clock % RETRY == 0):
            self.fit(now)
        account.out += 1
        self.clock += 1
        self.limit(account)
        if not account.is_own and hashed % self.sample == 0:
            ghost = Ghost(hashed, account, deadline - self.begun)
            self.bucket(hashed)[self.slot(hashed, account)] = ghost
        self.due += len(self.ring)
        turn = max(most // ROUNDS, 1)
        if self.due >= turn:
            self.due = min(self.due - turn, turn)
            visited = self.ring.pop(0)
            self.ring.append(visited)
            self.visit(visited)

    def set_pull(self, account: Account, pull: float) -> None:
        if account.limited:
            self.pulled += account.share * (pull - account.pull)
        account.pull = pull

    def visit(self, account: Account) -> None:
        held, fair, pull = self.held(account), self.fair(account), account.pull
        target = 0.0
        if account.limited:
            target = pull * account.share / self.pulled * self.room()
        lends = account.limited and pull < 1 and held >= 0.9 * target
        if not (account.out != account.out_seen or held >= fair or lends):
            self.unlimit(account)
            pull += (1 - pull) / 4
            if abs(pull - 1) < 0.0625:
                pull = 1.0
                self.ring.remove(account)
            if not account.is_own:
                self.set_pull(account, pull)
            return
        account.out_seen = account.out
        self.limit(account)
        if account.is_own:
            return
        if all(child.guaranteed == 1 for child in self.top.children.values()):
            self.set_pull(account, 1.0)
            return
        near = account.near
        utility = max(near[0] * 8, (near[0] + near[1]) * 4) / held if held else 0.0
        self.measure(account, utility, float(held))
        mean = self.utility / self.sizes if self.sizes > 0 else 0.0
        if utility > 1.1 * mean and (held >= 0.9 * target or target < fair):
            pull *= RAISED
        elif 1.1 * utility < mean and target > self.floor(account):
            pull *= LOWERED
        pull *= min(max(self.shares / self.pulled, 0.99), 1.01)
        self.set_pull(account, min(max(pull, 1e-6), 1e6))
        assert self.top.max_entries is not None
        faded = math.exp2(-(self.clock - account.seen) / self.top.max_entries)
        account.near = [one * faded for one in near]
        account.seen = self.clock

    def miss(self, node: Node, hashed: int, now: float) -> bool:
        """Note a miss in a namespace; whether it is a lost hit."""
        account = self.tenant(node)
        if account.is_own:
            return False
        fair, held = self.fair(account), self.held(account)
        if math.isinf(fair):
            account.credit += self.max_loss * (account.out == 0)
            return False
        if not self.sample:
            return False
        if hashed % self.sample == 0:
            bucket = self.bucket(hashed)
            for place, ghost in enumerate(bucket):
                if ghost is None or ghost.hashed != hashed or ghost.account is not account:
                    continue
                bucket[place] = None
                depth = account.out - ghost.out
                if ghost.deadline > now - self.begun:
                    if depth * 8 <= held:
                        account.near[0] += self.sample
                    elif depth * 4 <= held:
                        account.near[1] += self.sample
                    if held < fair and held + depth <= fair:
                        account.credit = min(account.credit, self.most_credit(fair)) - self.sample
                        return True
                break
        account.credit = min(account.credit + self.max_loss, self.most_credit(fair))
        return False

    def clear(self, node: Node) -> None:
        """Note that a tenant is cleared."""
        if self.top.max_entries is not None:
            self.account(node).out += min(2 * self.top.max_entries, 1 << 30)

    def told(self) -> dict[str, Any]:
        """In the form of the probe of the core."""
        return {
            name: (
                self.held(one),
                self.fair(one),
                self.floor(one),
                one.pull,
                one.credit,
                one.limited,
            )
            for name in self.top.children
            for one in [self.account(self.top.children[name])]
        }
