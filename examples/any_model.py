"""Adapt any `torch.nn.Module`: inject, train, save, load, merge. Runs in a few seconds."""

from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import nn

from lorgnette import lora

torch.manual_seed(0)


def photographs(count: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy and clean pictures of soft blobs, (count, 1, 32, 32)."""
    clean = nn.functional.interpolate(torch.rand(count, 1, 6, 6), size=(32, 32), mode="bicubic")
    return clean + noise * torch.randn_like(clean), clean


def train(model: nn.Module, parameters: list[nn.Parameter], noise: float, steps: int) -> None:
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(steps):
        noisy, clean = photographs(8, noise)
        nn.functional.mse_loss(model(noisy), clean).backward()
        optimizer.step()
        optimizer.zero_grad()


# A model you already have: here, a small denoiser that has only ever seen little noise.
model = nn.Sequential(
    nn.Conv2d(1, 32, 5, padding=2),
    nn.ReLU(),
    nn.Conv2d(32, 32, 5, padding=2),
    nn.ReLU(),
    nn.Conv2d(32, 1, 5, padding=2),
)
train(model, list(model.parameters()), noise=0.05, steps=100)
base_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

# Your camera is noisier. Adapt the model to it, leaving its own weights alone.
noisy, clean = photographs(64, noise=0.3)
error = {"base": nn.functional.mse_loss(model(noisy), clean).item()}
lora.inject_lora(model, target_modules=["0", "2", "4"], rank=2, alpha=4)
print(lora.verify(model, noisy))
train(model, lora.get_lora_params(model), noise=0.3, steps=100)
error["adapted"] = nn.functional.mse_loss(model(noisy), clean).item()

# The adapter is a small folder; another copy of the base takes it, and refuses it if it is another base.
folder = lora.save_adapter(model, Path(mkdtemp()) / "my-adapter")
fresh = lora.unload_lora(model)
assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in base_weights.items())
lora.load_adapter(fresh, folder)

# For use without the library, grind it into the weights: plain layers, the same output.
count = lora.count_parameters(fresh)
merged = lora.merge_lora_weights(fresh)
error["merged"] = nn.functional.mse_loss(merged(noisy), clean).item()

for name, value in error.items():
    print(f"{name:8} mean squared error {value:.5f}")
size = (folder / "adapter_model.safetensors").stat().st_size
print(f"adapter: {count.lora} of {count.total} parameters, {size / 1000:.0f} kB")
