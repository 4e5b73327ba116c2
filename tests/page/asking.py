"""Requests to a page, by ASGI and by WSGI, without a server."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass
from typing import Any

MOUNT = "/admin/cache"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def by_asgi(
    page: Any, path: str = "/data", query: str = "", method: str = "GET", mount: str = MOUNT,
    **headers: str,
) -> Answer:  # fmt: skip
    scope = {
        "type": "http",
        "method": method,
        "path": mount + path,
        "root_path": mount,
        "query_string": query.encode("latin-1"),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("a page reads no body")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(page(scope, receive, send))
    start, body = sent
    told = {k.decode(): v.decode() for k, v in start["headers"]}
    return Answer(start["status"], told, body["body"])


def by_wsgi(
    page: Any, path: str = "/data", query: str = "", method: str = "GET", mount: str = MOUNT,
    **headers: str,
) -> Answer:  # fmt: skip
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": mount,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "wsgi.input": io.BytesIO(),
        **{f"HTTP_{k.upper()}": v for k, v in headers.items()},
    }
    told: list[Any] = []
    body = b"".join(page.wsgi(environ, lambda status, headers: told.extend((status, headers))))
    return Answer(int(told[0].split()[0]), dict(told[1]), body)
