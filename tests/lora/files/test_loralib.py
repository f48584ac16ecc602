"""What the real loralib writes is read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lorgnette.lora import import_adapter

loralib = pytest.importorskip("loralib")

R, ALPHA, ENABLED = 3, 6, [True, False, True]


class Net(nn.Module):
    """Takes its layers from PyTorch, or with adapters from loralib."""

    def __init__(self, ll: bool) -> None:
        super().__init__()
        more = {"r": R, "lora_alpha": ALPHA} if ll else {}
        kinds = loralib if ll else nn
        self.words = kinds.Embedding(7, 6, **more)
        self.conv = kinds.Conv2d(2, 6, 3, padding=1, **more)
        self.grouped = kinds.Conv2d(6, 6, 3, padding=1, groups=2, **more)
        self.point = kinds.Conv2d(6, 6, 1, **more)
        self.qkv = loralib.MergedLinear(6, 18, enable_lora=ENABLED, **more) if ll else nn.Linear(6, 18)
        self.fc = kinds.Linear(18, 5, **more)

    def forward(self, image: Tensor, word: Tensor) -> Tensor:
        x = self.point(self.grouped(self.conv(image))).flatten(2).mT + self.words(word)
        return self.fc(self.qkv(x).tanh())


BATCH = (torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(3)), torch.arange(12).reshape(1, 12) % 7)


def theirs() -> Net:
    """In training mode, in which loralib does not merge by itself."""
    torch.manual_seed(0)
    net = Net(ll=True)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return net


def base_of(net: Net) -> Net:
    base = Net(ll=False).eval()
    state = {name.replace(".conv.", "."): t for name, t in net.state_dict().items() if "lora_" not in name}
    base.load_state_dict(state)
    return base


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whole", [False, True])
def test_its_state_is_read(tmp_path, whole):
    source = theirs()
    state = source.state_dict() if whole else loralib.lora_state_dict(source)
    torch.save(state, tmp_path / "lora.pt")
    net = base_of(source)
    assert import_adapter(net, tmp_path / "lora.pt", alpha=ALPHA, enable_lora=ENABLED).complete
    close(net(*BATCH), source(*BATCH))
