"""Take the screenshots of docs/images, of a page with tenants at work.

PYTHONPATH=tests python scripts/page_screenshots.py

Needs Chromium with its driver, and the requirements of the suite.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from pathlib import Path
from typing import Any

from flowcache import create_cache
from flowcache.page import ADMIN, CachePage
from page.browsing import Browser, serving  # type: ignore[import-not-found]

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
NAMES = ["acme", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
SECONDS = 90


def work(cache: Any, over: threading.Event) -> None:
    """Use the cache as tenants of different sizes do."""
    rolled = random.Random(3)
    tenants = [*NAMES, *(f"shop-{number}" for number in range(60))]
    while not over.is_set():
        for _ in range(300):
            tenant = tenants[min(len(tenants) - 1, int(rolled.paretovariate(0.7)) - 1)]
            contact = int(rolled.paretovariate(0.6)) % 8_000
            view = cache.namespace(f"tenant:{tenant}")
            view.fetch(f"contacts:{contact}", dict, tags=("crm", "crm:contacts"), ttl=60, stale=30)
            view.fetch("stats", dict, tags=("crm", "crm:stats"))
            if rolled.random() < 0.001:
                view.invalidate_tag("crm:contacts")
        over.wait(0.02)


def wait_long(cache: Any, over: threading.Event) -> None:
    """Load a report that takes long, again and again."""
    while not over.is_set():
        cache.namespace("tenant:acme").refresh("report:2026", lambda: over.wait(8))


def take(browser: Browser, name: str, width: int, most: int) -> None:
    """Write one image of the whole page, or of its upper part."""
    browser.size(width, 900)
    time.sleep(1)
    height = min(most, browser.run("return document.documentElement.scrollHeight"))
    browser.size(width, height)
    time.sleep(3)
    image = browser.command("Page.captureScreenshot", format="png")
    (IMAGES / f"{name}.png").write_bytes(base64.b64decode(image["data"]))


def main() -> None:
    """Serve the page, wait for lines, and take every image."""
    IMAGES.mkdir(exist_ok=True)
    cache: Any = create_cache(name="crm", max_entries=8_000)
    over = threading.Event()
    threads = [threading.Thread(target=job, args=(cache, over)) for job in (work, wait_long)]
    for thread in threads:
        thread.start()
    who: list[Any] = [ADMIN]
    page = CachePage(
        cache,
        authorize=lambda request: who[0],
        reveal_keys=True,
        groups=[r"contacts:\d+", "stats", r"report:\d+"],
    )
    browser = Browser()
    try:
        with serving(page) as (address, _):
            browser.open(address)
            time.sleep(SECONDS)
            browser.press("h")
            time.sleep(12)
            take(browser, "page-light", 1280, 2_000)
            browser.theme("dark")
            take(browser, "page-dark", 1280, 2_000)
            take(browser, "page-narrow", 360, 1_700)
            browser.theme("light")
            who[0] = "acme"
            browser.size(1280, 900)
            browser.open(address)
            time.sleep(20)
            take(browser, "page-tenant", 1280, 1_400)
    finally:
        over.set()
        browser.close()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
