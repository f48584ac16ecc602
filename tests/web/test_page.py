"""The page in a browser: a person drops pictures, looks, and takes them away; with the keyboard too."""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from tests.web.browser import asked_for, chromium

from lorgnette.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(lenses: Path) -> Iterator[str]:
    """Where `lorgnette serve` answers, with its page."""
    pytest.importorskip("gradio", reason="the page needs the extra 'web'")
    words = [sys.executable, "-m", "lorgnette", "serve", "--port", "0", "--device", "cpu", "--adapters", str(lenses)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        match = re.search(r"answers at (http://\S+),", process.stdout.readline())
        assert match
        yield match[1]
        process.terminate()


class Page:
    """A page that is open."""

    def __init__(self, browser: Any, address: str, folder: Path):
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self.browser, self.address, self.folder = browser, address, folder
        self.css, self.keys = By.CSS_SELECTOR, Keys
        browser.get(address)
        self.until(lambda: self.all("#go"))

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(self.css, selector)

    def one(self, selector: str) -> Any:
        return self.until(lambda: self.all(selector))[0]

    def until(self, what: Callable[[], Any], seconds: float = 40) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(0.02)
        raise AssertionError(f"it did not come true; the page says: {self.browser.find_element(self.css, 'body').text}")

    def status(self) -> str:
        return self.one("#status").text

    def drop(self, *files: Path) -> None:
        self.one("#files input[type=file]").send_keys("\n".join(map(str, files)))
        self.until(lambda: all(file.name in "".join(self.one("#files").text.split()) for file in files))

    def put(self, selector: str, text: str) -> None:
        field = self.one(f"{selector} input")
        field.send_keys(self.keys.CONTROL, "a")
        field.send_keys(text, self.keys.ENTER)

    def downloaded(self, link: Any) -> Path:
        before = set(self.folder.iterdir())
        link.send_keys(self.keys.ENTER)

        def there() -> list[Path]:
            new = [file for file in set(self.folder.iterdir()) - before if file.name != "profile"]
            on_its_way = any(f.suffix == ".crdownload" or f.name.startswith(".") or not f.stat().st_size for f in new)
            return [] if on_its_way else new

        return self.until(there)[0]

    def focused(self) -> Any:
        return self.browser.switch_to.active_element


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Page]:
    (tmp_path / "downloads").mkdir()
    with chromium(tmp_path / "downloads") as browser:
        one = Page(browser, address, tmp_path / "downloads")
        yield one
        foreign = [url for url in asked_for(browser) if not url.startswith(address)]
        assert foreign == [], "the page asks for nothing elsewhere"
        assert [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]] == []


def picture(path: Path, width: int = 60, height: int = 48, seed: int = 0) -> Path:
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def test_a_picture_is_enhanced_and_taken_away(page: Page, lenses: Path, tmp_path: Path):
    given, expected = picture(tmp_path / "cat.png"), tmp_path / "expected.png"
    words = ["--adapter", str(lenses / "warm"), "--scale", "1.7", "--device", "cpu"]
    assert main(["enhance", str(given), str(expected), *words]) == 0
    page.drop(given)
    page.put("#adapter", "warm")
    page.put("#scale", "1.7")
    page.one("#go").click()
    page.until(lambda: "Done" in page.status())
    assert page.downloaded(page.one("#results a")).read_bytes() == expected.read_bytes()
    before, after = page.all("#view .ba img")
    assert before.size == after.size
    assert all(page.browser.execute_script("return arguments[0].naturalWidth", one) == 102 for one in (before, after))


def test_everything_is_reached_with_the_keyboard(page: Page, tmp_path: Path):
    page.drop(picture(tmp_path / "cat.png"))
    page.put("#adapter", "cold")
    page.one("#room input").send_keys(page.keys.TAB)
    seen = []
    for _ in range(40):
        here = page.focused()
        seen.append(page.browser.execute_script("return arguments[0].closest('[id]')?.id || ''", here))
        if here.get_attribute("id") == "go":
            break
        here.send_keys(page.keys.TAB)
    assert page.focused().get_attribute("id") == "go", seen
    page.focused().send_keys(page.keys.ENTER)
    page.until(lambda: "Done" in page.status())
    page.focused().send_keys(page.keys.TAB)
    assert page.focused().get_attribute("id") == "cancel"
    for _ in range(20):
        page.focused().send_keys(page.keys.TAB)
        if page.focused().get_attribute("aria-label") == "How much is shown as given":
            break
    shown = "return getComputedStyle(document.querySelector('.ba')).getPropertyValue('--at').trim()"
    assert page.browser.execute_script(shown) == "50%"
    page.focused().send_keys(page.keys.ARROW_RIGHT * 3)
    assert page.browser.execute_script(shown) == "53%"
    page.focused().send_keys(page.keys.TAB)
    assert page.focused().tag_name == "a"


def test_several_come_as_a_zip_and_a_broken_one_is_named(page: Page, tmp_path: Path):
    files = [picture(tmp_path / f"{name}.png", seed=seed) for seed, name in enumerate("ab")]
    (tmp_path / "exe.png").write_bytes(b"MZ" + bytes(500))
    page.drop(*files, tmp_path / "exe.png")
    page.put("#adapter", "warm")
    page.one("#go").click()
    page.until(lambda: "2 of 3 done" in page.status())
    assert "exe.png is not a PNG" in page.one("#results").text
    with zipfile.ZipFile(page.downloaded(page.one("#results a"))) as archive:
        assert archive.namelist() == ["a.png", "b.png"]
        sizes = [PIL.Image.open(archive.open(name)).size for name in archive.namelist()]
    assert sizes == [(120, 96)] * 2


def test_cancelling_frees_the_place_at_once(page: Page, tmp_path: Path):
    def running() -> int:
        return httpx.get(f"{page.address}/health").json()["running"]

    page.drop(picture(tmp_path / "large.png", 900, 900))
    page.put("#adapter", "photo")
    page.one("#go").click()
    page.until(lambda: "tile 0 of" in page.status())
    assert running() == 1
    start = time.perf_counter()
    page.one("#cancel").click()
    page.until(lambda: running() == 0)
    took = time.perf_counter() - start
    page.until(lambda: page.status() == "Cancelled.")
    print(f"from the click until the place was free: {took * 1000:.0f} ms")
    assert took < 1  # with the browser's own time; tests/web/test_api.py measures the server's


def test_closing_the_page_ends_its_jobs(page: Page, tmp_path: Path):
    page.drop(picture(tmp_path / "large.png", 900, 900))
    page.put("#adapter", "photo")
    page.one("#go").click()
    page.until(lambda: "tile 0 of" in page.status())
    page.browser.get("about:blank")
    page.until(lambda: httpx.get(f"{page.address}/health").json()["running"] == 0)
