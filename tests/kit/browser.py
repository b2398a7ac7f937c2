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
