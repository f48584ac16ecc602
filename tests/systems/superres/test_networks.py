"""Every method with every encoder: the published networks, what they see, and settings that are not the usual ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.systems.superres.goldens import fill, golden, keys
from torch import Tensor, nn

from lorgnette.systems.superres.decoders import LIIF, LMLIIF, LMLTE, LTE, ContinuousImage, LMCiaoSR
from lorgnette.systems.superres.decoders.cross_scale import CrossScaleAttention
from lorgnette.systems.superres.encoders import EDSR, RDN, SwinIR, encoder_name
from lorgnette.systems.superres.encoders.swinir import mirrored
from lorgnette.systems.superres.model import make_network, render_cell
from lorgnette.systems.superres.names import METHODS, method_name

ENCODERS = ("edsr-baseline", "rdn", "swinir")
SMALL: dict[str, Any] = {
    "edsr": lambda: EDSR(1, 6),
    "rdn": lambda: RDN(2, 2, growth=4, n_feats=6),
    "swinir": lambda: SwinIR(12, (2, 1), num_heads=2, num_feat=6),
}
DECODERS: dict[str, Any] = {
    "lm-lte": lambda e: LMLTE(e, hidden_dim=8, imnet_dim=4, imnet_depth=2),
    "lm-liif": lambda e: LMLIIF(e, hyper_dim=12, imnet_dim=4, imnet_depth=2),
    "lm-ciaosr": lambda e: LMCiaoSR(e, hidden_dim=12, hyper_dim=12, imnet_dim=4, imnet_depth=2),
    "lte": lambda e: LTE(e, hidden_dim=8, hidden=(8,)),
    "liif": lambda e: LIIF(e, hidden=(8, 8)),
    "lm-lte, nearest": lambda e: LMLTE(e, hidden_dim=8, imnet_dim=4, imnet_depth=2, local_ensemble=False),
    "lm-lte, no cell": lambda e: LMLTE(e, hidden_dim=8, imnet_dim=4, imnet_depth=2, cell_decode=False),
    "lm-lte, all features": lambda e: LMLTE(e, hidden_dim=8, imnet_dim=4, imnet_depth=2, mod_input=False),
    "lm-liif, no cell": lambda e: LMLIIF(e, hyper_dim=12, imnet_dim=4, imnet_depth=2, cell_decode=False),
    "liif, nearest": lambda e: LIIF(e, hidden=(8,), local_ensemble=False, cell_decode=False),
    "lm-ciaosr, near": lambda e: LMCiaoSR(e, 12, 12, 4, 2, non_local_attn=False),
    "lm-ciaosr, x2 x3": lambda e: LMCiaoSR(e, 12, 12, 4, 2, local_size=1, multi_scale=[2, 3], mod_input=False),
}


def lively(decoder: str, encoder: str = "edsr") -> Any:
    """A small network whose weights let everything show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DECODERS[decoder](SMALL[encoder]()).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.8 / math.sqrt(parameter[0].numel()))
    return model.requires_grad_(False)


