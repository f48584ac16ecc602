"""The main job on real photographs: adapt the shipped network to a camera, prove it, keep it, use it.

The photographs come with scikit-image; a stated camera is played on them. The network adapts to the camera on some
scenes and is judged on others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorgnette import lora
from lorgnette.checkpoint import RunFolder, load, recipe_text, save, what_was_learnt
from lorgnette.common.files import make_folder
from lorgnette.enhancing.showing import shown
from lorgnette.images.evaluation import image_scores, interpolated
from lorgnette.images.file import Image, read_image, write_image
from lorgnette.images.folders import find_items
from lorgnette.images.pixels import to_uint8
from lorgnette.images.resize import imresize
from lorgnette.recipe import build
from lorgnette.report.grid import busiest, labelled_grid
from lorgnette.report.page import Captioned, write_report
from lorgnette.systems.superres.camera import Camera
from lorgnette.systems.superres.data import TestImages, loaders
from lorgnette.systems.superres.predict import enhance
from lorgnette.systems.superres.recipe import Data, Recipe
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Listener
from lorgnette.train.listeners import read_metrics
from lorgnette.train.loop import evaluate, fit

# Both views of the motorcycle stand on one side: a scene must not be on both.
TRAINING_SCENES = ("astronaut", "motorcycle_left", "motorcycle_right", "immunohistochemistry", "retina")
HELD_OUT_SCENES = ("chelsea", "coffee", "rocket", "hubble_deep_field")
LARGEST = 512  # scenes are cut to this side around their centre
SHOWN = ("camera noise", "scan", "screenshot")
"""Other pictures, which are enhanced by what ships."""
STEPS = 250


@dataclass(frozen=True)
class Row:
    """One line of the comparison."""

    method: str
    metrics: Mapping[str, float]
    trained: int = 0
    file_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a demo gives: the table, and where its files are."""

    rows: list[Row]
    adapter: Path
    comparison: Path
    any_picture: Path
    enlarged: Path
    report: Path
    base_parameters: int

    def row(self, method: str) -> Row:
        return next(row for row in self.rows if row.method == method)

    def in_words(self) -> str:
        """What the table says, in a sentence or two."""
        gain = {row.method: row.metrics["psnr"] - self.row("frozen base").metrics["psnr"] for row in self.rows}
        best = max(("bicubic", "bicubic after non-local means"), key=lambda method: self.row(method).metrics["psnr"])
        text = (
            f"The adapter gains {gain['LoRA']:+.2f} dB over the frozen base "
            f"and {gain['LoRA'] - gain[best]:+.2f} dB over {best}."
        )
        if gain.get("full fine-tuning", 0) > 0:
            share, weights = gain["LoRA"] / gain["full fine-tuning"], self.row("LoRA").trained / self.base_parameters
            text += f" That is {share:.0%} of what full fine-tuning gains, with {weights:.1%} of its weights."
        return text


def scenes(names: Iterable[str]) -> dict[str, NDArray[np.uint8]]:
    """Photographs of scikit-image by name, (H, W, 3), cut to `LARGEST`.

    Raises:
        ValueError: scikit-image is not installed.
    """
    try:
        import skimage.data
    except ImportError:
        raise ValueError("the demo needs scikit-image: pip install 'lorgnette[demo]'") from None
    left, right, _ = skimage.data.stereo_motorcycle()
    stereo = {"motorcycle_left": left, "motorcycle_right": right}
    found = {name: stereo[name] if name in stereo else getattr(skimage.data, name)() for name in names}
    return {name: _centre(image) for name, image in found.items()}


