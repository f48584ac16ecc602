"""Any model, any settings: inject, train, save, load, merge and back; nothing is lost on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    disabled,
    effective_parameter,
    fingerprint,
    get_lora_params,
    inject_lora,
    load_adapter,
    merged,
    plan,
    save_adapter,
    trained_tensors,
    verify,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage")


class Vision(nn.Module):
    """(B, 2, 8, 8) -> (B, 3): convolutions, an encoder, a fused attention, a stacked projection, a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, stride=2, padding=1, padding_mode="reflect")
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.positions = nn.Embedding(16, 8)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 1, enable_nested_tensor=False
        )
        self.attn = nn.MultiheadAttention(8, 2, kdim=8, vdim=8)
        self.qkv = nn.Linear(8, 24)
        self.x_proj_weight = nn.Parameter(torch.randn(2, 4, 8) * 0.3)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.stem(x)).relu()).flatten(2).mT
        x = self.encoder(x + self.positions(torch.arange(16)))
        x = x + self.attn(x, x, x, need_weights=False)[0]
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + (q @ k.mT).softmax(-1) @ v
        x = torch.einsum("knc,blc->bkln", effective_parameter(self, "x_proj_weight"), x).sum(1)
        return self.up(x.mT.unflatten(2, (4, 4))).mean((2, 3))


NAMES = ["stem", "depthwise", "positions", "self_attn", "linear1", "attn", "qkv", "up"]
METHODS: list[dict] = [
    {},
    {"init_lora_weights": "gaussian"},
    {"use_dora": True},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_2"},
    {"init_lora_weights": "olora"},
    {"freeze_lora_A": True},
]
GATED = ["stem", "depthwise", "qkv", "up"]  # where the rank may depend on the input


@st.composite
def configs(draw: st.DrawFn) -> LoRAConfig:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    raw = draw(st.booleans())
    slices = {}
    if "qkv" in names and draw(st.booleans()):
        slices["qkv"] = draw(st.lists(st.sampled_from(["q", "k", "v"]), min_size=1, unique=True))
    if "self_attn" in names and draw(st.booleans()):
        slices["self_attn"] = draw(st.lists(st.sampled_from(["q", "v", "out_proj"]), min_size=1, unique=True))
    method = draw(st.sampled_from(METHODS))
    overrides: dict[str, dict] = {names[-1]: {"lora_dropout": 0.3}} if draw(st.booleans()) else {}
    gated = [name for name in names if name in GATED and name not in slices]
    if gated and not method and draw(st.booleans()):
        overrides = {gated[0]: {"dynamic_rank": True}}
    return LoRAConfig(
        # no more than the smallest weight has, where the factors start as a part of it
        r=draw(st.sampled_from([1, 2] if "init_lora_weights" in method else [1, 3, 16])),
        lora_alpha=draw(st.sampled_from([1, 8])),
        lora_dropout=draw(st.sampled_from([0.0, 0.1])),
        target_modules=names,
        target_parameters=["x_proj_weight"] if raw else None,
        slices=slices,
        rank_pattern={names[0]: 2} if draw(st.booleans()) else {},
        overrides=overrides,
        use_rslora=draw(st.booleans()),
        bias=draw(st.sampled_from(["none", "all", "lora_only"])),
        modules_to_save=["norm"] if draw(st.booleans()) else None,
        **method,
    )


def make() -> Vision:
    torch.manual_seed(0)
    return Vision().eval()


@settings(max_examples=30, deadline=None)
@given(configs())
def test_whatever_is_adapted_is_trained_kept_and_merged(tmp_path_factory, config):
    net, x = make(), torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    base, planned = fingerprint(net), plan(net, config)
    with torch.no_grad():
        before = net(x)
        inject_lora(net, config)
        if config.init_lora_weights in (True, "gaussian"):
            assert torch.equal(net(x), before)
        else:
            torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    assert planned.parameters == sum(parameter.numel() for parameter in get_lora_params(net))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        net.train()(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    net.eval()
    moved = {f"norm.{name}" for name, _ in net.norm.named_buffers()}
    assert base.difference(fingerprint(net), {*trained_tensors(net), *moved}) == ""
    assert verify(net, x).ok
    folder = save_adapter(net, tmp_path_factory.mktemp("any"), config)
    other = make()
    other.norm.load_state_dict(net.norm.state_dict())  # its statistics moved while training
    assert load_adapter(other, folder, check_base=False).complete
    with torch.no_grad():
        wanted = net(x)
        assert torch.equal(other(x), wanted)
        with merged(net):
            torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(net(x), wanted)
        plain = make()
        tensors = plain.state_dict()
        for name, tensor in trained_tensors(net).items():
            tensors[name].copy_(tensor)
        plain.norm.load_state_dict(net.norm.state_dict())
        with disabled(net):
            assert torch.equal(net(x), plain(x))