def picture(*size: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ------------------------------------------------------------------------------------------ the published networks


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_keys_are_those_of_published_checkpoints(method: str, encoder: str):
    with torch.device("meta"):
        own = make_network(method, encoder).state_dict()
    assert {name: list(tensor.shape) for name, tensor in own.items()} == keys(method, encoder)


@pytest.mark.parametrize("name", ["rdn_x4", "swinir_x2", "edsr_lmliif_x2.5", "edsr_lmciaosr_x3"])
def test_outputs_are_those_of_the_published_code(name: str):
    data = golden(name)
    meta, inp = data["meta"], torch.from_numpy(data["image"])[None] * 2 - 1
    model = make_network(meta["method"], meta["encoder"]).eval()
    fill(model)
    with torch.no_grad():
        out = model.render(inp, (meta["H"], meta["W"]))[0].permute(1, 2, 0).numpy()
    difference, size = np.abs(out - data["out"]), np.abs(data["out"]).max()
    assert difference.max() < (1e-4 * size if meta["method"] == "lmciaosr" else 5e-4)  # outputs that reach tens
    assert difference.mean() < 2e-5


def test_names_are_understood_as_they_are_written():
    for spelled in ("lm-lte", "lmlte", "LMLTE", "LM_LTE", "LM-LTE"):
        assert method_name(spelled) == "lm-lte"
    assert method_name("LMCiaoSR") == "lm-ciaosr"
    assert [encoder_name(name) for name in ("EDSR-b", "EDSR_baseline", "SwinIR", "RDN-B")] == [
        "edsr-baseline",
        "edsr-baseline",
        "swinir",
        "rdn",
    ]
    with pytest.raises(ValueError, match=r"model\.method: 'lm-lt' is not known.*; there is lm-lte, lm-liif"):
        method_name("lm-lt")


# ------------------------------------------------------------------------------------------------- what they see


@pytest.mark.parametrize("encoder", SMALL)
@pytest.mark.parametrize("decoder", ["lm-lte", "lm-liif", "lm-ciaosr, near", "lte", "liif"])
def test_nothing_beyond_the_receptive_radius_is_seen(encoder: str, decoder: str):
    """And the radius is no wider than what can be seen. LM-CiaoSR's attention across scales reaches further."""
    model = lively(decoder, encoder)
    radius = model.receptive_radius
    side = 2 * radius + 24
    reach = 0
    for pixel in range(radius + 8, radius + 16):  # all places in a window
        inp = picture(side, side).requires_grad_()
        at = torch.tensor([[[2 * (pixel + 0.7) / side - 1, 2 * (pixel + 0.3) / side - 1]]])
        model(inp, at, torch.full((1, 1, 2), 0.5 / side)).sum().backward()
        assert inp.grad is not None
        for axis in ((0, 1, 3), (0, 1, 2)):
            seen = torch.nonzero(inp.grad.abs().sum(axis)).flatten()
            reach = max(reach, pixel - int(seen.min()), int(seen.max()) - pixel)
        if encoder != "swinir":
            break
    assert radius - 1 <= reach <= radius


def test_a_network_with_windows_sees_any_size():
    model = lively("lm-lte", "swinir")
    for shape in ((1, 1), (8, 8), (3, 17), (21, 18)):
        inp = picture(*shape)
        assert model.encoder(inp).shape[-2:] == shape
        assert torch.isfinite(model.render(inp, (2 * shape[0], 3 * shape[1]))).all()
    # As published, in evaluation at least one mirrored row lies beyond the image; in training only what is missing.
    inp = picture(16, 20)
    beyond = mirrored(inp, 24, 24)
    seen = model.render(inp, (32, 40))
    model.train()
    torch.testing.assert_close(model.render(beyond, (48, 48))[..., :32, :40], seen, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.render(inp, (32, 40)), model.render(beyond[..., :16, :], (32, 48))[..., :40])
    assert (model.render(inp, (32, 40)) - seen).abs().max() > 1e-3


def test_mirroring():
    row = torch.arange(3.0).view(1, 1, 1, 3)
    assert mirrored(row, 1, 11).flatten().tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1]
    assert mirrored(row.mT, 5, 1).flatten().tolist() == [0, 1, 2, 2, 1]


@pytest.mark.parametrize("decoder", DECODERS)
def test_points_and_pictures_agree(decoder: str):
    model, inp = lively(decoder), picture(6, 9, batch=2)
    rendered = model.render(inp, (15, 18), chunk=50)
    y = (torch.arange(15) + 0.5) * 2 / 15 - 1
    x = (torch.arange(18) + 0.5) * 2 / 18 - 1
    coord = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).view(1, -1, 2).expand(2, -1, -1)
    cell = render_cell(inp, (15, 18)).expand_as(coord)
    asked = model(inp, coord, cell)
    torch.testing.assert_close(asked.transpose(1, 2).view(2, 3, 15, 18), rendered, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(inp[1:], coord[1:], cell[1:]), asked[1:], atol=1e-5, rtol=1e-5)
    sees_cells = (model(inp, coord, cell / 3) - asked).abs().max() > 1e-5
    assert sees_cells == model.cell_decode
    model.train()  # nothing is left out in training, as the published LM-CiaoSR leaves the enlargement out
    torch.testing.assert_close(model(inp, coord, cell), asked, atol=1e-5, rtol=1e-5)


def test_without_a_cell_the_points_are_those_of_a_picture():
    model, inp = lively("lm-lte"), picture(6, 9)
    coord = torch.rand(1, 4 * 54, 2) * 2 - 1  # as many as of an enlargement by two
    assert torch.equal(model(inp, coord), model(inp, coord, render_cell(inp, (12, 18)).expand_as(coord)))
    far = torch.rand(1, 100 * 54, 2) * 2 - 1
    assert torch.equal(model(inp, far), model(inp, far, render_cell(inp, (60, 90)).expand_as(far)))
    few = coord[:, :5]
    assert torch.equal(model(inp, few), model(inp, few, render_cell(inp, (6, 9)).expand_as(few)))


def test_points_beyond_the_edges_have_their_colours_and_a_cell_may_be_nothing():
    model, inp = lively("lm-lte"), picture(6, 9)
    coord = torch.tensor([[[-1.5, 0.2], [0.3, 7.0], [-1.0, 0.2], [0.3, 1.0]]])
    colours = model(inp, coord, torch.zeros(1, 4, 2))[0]
    assert torch.equal(colours[:2], colours[2:])
    assert torch.isfinite(colours).all()


