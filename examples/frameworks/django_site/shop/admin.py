"""The admin: beside what Django shows, the counters of each tenant in this process's cache."""

from __future__ import annotations

import os
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path

from flowcache.contrib.django import root


class ShopAdminSite(admin.AdminSite):
    """Django's admin with the page `cache/`."""

    site_header = "Shop"

    def get_urls(self) -> list[Any]:
        """Return Django's URLs and that of the page."""
        page = path("cache/", self.admin_view(self.cache_counters), name="cache")
        return [page, *super().get_urls()]

    def cache_counters(self, request: HttpRequest) -> HttpResponse:
        """Show the counters of the whole store, of its largest tenants, and of all others."""
        store = root("default")
        children = store.children(top=20)
        rows = [("all", store.stats()), *((child.name, child.stats) for child in children.top)]
        if children.others:
            rows.append((f"{children.others} others", children.rest))
        context = {
            **self.each_context(request),
            "title": f"Cache of process {os.getpid()}",
            "rows": rows,
        }
        return TemplateResponse(request, "admin/cache.html", context)
