"""Views. None of them names the tenant to the cache: the middleware has made it the current one."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.functional import SimpleLazyObject
from django.views.decorators.cache import cache_page
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from flowcache.tenancy import current_tenant

lock = threading.Lock()
loads: Counter[tuple[str, str]] = Counter()


def load(what: str) -> str:
    """Make what is cached; the number tells how often this process has made it for the tenant."""
    name = current_tenant.get()
    with lock:
        loads[what, name] += 1
        return f"{what} {loads[what, name]} of {name} by {os.getpid()}"


@cache_page(300)
def catalogue(request: HttpRequest) -> HttpResponse:
    """Answer with a page that is cached as a whole."""
    return answer(load("catalogue"))


def sidebar(request: HttpRequest) -> HttpResponse:
    """Answer with a page of which one fragment is cached."""
    lazy = SimpleLazyObject(lambda: load("sidebar"))
    page = render(request, "sidebar.html", {"report": lazy})
    return answer(page.content.decode().strip())


def report(request: HttpRequest) -> HttpResponse:
    """Answer with a value of the cache, made once for all waiting requests."""
    return answer(cache.get_or_set("report", lambda: load("report"), tags="reports"))


@csrf_exempt
@require_POST
def changed(request: HttpRequest) -> HttpResponse:
    """Invalidate this tenant's reports; the pages and fragments stay until they expire."""
    return answer(cache.invalidate_tag("reports", wait="fleet"))


def answer(text: Any) -> JsonResponse:
    """Return a text, and the process that answers. The process is that of a cached page's maker."""
    return JsonResponse({"report": text, "process": os.getpid()})