def test_the_original_parts_of_lm_lte():
    model, inp = lively("lm-lte"), picture(6, 9, batch=2)
    coef, freq = model.gen_feats(inp)
    assert torch.equal(model.feat, model.encoder(inp))
    assert model.feat_coord.shape == (1, 2, 6, 9)
    assert model.feat_coord[0, :, 0, 1].tolist() == pytest.approx([-1 + 1 / 6, -1 + 3 / 9])
    cell = torch.full((2, 7, 2), 0.1)
    mod = model.gen_modulations(coef, freq, cell)
    torch.testing.assert_close(mod.permute(0, 2, 3, 1), model.modulations(model.feat, cell[:, 0]))
    quarter = torch.tensor([[0.5 / 6, 0.5 / 9]]).expand(2, 2)
    assert torch.equal(model.gen_modulations(coef, freq), model.gen_modulations(coef, freq, quarter))


@pytest.mark.parametrize("decoder", ["lm-liif", "lm-ciaosr", "lte", "liif"])
def test_every_parameter_learns(decoder: str):
    model = lively(decoder).requires_grad_(True).train()
    coord = torch.rand(1, 80, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    model(picture(7, 8), coord, torch.full((1, 80, 2), 0.2)).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all("_mean." in name for name in idle)


def test_untrained_networks_start_as_bilinear_where_they_add_to_it():
    inp = picture(6, 8)
    for decoder in DECODERS:
        model: ContinuousImage = lively(decoder)
        before = model.render(inp, (15, 20))
        model.start_as_bilinear()
        bilinear = F.interpolate(inp, (15, 20), mode="bilinear")
        assert torch.allclose(model.render(inp, (15, 20)), bilinear if model.skip else before, atol=1e-6)


# ------------------------------------------------------------------------------------------ attention across scales


def by_the_book(attention: CrossScaleAttention, feat: Tensor) -> Tensor:
    """As the paper writes it, with the whole map at once; sides are multiples of two."""
    match, ref = attention.conv_match_1(feat), attention.conv_match_2(F.avg_pool2d(feat, 2))
    found = []
    for x, small, value in zip(match, ref, attention.conv_assembly(feat), strict=True):
        patches = F.unfold(small[None], 3, padding=1)[0].T.reshape(-1, small.shape[0], 3, 3)
        patches = patches / patches.flatten(1).norm(dim=1).clamp(min=1e-4)[:, None, None, None]
        scores = (F.conv2d(x[None], patches, padding=1) * 10).softmax(dim=1)
        large = F.unfold(value[None], 6, padding=2, stride=2)[0].T.reshape(-1, value.shape[0], 6, 6)
        found.append(attention.down(F.conv_transpose2d(scores, large, stride=2, padding=2)) / 6)  # pyright: ignore
    return torch.cat(found)


def test_attention_some_places_at_a_time_is_attention(monkeypatch: pytest.MonkeyPatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention, feat = CrossScaleAttention(6), torch.randn(2, 6, 14, 10)
    expected = by_the_book(attention, feat)
    torch.testing.assert_close(attention(feat), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("lorgnette.systems.superres.decoders.cross_scale.SCORES", 1)  # a row at a time
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(attention(feat), expected, atol=1e-5, rtol=1e-5)
    given = feat.clone().requires_grad_()
    attention(given).square().sum().backward()
    whole = feat.clone().requires_grad_()
    by_the_book(attention, whole).square().sum().backward()
    torch.testing.assert_close(given.grad, whole.grad, atol=1e-4, rtol=1e-4)


def test_large_features_are_looked_at_in_the_published_blocks():
    """Of 48 pixels, with what is left over, and a pixel around; a strip too, which the published code leaves black."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention, feat = CrossScaleAttention(4), torch.randn(1, 4, 30, 110)
    with torch.no_grad():
        found = attention(feat)
        torch.testing.assert_close(found[..., :48], attention.attend(feat[..., :49])[..., :48])
        torch.testing.assert_close(found[..., 48:], attention.attend(feat[..., 47:])[..., 1:])
        assert attention(feat[..., :5, :5]).shape == (1, 4, 5, 5)
        assert attention(feat[..., :1, :1]).isfinite().all()


def test_attention_never_holds_a_map_of_all_places():
    """Sixteen times the places take about sixteen times the memory, not 256 times."""
    attention = CrossScaleAttention(2).requires_grad_(False)

    def most(side: int) -> int:
        sizes: list[int] = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                out = func(*args, **(kwargs or {}))
                if isinstance(out, Tensor):
                    sizes.append(out.numel())
                return out

        with Watch(), torch.no_grad():
            attention.attend(torch.rand(1, 2, side, side))
        return max(sizes)

    assert most(64) < 2**21 < 64**4 / 4


@pytest.mark.parametrize(
    ("settings", "says"), [({"local_size": 3}, "local_size: 3"), ({"multi_scale": [5]}, "multi_sc")]
)
def test_what_does_not_work(settings: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        LMCiaoSR(EDSR(1, 6), **settings)
