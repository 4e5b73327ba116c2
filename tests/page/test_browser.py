"""The page in a real browser: hostile names, empty states, keyboard, themes, a narrow screen."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcache import create_cache
from flowcache.page import ADMIN, CachePage
from page.browsing import Browser, needs_browser, serving

pytestmark = [needs_browser, pytest.mark.once]

HOSTILE = [
    "<img src=x onerror=reports.push('ran')>",
    "<script>reports.push('ran')</script>",
    "\"quoted\" 'name' & `more`",
    "javascript:reports.push('ran')",
    "../../etc",
    "?at=other&by=x#y",
    "\u202egnipoc\u202c",
    "שלום עולם",
    "名前",
    "x" * 256,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    one = Browser()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def nothing_to_complain_of(browser: Browser) -> Iterator[None]:
    """No report of the policy, no error of the script, no request to another host."""
    browser.size(1360, 900)
    browser.theme("light")
    browser.requests()
    yield
    assert browser.reports() == []
    hosts = {re.sub(r":\d+/.*", "", address) for address in browser.requests()}
    assert hosts <= {"http://127.0.0.1", "data:,"}, hosts
    loud = [one for one in browser.driver.get_log("browser") if "Failed to load" not in str(one)]
    assert loud == []


def page_of(cache: Any, who: Any = ADMIN, **settings: Any) -> CachePage:
    page = CachePage(cache, authorize=lambda request: who, **settings)
    page._watcher._seconds = 3600.0  # A recording lasts until `end_recording`.
    return page


def end_recording(page: CachePage) -> None:
    """End the recording of the whole cache, as if its time were over."""
    hot: Any = page._watcher.scope(()).hot
    hot._begun -= hot._seconds


def used(*names: str, **settings: Any) -> Any:
    cache: Any = create_cache(name="crm", **settings)
    for number, name in enumerate(names):
        for key in range(len(names) - number):
            cache.namespace(name).set(key, "value", tags="tag")
            cache.namespace(name).get(key)
    return cache


def test_names_from_strangers_stay_text(browser: Browser) -> None:
    cache = used(*HOSTILE)
    loading, ends = threading.Event(), threading.Event()

    def load() -> int:
        loading.set()
        assert ends.wait(60)
        return 1

    view = cache.namespace(HOSTILE[0])
    view.set("k", 1, tags=[HOSTILE[0], HOSTILE[1]])
    thread = threading.Thread(target=lambda: view.fetch(HOSTILE[1], load))
    thread.start()
    assert loading.wait(20)
    try:
        with serving(page_of(cache, reveal_keys=True)) as (address, _):
            browser.open(address)
            assert browser.rows() == HOSTILE
            links = "return [...document.querySelectorAll('#rows a')].map(a => a.textContent)"
            assert browser.run(links) == HOSTILE
            assert "<script>reports.push" in browser.text("loads")
            assert "<img src=x" in browser.text("tags")
            assert browser.run("return document.querySelectorAll('img, script').length") == 2
            for name in (HOSTILE[0], HOSTILE[5], HOSTILE[6]):  # Each link leads to its own tenant.
                place = browser.run(
                    "return [...document.querySelectorAll('#rows a')]"
                    ".find(a => a.textContent === arguments[0]).href",
                    name,
                )
                assert place.startswith(address + "?at=")
                browser.driver.get(place)
                browser.until(lambda: browser.text("state-text") == "live")
                here = browser.run("return document.querySelector('#crumbs .here').textContent")
                assert here == name
                browser.driver.back()
                browser.until(lambda: browser.rows() == HOSTILE)
    finally:
        ends.set()
        thread.join()


def test_without_a_tenant_each_panel_says_so(browser: Browser) -> None:
    with serving(page_of(create_cache(name="crm", max_entries=None))) as (address, _):
        browser.open(address)
        assert browser.text("notice") == "Nothing has been asked yet."
        assert "no limit is set" in browser.text("cards")
        assert "nothing asked yet" in browser.text("cards")
        assert "There are no tenants yet" in browser.text("tenants-empty")
        assert browser.text("loads") == "No load has run yet."
        assert "Not sampled yet" in browser.text("keys")
        assert browser.text("functions") == "No function is cached here."
        assert browser.text("tags") == "No entry bears a tag."


def test_one_tenant_fills_the_page(browser: Browser) -> None:
    cache = used("tenant:acme", max_entries=100)
    cache.namespace("tenant:acme").set("none", None)
    cache.namespace("tenant:acme").get("none")  # A hit, though its value is None.
    calls = cache.cached()(lambda n: n)
    calls(1), calls(1)
    with serving(page_of(cache)) as (address, _):
        browser.open(address)
        assert browser.rows()[0] == "tenant:acme"
        assert "3 of 100 entries" in browser.text("cards")
        assert "75.0 %" in browser.text("cards")
        assert "2 calls" in browser.text("functions")
        assert "tag" in browser.text("tags")
        browser.until(lambda: "hit" in browser.text("chart-asked"))  # From the second reading on.


def test_ten_thousand_tenants_are_the_first_fifty_and_a_sum(browser: Browser) -> None:
    cache: Any = create_cache(name="crm", max_entries=None)
    for number in range(10_000):
        cache.namespace(f"tenant:{number}").set("k", 1)
    for key in range(9):
        cache.namespace("tenant:7777").set(key, 1)
    with serving(page_of(cache)) as (address, _):
        browser.open(address)
        rows = browser.rows()
        assert len(rows) == 51 and rows[0] == "tenant:7777"
        assert "9,950 more" in browser.run("return document.querySelector('tr.rest').innerText")
        assert "the first 50 of 10,000 by entries" in browser.text("tenants-note")
        browser.press("/", "7777")
        browser.until(lambda: browser.rows() == ["tenant:7777", ""])
        assert "1 of 10,000 match" in browser.text("tenants-note")
        browser.press("x")
        browser.until(lambda: browser.text("tenants-empty") == "No name matches.")


def test_all_of_it_by_keyboard(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    cache = used("alpha", "beta", "gamma", "delta", max_entries=1_000)
    cache.namespace("gamma").get("absent")
    page = page_of(cache)
    with serving(page) as (address, _):
        browser.open(address)
        assert browser.rows() == ["alpha", "beta", "gamma", "delta"]
        browser.press("1")
        assert browser.rows() == ["alpha", "beta", "delta", "gamma"]
        browser.press("1")
        assert browser.rows() == ["gamma", "delta", "beta", "alpha"]
        sorted_by = "return document.querySelector('th[aria-sort]').innerText"
        browser.press("6")
        browser.until(lambda: browser.rows()[0] == "gamma")
        assert "Misses" in browser.run(sorted_by)
        browser.press("j")
        assert browser.focus() == "gamma"
        browser.press("j", Keys.ARROW_DOWN, Keys.ARROW_UP, "k")
        assert browser.focus() == "gamma"
        browser.press("?")
        assert browser.run("return document.getElementById('keyboard').open") is True
        browser.press(Keys.ESCAPE)
        assert browser.run("return document.getElementById('keyboard').open") is False
        browser.press("p")
        assert browser.text("state-text") == "paused"
        browser.press("p")
        browser.until(lambda: browser.text("state-text") == "live")
        browser.press("/", "bet")
        browser.until(lambda: browser.rows() == ["beta", ""])
        browser.press(Keys.ARROW_DOWN)
        assert browser.focus() == "beta"
        browser.press(Keys.ENTER)
        browser.until(lambda: browser.text("crumbs").replace("\n", "") == "crm\u203abeta")
        browser.until(lambda: "3 of" in browser.text("cards") or "3" in browser.text("cards"))
        browser.press("u")
        browser.until(lambda: len(browser.rows()) == 4)
        browser.press("h")
        browser.until(lambda: "Sampling" in browser.text("keys"))
        for _ in range(500):
            cache.namespace("beta").get(1)
        end_recording(page)
        browser.until(lambda: "500 look-ups" in browser.text("keys-note"))
        assert re.search("beta \u203a int #[0-9a-f]{8}", browser.text("keys"))
        # With the tabulator everything is reached, and is seen to have the focus.
        browser.run("document.activeElement.blur()")
        seen = set()
        for _ in range(22):
            browser.press(Keys.TAB)
            seen.add(browser.run("const e = document.activeElement; return e.id || e.textContent"))
            is_seen = "const e = document.activeElement; return e.matches('body, :focus-visible')"
            assert browser.run(is_seen)
        assert {"pause", "theme", "help", "search", "record", "alpha", "delta"} <= seen


def test_families_fold_keys_by_pattern(browser: Browser) -> None:
    cache: Any = create_cache(name="crm")
    page = page_of(cache, groups=[r"contacts:\d+"])
    with serving(page) as (address, _):
        browser.open(address)
        browser.press("h")
        browser.until(lambda: "Sampling" in browser.text("keys"))
        for number in range(100):
            cache.namespace("a").get(f"contacts:{number}")
        end_recording(page)
        browser.until(lambda: "Families" in browser.text("keys"))
        assert "contacts:\\d+" in browser.text("keys")
        assert "contacts:7" not in browser.text("keys")


def test_a_tenant_sees_itself_alone(browser: Browser) -> None:
    cache = used("tenant:acme", "tenant:beta", "tenant:gamma")
    cache.namespace("tenant:acme", "ada").get("k")
    with serving(page_of(cache, "acme")) as (address, _):
        browser.open(address)
        assert browser.rows() == ["ada"] + [""] * (len(browser.rows()) - 1)
        for query in ("?at=tenant:beta", "?at=..&at=tenant:beta", "?tenant=beta", "?search=beta"):
            browser.driver.get(address + query)
            browser.until(lambda: browser.text("state-text") in ("live", "absent"))
            # The path is what the reader asked for, as it was asked.
            shown = browser.run(
                "document.getElementById('crumbs').remove(); delete page.last.path;"
                "return document.querySelector('main').innerText + JSON.stringify(page.last)"
            )
            assert "gamma" not in shown and "beta" not in shown
            assert browser.run("return page.last.stats.sets") in (0, 3)


def test_dark_and_light_and_narrow(browser: Browser) -> None:
    cache = used(*(f"tenant:{'long' * number}" for number in range(12)), max_entries=100)
    ground = "return getComputedStyle(document.body).backgroundColor"
    ink = "return getComputedStyle(document.body).color"
    with serving(page_of(cache)) as (address, _):
        browser.open(address)
        light = browser.run(ground), browser.run(ink)
        browser.theme("dark")
        dark = browser.run(ground), browser.run(ink)
        assert light == ("rgb(244, 246, 248)", "rgb(23, 32, 42)")
        assert dark == ("rgb(13, 17, 23)", "rgb(230, 237, 243)")
        browser.press("t")
        assert (browser.run(ground), browser.run(ink)) == light
        browser.open(address)  # The choice is kept.
        assert (browser.run(ground), browser.run(ink)) == light
        browser.run("localStorage.clear()")
        for width in (1360, 700, 360):
            browser.size(width, 800)
            browser.open(address)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            overflowing = browser.run(
                "return [...document.querySelectorAll('.card, #rows tr, .panel')].filter("
                "e => e.getBoundingClientRect().right > innerWidth + 1).length"
            )
            assert width == 700 or overflowing == 0


def test_off_absent_and_closed_are_said(browser: Browser) -> None:
    cache = used("a")
    cache.enabled = False
    with serving(page_of(cache)) as (address, _):
        browser.open(address)
        assert browser.text("notice").startswith("Switched off: nothing is stored here")
        browser.open(address, "nowhere", state="absent")
        assert browser.text("notice").startswith("There is nothing here yet")
        cache.close()
        browser.open(address, state="closed")
        assert "The cache is closed" in browser.text("notice")


def test_counters_that_are_reset_are_said_to_be(browser: Browser) -> None:
    cache = used("a", "b")
    with serving(page_of(cache)) as (address, _):
        browser.open(address)
        cache.reset_stats()
        browser.until(lambda: browser.text("notice").startswith("Counting began anew at "))


def test_a_reader_who_loses_the_right_is_told(browser: Browser) -> None:
    who: list[Any] = [ADMIN]
    page = CachePage(used("a"), authorize=lambda request: who[0])
    with serving(page) as (address, _):
        browser.open(address)
        who[0] = None
        browser.until(lambda: browser.text("state-text") == "forbidden")
        assert "You may not see this page any more" in browser.text("notice")


def test_a_process_that_ends_is_said_to_be_gone(browser: Browser) -> None:
    with serving(page_of(used("a"))) as (address, end):
        browser.open(address)
        end()
        browser.until(lambda: browser.text("state-text") == "no answer")
        assert "The process does not answer" in browser.text("notice")
        assert browser.rows() == ["a"]


def test_a_worker_that_is_gone_is_named(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "crm-99999999.sock").touch()
    with serving(page_of(used("a"), workers=tmp_path)) as (address, _):
        browser.open(address)
        assert "Worker 99999999 is gone" in browser.text("notice")
        assert "Process 99999999" in browser.text("workers")
        assert "1 of 2 workers" in browser.text("process")
