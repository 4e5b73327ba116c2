"""URLs."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from . import views

urlpatterns = [
    path("catalogue/", views.catalogue),
    path("sidebar/", views.sidebar),
    path("report", views.report),
    path("changed", views.changed),
    path("admin/", admin.site.urls),
]
