"""The requirement document on LMF: its own lines beside the fronts that bear its names."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette import build, save
from lorgnette.compat.lmf import (
    VGG19,
    FeatureCache,
    FeatureEnhancer,
    calculate_psnr,
    calculate_ssim,
    forward_with_checkpoint,
    get_lr_schedule,
    make_coord,
    perceptual_loss,
    process_large_image,
    total_loss,
    visualize_attention,
    visualize_feature_maps,
)
from lorgnette.systems import restore, superres
from lorgnette.systems.superres.model import make_network

PAGE = Path(__file__).with_name("lmf_examples.md").read_text(encoding="utf-8")
SCHEDULE, PIXEL, TOTAL, PSNR, SSIM, ENHANCE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def original(block: str, name: str) -> Any:
    names: dict[str, Any] = {"np": np, "cv2": cv2, "torch": torch, "F": F}
    exec(compile(textwrap.dedent(block), "page", "exec"), names)
    return names[name]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------- enlarging


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the original's training writes it, with weights that show what they do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_network("lm-lte", "edsr-tiny")
    path = tmp_path_factory.mktemp("lmf") / "epoch-best.pth"
    torch.save({"model": {"name": "lmlte", "args": {}, "sd": model.state_dict()}}, path)
    return path


def test_a_file_enlarges_arrays_and_tensors(checkpoint: Path):
    with pytest.warns(UserWarning, match="there is no CUDA here") if not torch.cuda.is_available() else _nothing():
        enhancer = FeatureEnhancer(str(checkpoint))
    enhancer = FeatureEnhancer(checkpoint, device="cpu")
    array = rng().integers(0, 255, (11, 14, 3), dtype=np.uint8)
    large = enhancer.enhance(array)
    assert large.shape == (1, 3, 44, 56)
    assert 0 <= large.min() < large.max() <= 1
    batch = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    batch = torch.cat([batch, batch.flip(-1)])
    both = enhancer.enhance(batch, 4)
    torch.testing.assert_close(both[:1], large, atol=1e-5, rtol=0)
    assert enhancer.enhance(batch, (2, 3.3)).shape == (2, 3, 22, 46)
    for wrong in (array[..., 0], array.astype(np.float32), batch[0]):
        with pytest.raises(ValueError, match="does not work"):
            enhancer.enhance(wrong)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_the_originals_own_lines_give_the_same(checkpoint: Path):
    """Its network takes and gives [-1, 1], which the original forgot."""
    enhancer = FeatureEnhancer(checkpoint, device="cpu")
    image = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    names = {"self": enhancer, "torch": torch, "make_coord": make_coord, "scale": 3, "image": image * 2 - 1}
    lines = textwrap.dedent(ENHANCE).replace("torch.clamp(output, 0, 1)", "torch.clamp(output * 0.5 + 0.5, 0, 1)")
    with torch.no_grad():
        exec(compile(lines, "page", "exec"), names)
    assert isinstance(names["output"], Tensor)
    torch.testing.assert_close(enhancer.enhance(image, 3), names["output"], atol=1e-5, rtol=0)
    # and without the cell, which is that of such a picture
    coord = make_coord((27, 36))[None]
    with torch.no_grad():
        asked = enhancer.model(image * 2 - 1, coord).mT.view(1, 3, 27, 36) * 0.5 + 0.5
    torch.testing.assert_close(asked.clamp(0, 1), enhancer.enhance(image, 3), atol=1e-5, rtol=0)


def test_large_pictures_have_no_seams(checkpoint: Path):
    enhancer = FeatureEnhancer(checkpoint, device="cpu")
    image = torch.rand(1, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    whole = process_large_image(enhancer, image, scale=2.5)
    assert whole.shape == (1, 3, 175, 225)
    exact = process_large_image(enhancer.model, image, patch_size=48, overlap=16, scale=2.5)
    torch.testing.assert_close(exact, whole, atol=1e-5, rtol=0)  # it sees 8 pixels to each side
    rough = process_large_image(enhancer.task, image, patch_size=32, overlap=4, scale=2.5)
    assert 1e-5 < (rough - whole).abs().max() < 0.1
    for settings in ({"patch_size": 32, "overlap": 32}, {"patch_size": 32, "overlap": -1}, {"patch_size": 4}):
        with pytest.raises(ValueError, match=r"overlap|tile"):
            process_large_image(enhancer, image, **settings)
    with pytest.raises(ValueError, match=r"img: .* does not work"):
        process_large_image(enhancer, image[0])


def test_folders_are_loaded_and_others_refused(tmp_path: Path):
    recipe, _, _ = superres.tiny()
    save(build(recipe), recipe, tmp_path / "lens")
    assert FeatureEnhancer(tmp_path / "lens", device="cpu").enhance(np.zeros((4, 4, 3), np.uint8)).shape[-1] == 16
    recipe, _, _ = restore.tiny()
    save(build(recipe), recipe, tmp_path / "other")
    with pytest.raises(ValueError, match="is of another room than superres"):
        FeatureEnhancer(tmp_path / "other", device="cpu")
    with pytest.raises(FileNotFoundError):
        FeatureEnhancer(tmp_path / "nowhere.pth", device="cpu")


# --------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("shape", [(20, 23, 3), (20, 23)])
def test_scores_are_the_originals(shape: tuple[int, ...]):
    a = rng().integers(0, 256, shape).astype(np.float64)
    b = np.clip(a + rng().normal(0, 9, shape), 0, 255)
    assert calculate_psnr(a, b) == pytest.approx(original(PSNR, "calculate_psnr")(a, b), abs=1e-9)
    assert calculate_ssim(a, b) == pytest.approx(original(SSIM, "calculate_ssim")(a, b), abs=1e-9)
    assert calculate_psnr(a, a) == float("inf")
    bytes_a, bytes_b = a.astype(np.uint8), b.round().astype(np.uint8)
    right = original(PSNR, "calculate_psnr")(bytes_a.astype(float), bytes_b.astype(float))
    assert calculate_psnr(bytes_a, bytes_b) == pytest.approx(right)  # where the original wraps around
    assert calculate_psnr(a[2:-2, 2:-2], b[2:-2, 2:-2]) == pytest.approx(calculate_psnr(a, b, crop_border=2))
    with pytest.raises(ValueError, match="one shape"):
        calculate_psnr(a, b[:-1])


def test_scores_on_y():
    a, b = rng().integers(0, 256, (2, 20, 23, 3), dtype=np.uint8)
    to_y = np.array([65.481, 128.553, 24.966]) / 255
    expected = 10 * np.log10(255**2 / np.mean((a @ to_y - b @ to_y) ** 2))
    assert calculate_psnr(a, b, test_y_channel=True) == pytest.approx(expected)


# -------------------------------------------------------------------------------------------------------- training


def test_the_schedule_is_the_originals():
    def rates(schedule: Any) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        own, found = schedule(optimizer, SimpleNamespace(epochs=7, min_lr=1e-3)), []
        for _ in range(8):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            own.step()
        return found

    assert rates(get_lr_schedule) == rates(original(SCHEDULE, "get_lr_schedule"))
    assert rates(get_lr_schedule)[7] == pytest.approx(1e-3)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the layout of torchvision's, whose classifier is small."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = VGG19(None).state_dict()
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}, path)
    return path


def test_vgg19_has_torchvisions_names_and_layers(vgg_file: Path, tmp_path: Path):
    vgg = VGG19(vgg_file)
    names = list(vgg.state_dict())
    convolutions = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    assert names == [f"features.{n}.{kind}" for n in convolutions for kind in ("weight", "bias")]
    assert sum(p.numel() for p in vgg.parameters()) == 20_024_384
    assert not any(p.requires_grad for p in vgg.parameters())
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shapes = [tuple(feature.shape[1:]) for feature in vgg(image)]
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    normalised = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    first = F.relu(F.conv2d(normalised, vgg.state_dict()[names[0]], vgg.state_dict()[names[1]], padding=1))
    torch.testing.assert_close(VGG19(vgg_file, ["relu1_1"])(image)[0], first)
    with pytest.raises(ValueError, match="layers: 'relu6_1' is not there; relu1_1, "):
        VGG19(vgg_file, ["relu6_1"])
    state = torch.load(vgg_file, weights_only=True)
    torch.save({n: t for n, t in state.items() if n != "features.2.bias"}, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"lacks 'features\.2\.bias'"):
        VGG19(tmp_path / "cut.pth")
    with pytest.raises(FileNotFoundError):
        VGG19(tmp_path / "nowhere.pth")


def test_losses(vgg_file: Path):
    vgg = VGG19(vgg_file)
    pred, gt = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pred.requires_grad_()
    perceptual = perceptual_loss(pred, gt, vgg)
    expected = sum(float((p - g).abs().mean().detach()) for p, g in zip(vgg(pred), vgg(gt), strict=True))
    assert float(perceptual.detach()) == pytest.approx(expected, rel=1e-5)
    names: dict[str, Any] = {"F": F, "pred": pred, "gt": gt, "perceptual_loss": perceptual}
    exec(PIXEL + TOTAL, names)
    assert total_loss(pred, gt, vgg).item() == pytest.approx(names["total_loss"].item(), rel=1e-6)
    with pytest.warns(UserWarning, match="the loss is the pixel loss alone"):
        alone = total_loss(pred, gt, None)
    assert torch.equal(alone, F.l1_loss(pred, gt))
    total_loss(pred, gt, vgg).backward()
    assert pred.grad is not None
    assert pred.grad.any()


def test_checkpointing_gives_the_same_gradients():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make_network("lm-lte", "edsr-tiny")
    inp, coord = torch.rand(1, 3, 8, 8), torch.rand(1, 30, 2) * 2 - 1
    found = []
    for way in (lambda: model(inp, coord), lambda: forward_with_checkpoint(model, inp, coord), None):
        model.zero_grad()
        if way is None:
            model.use_checkpoint = True
        (model(inp, coord) if way is None else way()).square().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) == len(found[2]) > 20
    for other in found[1:]:
        assert all(torch.allclose(a, b) for a, b in zip(found[0], other, strict=True))

    class Own(nn.Module):
        def forward_pass(self, x: Tensor) -> Tensor:
            return x * 3

        forward_with_checkpoint = forward_with_checkpoint

    assert Own().forward_with_checkpoint(torch.ones(1)).item() == 3


def test_checkpointing_keeps_less():
    from torch.autograd.graph import saved_tensors_hooks

    model = make_network("lm-lte", "edsr-small")
    inp, coord = torch.rand(1, 3, 24, 24), torch.rand(1, 4, 2) * 2 - 1

    def kept() -> int:
        sizes: list[int] = []
        with saved_tensors_hooks(lambda tensor: (sizes.append(tensor.numel()), tensor)[1], lambda tensor: tensor):
            model(inp, coord)
        return sum(sizes)

    usual = kept()
    model.use_checkpoint = True
    assert kept() < usual / 2


# ------------------------------------------------------------------------------------------------ figures, the cache


def test_figures(tmp_path: Path):
    feature = torch.zeros(3, 2, 8, 8)
    feature[1, :, :4] = 1  # the upper half is high
    visualize_feature_maps(feature, tmp_path / "maps.png")
    maps = np.asarray(PIL.Image.open(tmp_path / "maps.png")).astype(int)
    dark, bright = (68, 1, 84), (253, 231, 37)  # viridis from end to end
    panel = maps[10:250, 260:500]
    assert np.abs(panel[60, 120] - bright).max() < 6
    assert np.abs(panel[200, 120] - dark).max() < 6
    assert np.abs(maps[60, 60] - dark).max() < 6  # a map that is the same all over
    assert (maps[400, 60] == 255).all()  # and no fourth
    visualize_feature_maps(torch.rand(20, 1, 5, 9), tmp_path / "many.png")
    with pytest.raises(ValueError, match=r"feature: .* does not work"):
        visualize_feature_maps(feature[0], tmp_path / "maps.png")

    weights = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    path = visualize_attention(weights, tmp_path / "attention.png")
    drawn = np.asarray(PIL.Image.open(path)).astype(int)
    assert drawn[20, 20].sum() < 60 < 600 < drawn[720, 720].sum()
    bar = drawn[10:730, 750]
    assert bar[5].sum() > 700 > 60 > bar[-5].sum()
    with pytest.raises(ValueError, match=r"attn_weights: .* does not work"):
        visualize_attention(torch.rand(2, 8, 8), path)


def test_the_cache_keeps_what_was_used_last():
    cache = FeatureCache(max_size=2)
    cache.put("a", torch.ones(2))
    cache.put("b", [torch.ones(2), np.ones(3)])
    assert torch.equal(cache.get("a"), torch.ones(2))
    cache.put("c", {"x": torch.ones(1)})
    assert cache.get("b") is None
    assert cache.get("nothing") is None
    assert len(cache) == 2
    cache.put("a", 1)
    assert cache.get("a") == 1
    small = FeatureCache(max_bytes=5000)
    for key in range(10):
        small.put(key, torch.zeros(256))
    assert len(small) == 3
    small.put("large", torch.zeros(2000))
    assert small.get("large") is None
    with pytest.raises(ValueError, match="max_size: 0 keeps nothing"):
        FeatureCache(0)
