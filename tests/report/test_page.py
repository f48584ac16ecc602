"""The HTML report: it loads nothing, escapes everything, and shows what it was given."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.report.charts import HEIGHT, WIDTH, line_chart, log_ticks, ticks
from lorgnette.report.page import most_changed, write_report

VOID = {"meta", "img", "input", "br"}
HOSTILE = """</pre></title><script>alert(1)</script><img src="http://x.example/a.png" onerror='alert(1)'>&"""


class Page(HTMLParser):
    """Elements, texts and scripts of a page; fails where tags are not balanced."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def picture(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run_lines(name: str = "psnr") -> list[dict]:
    lines: list[dict] = [{"event": "start", "step": 0, "total": 40}]
    for step in range(41):
        if step:
            lines.append({"event": "step", "step": step, "loss": 1 / step, "lr": 1e-3, "seconds": 0.1})
        if step % 10 == 0:
            lines.append({"event": "eval", "step": step, "metrics": {name: 20 + step / 10}, "is_best": True})
    return lines


def report(tmp_path, **changes) -> Page:
    arguments = {
        "title": "A run", "recipe_text": "", "metrics": [], "table": None, "pictures": [], "summary": "Done.",
    } | changes  # fmt: skip
    write_report(tmp_path / "report.html", **arguments)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def hostile(tmp_path) -> Page:
    """A full report in which every text is an attack."""
    table = [{HOSTILE: HOSTILE, "PSNR": 1.0, HOSTILE + "2": HOSTILE}]
    pictures = [(HOSTILE, picture(0), picture(1)), (HOSTILE, picture(2))]
    lines = run_lines(HOSTILE)
    texts = dict.fromkeys(("title", "recipe_text", "summary"), HOSTILE)
    return report(tmp_path, metrics=lines, table=table, pictures=pictures, **texts)


def test_hostile_texts_stay_texts(hostile):
    assert len(hostile.all("script")) == 1
    assert len(hostile.all("img")) == 5  # two with a detail each, and one
    for tag, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
    shown = "".join(hostile.texts)
    assert shown.count(HOSTILE) >= 9  # title twice, summary, recipe, table thrice, captions, chart


def test_nothing_is_loaded_from_elsewhere(hostile, tmp_path):
    for tag, attributes in hostile.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, name)
    assert not hostile.all("link")
    assert not hostile.all("iframe")
    [style] = re.findall(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(), re.S)
    assert "url(" not in style
    assert "@import" not in style


def test_policy_allows_the_one_script_and_no_other(hostile, tmp_path):
    [script] = re.findall(r"<script>(.*?)</script>", (tmp_path / "report.html").read_text(), re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [meta["content"] or "" for meta in hostile.all("meta") if "http-equiv" in meta]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_table_has_columns_by_first_key_and_marks_the_best(tmp_path):
    rows = [
        {"method": "bicubic", "PSNR": (28.2, 0.0), "file size": None, "seconds": 0.5},
        {"method": "LoRA", "PSNR": (29.414, 0.052), "SSIM": 0.84213, "trained": 61234, "file size": 252_300},
        {"method": "full", "PSNR": (29.3, 0.1), "SSIM": 0.85, "trained": 1_194_000, "file size": 3_912_000},
    ]
    write_report(tmp_path / "r.html", "t", "", [], rows, [], "")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    heads = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert heads == ["method", "PSNR", "file size", "seconds", "SSIM", "trained"]
    body = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)[1:]]
    assert body == [
        ["28.20 ± 0.00", "–", "0.5000", "–", "–"],
        ["29.41 ± 0.05", "252 kB", "–", "0.8421", "61,234"],
        ["29.30 ± 0.10", "3.9 MB", "–", "0.8500", "1,194,000"],
    ]
    assert re.findall(r'<td class="best"[^>]*>(.*?)</td>', text) == ["29.41 ± 0.05", "0.8500"]


def test_before_and_after_are_embedded_whole_with_the_changed_detail(tmp_path):
    before = picture(3, 200, 300)
    after = before.copy()
    after[120:160, 200:240] = 255 - after[120:160, 200:240]
    PIL.Image.fromarray(before).save(tmp_path / "before.png")
    page = report(tmp_path, pictures=[("cat", tmp_path / "before.png", after)])
    embedded = [
        np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition(",")[2]))))
        for image in page.all("img")
    ]
    np.testing.assert_array_equal(embedded[0], before)
    np.testing.assert_array_equal(embedded[1], after)
    box = most_changed(before, after, 96)
    assert box[0].start <= 120
    assert box[0].stop >= 160
    assert box[1].start <= 200
    assert box[1].stop >= 240
    np.testing.assert_array_equal(embedded[3], after[box])
    assert [i["type"] for i in page.all("input")] == ["range"]


def test_pictures_that_cannot_be_compared_are_shown_one_by_one(tmp_path):
    page = report(tmp_path, pictures=[("a", picture(0), picture(0, 41)), ("b", picture(0), picture(0))])
    assert len(page.all("img")) == 3
    assert not page.all("input")


def test_large_and_grey_pictures(tmp_path):
    page = report(tmp_path, pictures=[("wide", np.zeros((10, 4000, 3), np.uint8)), ("g", picture(0)[..., 0])])
    assert [image["width"] for image in page.all("img")] == ["1920", "60"]


def test_bad_pictures_are_one_line_errors(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"cannot read the picture .*text\.png") as error:
        report(tmp_path, pictures=[("x", tmp_path / "text.png")])
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        report(tmp_path, pictures=[("x", tmp_path / "nothing.png")])
    with pytest.raises(ValueError, match="float64"):
        report(tmp_path, pictures=[("x", np.zeros((4, 4, 3)))])
    assert not (tmp_path / "report.html").exists()


def test_curves_of_loss_and_metrics_with_values_under_the_pointer(tmp_path):
    page = report(tmp_path, metrics=run_lines())
    labels = [svg["aria-label"] for svg in page.all("svg")]
    assert labels == ["psnr: from 20.00 to 24.00", "loss: from 1.00 to 0.0250"]
    assert {"step 40: 0.0250", "step 30: 23.00"} <= set(page.texts)
    assert len([p for p in page.all("path") if p["class"] == "baseline"]) == 1
    assert len(page.all("circle")) == 1  # the best


def test_a_report_of_nothing_has_no_empty_sections(tmp_path):
    page = report(tmp_path, metrics=[{"event": "eval", "step": 0, "metrics": {"psnr": None}, "is_best": True}])
    assert not page.all("h2")
    assert not page.all("details")


values = st.floats(-1e9, 1e9, allow_nan=False) | st.floats(1e-9, 1e-3) | st.just(float("nan"))


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=500), st.booleans())
def test_curves_stay_in_the_frame(series, noisy):
    figure = line_chart("x", list(enumerate(series)), noisy=noisy)
    if all(np.isnan(series)):
        assert figure == ""
        return
    assert "nan" not in figure
    for curve in re.findall(r'points="(.*?)"', figure):
        x, y = np.array([pair.split(",") for pair in curve.split()], float).T
        assert 0 <= x.min() <= x.max() <= WIDTH
        assert 0 <= y.min() <= y.max() <= HEIGHT
    assert len(figure) < 60_000


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_in_range(low, extent):
    high = low + extent
    found = ticks(low, high)
    assert 3 <= len(found) <= 9
    assert found == sorted(found)
    assert found[0] >= low - extent * 1e-6
    assert found[-1] <= high + extent * 1e-6


def test_log_ticks():
    assert log_ticks(0.03, 2) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert log_ticks(1e-4, 5) == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1])
