"""Which channels hang together is found, tried and believed only then; what is left answers as it must."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.prune import prune_channels, prune_model
from lorgnette.prune.channels import groups_of
from lorgnette.prune.surgeon import Surgeon, columns_of

pytest.importorskip("torch_pruning", reason="pip install 'lorgnette[prune]'")


class Net(nn.Module):
    """A residual stream, channels put behind each other, and every kind of channel that has to stay."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 1))
        self.dense = nn.Conv2d(16, 8, 3, padding=1)
        self.fused = nn.Conv2d(24, 12, 1)
        self.normed = nn.Linear(12, 20)
        self.norm = nn.LayerNorm(20)
        self.halves = nn.Linear(20, 32)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        x = x + self.inner(x)
        x = self.fused(torch.cat([self.dense(x), x], 1))
        x = self.halves(self.norm(self.normed(x.permute(0, 2, 3, 1))))
        x = (x[..., 0::2].sin() * x[..., 1::2]).permute(0, 3, 1, 2)
        return self.last(self.depthwise(x))


def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight)
    return made


def picture(number: int = 0, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 12, 10, generator=torch.Generator().manual_seed(number))


def test_groups_and_what_stays():
    made = net()
    before = copy.deepcopy(made.state_dict())
    groups, left = groups_of(made, (picture(),))
    assert {group.name: (group.size, len(group.readers), sorted(group.made)) for group in groups} == {
        "head": (16, 3, ["head", "inner.3"]),
        "inner.0": (24, 1, ["inner.0"]),
        "dense": (8, 1, ["dense"]),
        "fused": (12, 1, ["fused"]),
    }
    assert left == ["normed", "halves", "depthwise", "last"]
    after = made.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_a_layer_of_zeros_hides_nothing():
    made = net()
    nn.init.zeros_(made.last.weight)
    assert [group.name for group in groups_of(made, (picture(),))[0]] == ["head", "inner.0", "dense", "fused"]


def test_what_nobody_hears_goes_and_nothing_changes():
    made = net()
    groups, _ = groups_of(made, (picture(),))
    for group in groups:
        group.silence(range(1, group.size, 3))
    wanted = made(picture(1))
    cut = prune_channels(made, (picture(),), None, 0.3, step=1)
    assert cut.widths == {"head": (16, 11), "inner.0": (24, 17), "dense": (8, 6), "fused": (12, 8)}
    assert made.inner[1].running_mean.shape == (17,)
    assert (made.fused.in_channels, made.fused.out_channels) == (6 + 11, 8)
    torch.testing.assert_close(made(picture(1)), wanted, rtol=1e-4, atol=1e-5)


