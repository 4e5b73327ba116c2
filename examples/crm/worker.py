"""One worker process of the fleet: serves the dashboard on a free port, and prints its address."""

from __future__ import annotations

import argparse
import signal
import threading
import time

from crm.dashboard import Dashboard
from crm.servers import serving
from flowcache import TierUnavailableError
from flowcache.tier import ValkeyTier

ATTEMPTS = 20


def connect(dashboard: Dashboard) -> None:
    """Serve nothing before the fleet is heard of: a busy machine may answer late."""
    for attempt in range(ATTEMPTS):
        try:
            dashboard.cache.connect()
        except TierUnavailableError:
            time.sleep(0.1 * (attempt + 1))
        else:
            return
    dashboard.cache.connect()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--contacts-ttl", type=float, required=True)
    parser.add_argument("--stats-ttl", type=float, required=True)
    parser.add_argument("--max-entries", type=int, required=True)
    parser.add_argument("--show", required=True, help="the folder in which it shows itself")
    options = parser.parse_args()
    dashboard = Dashboard(
        options.upstream,
        contacts_ttl=options.contacts_ttl,
        stats_ttl=options.stats_ttl,
        max_entries=options.max_entries,
        # Long, for the demo counts loads: with the time-outs of production a process would load
        # for itself whenever a busy machine lets the server answer late.
        tier=ValkeyTier(options.tier, soft_timeout=10.0, hard_timeout=20.0),
        workers=options.show,
    )
    connect(dashboard)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with serving(dashboard.app()) as url:
        print(url, flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
