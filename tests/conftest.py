"""What any test may ask for: a clock that it moves, and Hypothesis without timed verdicts.

A collection in a test searches only what is younger than the tests themselves.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from harness.support import VirtualClock

# A shell that starts the suite in the background has it ignore interrupts, and all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An example that was slow is no fault. On a CI machine the same examples run every time, so that a
# red run is about the change and not about the draw.
settings.register_profile("flowcache", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("flowcache")


def pytest_collection_finish() -> None:
    """Have no collection search the modules and the tests, some hundred thousand objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def gil_as_it_was() -> Iterator[None]:
    """Nothing that the suite imports turns the GIL on again, where it was off."""
    is_gil_enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    enabled = is_gil_enabled()
    yield
    assert is_gil_enabled() == enabled


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that stands still until the test moves it."""
    return VirtualClock()


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """Turn the log up again after a test, or a page of the guides, that has turned it down."""
    logger = logging.getLogger("flowcache")
    level, disabled = logger.level, logger.disabled
    yield
    logger.setLevel(level)
    logger.disabled = disabled