def test_of_two_that_say_the_same_one_goes_and_the_other_speaks_for_both():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 24, 3), nn.LeakyReLU(), nn.Conv2d(24, 5, 1)).eval().requires_grad_(False)
    made[0].weight[12:], made[0].bias[12:] = 2 * made[0].weight[:12], 2 * made[0].bias[:12]
    wanted = made(picture(5))
    (group,), _ = groups_of(made, (picture(),))
    gone = Surgeon(made, [group], lambda: made(picture(1, 8))).silence(group, 12)
    assert len({channel % 12 for channel in gone}) == 12
    group.remove(gone)
    assert made[0].out_channels == made[2].in_channels == 12
    torch.testing.assert_close(made(picture(5)), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("taps", [1, 3])
def test_what_is_left_is_the_least_squares_solution(taps: int):
    torch.manual_seed(1)
    made = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Tanh(), nn.Conv2d(12, 5, taps)).eval().requires_grad_(False)
    seen, reader = torch.randn(4, 3, 15, 15), made[2]
    wanted = reader.weight.flatten(1).clone()
    (group,), _ = groups_of(made, (seen[:1],))
    surgeon = Surgeon(made, [group], lambda: made(seen))
    generator = torch.Generator().manual_seed(0)
    x = columns_of(reader, made[:2](seen), 4 * wanted.shape[1], generator).double()  # what the surgeon saw
    gone = surgeon.silence(group, 4)
    kept = torch.tensor([c * taps**2 + t for c in range(12) if c not in gone for t in range(taps**2)])
    oracle = torch.linalg.lstsq(x[kept].T, (wanted.double() @ x).T).solution.T
    torch.testing.assert_close(reader.weight.flatten(1)[:, kept].double(), oracle, rtol=2e-2, atol=2e-3)
    group.remove(gone)
    assert made[2].weight.shape == (5, 8, taps, taps)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, (3, 5), padding=(2, 1)),
        nn.Conv2d(3, 4, 3, stride=2, dilation=2, padding="valid"),
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
    ],
)
def test_columns_are_what_a_convolution_multiplies(layer: nn.Conv2d):
    x = torch.randn(2, 3, 9, 8)
    columns = columns_of(layer, x, 800, torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = layer(x).permute(0, 2, 3, 1).reshape(-1, 4)
        made = (layer.weight.flatten(1) @ columns).T + layer.bias
    apart = torch.cdist(made, answers, compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.min(1).values.max() < 1e-5
    assert len(set(apart.argmin(1).tolist())) > 0.9 * len(answers)  # from everywhere


def test_as_the_requirement_calls_it():
    made = net()
    weights = sum(parameter.numel() for parameter in made.parameters())
    assert prune_model(made, pruning_ratio=0.3) is made
    assert (made.head.out_channels, made.inner[0].out_channels, made.dense.out_channels) == (12, 16, 4)
    assert sum(parameter.numel() for parameter in made.parameters()) < 0.65 * weights
    assert made(picture()).shape == (2, 3, 12, 10)
    for parameter in made.parameters():
        assert parameter.requires_grad


def test_data_lose_less_than_the_size_of_weights():
    wanted = net()(picture(9)).detach()
    data = [picture(number) for number in range(4)]
    apart = [
        float((prune_model(net(), 0.3, given, data[0], step=1)(picture(9)).detach() - wanted).square().mean())
        for given in ([], data)
    ]
    assert 0 < apart[1] < 0.7 * apart[0]


def test_adapters_are_folded_in_first():
    made = net()
    lora.inject_lora(made, lora.LoRAConfig(r=2, target_modules=["head", "fused"]))
    with torch.no_grad():
        for parameter in lora.get_lora_params(made):
            parameter.add_(torch.randn_like(parameter))
    same = net()
    same.load_state_dict(lora.merge_lora_weights(copy.deepcopy(made)).state_dict())
    assert torch.equal(prune_model(made)(picture()), prune_model(same)(picture()))
    assert not lora.is_adapted(made)


def test_unstructured_makes_zeros_of_the_smallest():
    made = net()
    sizes = torch.cat([m.weight.abs().flatten() for m in made.modules() if isinstance(m, nn.Conv2d)])
    assert prune_model(made, 0.3, unstructured=True) is made
    zeros = torch.cat([(m.weight == 0).flatten() for m in made.modules() if isinstance(m, nn.Conv2d)])
    assert int(zeros.sum()) == round(0.3 * len(zeros))
    assert sizes[zeros].max() <= sizes[~zeros].min()
    assert "head.weight" in made.state_dict()  # no mask is left


@pytest.mark.parametrize(
    ("made", "settings", "said"),
    [
        (net(), {"pruning_ratio": 0}, r"^pruning_ratio: 0 is outside \(0, 1\); 0\.3 is usual"),
        (net(), {"pruning_ratio": float("nan")}, r"^pruning_ratio: nan is outside"),
        (net(), {"step": 0}, r"^step: 0 is too small; 1 or more works"),
        (
            net(),
            {"step": 64},
            r"takes nothing out of this network: its widest layer that can lose channels has 24, and",
        ),
        (nn.Conv2d(3, 8, 1), {}, r"none of its convolutions and products can lose channels"),
        (nn.Linear(3, 8), {"unstructured": True}, r"^unstructured: this network has no convolution"),
        (nn.Bilinear(3, 4, 8), {}, r"^example: Bilinear does not take one picture; give a tuple of its arguments"),
        (net(), {"example": torch.rand(1, 5, 8, 8)}, r"^example: Net does not take it \(.*channels"),
    ],
)
def test_refused(made: nn.Module, settings: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said) as refusal:
        prune_model(made, **settings)
    assert "\n" not in str(refusal.value)
