"""A page under a real server, in the system's Chromium with its driver; nothing is downloaded."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium or chromedriver is not installed: the page was not looked at in a browser",
)
WITHIN = 90.0
"""Seconds that a page may take on a busy machine."""
WATCH = """
window.reports = [];
addEventListener('securitypolicyviolation', (e) => reports.push(e.violatedDirective));
addEventListener('error', (e) => reports.push(String(e.message)));
addEventListener('unhandledrejection', (e) => reports.push(String(e.reason)));
"""


@contextmanager
def serving(page: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a server for the page; yield its address, and what ends it early."""
    import uvicorn

    config = uvicorn.Config(page, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def end() -> None:
        server.should_exit = server.force_exit = True
        thread.join()

    try:
        yield f"http://127.0.0.1:{port}/", end
    finally:
        end()


class Browser:
    """One browser, and what a reader does with it."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--force-device-scale-factor=1",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(DRIVER))
        self.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        self.size(1360, 900)
        self.theme("light")

    def command(self, name: str, **arguments: Any) -> Any:
        """Send a command of the debugging protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def size(self, width: int, height: int) -> None:
        """Set the size of the view."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def theme(self, name: str) -> None:
        """Set what the system prefers."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str, *at: str, state: str = "live") -> None:
        """Load a page and wait until it has drawn."""
        query = "&".join(f"at={quote(part, safe='')}" for part in at)
        self.driver.get(f"{address}?{query}" if query else address)
        self.until(lambda: self.text("state-text") == state)

    def until(self, is_so: Callable[[], Any]) -> None:
        """Wait for something."""
        end = time.monotonic() + WITHIN
        while not is_so():
            assert time.monotonic() < end, self.run("return document.body.innerText")
            time.sleep(0.03)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def text(self, place: str) -> str:
        """Return the text of an element by its id."""
        told: str = self.run("return document.getElementById(arguments[0]).innerText", place)
        return told

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def rows(self) -> list[str]:
        """Return the names of the rows, in their order."""
        script = "return [...document.querySelectorAll('#rows tr')].map(r => r.dataset.name || '')"
        told: list[str] = self.run(script)
        return told

    def focus(self) -> str:
        """Return the text of what has the focus."""
        told: str = self.run("return document.activeElement.textContent")
        return told

    def reports(self) -> list[str]:
        """Return what the policy or the script complained of."""
        told: list[str] = self.run("return window.reports")
        return told

    def requests(self) -> list[str]:
        """Return the addresses that were asked for since the last call."""
        import json

        told = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                told.append(message["params"]["request"]["url"])
        return told

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
