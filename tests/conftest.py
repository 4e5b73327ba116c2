"""What any test may ask for: a clock that it moves, and Hypothesis without timed verdicts."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from support import VirtualClock

# An example that was slow is no fault. On a CI machine the same examples run every time, so that a
# red run is about the change and not about the draw.
settings.register_profile("flowcache", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("flowcache")


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that stands still until the test moves it."""
    return VirtualClock()
