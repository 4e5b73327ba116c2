"""Where a request says which tenant it is for: what the ASGI and the WSGI middleware share."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flowcache import _core
from flowcache.errors import InvalidNamespaceError

__all__ = ["Refusal", "Source"]


class Refusal(Exception):  # noqa: N818 - an answer to a client, not a fault
    """Why a request does not reach the application."""

    def __init__(self, status: HTTPStatus, error: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.body = json.dumps({"error": error, "detail": detail}).encode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the answer."""
        return [("content-type", "application/json"), ("content-length", str(len(self.body)))]


class Source:
    """The one place where a request names its tenant."""

    def __init__(
        self,
        header: str | None,
        subdomain_of: str | None,
        path_part: int | None,
        tenant_of: Callable[[Any], Any] | None,
        is_known: Callable[[str], Any] | None,
    ) -> None:
        """Check the middleware's arguments; ``TypeError`` or ``ValueError`` names the wrong one."""
        for argument, function in (("tenant_of", tenant_of), ("is_known", is_known)):
            if function is not None and not callable(function):
                raise TypeError(f"{argument}: must be callable, got {type(function).__name__}")
        for argument, text in (("header", header), ("subdomain_of", subdomain_of)):
            if text is None:
                continue
            if not isinstance(text, str):
                raise TypeError(f"{argument}: must be a str, got {type(text).__name__}")
            if not text or not text.isascii() or any(map(str.isspace, text)):
                raise ValueError(f"{argument}: must be ASCII without white space, got {text!r}")
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

    def read(self, headers: Callable[[str], list[bytes]], path: str) -> str | None:
        """Return what the request says, unchecked, or ``None`` if it says nothing.

        ``headers(name)`` gives the raw values of a header. Not for ``tenant_of``.
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
        """Return the one label before the domain. Host names know no case, so it is lowered."""
        assert self.domain is not None
        name = host.rsplit(":", 1)[0] if ":" in host else host
        name = name.lower().removesuffix(".")
        if name == self.domain[1:]:
            return None
        label = name.removesuffix(self.domain)
        if label == name or "." in label:
            raise malformed("the host is no sub-domain of this site")
        return label

    def check(self, tenant: object) -> str:
        """Return a tenant that can be one, else raise the refusal."""
        if tenant is None or tenant == "":
            raise Refusal(
                HTTPStatus.BAD_REQUEST, "tenant_missing", f"no tenant: expected {self.expected}"
            )
        # Servers and proxies join a header that came twice with a comma.
        if self.header is not None and "," in str(tenant):
            raise malformed("it has a comma, as two joined headers would")
        try:
            return _core.check_name(tenant, "tenant")
        except InvalidNamespaceError as error:
            raise malformed(str(error).removeprefix("tenant: ")) from None

    @property
    def expected(self) -> str:
        """Where the tenant should have been, for the answer."""
        if self.header is not None:
            return f"the header {self.header}"
        if self.domain is not None:
            return f"a sub-domain of {self.domain[1:]}"
        if self.path_part is not None:
            return f"part {self.path_part} of the path, counted from 0"
        return "a request that belongs to a tenant"


def malformed(why: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "tenant_malformed", f"the tenant is malformed: {why}")


def unknown() -> Refusal:
    return Refusal(HTTPStatus.NOT_FOUND, "tenant_unknown", "there is no such tenant")
