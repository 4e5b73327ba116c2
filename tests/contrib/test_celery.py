"""Celery: a task runs for the tenant that published it, and the next one does not inherit it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, group, signals
from celery.contrib.testing.worker import start_worker

from flowcache import TenantNotSetError, create_cache
from flowcache.contrib.celery import HEADER, install
from flowcache.tenancy import current_tenant, tenant

cache: Any = create_cache()
mine = cache.for_current_tenant()

app = Celery("tests", broker="memory://", backend="cache+memory://")
app.conf.update(worker_redirect_stdouts=False, broker_connection_retry_on_startup=True)
install(app)
install(app)


@signals.setup_logging.connect(weak=False)
def leave_logging_alone(**_: Any) -> None:
    """With a receiver of this signal Celery sets up no logging; the suite keeps its own."""


@app.task
def whose() -> Any:
    return mine.get("k"), current_tenant.get(None)


@app.task
def whose_later() -> Any:
    return whose.delay().id


@app.task(bind=True, max_retries=1)
def at_second_try(self: Any) -> Any:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return current_tenant.get(None)


@app.task
def fail() -> None:
    raise ValueError(current_tenant.get(None))


@pytest.fixture(scope="module")
def worker() -> Iterator[Any]:
    for name in ("acme", "beta"):
        cache.namespace(f"tenant:{name}").set("k", name)
    with start_worker(app, pool="solo", perform_ping_check=False) as running:
        yield running


@pytest.fixture(autouse=True)
def no_tenant_is_left() -> Iterator[None]:
    yield
    assert current_tenant.get(None) is None


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_two_tenants_interleaved_each_have_their_own(worker: Any) -> None:
    asked = []
    for _ in range(10):
        for name in ("acme", "beta"):
            with tenant(name):
                asked.append((name, whose.delay()))
    for name, result in asked:
        assert tuple(result.get(timeout=30)) == (name, name)


def test_a_task_without_a_tenant_does_not_have_the_last_ones(worker: Any) -> None:
    """django-multitenant #213: a worker keeps the tenant of the task before."""
    with tenant("acme"):
        assert tuple(whose.delay().get(timeout=30)) == ("acme", "acme")
    with pytest.raises(TenantNotSetError):
        whose.delay().get(timeout=30)
    with tenant("acme"), pytest.raises(ValueError, match="acme"):
        fail.delay().get(timeout=30)
    with pytest.raises(TenantNotSetError):
        whose.delay().get(timeout=30)


def test_a_task_that_a_task_publishes_and_one_that_is_tried_again(worker: Any) -> None:
    with tenant("beta"):
        inner = app.AsyncResult(whose_later.delay().get(timeout=30))
        assert tuple(inner.get(timeout=30)) == ("beta", "beta")
        assert at_second_try.delay().get(timeout=30) == "beta"
        answers = group(whose.s() for _ in range(3)).apply_async().get(timeout=30)
        assert [tuple(one) for one in answers] == [("beta", "beta")] * 3


def test_a_header_that_could_name_no_tenant_is_none(worker: Any) -> None:
    for unsound in (" acme", 7):
        with pytest.raises(TenantNotSetError):
            whose.apply_async(headers={HEADER: unsound}).get(timeout=30)


def test_an_eager_task_keeps_its_callers_tenant() -> None:
    cache.namespace("tenant:acme").set("k", "acme")
    with tenant("acme"):
        assert whose.apply().get() == ("acme", "acme")
        assert current_tenant.get() == "acme"


def test_another_application_is_left_alone() -> None:
    other = Celery("other", broker="memory://", task_always_eager=True)

    @other.task
    def plain() -> Any:
        return current_tenant.get(None)

    with tenant("acme"):
        assert plain.delay().get() == "acme"


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^app: must be a Celery application, got str"):
        install("crm")
