"""A real Chromium without a window, for tests of pages: what it logs, what it asks the network for, how things lie.

Starting it is tried again: on a busy machine it may not answer its driver in time. A machine without it fails the test.
"""

import base64
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

INSTALL = "apt-get install -y --no-install-recommends chromium chromium-driver"
TRIES = 3
DEADLINE_S = 120

EMPTY = """
// plots without a size or without anything in them
return [...document.querySelectorAll('figure svg')].filter(svg => {
  const box = svg.getBoundingClientRect(), inside = svg.getBBox();
  return !(box.width > 100 && box.height > 30 && inside.width > 100 && inside.height > 30);
}).map(svg => svg.getAttribute('aria-label'))
"""
BROKEN_WORDS = """
// words of tables, names and captions that begin on one line and end on the next, though a line has room for them
const found = [];
for (const e of document.querySelectorAll('th, td, h1, h2, h3, p, li, figcaption, summary')) {
  if (!e.getClientRects().length) continue;
  const walk = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) for (const match of node.textContent.matchAll(/[^\\s-]+/g)) {
    const range = document.createRange();
    range.setStart(node, match.index);
    range.setEnd(node, match.index + match[0].length);
    const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
    if (lines.size > 1 && match[0].length <= 20) found.push(e.tagName + ': ' + match[0]);
  }
}
return found
"""
TOO_WIDE = """
// what reaches beyond the window; a table may, inside of what a finger pushes aside
const width = document.documentElement.clientWidth;
const wide = document.documentElement.scrollWidth > width ? ['the page: ' + document.documentElement.scrollWidth] : [];
const out = [...document.querySelectorAll('body *')].filter(e => e.getClientRects().length && !e.closest('.unseen') &&
  !e.closest('.wide table') && (e.getBoundingClientRect().right > width + 1 || e.getBoundingClientRect().left < -1));
return wide.concat(out.map(e => e.tagName + ': ' + e.textContent.slice(0, 60)))
"""
SMALL = """
// text of less than 12 CSS pixels
return [...document.querySelectorAll('body *')].filter(e => e.getClientRects().length && !e.closest('.unseen') &&
  [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
    const matrix = e.ownerSVGElement ? e.getScreenCTM() : {a: 1, b: 0};
    return [parseFloat(getComputedStyle(e).fontSize) * Math.hypot(matrix.a, matrix.b), e.textContent];
  }).filter(([size]) => size < 12).map(([size, text]) => size.toFixed(1) + ' ' + text.slice(0, 60))
"""
OVERLAPS = """
// words of one plot that lie on each other
const found = [];
for (const svg of document.querySelectorAll('figure svg')) {
  const texts = [...svg.querySelectorAll('text')].filter(text => !text.getAttribute('transform'));
  const boxes = texts.map(text => text.getBoundingClientRect());
  for (let a = 0; a < boxes.length; a++) for (let b = a + 1; b < boxes.length; b++) {
    const across = Math.min(boxes[a].right, boxes[b].right) - Math.max(boxes[a].left, boxes[b].left);
    const down = Math.min(boxes[a].bottom, boxes[b].bottom) - Math.max(boxes[a].top, boxes[b].top);
    if (across > 1 && down > 3) found.push(texts[a].textContent + ' on ' + texts[b].textContent);
  }
}
return found
"""
CONTRAST = """
// the least contrast of words with the paper they stand on
const linear = x => x / 255 <= .03928 ? x / 255 / 12.92 : ((x / 255 + .055) / 1.055) ** 2.4;
const light = colour => { const v = colour.match(/[\\d.]+/g).map(linear); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
const paper = light(getComputedStyle(document.querySelector('.card') || document.body).backgroundColor);
return [...document.querySelectorAll('p, figcaption, th, td, svg .tick, svg .label')].filter(e => e.getClientRects().length).map(e => {
  const style = getComputedStyle(e), ink = light(e.ownerSVGElement ? style.fill : style.color);
  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
}).reduce((a, b) => Math.min(a, b), 21)
"""


def binary(name: str) -> str:
    """Path of `chromium` or `chromedriver`."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"no {name} on PATH; this test looks at a page in the real one: {INSTALL}")
    return found


class Browser:
    """One Chromium with a profile of its own."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def look_at(self, page: Path, *, width: int, dark: bool = False) -> None:
        """Show a file at so many CSS pixels."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._driver.get_log("performance")
        self._driver.get_log("browser")
        self._driver.get(page.as_uri())

    def said(self) -> list[str]:
        """Of the console since the last look."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def asked_for(self) -> list[str]:
        """Addresses that it requested since the last look, the page itself among them."""
        messages = [json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def run(self, script: str) -> Any:
        """What the script returns; it runs beside the page's own policy."""
        return self._driver.execute_script(script)

    def picture(self, out: Path) -> None:
        """A PNG of the whole page."""
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        out.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """`folder` takes the profile."""
    driver = _started(folder)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _started(folder: Path) -> webdriver.Chrome:
    for attempt in range(1, TRIES + 1):
        try:
            driver = webdriver.Chrome(options=_options(folder / f"profile-{attempt}"), service=Service(binary("chromedriver")))
        except WebDriverException:
            if attempt == TRIES:
                raise
        else:
            driver.set_page_load_timeout(DEADLINE_S)
            driver.set_script_timeout(DEADLINE_S)
            return driver
    raise AssertionError("unreachable")


def _options(profile: Path) -> Options:
    options = Options()
    options.binary_location = binary("chromium")
    words = ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", f"user-data-dir={profile}")
    for word in (*words, "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return options
