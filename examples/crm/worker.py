"""One worker process of the fleet: serves the dashboard on a free port, and prints its address."""

from __future__ import annotations

import argparse
import signal
import threading

from crm.dashboard import Dashboard
from crm.servers import serving


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
        tier=options.tier,
        workers=options.show,
    )
    dashboard.cache.connect()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with serving(dashboard.app()) as url:
        print(url, flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
