"""The admin of this project is one with a page of the cache's counters."""

from __future__ import annotations

from django.contrib.admin.apps import AdminConfig


class ShopAdminConfig(AdminConfig):
    """Takes the place of `django.contrib.admin` in INSTALLED_APPS."""

    default_site = "shop.admin.ShopAdminSite"
