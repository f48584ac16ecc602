"""Evaluation batches, their scores, and tables of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lorgnette.common.parts import LeftOut
from lorgnette.images.evaluation import HeldOutImages, by_network, compare, image_scores, interpolated, side_by_side
from lorgnette.images.file import Image, write_image
from lorgnette.images.metrics import psnr


class Halved(HeldOutImages):
    """A room's: every second pixel is thrown away, `level` times."""

    def degraded(self, gt: Tensor, level: float) -> tuple[Tensor, Tensor, dict[str, Any]]:
        step = 2 ** int(level)
        return gt[:, ::step, ::step], gt, {"label": f"x{step}", "shave": step, "luma": True}

    def paired(self, lq: Tensor, gt: Tensor, files: tuple[Path, Path]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        lq, gt = self.centred(lq, gt, 2)
        return lq, gt, {"label": files[0].parent.name, "shave": 0, "luma": False}


class Nothing(nn.Module):
    """A task that enlarges by repeating pixels, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def predict(self, batch: Any) -> Tensor:
        assert not torch.is_grad_enabled()
        factor = batch["gt"].shape[-1] // batch["lq"].shape[-1]
        return self.weight * batch["lq"].repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def write(path: Path, h: int, w: int, grey: bool = False, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).random((h, w, 1 if grey else 3), dtype=np.float32)
    write_image(path, Image(np.broadcast_to(pixels, (h, w, 3)), grey=grey))
    return path


def test_a_file_comes_once_for_each_level_and_a_pair_once(tmp_path: Path):
    alone, lq, gt = (
        write(tmp_path / f"{n}/a.png", s, s, grey=n == "gt") for n, s in (("a", 33), ("lq", 20), ("gt", 40))
    )
    images = Halved([(None, alone), (lq, gt)], (1, 2), crop=32)
    assert [(b["label"], *b["lq"].shape, *b["gt"].shape[2:]) for b in images] == [
        ("x2", 1, 3, 16, 16, 32, 32),
        ("x4", 1, 3, 8, 8, 32, 32),
        ("lq", 1, 3, 16, 16, 32, 32),
    ]
    assert [batch["grey"] for batch in images] == [False, False, False]  # scored on RGB, a grey file counts as RGB
    assert Halved([(None, gt)], (1,))[0]["grey"]
    assert len(Halved([(None, alone), (lq, gt)], ())) == 1


def test_methods_are_compared_on_the_same_images(tmp_path: Path):
    files = [write(tmp_path / f"{k}.png", 40, 48, seed=k) for k in range(2)]
    images = Halved([(None, file) for file in files], (1, 2))
    rows = compare({"bicubic": interpolated, "network": by_network(Nothing())}, images)
    assert list(rows) == ["bicubic", "network"]
    assert list(rows["network"]) == ["psnr_x2", "ssim_x2", "psnr_x4", "ssim_x4"]
    values = [psnr(interpolated(b), b["gt"], shave=2, quantise=True) for b in images if b["label"] == "x2"]
    assert rows["bicubic"]["psnr_x2"] == sum(values) / 2
    small = Halved([(None, write(tmp_path / "small.png", 12, 12))], (1,))
    with pytest.raises(ValueError, match=r"^small x2 cannot be scored: ssim: needs 11 pixels") as refusal:
        compare({"bicubic": interpolated}, small)
    assert "\n" not in str(refusal.value)
    both = Halved([(None, tmp_path / "small.png"), (None, files[0])], (1,))
    with pytest.warns(LeftOut, match=r"^small x2 cannot be scored: ssim") as said:
        rows = compare({"bicubic": interpolated}, both)
    assert said[0].message.names == ["small x2"]
    assert rows["bicubic"]["psnr_x2"] == values[0]


def test_a_single_channel_is_scored_in_its_full_range():
    truth = torch.rand(1, 1, 20, 20)
    batch = {"lq": truth, "gt": truth, "label": "q10", "shave": 0, "luma": True, "grey": True, "name": "a"}
    off = (truth - 0.1).clamp(0, 1)
    expected = psnr(*(t.expand(1, 3, 20, 20) for t in (off, truth)), luma=False, quantise=True)
    assert image_scores(off, batch)["psnr_q10"] == pytest.approx(expected)
    (strip,) = side_by_side(off, batch).values()
    assert strip.shape == (20, 60, 3)
    np.testing.assert_array_equal(strip[:, :20], strip[:, 40:])  # what has its size already is not resized
