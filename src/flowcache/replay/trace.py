"""A request log in columns, small enough for millions of requests."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

READ: Final = 0
SET: Final = 1
ADD: Final = 2
REPLACE: Final = 3
DELETE: Final = 4

# Names as memcached, Redis and HTTP logs write them, lower case.
OPERATIONS: Final[dict[str, int]] = {
    "get": READ,
    "gets": READ,
    "read": READ,
    "fetch": READ,
    "set": SET,
    "write": SET,
    "put": SET,
    "add": ADD,
    "cas": REPLACE,
    "replace": REPLACE,
    "append": REPLACE,
    "prepend": REPLACE,
    "incr": REPLACE,
    "decr": REPLACE,
    "delete": DELETE,
    "del": DELETE,
}

NO_TTL: Final = 0.0
ONE_TENANT: Final = "all"


@dataclass(slots=True)
class Trace:
    """Requests in order, one array a column; a column that the log lacks is None.

    A key is a number, the same for the same key of the same tenant, so that two tenants' equal keys
    count as two. Times are seconds and never fall. A TTL of 0 means that the request bore none.
    """

    keys: array[int]
    tenants: array[int] | None
    operations: bytearray | None
    times: array[float] | None
    sizes: array[int] | None
    ttls: array[float] | None
    tenant_names: list[str]
    distinct_keys: int
    late: int = 0
    skipped: int = 0
    first_skipped: str = ""

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.keys)


@dataclass(slots=True)
class TraceBuilder:
    """Collects requests one by one into a Trace."""

    with_tenants: bool = False
    with_operations: bool = False
    with_times: bool = False
    with_sizes: bool = False
    with_ttls: bool = False
    skipped: int = 0
    first_skipped: str = ""
    _keys: array[int] = field(default_factory=lambda: array("q"))
    _tenants: array[int] = field(default_factory=lambda: array("q"))
    _operations: bytearray = field(default_factory=bytearray)
    _times: array[float] = field(default_factory=lambda: array("d"))
    _sizes: array[int] = field(default_factory=lambda: array("q"))
    _ttls: array[float] = field(default_factory=lambda: array("d"))
    _key_numbers: dict[object, int] = field(default_factory=dict)
    _tenant_numbers: dict[str, int] = field(default_factory=dict)
    _known_sizes: dict[int, int] = field(default_factory=dict)
    _known_ttls: dict[int, float] = field(default_factory=dict)

    def add(
        self,
        key: object,
        tenant: str = ONE_TENANT,
        operation: int = READ,
        time: float = 0.0,
        size: int = 0,
        ttl: float = NO_TTL,
        overhead: int = 0,
    ) -> None:
        """Append one request, no older than the one before it.

        A read tells neither the size nor the TTL of its value. So a read without them takes those
        that the key was last seen with, and a miss fills the cache as the application did.
        `overhead` (bytes, such as the key's own) is added to the size that results.
        """
        if self.with_tenants:
            tenant_number = self._tenant_numbers.setdefault(tenant, len(self._tenant_numbers))
            self._tenants.append(tenant_number)
            key = (tenant_number, key)
        number = self._key_numbers.setdefault(key, len(self._key_numbers))
        self._keys.append(number)
        if self.with_operations:
            self._operations.append(operation)
        if self.with_times:
            self._times.append(time)
        if self.with_sizes:
            if size:
                self._known_sizes[number] = size
            else:
                size = self._known_sizes.get(number, 0)
            self._sizes.append(size + overhead)
        if self.with_ttls:
            if ttl:
                self._known_ttls[number] = ttl
            elif operation == READ:
                ttl = self._known_ttls.get(number, NO_TTL)
            self._ttls.append(ttl)

    def add_keys(self, keys: array[int]) -> None:
        """Append one read for each key; for logs of keys alone."""
        numbers = self._key_numbers
        self._keys.extend([numbers.setdefault(key, len(numbers)) for key in keys])

    def skip(self, reason: str) -> None:
        """Count a malformed line; the first one's reason is kept for the report."""
        self.skipped += 1
        self.first_skipped = self.first_skipped or reason

    def finish(self, late: int = 0) -> Trace:
        """Return the trace; `late` requests were older than one before them."""
        return Trace(
            keys=self._keys,
            tenants=self._tenants if self.with_tenants else None,
            operations=self._operations if self.with_operations else None,
            times=self._times if self.with_times else None,
            sizes=self._sizes if self.with_sizes else None,
            ttls=self._ttls if self.with_ttls else None,
            tenant_names=list(self._tenant_numbers) if self.with_tenants else [ONE_TENANT],
            distinct_keys=len(self._key_numbers),
            late=late,
            skipped=self.skipped,
            first_skipped=self.first_skipped,
        )
