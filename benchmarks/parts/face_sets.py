"""Sets of rendered heads, and what an encoder makes of them; kept in a folder, because both take minutes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lorgnette.systems.faceview.faces import Person, Views
from parts.rendered_heads import PLAIN, Family, Head, Light

Encoder = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(N, 112, 112, 3) -> (N, 512)."""


class Pictures(NamedTuple):
    """Of `people` heads in turn: first the frontal ones of a head, then the others."""

    pixels: NDArray[np.uint8]
    pose: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    fronts: int
    views: int

    def first(self, people: int) -> Pictures:
        """Those of the first heads."""
        rows = slice(0, people * (self.fronts + self.views))
        return self._replace(pixels=self.pixels[rows], pose=self.pose[rows], keypoints=self.keypoints[rows])


def rendered(
    family: Family, people: int, seed: int, views: int, light: Light = PLAIN, fronts: int = 2, spread: float = 90
) -> Pictures:
    """Heads of one family: `fronts` within 8 degrees, and `views` with |yaw| even up to `spread`."""
    found: list[Any] = []
    for number in tqdm(range(people), mininterval=30):
        head, rng = Head(family, (seed, number)), np.random.default_rng((seed, number, 1))
        yaw = np.concatenate([rng.uniform(-8, 8, fronts), rng.uniform(8, spread, views) * rng.choice([-1, 1], views)])
        for place, angle in enumerate(yaw):
            pose = np.deg2rad([6 * rng.normal(), angle, 4 * rng.normal()])
            found.append(head.look(pose, rng, PLAIN if place < fronts else light))
    pixels, pose, keypoints = (np.stack(part) for part in zip(*found, strict=True))
    return Pictures(pixels, pose.astype(np.float32), keypoints.astype(np.float32), fronts, views)


def people_of(pictures: Pictures, encoder: Encoder, name: str) -> dict[str, Person]:
    """The embeddings of pictures, person by person."""
    embedding = encoder(pictures.pixels)
    each, people = pictures.fronts + pictures.views, {}
    for number in range(len(embedding) // each):
        rows = slice(number * each, (number + 1) * each)
        views = Views(embedding[rows], pictures.pose[rows], pictures.keypoints[rows])
        people[f"{name}-{number:04d}"] = Person(views[: pictures.fronts], views[pictures.fronts :])
    return people


def cached(folder: Path, name: str, make: Callable[[], NamedTuple]) -> Pictures:
    """What was made before, or is made now and kept."""
    file = folder / f"{name}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, **make()._asdict())
    with np.load(file) as found:
        parts = [found[part] for part in Pictures._fields]
    return Pictures(parts[0], parts[1], parts[2], int(parts[3]), int(parts[4]))


class OnnxEncoder:
    """An embedding of ArcFace's pictures by an ONNX file, one at a time: levels (x - 127) / 128, RGB."""

    def __init__(self, file: str):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options)
        self.input = self.session.get_inputs()[0].name

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = []
        for picture in tqdm(pixels, mininterval=30):
            x = ((picture.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
            found.append(np.asarray(self.session.run(None, {self.input: x})[0])[0])
        return np.stack(found)


class SmallEncoder(nn.Module):
    """A residual network of 2.7 million weights over 56 x 56 pictures, to an embedding of 512 numbers."""

    def __init__(self, people: int):
        super().__init__()
        widths = (32, 64, 128, 192)
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.stages = nn.ModuleList()
        for a, b in pairwise(widths):
            self.stages.append(nn.ModuleDict({
                "down": nn.Conv2d(a, b, 3, 2, 1), "norm": nn.GroupNorm(8, b),
                "a": nn.Conv2d(b, b, 3, 1, 1), "b": nn.Conv2d(b, b, 3, 1, 1),
            }))  # fmt: skip
        self.out = nn.Linear(widths[-1] * 16, 512)
        self.people = nn.Parameter(0.05 * torch.randn(people, 512))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 56, 56) in [0, 1] -> (B, 512)."""
        x = F.relu(self.stem(x - 0.5))
        for stage in self.stages:
            layers: Any = stage
            x = F.relu(layers["norm"](layers["down"](x)))
            x = x + layers["b"](F.relu(layers["a"](x)))
        return self.out(F.relu(x).flatten(1))

    @torch.no_grad()
    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder`."""
        return torch.cat([self(part) for part in small(pixels).split(256)]).numpy()


def small(pixels: NDArray[np.uint8]) -> Tensor:
    """(N, 112, 112, 3) -> (N, 3, 56, 56) in [0, 1]."""
    halved = np.stack([cv2.resize(p, (56, 56), interpolation=cv2.INTER_AREA) for p in pixels])
    return torch.from_numpy(halved).permute(0, 3, 1, 2).float() / 255


def trained_encoder(pictures: Pictures, file: Path, steps: int = 500, seed: int = 0) -> SmallEncoder:
    """A `SmallEncoder` that tells the heads apart (additive margin softmax, Wang et al., arXiv 1801.05599)."""
    torch.manual_seed(seed)
    each = pictures.fronts + pictures.views
    net = SmallEncoder(len(pictures.pixels) // each)
    if file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    x, person = small(pictures.pixels), torch.arange(len(pictures.pixels)) // each
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in tqdm(range(steps), mininterval=30):
        rows = torch.randint(len(x), (64,))
        picture = x[rows] * (0.7 + 0.6 * torch.rand(64, 1, 1, 1)) + 0.03 * torch.randn(64, 3, 56, 56)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = net(picture)
        cosine = F.normalize(embedding.float(), dim=-1) @ F.normalize(net.people, dim=-1).T
        margin = 0.25 * F.one_hot(person[rows], cosine.shape[1])
        loss = F.cross_entropy(24 * (cosine - margin), person[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.save(net.state_dict(), file)
    return net.eval()