def _centre(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = (max(0, (n - LARGEST) // 2) for n in image.shape[:2])
    return image[top : top + LARGEST, left : left + LARGEST]


def photograph(folder: Path, camera: Camera, seed: int) -> Data:
    """Write the scenes and their photographs as two pairs of folders; returns the settings that name them."""
    for part, names in (("train", TRAINING_SCENES), ("test", HELD_OUT_SCENES)):
        for number, (name, scene) in enumerate(scenes(names).items()):
            photo, sharp = camera.shoot(scene, seed=1000 * seed + number + (100 if part == "test" else 0))
            for kind, pixels in (("photos", photo), ("scenes", sharp)):
                write_image(folder / part / kind / f"{name}.png", Image(pixels))
    return Data(
        lr=str(folder / "train" / "photos"),
        hr=str(folder / "train" / "scenes"),
        test=str(folder / "test" / "scenes"),
        test_lr=str(folder / "test" / "photos"),
        patch=32,
        points=1024,
        test_crop=0,
    )


def run(
    out: str | Path = "demo-output",
    seed: int = 0,
    full: bool = False,
    steps: int = STEPS,
    listeners: Callable[[RunFolder], list[Listener]] = lambda folder: [],
    say: Callable[[str], None] = print,
) -> Outcome:
    """Adapt, prove, keep, use.

    Args:
        out: folder for everything that is written.
        seed: of the camera's noise and of the training.
        full: also fine-tune the whole network, for comparison.
        steps: of training, for the adapter and for the whole network.
        listeners: makes the listeners of a training, from its folder.
        say: takes a line for the person who watches.
    """
    out = make_folder(out)
    camera = Camera()
    say(f"Camera: {camera}.")
    data = photograph(out / "images", camera, seed)
    train = TrainConfig(steps=steps, seed=seed, batch_size=8, lr=4e-3, warmup_steps=10, eval_every=steps)
    recipe = Recipe(data=data, train=train)
    batches, held_out = loaders(recipe.data, recipe.train)
    test = list(held_out)

    task = build(recipe)
    assert isinstance(task, SuperResolution)
    parameters = lora.count_parameters(task.model)
    sigma = best_sigma(TestImages(find_items(data.hr or "", data.lr), ()), camera)
    rows = [
        timed("bicubic", lambda: classical(test)),
        timed("bicubic after non-local means", lambda: classical(test, lambda photo: denoised(photo, sigma))),
        timed("frozen base", lambda: evaluate(task, test)),
    ]

    say(f"Adapting to the camera on {len(batches)} scenes: {parameters.lora:,} parameters, {steps} steps.")
    folder = RunFolder(out / "run")
    started = time.perf_counter()
    end = fit(task, batches, recipe.train, listeners(folder))
    seconds = time.perf_counter() - started
    before, after = rows[-1].metrics, evaluate(task, test)
    end = replace(end, first=before, best=after, improved=after["psnr"] > before["psnr"])
    adapter = save(task, recipe, folder.adapter, what_was_learnt(end, batches, held_out, seconds))
    size = sum(file.stat().st_size for file in adapter.glob("*.safetensors"))
    rows.append(Row("LoRA", after, parameters.lora, size, seconds))

    merged = load(adapter)
    assert isinstance(merged, SuperResolution)
    lora.merge_lora_weights(merged.model)
    rows.append(Row("LoRA, merged", evaluate(merged, test), parameters.lora, size, 0.0))

    if full:
        say(f"Fine-tuning the whole network for comparison: {parameters.total - parameters.lora:,} parameters.")
        rows.append(full_fine_tuning(replace(recipe, lora=None, train=replace(train, lr=3e-4)), test, listeners, out))

    say("Enlarging one photo x3.3.")
    photo = read_image(out / "images" / "test" / "photos" / "chelsea.png")
    enlarged = out / "chelsea-x3.3.png"
    write_image(enlarged, enhance(merged, photo, scale=3.3))
    comparison, report = out / "comparison.png", out / "report.html"
    seen = [
        {"frozen base": b, "LoRA": a}
        for b, a in zip(predictions(build(recipe), test), predictions(merged, test), strict=True)
    ]
    write_image(comparison, Image(side_by_side(test, seen)))
    say(f"Enhancing {', '.join(SHOWN)} with what suits each.")
    looked = list(shown(SHOWN, seed))
    any_picture = out / "any-picture.png"
    captions = [f"{one.kind}: {one.choice}, {one.scores['given']:.1f} -> {one.chosen:.1f} dB" for one in looked]
    write_image(any_picture, Image(labelled_grid([one.pictures for one in looked], 1, captions)))
    base_parameters = parameters.total - parameters.lora
    outcome = Outcome(rows, adapter, comparison, any_picture, enlarged, report, base_parameters)
    write_report(
        report,
        title="An adapter for one camera",
        recipe_text=recipe_text(recipe),
        metrics=read_metrics(folder.metrics_file) if folder.metrics_file.exists() else [],
        table=[table_row(row) for row in rows],
        pictures=[
            ("Held-out scenes", comparison),
            ("Other pictures, with what suits each of what ships", any_picture),
            *map(before_and_after, test, seen),
        ],
        summary=(
            f"{outcome.in_words()}\n\nCamera: {camera}. "
            f"Adapted on {', '.join(TRAINING_SCENES)}; judged on {', '.join(HELD_OUT_SCENES)}."
        ),
    )
    return outcome


def table_row(row: Row) -> dict[str, Any]:
    """A row as the report shows it."""
    return {
        "method": row.method,
        "PSNR": row.metrics["psnr"],
        "SSIM": row.metrics["ssim"],
        "trained": row.trained or None,
        "file size": row.file_bytes or None,
        "seconds": round(row.seconds, 1) if row.seconds else None,
    }


@torch.no_grad()
def predictions(task: Any, test: Iterable[dict[str, Any]]) -> list[Tensor]:
    """What a task makes of each held-out photo: (1, 3, H, W) in [0, 1]."""
    return [task.predict(batch) for batch in test]


def before_and_after(batch: dict[str, Any], seen: dict[str, Tensor]) -> Captioned:
    """A held-out scene by the frozen base and by the adapted network, for the report."""
    before, after = (to_uint8(seen[name][0].permute(1, 2, 0)) for name in ("frozen base", "LoRA"))
    return f"{batch['name']}: frozen base, LoRA", before, after


def full_fine_tuning(
    recipe: Recipe, test: list[dict[str, Any]], listeners: Callable[[RunFolder], list[Listener]], out: Path
) -> Row:
    """The same training with every weight free."""
    task = build(recipe)
    batches, _ = loaders(recipe.data, recipe.train)
    folder = RunFolder(out / "run-full")
    started = time.perf_counter()
    fit(task, batches, recipe.train, listeners(folder))
    seconds = time.perf_counter() - started
    saved = save(task, recipe, folder.path / "model")
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    size = (saved / "model.safetensors").stat().st_size
    return Row("full fine-tuning", evaluate(task, test), trained, size, seconds)


def timed(method: str, score: Callable[[], Mapping[str, float]]) -> Row:
    started = time.perf_counter()
    metrics = score()
    return Row(method, metrics, seconds=time.perf_counter() - started)


def classical(
    test: Iterable[dict[str, Any]], before: Callable[[Tensor], Tensor] = lambda image: image
) -> dict[str, float]:
    """Scores of bicubic enlargement after `before`, averaged as `evaluate` does."""
    scores = []
    for batch in test:
        prediction = interpolated({**batch, "lq": before(batch["lq"])})
        scores.append(image_scores(prediction, batch))
    return {name: sum(s[name] for s in scores) / len(scores) for name in ("psnr", "ssim")}


def best_sigma(train: TestImages, camera: Camera) -> float:
    """The strength at which non-local means does most for the photographs of the training scenes."""
    candidates = [share * camera.noise / 255 for share in (0.25, 0.5, 0.75, 1.0)]
    photos = list(train)
    return max(candidates, key=lambda sigma: classical(photos, lambda photo: denoised(photo, sigma))["psnr"])


def denoised(image: Tensor, sigma: float) -> Tensor:
    """Non-local means (Buades et al. 2005) for noise of known `sigma`: (1, 3, h, w) in [0, 1]."""
    from skimage.restoration import denoise_nl_means

    pixels = image[0].permute(1, 2, 0).double().numpy()
    clean = denoise_nl_means(pixels, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, channel_axis=-1)
    return torch.from_numpy(clean).float().permute(2, 0, 1)[None]


def side_by_side(
    test: Sequence[dict[str, Any]], seen: Sequence[dict[str, Tensor]], side: int = 112
) -> NDArray[np.uint8]:
    """The busiest part of each held-out scene, by every method: (H, W, 3)."""
    rows = []
    for batch, networks in zip(test, seen, strict=True):
        truth = to_uint8(batch["gt"][0].permute(1, 2, 0))
        top, left = busiest(truth, side)
        photo, size = batch["lq"], batch["gt"].shape[-2:]
        versions = {
            "photo": torch.nn.functional.interpolate(photo, size=size),
            "bicubic": imresize(photo, size=size),
            **networks,
            "scene": batch["gt"],
        }
        crop = (..., slice(top, top + side), slice(left, left + side))
        rows.append({name: to_uint8(v[crop][0].permute(1, 2, 0)) for name, v in versions.items()})
    return labelled_grid(rows, enlarge=2)
