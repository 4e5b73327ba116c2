"""``flowcache replay``: the hit ratio of each tenant at each size of a cache.

Replays a request log against a real cache under given limits, on a virtual clock. Libraries beyond
the standard one (rich, matplotlib, backports.zstd) come with ``pip install "flowcache[replay]"``.
"""
