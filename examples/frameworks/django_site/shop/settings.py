"""Settings. CACHES, FLOWCACHE_TENANT and the first line of MIDDLEWARE concern flowcache."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

CACHES = {
    "default": {
        "BACKEND": "flowcache.contrib.django.FlowCache",
        "LOCATION": "shop",
        "TIMEOUT": 300,
        "OPTIONS": {
            "MAX_ENTRIES": 50_000,
            "TENANT": "current",
            "TENANT_LIMITS": {"max_entries": 10_000},
            # SHOP_TIER=valkey://127.0.0.1:6379/0 makes it one cache for all workers.
            "TIER": os.environ.get("SHOP_TIER"),
        },
    },
}
FLOWCACHE_TENANT = {"header": "X-Tenant-ID", "exempt": ["/admin/*", "/static/*"]}
MIDDLEWARE = [
    "flowcache.contrib.django.TenantMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
INSTALLED_APPS = [
    "flowcache.contrib.django",
    "shop",
    "shop.site.ShopAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", str(BASE_DIR / "shop.sqlite3")),
    }
}
DEBUG = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "shop.urls"
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "of the example, for no other use")
STATIC_URL = "static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
USE_TZ = True
WSGI_APPLICATION = "shop.wsgi.application"
