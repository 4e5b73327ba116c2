"""On PYTHONPATH, the examples wait longer for the server of their tier.

They give a URL, and so have the time-outs of production. On a machine that runs a whole suite a
server that is up may take longer, and then a process rightly goes on alone.
"""

from __future__ import annotations

from flowcache.tier import ValkeyTier

assert ValkeyTier.__init__.__kwdefaults__ is not None
ValkeyTier.__init__.__kwdefaults__.update(soft_timeout=30.0, hard_timeout=60.0)
