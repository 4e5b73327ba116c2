"""The tenant of Celery's tasks: sent in a header, and current while the task runs.

app = Celery("crm")
install(app)
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from flowcache.tenancy import current_tenant, no_tenant, tenant

__all__ = ["HEADER", "install"]

HEADER = "flowcache_tenant"
"""The header of a message that bears its tenant."""


def install(app: Celery) -> None:
    """Send the current tenant with each task that is published, and set it where the task runs.

    A task without the header runs without a tenant, whichever tenant the worker served before. So
    does a task with an invalid header, and Celery logs the error. A task that runs eagerly keeps
    the tenant of its caller. A second installation has no effect. Raises ``TypeError`` for an
    ``app`` that is no Celery application.
    """
    if not isinstance(app, Celery):
        raise TypeError(f"app: must be a Celery application, got {type(app).__name__}")

    def set_up(task: Any = None, **_: Any) -> None:
        if task.app is app and not task.request.is_eager:
            enter(task.request)

    def tear_down(task: Any = None, **_: Any) -> None:
        block = getattr(task.request, BLOCK, None)
        if task.app is app and block is not None:
            setattr(task.request, BLOCK, None)
            block.__exit__(None, None, None)

    uid = f"flowcache {id(app)}"
    signals.before_task_publish.connect(add_header, weak=False, dispatch_uid="flowcache")
    signals.task_prerun.connect(set_up, weak=False, dispatch_uid=uid)
    signals.task_postrun.connect(tear_down, weak=False, dispatch_uid=uid)


BLOCK = "_flowcache_block"
"""The attribute of a request that keeps the block in which its task runs."""


def add_header(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Put the current tenant into a message that is about to be published."""
    name = current_tenant.get(None)
    if headers is not None and name is not None:
        headers[HEADER] = name


def enter(request: Any) -> None:
    """Begin the block of a task's tenant, or one without a tenant."""
    name = request.get(HEADER) or (request.headers or {}).get(HEADER)
    try:
        block: Any = no_tenant() if name is None else tenant(name)
    except (TypeError, ValueError):
        open_block(request, no_tenant())
        raise
    open_block(request, block)


def open_block(request: Any, block: Any) -> None:
    block.__enter__()
    setattr(request, BLOCK, block)
