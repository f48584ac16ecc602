"""Reuse inside a network: by layers, before the scan, by groups of blocks, by windows. See docs/video-cache.md.

    python benchmarks/parts/below_tile.py          # half a minute on one thread

It measures what each wins, the first three on the shipped networks. Of these the package has the last, for networks
with such blocks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.nn.swin import SwinTransformerBlock
from lorgnette.nn.window_cache import WindowCache
from lorgnette.recipe import build
from lorgnette.systems import restore, superres

SIDE, CHANGED = 192, 61  # a tenth of the pixels


def seconds(run: Callable[[], Any], rounds: int = 3) -> float:
    """Processor time, the median after a first round."""
    run()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def region(first: int, last: int, margin: int) -> slice:
    return slice(max(0, first - margin), min(SIDE, last + margin))


def layer_by_layer() -> None:
    """The convolutional encoder: each layer anew where its input changed, against the changed region with margins."""
    encoder = build(superres.Recipe(lora=None)).eval().model.encoder
    image = torch.rand(1, 3, SIDE, SIDE) * 2 - 1
    first = (SIDE - CHANGED) // 2
    last = first + CHANGED
    convolutions = [
        module for module in encoder.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    kept = [torch.rand(1, conv.in_channels, SIDE, SIDE) for conv in convolutions]

    def cropped(margin: int) -> Tensor:
        box = region(first, last, margin)
        return encoder(image[..., box, box])

    def incremental() -> None:
        for number, (conv, inputs) in enumerate(zip(convolutions, kept, strict=True)):
            box = region(first, last, number + 2)  # what changes, and one pixel that it sees
            changed = conv(inputs[..., box, box])
            if number + 1 < len(kept):
                inner = region(first, last, number + 1)
                kept[number + 1][..., inner, inner] = changed[..., 1:-1, 1:-1].relu()

    whole = seconds(lambda: encoder(image))
    held = sum(tensor.nbytes for tensor in kept)
    print(f"encoder, {SIDE} x {SIDE}, {CHANGED} x {CHANGED} of it changed; quicker than the whole:")
    print(f"  changed region with a margin of 7 (97 dB): {whole / seconds(lambda: cropped(7)):.1f}x, keeps nothing")
    print(f"  changed region with margins for both ends, 72 (exact): {whole / seconds(lambda: cropped(72)):.1f}x")
    print(f"  layer by layer (exact): {whole / seconds(incremental):.1f}x, keeps {held / SIDE**2:.0f} bytes a pixel")


def rows_before_the_scan() -> None:
    """What comes before the scan, and of how many pixels it stays the same from the second block on."""
    model = build(restore.Recipe(lora=None)).eval().model
    spent = {"before": 0.0}
    inputs: list[list[Tensor]] = []

    def timed(layer: nn.Module) -> None:
        own = layer.forward

        def forward(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            result = own(*given, **named)
            spent["before"] += time.process_time() - start
            return result

        layer.forward = forward  # type: ignore[method-assign]

    blocks = [module for module in model.modules() if type(module).__name__ == "SS2D"]
    for block in blocks:
        timed(block.in_proj)  # type: ignore[arg-type]
        timed(block.conv2d)  # type: ignore[arg-type]
        block.register_forward_pre_hook(lambda _, given: inputs[-1].append(given[0].clone()))
    image = torch.rand(1, 3, 96, 96)
    other = image.clone()
    other[..., 30:60, 30:60] = 0.5
    for frame in (image, image, other):
        inputs.append([])
        spent["before"], start = 0.0, time.process_time()
        model(frame)
        share = spent["before"] / (time.process_time() - start)
    print(f"before the scan (projection, convolution): {100 * share:.0f} % of the time; a tenth of the frame changed;")
    for number, (a, b) in enumerate(zip(inputs[1], inputs[2], strict=True)):
        same = (a == b).all(-1).float().mean()
        near = ((a - b).abs().amax(-1) < 0.01 * a.std()).float().mean()
        print(f"  inputs of block {number}: {100 * same:.0f} % of the pixels equal, {100 * near:.0f} % within 1 %")


def groups_of_blocks() -> None:
    """A group is skipped, and what it added last time is added again, where its input changed little (as TeaCache)."""
    model = build(restore.Recipe(lora=None)).eval().model
    generator = torch.Generator().manual_seed(0)
    scene = torch.nn.functional.interpolate(
        torch.rand(1, 3, 26, 26, generator=generator), scale_factor=4, mode="bicubic"
    )
    scene = scene.clamp(0, 1)[..., :96, :96]

    def run(
        image: Tensor, added: dict[int, Tensor] | None = None, skip: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        seen: list[Tensor] = []
        hooks = []
        for number, group in enumerate(model.layers):
            own = group.forward

            def forward(x: Tensor, key: object = None, number: int = number, own: Any = own) -> Tensor:
                seen.append(x)
                if skip == number and added is not None:
                    return x + added[number]
                y = own(x, key)
                if skip is None and added is not None:
                    added[number] = y - x
                return y

            group.forward = forward
            hooks.append(group)
        result = model(image)
        for group in hooks:
            del group.forward
        return result, seen

    print("groups skipped: the input of the group, against the error of the output and of plain reuse")
    for levels in (1.0, 3.0, 10.0):
        added: dict[int, Tensor] = {}
        first, before = run(scene, added)
        frame = scene + levels / 255 * torch.randn(scene.shape, generator=generator)
        truth, after = run(frame)
        for skip in (0, 1):
            changed = float((after[skip] - before[skip]).abs().mean() / before[skip].abs().mean())
            skipped, _ = run(frame, added, skip)
            print(
                f"  {levels:4.0f} levels of noise, group {skip} skipped: input changed by {100 * changed:.1f} %, "
                f"output {decibels(skipped, truth):.1f} dB; the whole output reused {decibels(first, truth):.1f} dB"
            )
    whole = seconds(lambda: model(scene))
    group = seconds(lambda: model.layers[0](torch.rand(1, 96, 96, 64)))
    print(f"  a group takes {100 * group / whole:.0f} % of the time")


def windows_of_attention() -> None:
    """A stack of Swin blocks as SwinIR has them, with and without a cache of windows."""
    cache = WindowCache()
    blocks = [SwinTransformerBlock(60, 6, 8, 4 * (number % 2), window_cache=cache).eval() for number in range(6)]
    image = torch.rand(1, 128, 128, 60)

    def run(x: Tensor, key: str | None) -> Tensor:
        for block in blocks:
            x = block(x, key)
        return x

    run(image, "clip")
    ratios = []
    for turn in range(4):
        changed = image.clone()
        changed[:, 40:80, 40:80, turn] += 1
        start = time.process_time()
        cached = run(changed, "clip")
        middle = time.process_time()
        whole = run(changed, None)
        ratios.append((time.process_time() - middle) / (middle - start))
        error = float((cached - whole).abs().max())
    print(f"six blocks of windowed attention, a tenth of 128 x 128 changed: {statistics.median(ratios):.1f}x quicker,")
    print(f"  largest difference {error:.1e}, keeps {cache.statistics['bytes'] / 128**2:.0f} bytes a pixel")


def decibels(a: Tensor, b: Tensor) -> float:
    return -10 * float((a - b).square().mean().log10())


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        layer_by_layer()
        rows_before_the_scan()
        groups_of_blocks()
        windows_of_attention()
