"""The place where a request names its tenant; shared by the ASGI and the WSGI middleware."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from flowcache import _core
from flowcache.coroutines import check_sync, is_async
from flowcache.errors import InvalidNamespaceError
from flowcache.reports import shown
from flowcache.tenancy import Path, checked_path, names_of

__all__ = ["Exempt", "Refusal", "Source", "latin_1"]

DEEPEST = 64
"""Names in a path: the core's own bound."""
METHOD = re.compile(r"[A-Z]+(-[A-Z]+)*")
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
DOMAIN = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
HOST = re.compile(r"([A-Za-z0-9_.-]*)(:[0-9]*)?")


class Refusal(Exception):  # noqa: N818 - an answer to a client, not a fault
    """The reason why a request does not reach the application."""

    def __init__(self, status: HTTPStatus, error: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.body = json.dumps({"error": error, "detail": detail}).encode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the answer."""
        return [("content-type", "application/json"), ("content-length", str(len(self.body)))]


class Exempt:
    """Requests that are served without a tenant: paths, and methods."""

    def __init__(self, exempt: str | Iterable[str]) -> None:
        """Check the argument of that name; ``TypeError`` or ``ValueError`` names the fault."""
        given: Any = (exempt,) if isinstance(exempt, str) else exempt
        if not isinstance(given, Iterable) or isinstance(given, (bytes, bytearray)):
            raise TypeError(
                f"exempt: must be a str or an iterable of them, got {type(exempt).__name__}"
            )
        self.paths: set[str] = set()
        self.methods: set[str] = set()
        below: list[str] = []
        for one in given:
            if not isinstance(one, str):
                raise TypeError(f"exempt: each must be a str, got {type(one).__name__}")
            if one.startswith("/") and "*" not in one.removesuffix("/*"):
                if one.endswith("/*"):
                    below.append(one[:-1])
                else:
                    self.paths.add(one)
            elif METHOD.fullmatch(one):
                self.methods.add(one)
            else:
                raise ValueError(
                    'exempt: each must be a path that begins with "/" and may end with "/*", '
                    f"or a method in capital letters, got {shown(one)}"
                )
        self.below = tuple(below)

    def covers(self, method: str | None, path: str) -> bool:
        """True if a request needs no tenant; ``path`` is that below the mount."""
        return method in self.methods or path in self.paths or path.startswith(self.below)


class Source:
    """The one place where a request names its tenant."""

    def __init__(
        self,
        *,
        header: str | None,
        subdomain_of: str | None,
        path_part: int | None,
        tenant_of: Callable[[Any], Any] | None,
        is_known: Callable[[str], Any] | None,
        path: Path | None,
        awaits: bool,
    ) -> None:
        """Check the middleware's arguments; ``TypeError`` or ``ValueError`` names the wrong one."""
        for argument, function in (("tenant_of", tenant_of), ("is_known", is_known)):
            check_function(argument, function, awaits=awaits)
        check_text("header", header, HEADER, "the name of a header")
        check_text("subdomain_of", subdomain_of, DOMAIN, "a domain in ASCII, without a port")
        if path_part is not None:
            if isinstance(path_part, bool) or not isinstance(path_part, int):
                raise TypeError(f"path_part: must be an int, got {type(path_part).__name__}")
            if path_part < 0:
                raise ValueError(f"path_part: must be at least 0, got {path_part}")
        named = sum(one is not None for one in (header, subdomain_of, path_part, tenant_of))
        if named != 1:
            raise TypeError(
                "TenantMiddleware() takes exactly one of header, subdomain_of, path_part and "
                f"tenant_of, got {named}"
            )
        self.header = header
        self.domain = None if subdomain_of is None else "." + subdomain_of.strip(".").lower()
        self.path_part = path_part
        self.tenant_of = tenant_of
        self.is_known = is_known
        self.path = checked_path(path)

    def read(self, headers: Callable[[str], list[bytes]], path: str) -> str | None:
        """Return the tenant that the request names, unchecked, or ``None``.

        ``headers(name)`` gives the raw values of a header, ``path`` is that below the mount. Not
        for ``tenant_of``.
        """
        if self.path_part is not None:
            parts = path.removeprefix("/").split("/")
            part = parts[self.path_part] if self.path_part < len(parts) else None
            if part is not None and "\N{REPLACEMENT CHARACTER}" in part:
                raise malformed("it is not UTF-8")
            return part
        values = headers(self.header or "host")
        if not values:
            return None
        if len(values) > 1:
            raise malformed(f"more than one {self.header or 'Host'} header")
        try:
            text = values[0].decode("utf-8")
        except UnicodeDecodeError:
            raise malformed("it is not UTF-8") from None
        return text if self.domain is None else self._label(text)

    def _label(self, host: str) -> str | None:
        """Return the one label before the domain. Host names ignore case, so it is lowered."""
        assert self.domain is not None
        # Beyond ASCII, lower() can map several letters to one, and so several hosts to one tenant.
        match = HOST.fullmatch(host)
        if match is None:
            raise malformed("the host is no host name in ASCII")
        name = match[1].lower().removesuffix(".")
        if name == self.domain[1:]:
            return None
        label = name.removesuffix(self.domain)
        if label == name or "." in label:
            raise malformed("the host is no sub-domain of this site")
        return label

    def check(self, tenant: object) -> str:
        """Return a valid tenant, else raise the refusal."""
        if tenant is None or tenant == "":
            raise Refusal(
                HTTPStatus.BAD_REQUEST, "tenant_missing", f"no tenant: expected {self.expected}"
            )
        # Servers and proxies join a header that came twice with a comma.
        if self.header is not None and "," in str(tenant):
            raise malformed("it has a comma, as two joined headers would")
        try:
            checked = _core.check_name(tenant, "tenant")
            names = names_of(self.path, checked)
            if len(names) > DEEPEST:
                raise malformed(f"its path has more than {DEEPEST} names")
            for name in names:
                _core.check_name(name, "tenant")
        except InvalidNamespaceError as error:
            raise malformed(str(error).removeprefix("tenant: ")) from None
        return checked

    @property
    def expected(self) -> str:
        """The place where the tenant should have been, for the answer."""
        if self.header is not None:
            return f"the header {self.header}"
        if self.domain is not None:
            return f"a sub-domain of {self.domain[1:]}"
        if self.path_part is not None:
            return f"part {self.path_part} of the path below the mount, counted from 0"
        return "a request that belongs to a tenant"


def check_function(argument: str, function: object, *, awaits: bool) -> None:
    """Raise `TypeError` for an argument that is not callable, or may return no plain answer."""
    if function is None:
        return
    if not callable(function):
        raise TypeError(f"{argument}: must be callable, got {type(function).__name__}")
    if awaits and is_async(function):
        return
    check_sync(function, argument)


def check_text(argument: str, text: object, wanted: re.Pattern[str], what: str) -> None:
    """Raise `TypeError` or `ValueError` for an argument that no request could match."""
    if text is None:
        return
    if not isinstance(text, str):
        raise TypeError(f"{argument}: must be a str, got {type(text).__name__}")
    if not wanted.fullmatch(text):
        raise ValueError(f"{argument}: must be {what}, got {shown(text)}")


def latin_1(text: str) -> bytes:
    """Return the bytes that WSGI hands over as this text; a refusal for a text that is none."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise malformed("it has characters that no server sends") from None


def malformed(why: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "tenant_malformed", f"the tenant is malformed: {why}")


def unknown() -> Refusal:
    return Refusal(HTTPStatus.NOT_FOUND, "tenant_unknown", "there is no such tenant")
