"""What a running cache shows: figures for metrics, and the snapshot of the page and the terminal.

- `meter`: the figures of a bounded number of tenants, each of which only grows.
- `families`, `history`, `hotkeys`: keys as they are shown, the last minutes, sampled look-ups.
- `snapshot`: all that one process shows; `merging`: one snapshot of several.
- `sockets`: how a process shows itself to others of its user.
"""
