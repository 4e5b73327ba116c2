"""What a running cache shows: figures for metrics, and the snapshot of the page and the terminal.

- `meter`: the figures of a bounded number of tenants, each of which only grows.
"""
