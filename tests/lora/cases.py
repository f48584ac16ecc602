"""Every kind of layer in every form, each with an input; and adapters for it."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from lorgnette.lora import LoRAConfig


@st.composite
def linear_cases(draw: st.DrawFn):
    torch.manual_seed(draw(st.integers(0, 99)))
    width_in, width_out = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    layer = nn.Linear(width_in, width_out, bias=draw(st.booleans()))
    lead = draw(st.sampled_from([(), (3,), (0,), (2, 3), (2, 1, 3)]))
    x = torch.randn(*lead, width_in)
    if len(lead) == 2 and draw(st.booleans()):
        x = torch.randn(lead[0], width_in, lead[1]).mT  # not contiguous
    return layer, x


@st.composite
def conv_cases(draw: st.DrawFn):
    torch.manual_seed(draw(st.integers(0, 99)))
    groups = draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = draw(st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.just("same"), st.just("valid")))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 2, (2, 1)]))
    layer = nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=draw(st.sampled_from([1, 2, (1, 2)])),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    lead = draw(st.sampled_from([(2,), (1,), ()]))
    return layer, torch.randn(*lead, layer.in_channels, 7, 6)


@st.composite
def conv_1d_and_3d_cases(draw: st.DrawFn):
    torch.manual_seed(draw(st.integers(0, 99)))
    groups, dims = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
    layer = (nn.Conv1d if dims == 1 else nn.Conv3d)(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        stride=draw(st.sampled_from([1, 2])),
        padding=draw(st.integers(0, 1)),
        dilation=draw(st.sampled_from([1, 2])),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "replicate", "circular"])),
    )
    return layer, torch.randn(2, layer.in_channels, *(5, 6, 7)[:dims])


@st.composite
def transposed_cases(draw: st.DrawFn):
    torch.manual_seed(draw(st.integers(0, 99)))
    groups, dims = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        stride=stride,
        padding=draw(st.integers(0, 1)),
        output_padding=draw(st.integers(0, max(stride, dilation) - 1)),
        groups=groups,
        bias=draw(st.booleans()),
        dilation=dilation,
    )
    return layer, torch.randn(2, layer.in_channels, *(4, 3, 5)[:dims])


@st.composite
def embedding_cases(draw: st.DrawFn):
    torch.manual_seed(draw(st.integers(0, 99)))
    rows = draw(st.integers(2, 9))
    padding = draw(st.sampled_from([None, 0, -1]))
    layer = nn.Embedding(rows, draw(st.integers(1, 5)), padding, scale_grad_by_freq=draw(st.booleans()))
    return layer, torch.randint(rows, draw(st.sampled_from([(), (3,), (2, 0), (2, 4)])))


cases = st.one_of(linear_cases(), conv_cases(), conv_1d_and_3d_cases(), transposed_cases(), embedding_cases())
adapters = st.builds(
    LoRAConfig,
    r=st.sampled_from([1, 2, 4, 13]),  # 13 is above every dimension
    lora_alpha=st.sampled_from([1, 3.5, 16]),
    use_rslora=st.booleans(),
    init_lora_weights=st.sampled_from([True, "gaussian"]),
)
