"""How big should the cache be, and what would each tenant get: ``flowcache replay``.

Replays a request log against a real cache under given limits, on a virtual clock. What the standard
library lacks (rich, matplotlib, zstandard) comes with ``pip install "flowcache[replay]"``.
"""
