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
from datetime import timedelta
from types import GenericAlias, TracebackType
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

from ._core_inner import *  # noqa: F403  all of it is here at run time
from ._core_inner import Load, Options
from .events import Listener
from .inspection import Advice, Children, Inspection
from .limits import Limits
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
    guaranteed: float

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
    @property
    def shares_by_utility(self) -> bool: ...
    tenant_depth: int
    def tenant_of(self, path: tuple[str, ...], /) -> tuple[str, ...]: ...

# Registered as a MutableMapping; where a call tells more than that asks for, it is no override.
class Namespace(MutableMapping[Any, _V]):
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
        self, path: Callable[[str], str | Iterable[str]] | None = None
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
    def advice(self) -> Advice: ...

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
    def cached(self, function: classmethod[_S, _P, _R], /) -> CachedClassMethod[_P, _R]: ...
    @overload
    def cached(  # type: ignore[overload-overlap]
        self, function: staticmethod[_P, _R], /
    ) -> staticmethod[_P, _R]: ...
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
        tenant_depth: int,
        max_loss: float,
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
