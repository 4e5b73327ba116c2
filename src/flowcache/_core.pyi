"""The compiled core, as checkers and editors see it."""

from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    MutableMapping,
    ValuesView,
)
from collections.abc import Mapping as AnyMapping
from contextvars import Token
from datetime import timedelta
from types import GenericAlias, MethodType, ModuleType, TracebackType
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    final,
    overload,
    type_check_only,
)

from .events import Event, Listener
from .inspection import Children, Inspection
from .limits import Limits
from .loading.load import Outcome
from .loading.options import Loaded
from .stats import Stats
from .wrapping import Cached, CachedClassMethod, Decorator

_D = TypeVar("_D")
_K = TypeVar("_K", bound=Hashable)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")
_T = TypeVar("_T")
_V = TypeVar("_V")
_V_co = TypeVar("_V_co", covariant=True)

_Seconds: TypeAlias = float | timedelta
_Tags: TypeAlias = str | Iterable[str]
_TTL: TypeAlias = _Seconds | Callable[[Any], _Seconds | None] | None
_Errors: TypeAlias = (
    type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object] | None
)
_Wait: TypeAlias = Literal["fleet"] | None

@final
class _Unset:
    def __reduce__(self) -> str: ...

@final
class _Missing:
    def __reduce__(self) -> str: ...

UNSET: Final[_Unset]
MISSING: Final[_Missing]
KINDS: Final[tuple[str, ...]]
CAUSES: Final[tuple[str, ...]]

@type_check_only
class _Settings(TypedDict, total=False):
    default_ttl: _Seconds | None
    max_entries: int | None
    max_weight: int | None
    max_pending: int | None
    reserved: int
    share: float
    tiered: bool
    child_limits: Limits | None
    eviction: Literal["lru", "tinylfu"]

@type_check_only
class _Storing(TypedDict, total=False):
    ttl: _TTL
    tags: _Tags
    stale: _Seconds | bool | None
    sliding: _Seconds | None
    jitter: float | None

@type_check_only
class _Setting(_Storing, total=False):
    wait: _Wait

@type_check_only
class _Loading(_Storing, Generic[_V], total=False):
    stale_if_error: _Seconds | None
    fallback_on: _Errors
    refresh_ahead: float | None
    store_if: Callable[[_V], object] | None
    timeout: _Seconds | None

# `tags` may be a callable of the arguments, so it cannot be inherited.
@type_check_only
class _Wrapping(TypedDict, total=False):
    key: Hashable
    typed: bool
    bind: bool
    tenant: str | None
    path: Callable[[str], str | Iterable[str]] | None
    tags: _Tags | Callable[..., _Tags]
    ttl: _TTL
    stale: _Seconds | bool | None
    sliding: _Seconds | None
    jitter: float | None
    stale_if_error: _Seconds | None
    fallback_on: _Errors
    refresh_ahead: float | None
    store_if: Callable[[Any], object] | None
    timeout: _Seconds | None

@type_check_only
class _Pairs(Protocol[_V_co]):
    def keys(self) -> Iterable[Any]: ...
    def __getitem__(self, key: Any, /) -> _V_co: ...

@final
class Scope: ...

class TenantBlock:
    """A block of code with a tenant, or without one."""

    def __init__(self, tenant: object = ..., /) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class TenantToken:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    MISSING: Final[object]
    @property
    def var(self) -> TenantVariable: ...
    @property
    def old_value(self) -> Any: ...

@final
class TenantVariable:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def name(self) -> str: ...
    @overload
    def get(self) -> str: ...
    @overload
    def get(self, default: _T, /) -> str | _T: ...
    def set(self, tenant: str, /) -> TenantToken: ...
    def reset(self, token: TenantToken, /) -> None: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: object, /) -> Self: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

current_tenant: Final[TenantVariable]

def duration(value: object, name: str, allow_none: bool = False) -> float: ...
def listed_keys(keys: Iterable[_K]) -> list[_K]: ...
def check_name(name: object, argument: str = "name") -> str: ...
def check_settings(settings: AnyMapping[str, object]) -> None: ...

class Store:
    backs_off: bool
    around_load: Any
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def clock(self) -> Callable[[], float] | None: ...
    @property
    def weigher(self) -> Callable[[Any, Any], int] | None: ...
    @property
    def tier(self) -> Any: ...
    @property
    def name(self) -> str: ...

