"""`lorgnette demo`: its options and what it prints. The demo itself is tested with the room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorgnette import demo
from lorgnette.cli import main


def test_options_reach_the_demo_and_its_rows_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked: dict[str, Any] = {}

    def run(out: str, **options: Any) -> demo.Outcome:
        asked.update(options, out=out)
        rows = [
            demo.Row("bicubic", {"psnr": 26.5, "ssim": 0.75}),
            demo.Row("bicubic after non-local means", {"psnr": 26.75, "ssim": 0.76}),
            demo.Row("frozen base", {"psnr": 26.0, "ssim": 0.74}),
            demo.Row("LoRA", {"psnr": 28.1, "ssim": 0.81}, trained=5000, file_bytes=21_000, seconds=12.5),
            demo.Row("full fine-tuning", {"psnr": 29.0, "ssim": 0.82}, trained=100_000),
        ]
        files = [tmp_path / name for name in ("adapter", "side.png", "others.png", "large.png", "report.html")]
        return demo.Outcome(rows, *files, base_parameters=100_000)

    monkeypatch.setattr(demo, "run", run)
    words = [
        "demo",
        "--full",
        "--seed",
        "3",
        "--steps",
        "5",
        "--out",
        str(tmp_path),
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert main(words) == 0
    assert {name: asked[name] for name in ("out", "seed", "full", "steps")} == {
        "out": str(tmp_path), "seed": 3, "full": True, "steps": 5,
    }  # fmt: skip
    table = capsys.readouterr().out
    assert "LoRA 28.10 0.8100 5,000 5.0 % 21.0 kB 12.5" in " ".join(table.split())
    assert "gains +2.10 dB over the frozen base and +1.35 dB over bicubic after non-local means." in table
    assert "That is 70% of what full fine-tuning gains, with 5.0% of its weights." in table
    assert str(tmp_path / "side.png") in table
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["rows"][3]["metrics"] == {"psnr": 28.1, "ssim": 0.81}
