"""A real Valkey server for the suites with a tier. It ends with the process of the suite."""

import atexit
from contextlib import ExitStack

from flowcache.tier import ValkeyTier
from harness.servers import server

stack = ExitStack()
atexit.register(stack.close)
url = stack.enter_context(server()).url


def tier_of(codec):
    """Return a tier on the server, which is not taken for one that is down on a busy machine."""
    return ValkeyTier(url, codec=codec, soft_timeout=5.0, hard_timeout=10.0)
