"""How big should the cache be, and what would each tenant get: ``flowcache replay``.

Replays a request log against a real cache under given limits, on a virtual clock. Libraries beyond
the standard one (rich, matplotlib, backports.zstd) come with ``pip install "flowcache[replay]"``.
"""
