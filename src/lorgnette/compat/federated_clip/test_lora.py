"""`python -m lorgnette.compat.federated_clip.test_lora`: a quick look whether everything works on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch

from lorgnette.compat.federated_clip.clip_wrapper import CLIPLoRAWrapper
from lorgnette.compat.federated_clip.factory import LoRAConfigManager, LoRAModelManager, quick_clip_lora
from lorgnette.compat.federated_clip.lora_config import LoRAConfig
from lorgnette.compat.federated_clip.model import FederatedCLIPModel

TINY = {"model_name": "none", "num_classes": 3, "architecture": "tiny"}


def dependencies() -> str:
    """Versions of what is used."""
    import safetensors
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}, safetensors {safetensors.__version__}"


def configuration() -> str:
    """Settings survive being written."""
    with tempfile.TemporaryDirectory() as folder:
        manager = LoRAConfigManager(folder)
        config = LoRAConfig.for_clip_model(r=8, lora_alpha=16)
        manager.save_config(config, "clip_small")
        if manager.load_config("clip_small") != config:
            raise ValueError("the settings came back changed")
    return str(config.target_modules)


def wrapper() -> str:
    """Fresh adapters change nothing, and merging nothing either."""
    model = FederatedCLIPModel(**TINY)
    images = torch.randn(2, 3, 16, 16)
    before = model.eval()(images)
    wrapped = CLIPLoRAWrapper(model, LoRAConfig.for_clip_model(r=2, lora_alpha=4))
    wrapped.apply_lora_to_federated_model()
    if not torch.equal(before, model.eval()(images)):
        raise ValueError("fresh adapters changed the output")
    wrapped.merge_and_unload()
    return "the output stays the same"


def factory() -> str:
    """A model comes back from disk as it was."""
    model, other = quick_clip_lora(**TINY, lora_r=2), quick_clip_lora(**TINY, lora_r=2)
    images, labels = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    model.train_step(images, labels)
    with tempfile.TemporaryDirectory() as folder:
        manager = LoRAModelManager(folder)
        manager.save_model(model, "clip")
        manager.load_model("clip", other)
    if not torch.equal(model.eval()(images), other.eval()(images)):
        raise ValueError("the model came back changed")
    return f"{len(model.get_parameters())} arrays"


def clip_integration() -> str:
    """Training lowers the loss."""
    torch.manual_seed(0)
    model = quick_clip_lora(**TINY, lora_r=4)
    images, labels = torch.randn(9, 3, 16, 16), torch.arange(9) % 3
    losses = [model.train_step(images, labels) for _ in range(30)]
    if not losses[-1] < losses[0]:
        raise ValueError(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}"


CHECKS: tuple[Callable[[], str], ...] = (dependencies, configuration, wrapper, factory, clip_integration)


def main() -> int:
    """Run every check; the exit status."""
    failed = 0
    for check in CHECKS:
        try:
            print(f"{check.__name__:<17} ok: {check()}")
        except (ValueError, OSError, ImportError) as error:
            failed += 1
            print(f"{check.__name__:<17} FAILED: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
