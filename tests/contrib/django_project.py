"""A Django project for the tests: settings that can be set once a process, a database in memory."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.test import override_settings

BACKEND = "flowcache.contrib.django.FlowCache"


# A page of the guides may have done so before.
if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.contenttypes", "flowcache.contrib.django"],
        SECRET_KEY="of the tests",
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        USE_TZ=True,
    )
    django.setup()


def caches_of(**aliases: Any) -> override_settings:
    """Return the settings with these aliases of `CACHES`; each begins with an empty store."""
    made = {
        alias: {"BACKEND": BACKEND, **options}
        for alias, options in {"default": {}, **aliases}.items()
    }
    return override_settings(CACHES=made)


CURRENT = {"OPTIONS": {"TENANT": "current"}}


def drive(coroutine: Any) -> Any:
    """Run a coroutine that must not wait for anything; return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it suspended")
