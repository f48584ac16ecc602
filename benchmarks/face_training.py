"""What training the face mapping costs: adapters beside the whole network, one token and four, with prior and
projection.

    python benchmarks/face_training.py --rounds 5

The network is the room's default, step path included; adapters have the rank of the row there, and 4 in the attentions.

Steps alternate, in processor time of one thread; the ratio is the median over rounds of the whole network's step to
that of the row in the same round. State is what is kept for training: weights, gradients and both means of AdamW;
activations are the bytes kept for the backward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette import lora
from lorgnette.systems import faceview
from lorgnette.systems.faceview import EnhancedTransformerDecoderOnly3D, EnhancedTransformerWithPrior


def batch_of(size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"src": (size, 512), "angles": (size, 3), "keypoints_3d": (size, 5, 3)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def network(tokens: int, rank: int, projection: bool = False, resolution: int = 8) -> Any:
    torch.manual_seed(0)
    model = EnhancedTransformerDecoderOnly3D(
        num_tokens=tokens, use_lora_attention=False, use_projection_layer=projection, voxel_resolution=resolution,
        use_steps=True,
    )  # fmt: skip
    assert model.steps is not None
    for part in (model.head, model.steps.up, model.steps.wide):  # as in a base that is trained
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    config = faceview.Recipe().lora
    if rank and config is not None:
        lora.inject_lora(model, replace(config, r=rank))
        if model.projection is not None:
            model.projection.requires_grad_(True)
    return model.train()


class Step:
    """One way to train, a step at a time."""

    def __init__(self, model: Any, prior: bool = False):
        self.model, self.loss_of = model, EnhancedTransformerWithPrior(model) if prior else None
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)

    def loss(self, batch: dict[str, Tensor], target: Tensor) -> Tensor:
        src, rest = batch["src"], {name: value for name, value in batch.items() if name != "src"}
        if self.loss_of is not None:
            return self.loss_of.compute_loss(src, rest, target, F.mse_loss)[0]
        return F.mse_loss(self.model(src, **rest, return_residual=False), target)

    def __call__(self, batch: dict[str, Tensor], target: Tensor) -> float:
        started = time.process_time()
        self.loss(batch, target).backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - started

    def state(self) -> int:
        """Bytes of weights, gradients and the optimiser's means."""
        return 4 * (sum(p.numel() for p in self.model.parameters()) + 3 * sum(p.numel() for p in self.trained))

    def activations(self, batch: dict[str, Tensor], target: Tensor) -> int:
        """Bytes that one forward pass keeps, beside parameters."""
        own, kept = {p.untyped_storage().data_ptr() for p in self.model.parameters()}, {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss(batch, target)
        total = sum(kept.values())
        del loss
        return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--ways", nargs="+", help="names of rows beside the whole network; unset: all but grids of 16 and 32 voxels"
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = batch_of(options.batch)
    target = torch.randn(options.batch, 512, generator=torch.Generator().manual_seed(1))
    for tokens in options.tokens:
        ways: dict[str, Callable[[], Step]] = {
            "whole network": lambda tokens=tokens: Step(network(tokens, 0)),
            "LoRA r 4": lambda tokens=tokens: Step(network(tokens, 4)),
            "LoRA r 8": lambda tokens=tokens: Step(network(tokens, 8)),
            "LoRA r 16": lambda tokens=tokens: Step(network(tokens, 16)),
            "LoRA r 8, prior": lambda tokens=tokens: Step(network(tokens, 8), prior=True),
            "LoRA r 8, projection": lambda tokens=tokens: Step(network(tokens, 8, projection=True)),
        }
        if tokens == 4:
            for resolution in (16, 32):
                ways[f"LoRA r 8, projection of {resolution}"] = lambda tokens=tokens, resolution=resolution: Step(
                    network(tokens, 8, projection=True, resolution=resolution)
                )
        chosen = ("whole network", *(options.ways or (name for name in ways if " of " not in name)))
        steps = {name: make() for name, make in ways.items() if name in chosen}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(options.rounds + 1):
            for name, step in steps.items():
                seconds = step(batch, target)
                if turn:
                    times[name].append(seconds)
        whole = steps["whole network"]
        most = whole.state() + whole.activations(batch, target)
        print(f"\n{tokens} token(s), batch of {options.batch}, {options.rounds} rounds\n")
        print("| way | trained | step | quicker | state | activations | of the whole network's |")
        print("|---|---|---|---|---|---|---|")
        for name, step in steps.items():
            pairs = zip(times["whole network"], times[name], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            state, kept = step.state(), step.activations(batch, target)
            print(
                f"| {name} | {sum(p.numel() for p in step.trained):,} | {1000 * statistics.median(times[name]):.0f} ms"
                f" | {ratio:.2f}x | {state / 1e6:.1f} MB | {kept / 1e6:.1f} MB | {(state + kept) / most:.0%} |"
            )


if __name__ == "__main__":
    main()
