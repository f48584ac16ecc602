"""The tabs beside pictures, in a browser: meshes that turn, bars of classes, an adapter of one's own."""

# pyright: reportMissingImports=false
from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.web.test_page import Page, address as address, page as page, picture

from lorgnette.cli import main

pytestmark = pytest.mark.slow


def tab(page: Page, name: str) -> None:
    found = [button for button in page.all("button[role=tab]") if button.text == name]
    found[0].send_keys(page.keys.ENTER)


def drop(page: Page, selector: str, *files: Path) -> None:
    page.one(f"{selector} input[type=file]").send_keys("\n".join(map(str, files)))
    page.until(lambda: all(file.name in "".join(page.one(selector).text.split()) for file in files))


def test_a_mask_becomes_a_mesh_that_turns(page: Page, tmp_path: Path):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra 'mesh'")
    values = np.zeros((18, 16, 14), np.uint8)
    values[3:9, 3:12, 3:11] = 1
    values[9:14, 3:12, 3:11] = 2
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), tmp_path / "seg.nii.gz")
    from selenium.webdriver import ActionChains

    assert main(["mesh", str(tmp_path / "seg.nii.gz"), "-o", str(tmp_path / "out.stl")]) == 0
    tab(page, "Meshes")
    drop(page, "#mask", tmp_path / "seg.nii.gz")
    page.one("#mesh-go").click()
    page.until(lambda: "Done" in page.one("#mesh-status").text)
    assert page.downloaded(page.one("#mesh-results a")).read_bytes() == (tmp_path / "out.stl").read_bytes()
    page.browser.switch_to.frame(page.one("#mesh-view iframe"))
    before = page.one("canvas").screenshot_as_png
    assert len(set(PIL.Image.open(io.BytesIO(before)).convert("L").tobytes())) > 20, "something is drawn"
    ActionChains(page.browser).drag_and_drop_by_offset(page.one("canvas"), 60, 20).perform()
    page.until(lambda: page.one("canvas").screenshot_as_png != before)
    page.browser.switch_to.default_content()
    assert "1" in page.one("#mesh-results table").text


def test_a_picture_gets_bars(page: Page, tmp_path: Path):
    tab(page, "Classes")
    drop(page, "#class-file", picture(tmp_path / "a.png"))
    page.one("#class-names textarea, #class-names input").send_keys("circle, star")
    page.one("#class-go").click()
    page.until(lambda: "Done" in page.one("#class-status").text)
    shares = [float(one.get_attribute("value")) for one in page.all("#class-bars meter")]
    assert len(shares) == 2
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_photographs_become_an_adapter(page: Page, tmp_path: Path):
    tab(page, "Adapt")
    drop(page, "#photos", *(picture(tmp_path / f"{seed}.png", 100, 90, seed) for seed in range(4)))
    page.one("#adapt-go").click()
    page.until(lambda: page.all("#adapt-curve svg"), 150)
    page.one("#adapt-enough").click()
    page.until(lambda: "Done" in page.one("#adapt-status").text, 60)
    assert page.downloaded(page.one("#adapt-results a")).name == "mine.zip"
    page.browser.refresh()
    page.one("#adapter input").click()
    page.until(lambda: "mine" in [one.text for one in page.all("[role=option]")])
