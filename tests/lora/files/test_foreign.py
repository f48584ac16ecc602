"""Adapters of other programs: the layers that wrote them are rebuilt here from their published formulas."""

from __future__ import annotations

import copy

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    get_lora_state_dict,
    import_adapter,
    inject_lora,
    merge_lora_weights,
    save_adapter,
)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class Net(nn.Module):
    """One of each layer that loralib has."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.point = nn.Conv2d(6, 6, 1)
        self.qkv = nn.Linear(6, 18)
        self.fc = nn.Linear(18, 5)

    def forward(self, image: Tensor, word: Tensor) -> Tensor:
        x = self.point(self.grouped(self.conv(image))).flatten(2).mT + self.words(word)
        return self.fc(self.qkv(x).tanh())


def make() -> Net:
    torch.manual_seed(0)
    return Net().eval()


BATCH = (torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(3)), torch.arange(12).reshape(1, 12) % 7)
ALPHA, R = 6.0, 3
ENABLED = [True, False, True]


def loralib_update(layer: nn.Module, A: Tensor, B: Tensor, alpha: float, r: int, enabled: list[bool] | None) -> Tensor:
    """What loralib adds to a weight, by its README and paper (arXiv 2106.09685)."""
    if isinstance(layer, nn.Embedding):
        delta = (B @ A).T
    elif isinstance(layer, nn.Conv2d):
        delta = (B @ A).view(layer.weight.shape)
    elif enabled is None:
        delta = B @ A
    else:
        rows = F.conv1d(A[None], B[..., None], groups=sum(enabled))[0]
        delta = torch.zeros(len(enabled), layer.out_features // len(enabled), layer.in_features)
        delta[torch.tensor(enabled)] = rows.view(sum(enabled), -1, layer.in_features)
        delta = delta.flatten(0, 1)
    return delta * alpha / r


def loralib_state(net: Net) -> dict[str, Tensor]:
    torch.manual_seed(4)
    shapes = {
        "words": ((R, 7), (6, R)),
        "conv": ((R * 3, 2 * 3), (6 * 3, R * 3)),
        "grouped": ((R * 3, 6 * 3), (3 * 3, R * 3)),
        "point": ((R, 6), (6, R)),
        "qkv": ((R * 2, 6), (12, R)),
        "fc": ((R, 18), (5, R)),
    }
    return {
        f"{name}.{factor}": torch.randn(shape) * 0.3
        for name, pair in shapes.items()
        for factor, shape in zip(("lora_A", "lora_B"), pair, strict=True)
    }


def as_loralib(state: dict[str, Tensor], alpha: float, enabled: list[bool] | None = ENABLED) -> Net:
    net = make()
    for name, layer in net.named_children():
        if f"{name}.lora_A" not in state:
            continue
        A, B = state[f"{name}.lora_A"], state[f"{name}.lora_B"]
        kernel = layer.kernel_size[0] if isinstance(layer, nn.Conv2d) else 1
        merged_linear = name == "qkv" and enabled is not None
        r = B.shape[1] if merged_linear else A.shape[0] // kernel
        layer.weight.data += loralib_update(layer, A, B, alpha, r, enabled if merged_linear else None)
    return net


def test_every_layer_of_loralib_is_read():
    state = loralib_state(make())
    net = make()
    report = import_adapter(net, state, alpha=ALPHA, enable_lora=ENABLED)
    assert report.complete
    close(net(*BATCH), as_loralib(state, ALPHA)(*BATCH))
    assert net.qkv.lora_q.r == R
    assert not hasattr(net.qkv, "lora_k")
    close(merge_lora_weights(net)(*BATCH), as_loralib(state, ALPHA)(*BATCH))


def test_a_whole_state_dict_of_loralib_keeps_the_base_out_of_the_adapter():
    state = loralib_state(make())
    base = make().state_dict()
    whole = {name.replace("conv.", "conv.conv.") if name.startswith("conv.") else name: t for name, t in base.items()}
    whole["fc.bias"] = whole["fc.bias"] + 1
    net = make()
    import_adapter(net, whole | state, alpha=ALPHA, enable_lora=ENABLED)
    assert {name for name in get_lora_state_dict(net) if "lora_" not in name} == {"fc.bias"}
    close(net(*BATCH), as_loralib(state, ALPHA)(*BATCH) + 1)


LORALIB_MISTAKES = {
    "no alpha": ({}, {"alpha": None}, "alpha: 'loralib' does not hold it"),
    "no enable_lora": ({}, {"enable_lora": None}, "enable_lora=[True, False, True] is one answer"),
    "another enable_lora": ({}, {"enable_lora": [True] * 3}, "[True, True, True] does not fit 'qkv'"),
    "a factor is gone": ({"fc.lora_B": None}, {}, "'fc' has no lora_B"),
    "another width": ({"conv.lora_A": torch.zeros(9, 4)}, {}, "'conv' has factors 9x4 and 18x9, which fit no kernel"),
    "another size": ({"fc.lora_A": torch.zeros(3, 17)}, {}, "'fc.lora_A' is 3x17, in the model 3x18"),
    "other ranks": ({"fc.lora_A": torch.zeros(4, 18)}, {}, "4x18 and 5x3, which fit no layer of 5 outputs"),
    "renamed": ({"fd.lora_A": torch.zeros(3, 18), "fd.lora_B": torch.zeros(5, 3)}, {}, "did you mean 'fc.lora_A'"),
}


@pytest.mark.parametrize(("change", "settings", "message"), LORALIB_MISTAKES.values(), ids=LORALIB_MISTAKES)
def test_what_does_not_fit_is_said_in_one_line_and_the_model_stays(change, settings, message):
    net = make()
    state = {name: t for name, t in (loralib_state(net) | change).items() if t is not None}
    with pytest.raises(ValueError, match="the adapter ") as error:
        import_adapter(net, state, **{"alpha": ALPHA, "enable_lora": ENABLED} | settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(net.state_dict()) == list(make().state_dict())


# ------------------------------------------------------------------------------------------------------- kohya


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(4, 4), "proj_in": nn.Conv2d(3, 4, 1)})])
        self.conv_in = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        block = self.down_blocks[0]
        return block["to_q"](self.conv_in(block["proj_in"](x)).flatten(2).mT)


def kohya(name: str, down: Tensor, up: Tensor, alpha: float | None) -> dict[str, Tensor]:
    state = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return state if alpha is None else state | {f"{name}.alpha": torch.tensor(alpha)}


@pytest.fixture
def unet() -> Unet:
    torch.manual_seed(0)
    return Unet().eval()


def test_kohyas_files_are_read(unet, tmp_path):
    image, plain = torch.randn(1, 3, 5, 4), copy.deepcopy(unet)
    q, proj, conv = (torch.randn(2, 4), torch.randn(4, 2)), (torch.randn(2, 3, 1, 1), torch.randn(4, 2, 1, 1)), None
    conv = (torch.randn(5, 4, 3, 3), torch.randn(4, 5, 1, 1))
    state = kohya("lora_unet_down_blocks_0_to_q", *q, 1.0)
    state |= kohya("lora_unet_down_blocks_0_proj_in", *proj, None)
    state |= kohya("lora_unet_conv_in", *conv, 2.5)
    safetensors.torch.save_file(state, tmp_path / "style.safetensors")
    assert import_adapter(unet, tmp_path / "style.safetensors").complete
    block = plain.down_blocks[0]
    block["to_q"].weight.data += 0.5 * q[1] @ q[0]
    block["proj_in"].weight.data += (proj[1].flatten(1) @ proj[0].flatten(1)).view(4, 3, 1, 1)
    plain.conv_in.weight.data += 0.5 * torch.einsum("orxy,rikl->oikl", conv[1], conv[0])
    close(unet(image), plain(image))


def test_matrices_written_as_convolutions(unet):
    image, plain = torch.randn(1, 3, 5, 4), copy.deepcopy(unet)
    q = torch.randn(2, 4, 1, 1), torch.randn(4, 2, 1, 1)
    state = kohya("lora_unet_down_blocks_0_to_q", *q, None)
    proj = torch.randn(2, 3), torch.randn(4, 2)
    state |= kohya("lora_unet_down_blocks_0_proj_in", *proj, None)
    import_adapter(unet, state)
    plain.down_blocks[0]["to_q"].weight.data += q[1][..., 0, 0] @ q[0][..., 0, 0]
    plain.down_blocks[0]["proj_in"].weight.data += (proj[1] @ proj[0])[..., None, None]
    close(unet(image), plain(image))


def test_kohyas_prefix_leaves_the_other_networks_out(unet):
    state = kohya("lora_unet_conv_in", torch.randn(2, 4, 3, 3), torch.randn(4, 2, 1, 1), None)
    both = state | kohya("lora_te_text_model_fc", torch.randn(2, 4), torch.randn(4, 2), None)
    with pytest.raises(ValueError, match="'lora_te_text_model_fc' has no layer in Unet"):
        import_adapter(unet, both)
    assert import_adapter(unet, both, prefix="lora_unet").complete


class Ambiguous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(4, 4)
        self.to = nn.ModuleDict({"q": nn.Linear(4, 4)})


FACTORS = (torch.zeros(2, 4), torch.zeros(4, 2))
KOHYA_MISTAKES = {
    "ambiguous": (Ambiguous, kohya("lora_unet_to_q", *FACTORS, None), "may mean 'to_q' and 'to.q'"),
    "unknown": (Unet, kohya("lora_unet_conv_im", *FACTORS, None), "no layer in Unet (did you mean 'conv_in'?)"),
    "half": (Unet, {"lora_unet_conv_in.lora_up.weight": FACTORS[1]}, "has no lora_down.weight"),
    "shape": (Unet, kohya("lora_unet_conv_in", *FACTORS, None), "is 2x4x1x1, in the model 2x4x3x3"),
    "rank": (
        Unet,
        kohya("lora_unet_down_blocks_0_to_q", FACTORS[0], torch.zeros(4, 3), None),
        "has rank 3, the model 2",
    ),
    "another method": (
        Unet,
        kohya("lora_unet_conv_in", *FACTORS, None) | {"lora_unet_conv_in.dora_scale": FACTORS[0]},
        "'lora_unet_conv_in.dora_scale' belongs to another method",
    ),
    **{
        f"{name} of LyCORIS or of a split layer": (
            Unet,
            kohya("lora_unet_conv_in", *FACTORS, None) | {f"lora_unet_down_blocks_0_to_q.{name}": FACTORS[0]},
            f"'lora_unet_down_blocks_0_to_q.{name}' belongs to another method",
        )
        for name in ("hada_w1_a", "lokr_w1", "oft_blocks", "diff", "w_norm", "scalar", "lora_down.0.weight")
    },
    "a core in the middle": (
        Unet,
        kohya("lora_unet_conv_in", torch.zeros(2, 4, 1, 1), torch.zeros(4, 2, 1, 1), None)
        | {"lora_unet_conv_in.lora_mid.weight": torch.zeros(2, 2, 3, 3)},
        "'lora_unet_conv_in.lora_mid.weight' belongs to another method",
    ),
}


@pytest.mark.parametrize(("base", "state", "message"), KOHYA_MISTAKES.values(), ids=KOHYA_MISTAKES)
def test_kohyas_files_that_do_not_fit(base, state, message):
    net = base()
    with pytest.raises(ValueError, match="the adapter ") as error:
        import_adapter(net, state)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(net.state_dict()) == list(base().state_dict())


# -------------------------------------------------------------------------------- checkpoints, and what is no adapter


def test_a_checkpoint_with_the_adapter_inside(net, make_net, images, shake, tmp_path):
    inject_lora(net, LoRAConfig(r=4, lora_alpha=8, target_modules=["to_qkv", "to_out.0"], modules_to_save=["head"]))
    shake(net)
    net.head.weight.data += 1
    path = tmp_path / "lora_checkpoint.pt"
    torch.save({"epoch": 10, "lora_state_dict": get_lora_state_dict(net)}, path)
    other = make_net()
    with pytest.raises(ValueError, match="alpha: 'checkpoint' does not hold it"):
        import_adapter(other, path)
    import_adapter(other, path, alpha=8)
    assert torch.equal(other(images), net(images))
    injected = inject_lora(make_net(), target_modules=["to_qkv", "to_out.0"], rank=4, alpha=8)
    import_adapter(injected, path)
    assert torch.equal(injected(images), net(images))
    injected = inject_lora(make_net(), target_modules=["to_qkv", "to_out.0"], rank=2, alpha=8)
    with pytest.raises(ValueError, match="has rank 4, the model 2"):
        import_adapter(injected, path)


def test_a_checkpoint_with_an_attention_and_slices(shake):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(6, 2, batch_first=True)
            self.qkv = nn.Linear(6, 18)

        def forward(self, x: Tensor) -> Tensor:
            return self.qkv(self.attn(x, x, x)[0])

    torch.manual_seed(0)
    base = Two()
    net = inject_lora(
        copy.deepcopy(base), LoRAConfig(r=2, target_modules=["attn", "qkv"], slices={"qkv": ["q", "6:9"]})
    )
    shake(net)
    import_adapter(base, {"lora_state_dict": get_lora_state_dict(net)}, alpha=8)
    x = torch.randn(1, 4, 6)
    assert torch.equal(base(x), net(x))


def test_a_folder_is_loaded_too_and_other_files_are_refused(net, make_net, images, shake, tmp_path):
    inject_lora(net, target_modules=["head"])
    shake(net)
    other = make_net()
    import_adapter(other, save_adapter(net, tmp_path / "adapter"))
    assert torch.equal(other(images), net(images))
    fresh = make_net()
    with pytest.raises(ValueError, match="its names are PEFT's; give the folder"):
        import_adapter(fresh, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        import_adapter(fresh, tmp_path / "nothing.pt")
    (tmp_path / "bad.pt").write_bytes(b"not a file of torch")
    (tmp_path / "bad.safetensors").write_bytes(b"nor this")
    torch.save({"lora_state_dict": {"head.lora_A": {1, 2}}}, tmp_path / "code.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "pickle.pt")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("bad.pt", "bad.safetensors", "code.pt", "pickle.pt", "other.pt"):
        with pytest.raises(ValueError, match=name) as error:
            import_adapter(fresh, tmp_path / name, alpha=8)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="format: 'ckpt' is not known"):
        import_adapter(fresh, {}, "ckpt")


def test_info_says_whose_adapter_a_file_is(unet, tmp_path, capsys):
    from lorgnette.cli import main

    safetensors.torch.save_file(kohya("lora_unet_conv_in", *FACTORS, 1.0), tmp_path / "kohya.safetensors")
    safetensors.torch.save_file(loralib_state(make()), tmp_path / "loralib.safetensors")
    safetensors.torch.save_file(unet.state_dict(), tmp_path / "base.safetensors")
    for name, said in (("kohya", "adapter of    kohya-ss"), ("loralib", "adapter of    loralib"), ("base", None)):
        assert main(["info", str(tmp_path / f"{name}.safetensors")]) == 0
        shown = capsys.readouterr().out
        assert said in shown if said else "adapter of" not in shown