# Registered as a MutableMapping; where a call tells more than that asks for, it is no override.
class Namespace(MutableMapping[Any, _V]):  # pyright: ignore[reportIncompatibleMethodOverride]
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    @property
    def path(self) -> tuple[str, ...]: ...
    @property
    def name(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __sizeof__(self) -> int: ...
    def __copy__(self) -> Self: ...
    def __deepcopy__(self, memo: object, /) -> Self: ...
    def namespaces(self) -> Iterator[str]: ...
    def configure(self, **settings: Unpack[_Settings]) -> None: ...
    def namespace(self, *names: str, **settings: Unpack[_Settings]) -> Namespace[_V]: ...
    def for_current_tenant(
        self, path: Callable[[str], str | Iterable[str]] | None = None, /
    ) -> Namespace[_V]: ...
    def subscribe(
        self, listener: Listener, /, kinds: str | Iterable[str] | None = None
    ) -> Callable[[], None]: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def enabled(self) -> bool: ...
    @enabled.setter
    def enabled(self, enabled: bool, /) -> None: ...
    @property
    def maxsize(self) -> int | None: ...
    @property
    def currsize(self) -> int: ...
    def stats(self) -> Stats: ...
    def reset_stats(self) -> None: ...

    # One key.
    @overload
    def get(self, key: Hashable, /, default: None = None) -> _V | None: ...
    @overload
    def get(self, key: Hashable, /, default: _V | _D) -> _V | _D: ...
    @overload
    def peek(self, key: Hashable, /, default: None = None) -> _V | None: ...
    @overload
    def peek(self, key: Hashable, /, default: _V | _D) -> _V | _D: ...
    def set(self, key: Hashable, value: _V, /, **options: Unpack[_Setting]) -> None: ...
    def add(self, key: Hashable, value: _V, /, **options: Unpack[_Storing]) -> bool: ...
    def delete(self, key: Hashable, /, *, wait: _Wait = None) -> bool: ...
    @overload
    def pop(self, key: Hashable, /) -> _V: ...
    @overload
    def pop(self, key: Hashable, /, default: _V | _D) -> _V | _D: ...
    def popitem(self) -> tuple[Any, _V]: ...
    def touch(self, key: Hashable, /, ttl: _Seconds | None = ...) -> bool: ...
    def ttl(self, key: Hashable, /) -> float | None: ...
    def incr(
        self,
        key: Hashable,
        /,
        delta: int = 1,
        *,
        default: int = 0,
        ttl: _Seconds | None = ...,
    ) -> int: ...

    # As a mutable mapping.
    def __getitem__(self, key: Hashable, /) -> _V: ...
    def __setitem__(self, key: Hashable, value: _V, /) -> None: ...
    def __delitem__(self, key: Hashable, /) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def keys(self) -> KeysView[Any]: ...
    def values(self) -> ValuesView[_V]: ...
    def items(self) -> ItemsView[Any, _V]: ...
    def _listed(self) -> tuple[list[Any], list[_V]]: ...
    @overload
    def setdefault(
        self: Namespace[_D | None], key: Hashable, /, default: None = None
    ) -> _D | None: ...
    @overload
    def setdefault(self, key: Hashable, /, default: _V) -> _V: ...
    def update(
        self, other: _Pairs[_V] | Iterable[tuple[Hashable, _V]] = (), /, **more: _V
    ) -> None: ...

    # Many keys.
    def get_many(self, keys: Iterable[_K], /) -> dict[_K, _V]: ...
    def set_many(
        self,
        mapping: _Pairs[_V] | Iterable[tuple[Hashable, _V]],
        /,
        **options: Unpack[_Storing],
    ) -> None: ...
    def delete_many(self, keys: Iterable[Hashable], /) -> int: ...
    def clear(self, *, wait: _Wait = None) -> int: ...  # type: ignore[override]
    def invalidate_tag(self, tag: str, /, *, wait: _Wait = None) -> int: ...
    def invalidate_tags(
        self, tags: _Tags, /, *, match: Literal["any", "all"] = "any", wait: _Wait = None
    ) -> int: ...
    def invalidate_prefix(self, prefix: str, /, *, wait: _Wait = None) -> int: ...
    def invalidate_where(self, predicate: Callable[[Any, _V], object], /) -> int: ...
    def expire(self, key: Hashable, /) -> bool: ...
    def expire_tag(self, tag: str, /) -> int: ...

    # Looks that count nowhere.
    def inspect(self, key: Hashable, /) -> Inspection | None: ...
    def tags(self) -> dict[str, int]: ...
    def children(self, *, top: int = 50, by: str = "entries") -> Children: ...

    # The awaitable twins.
    @overload
    async def aget(self, key: Hashable, /, default: None = None) -> _V | None: ...
    @overload
    async def aget(self, key: Hashable, /, default: _V | _D) -> _V | _D: ...
    async def aset(
        self,
        key: Hashable,
        value: _V,
        /,
        *,
        ttl: _Seconds | None = ...,
        tags: _Tags = (),
        stale: _Seconds | bool | None = None,
        sliding: _Seconds | None = None,
        jitter: float | None = None,
        wait: _Wait = None,
    ) -> None: ...
    async def aadd(
        self,
        key: Hashable,
        value: _V,
        /,
        *,
        ttl: _Seconds | None = ...,
        tags: _Tags = (),
        stale: _Seconds | bool | None = None,
        sliding: _Seconds | None = None,
        jitter: float | None = None,
    ) -> bool: ...
    async def adelete(self, key: Hashable, /, *, wait: _Wait = None) -> bool: ...
    @overload
    async def apop(self, key: Hashable, /) -> _V: ...
    @overload
    async def apop(self, key: Hashable, /, default: _V | _D) -> _V | _D: ...
    async def atouch(self, key: Hashable, /, ttl: _Seconds | None = ...) -> bool: ...
    async def attl(self, key: Hashable, /) -> float | None: ...
    async def aincr(
        self,
        key: Hashable,
        /,
        delta: int = 1,
        *,
        default: int = 0,
        ttl: _Seconds | None = ...,
    ) -> int: ...
    @overload
    async def asetdefault(
        self: Namespace[_D | None], key: Hashable, /, default: None = None
    ) -> _D | None: ...
    @overload
    async def asetdefault(self, key: Hashable, /, default: _V) -> _V: ...
    async def aget_many(self, keys: Iterable[_K], /) -> dict[_K, _V]: ...
    async def aset_many(
        self,
        mapping: _Pairs[_V] | Iterable[tuple[Hashable, _V]],
        /,
        *,
        ttl: _Seconds | None = ...,
        tags: _Tags = (),
        stale: _Seconds | bool | None = None,
        sliding: _Seconds | None = None,
        jitter: float | None = None,
    ) -> None: ...
    async def adelete_many(self, keys: Iterable[Hashable], /) -> int: ...
    async def aclear(self, /, *, wait: _Wait = None) -> int: ...
    async def ainvalidate_tag(self, tag: str, /, *, wait: _Wait = None) -> int: ...
    async def ainvalidate_tags(
        self, tags: _Tags, /, *, match: Literal["any", "all"] = "any", wait: _Wait = None
    ) -> int: ...
    async def ainvalidate_prefix(self, prefix: str, /, *, wait: _Wait = None) -> int: ...
    async def aexpire(self, key: Hashable, /) -> bool: ...
    async def aexpire_tag(self, tag: str, /) -> int: ...

    # Loading.

    # A loader made with `async def` comes first: its result is awaitable, whatever V is.
    @overload
    def fetch(
        self,
        key: Hashable,
        loader: Callable[[], Coroutine[Any, Any, _V | Loaded[_V]]],
        /,
        *,
        pass_old: Literal[False] = False,
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def fetch(
        self,
        key: Hashable,
        loader: Callable[[], _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[False] = False,
        **options: Unpack[_Loading[_V]],
    ) -> _V: ...
    @overload
    def fetch(
        self,
        key: Hashable,
        loader: Callable[[Any], Coroutine[Any, Any, _V | Loaded[_V]]],
        /,
        *,
        pass_old: Literal[True],
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def fetch(
        self,
        key: Hashable,
        loader: Callable[[Any], _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[True],
        **options: Unpack[_Loading[_V]],
    ) -> _V: ...
    @overload
    def afetch(
        self,
        key: Hashable,
        loader: Callable[[], Awaitable[_V | Loaded[_V]] | _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[False] = False,
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def afetch(
        self,
        key: Hashable,
        loader: Callable[[Any], Awaitable[_V | Loaded[_V]] | _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[True],
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def refresh(
        self,
        key: Hashable,
        loader: Callable[[], Coroutine[Any, Any, _V | Loaded[_V]]],
        /,
        *,
        pass_old: Literal[False] = False,
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def refresh(
        self,
        key: Hashable,
        loader: Callable[[], _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[False] = False,
        **options: Unpack[_Loading[_V]],
    ) -> _V: ...
    @overload
    def refresh(
        self,
        key: Hashable,
        loader: Callable[[Any], Coroutine[Any, Any, _V | Loaded[_V]]],
        /,
        *,
        pass_old: Literal[True],
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def refresh(
        self,
        key: Hashable,
        loader: Callable[[Any], _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[True],
        **options: Unpack[_Loading[_V]],
    ) -> _V: ...
    @overload
    def arefresh(
        self,
        key: Hashable,
        loader: Callable[[], Awaitable[_V | Loaded[_V]] | _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[False] = False,
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def arefresh(
        self,
        key: Hashable,
        loader: Callable[[Any], Awaitable[_V | Loaded[_V]] | _V | Loaded[_V]],
        /,
        *,
        pass_old: Literal[True],
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, _V]: ...
    @overload
    def fetch_many(
        self,
        keys: Iterable[_K],
        loader: Callable[[list[_K]], Coroutine[Any, Any, AnyMapping[_K, _V | Loaded[_V]]]],
        /,
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, dict[_K, _V]]: ...
    @overload
    def fetch_many(
        self,
        keys: Iterable[_K],
        loader: Callable[[list[_K]], AnyMapping[_K, _V | Loaded[_V]]],
        /,
        **options: Unpack[_Loading[_V]],
    ) -> dict[_K, _V]: ...
    def afetch_many(
        self,
        keys: Iterable[_K],
        loader: Callable[
            [list[_K]],
            Awaitable[AnyMapping[_K, _V | Loaded[_V]]] | AnyMapping[_K, _V | Loaded[_V]],
        ],
        /,
        **options: Unpack[_Loading[_V]],
    ) -> Coroutine[Any, Any, dict[_K, _V]]: ...
    @overload
    def wrap(
        self, function: classmethod[_S, _P, _R], /, **options: Unpack[_Wrapping]
    ) -> CachedClassMethod[_P, _R]: ...
    @overload
    def wrap(  # type: ignore[overload-overlap]
        self, function: staticmethod[_P, _R], /, **options: Unpack[_Wrapping]
    ) -> staticmethod[_P, _R]: ...
    @overload
    def wrap(
        self, function: Callable[_P, _R], /, **options: Unpack[_Wrapping]
    ) -> Cached[_P, _R]: ...
    @overload
    def cached(self, function: Callable[_P, _R], /) -> Cached[_P, _R]: ...
    @overload
    def cached(self, **options: Unpack[_Wrapping]) -> Decorator: ...

    # For the Python face.
    def _open(
        self,
        max_entries: int | None,
        max_weight: int | None,
        weigher: Callable[[Any, Any], int] | None,
        default_ttl: _Seconds | None,
        child_limits: Limits | None,
        max_pending_age: float,
        require_namespace: bool,
        max_idle: int,
        clock: Callable[[], float] | None,
        name: str,
        eviction: str,
    ) -> None: ...
    def _now(self) -> float: ...
    def _fetch(
        self,
        key: Hashable,
        loader: Callable[[], Any],
        options: Options,
        on_miss: Callable[[], object] | None = None,
    ) -> Any: ...
    def _look_up(
        self, key: Hashable, options: Options, in_task: bool = False
    ) -> tuple[_V, bool] | Literal[False] | None: ...
    def _stand_in(self, key: Hashable, options: Options, timed_out: bool) -> tuple[_V] | None: ...
    def _begin(
        self,
        key: Hashable,
        options: Options,
        run: Any,
        loads: list[Load],
        behind: bool = False,
        anew: bool = False,
    ) -> Load | tuple[_V] | None: ...
    def _finish(
        self,
        load: Load,
        options: Options,
        produced: Any,
        seconds: float,
        counted: float,
        anew: bool = False,
    ) -> None: ...
    def _leave_out(self, load: Load, options: Options) -> None: ...
    def _abandon(self, load: Load, seconds: float = -1.0, failed: bool = False) -> None: ...
    def _join(self) -> None: ...
    def _held(self, key: Hashable, /) -> tuple[_V, float, float, float, bool] | None: ...
    def _emit(
        self,
        kind: str,
        key: Hashable,
        cause: str | None = None,
        value: object = None,
        error: BaseException | None = None,
        seconds: float = 0.0,
    ) -> None: ...
    def _listen(self, listener: Listener, mask: int) -> tuple[int, Listener]: ...
    def _unlisten(self, token: tuple[int, Listener]) -> None: ...
    def _sweep(self) -> tuple[int, bool]: ...
    def _close(self) -> None: ...
    def _is_closed(self) -> bool: ...
    def _tagged(self, tag: str) -> int: ...
    def _store(self) -> Store: ...
    def _check(self) -> None: ...

@final
class Recorder:
    def __init__(
        self, every: int, seconds: float, most: int, on_end: Callable[[], object]
    ) -> None: ...
    @property
    def seen(self) -> int: ...
    @property
    def samples(self) -> list[tuple[str, tuple[str, ...], Hashable]]: ...
    def __call__(self, event: Event) -> None: ...

FIGURES: Final[tuple[str, ...]]

@final
class Survey:
    def __init__(
        self,
        namespace: Namespace[Any],
        names: Iterable[str] = (),
        top: int = 0,
        by: str = "entries",
    ) -> None: ...
    def step(self) -> bool: ...
    @property
    def total(self) -> Stats: ...
    @property
    def own_entries(self) -> int: ...
    @property
    def named(self) -> dict[str, tuple[int, float, Stats]]: ...
    @property
    def leading(self) -> list[tuple[str, int, float, Stats]]: ...
    @property
    def children(self) -> int: ...
    @property
    def shares(self) -> float: ...
    @property
    def life(self) -> int: ...

def existing(namespace: Namespace[Any], names: Iterable[str]) -> Namespace[Any] | None: ...
def running_loads(
    namespace: Namespace[Any], most: int
) -> list[tuple[tuple[str, ...], Hashable, float, bool]]: ...

# What a second tier asks of the process's own half.
_tiered_get: Any
_tiered_fetch: Any
_tiered_afetch: Any

@final
class _Leased:
    def __init__(self, *args: object, **kwargs: object) -> None: ...

def lease_time() -> float: ...
def _add_methods(functions: Iterable[Callable[..., Any]]) -> None: ...
def _take_views(kind: type[Namespace[Any]]) -> None: ...
def _views() -> type[Namespace[Any]]: ...
def _open_tier(root: Namespace[Any], tier: Any) -> None: ...
def _tier_of(namespace: Namespace[Any]) -> Any: ...
def _root_of(store: Store) -> Namespace[Any]: ...
def _below(store: Store, names: Iterable[str]) -> Namespace[Any] | None: ...
def _lend(store: Store, until: float, stale_until: float) -> None: ...
def _lapsed_hits(store: Store) -> int: ...
def _fill(namespace: Namespace[Any], key: Hashable) -> Load: ...
def _fill_end(fill: Load) -> None: ...
def _fill_store(
    namespace: Namespace[Any],
    fill: Load,
    value: Any,
    ttl: float,
    until: float,
    grace: float,
    stale_ok: bool,
    tags: _Tags,
) -> bool: ...
def _tally(namespace: Namespace[Any], name: str, number: int = 1) -> None: ...
def _tags(tags: _Tags) -> tuple[str, ...]: ...
def _terms(
    namespace: Namespace[Any],
    key: Hashable,
    value: Any,
    ttl: _TTL | _Unset,
    tags: _Tags,
    stale: _Seconds | bool | None,
    jitter: float | None = None,
    tells: bool = True,
) -> tuple[float, float, bool, tuple[str, ...]]: ...
def _close_tags(load: Load, tags: _Tags) -> tuple[str, ...]: ...
def _is_off(namespace: Namespace[Any]) -> bool: ...
def _is_loading(namespace: Namespace[Any], key: Hashable) -> bool: ...
def _fence_key(namespace: Namespace[Any], key: Hashable, own: Load | None = None) -> None: ...
def _fence_below(namespace: Namespace[Any]) -> None: ...
def _fence_tags(namespace: Namespace[Any], tags: tuple[str, ...], every: bool = False) -> None: ...
def _fence_prefix(namespace: Namespace[Any], prefix: str) -> None: ...
def _void(namespace: Namespace[Any], deep: bool = True) -> None: ...

@final
class Options:
    def __init__(self, name: str, given: dict[str, Any]) -> None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def store_if(self) -> Callable[[Any], Any] | None: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def fallback_on(self) -> tuple[type[Exception], ...] | Callable[[Exception], Any] | None: ...
    @property
    def pass_old(self) -> bool: ...
    @property
    def covers_errors(self) -> bool: ...
    def with_tags(self, tags: _Tags, /, *more: str) -> Options: ...

@final
class Load:
    run: Any
    around_load: Any
    stands_in_for: Load | None
    def __init__(self, key: Hashable, tags: _Tags = ()) -> None: ...
    @property
    def namespace(self) -> Namespace[Any] | None: ...
    @property
    def key(self) -> Hashable: ...
    @property
    def fenced(self) -> bool: ...
    until: float
    is_fill: bool
    @property
    def started(self) -> float: ...
    @property
    def background(self) -> bool: ...
    @property
    def losses(self) -> int: ...
    @property
    def loss(self) -> int: ...
    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def waiters(self) -> dict[Any, None]: ...
    @property
    def waits(self) -> list[Load]: ...
    @property
    def thread(self) -> int: ...
    @property
    def greenlet(self) -> object: ...
    @property
    def forks(self) -> int: ...
    def settle(self, outcome: object) -> None: ...

@final
class LoadScope: ...

blocked_loops: dict[Any, list[Load]]

def current_load() -> Load | None: ...
def enter_load(load: Load) -> tuple[LoadScope, Token[LoadScope]]: ...
def leave_load(scope: LoadScope, token: Token[LoadScope] | None) -> None: ...
def is_plain(produced: object) -> bool: ...
def forks_since_import() -> int: ...

@final
class Ready(Coroutine[Any, Any, _V]):
    @property
    def __name__(self) -> str: ...  # pyright: ignore[reportIncompatibleVariableOverride]
    @property
    def __qualname__(self) -> str: ...  # pyright: ignore[reportIncompatibleVariableOverride]
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def __await__(self) -> Any: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any, /) -> Any: ...
    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: object = None,
        traceback: TracebackType | None = None,
        /,
    ) -> Any: ...
    def close(self) -> None: ...

class Tenants:
    def __new__(
        cls,
        above: Namespace[Any],
        path: Callable[[str], str | Iterable[str]] | None = None,
        /,
    ) -> Self: ...
    @property
    def _above(self) -> Namespace[Any]: ...
    @property
    def _path(self) -> Callable[[str], str | Iterable[str]] | None: ...
    def _namespace_of(self, tenant: object, argument: str) -> Namespace[Any]: ...
    def _current(self) -> Namespace[Any]: ...

@final
class TenantCall:
    def __new__(cls, method: object, /) -> Self: ...
    def __call__(self, tenants: Tenants, /, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> MethodType: ...
    @property
    def __wrapped__(self) -> Callable[..., Any]: ...
    @property
    def __name__(self) -> str: ...
    @property
    def __qualname__(self) -> str: ...

@final
class Counts:
    @property
    def calls(self) -> int: ...
    @property
    def misses(self) -> int: ...
    def miss(self) -> None: ...
    def reset(self) -> None: ...
    def drop(self) -> None: ...

class Called:
    _calls: int
    _misses: int
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def _set_up(self, is_async: bool, hits_answer: bool) -> None: ...
    def _keep_by_tenant(
        self,
        tenants: Tenants,
        name: str | None = None,
        position: int = -1,
        by_keyword: bool = True,
        default: object = ...,
    ) -> None: ...
    def _take_short_cut(self, namespace: Namespace[Any] | None, label: str) -> None: ...
    def _tenant_place(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Namespace[Any]: ...
    def _call_directly(self, function: Callable[..., Any], options: Options) -> None: ...
    def _answer(
        self,
        namespace: Namespace[Any],
        key: Hashable,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        counts: Counts | None = None,
    ) -> Any: ...
    def _count_miss(self) -> None: ...

class _testing:  # noqa: N801  a name space, by the name of a module
    @staticmethod
    def slice(namespace: Namespace[Any], at_once: int, splits: int) -> None: ...
    @staticmethod
    def seed(namespace: Namespace[Any], seed: int) -> None: ...
    @staticmethod
    def salt(cache: Namespace[Any], secret: int) -> None: ...
    @staticmethod
    def hash(namespace: Namespace[Any], key: Hashable) -> int: ...
    @staticmethod
    def order(
        namespace: Namespace[Any],
    ) -> tuple[int, list[tuple[Any, int]], tuple[int, int, int] | None]: ...
    @staticmethod
    def parts(namespace: Namespace[Any]) -> int: ...
    @staticmethod
    def debris(namespace: Namespace[Any]) -> int: ...
    @staticmethod
    def probe_length(namespace: Namespace[Any], key: Hashable) -> int: ...
    @staticmethod
    def namespaces_held(namespace: Namespace[Any]) -> int: ...

def _enable_vectorcall(called: type[Called], keywords: object) -> None: ...
def _connect(python_half: ModuleType) -> None: ...
