"""Whatever the method and the encoder: they are adapted, trained, kept, loaded and used alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorgnette import build, fit, load, lora, save
from lorgnette.images.file import Image
from lorgnette.systems import superres
from lorgnette.systems.superres.names import METHODS

NETWORKS = [(method, "edsr-tiny") for method in METHODS] + [("lm-liif", "swinir-light")]
# What the default settings adapt, of each: where the attention of windows, the convolutions, the hypernetwork are.
ADAPTED = {
    ("lm-lte", "edsr-tiny"): {"encoder.head.0", "encoder.body.1.body.2", "freq", "hypernet.layers.2"},
    ("lm-liif", "edsr-tiny"): {"encoder.body.2", "hypernet.layers.0"},
    ("lm-ciaosr", "edsr-tiny"): {"encoder.body.0.body.0", "hypernet_q.layers.2", "imnet_k.layers.0"},
    ("lte", "edsr-tiny"): {"coef", "freq", "encoder.body.2"},
    ("liif", "edsr-tiny"): {"encoder.body.2"},
    ("lm-lte", "rdn-a"): {"encoder.SFENet1", "encoder.RDBs.19.convs.5.conv.0", "encoder.RDBs.0.LFF", "encoder.GFF.1"},
    ("lm-liif", "swinir-light"): {
        "encoder.layers.3.residual_group.blocks.5.attn.qkv",
        "encoder.layers.0.residual_group.blocks.0.mlp.fc2",
    },
}


@pytest.mark.parametrize(("method", "encoder"), [*NETWORKS, pytest.param("lm-lte", "rdn-a", marks=pytest.mark.slow)])
def test_training_keeping_and_using(method: str, encoder: str, tmp_path: Path):
    tiny, batches, test = superres.tiny()
    assert tiny.lora is not None
    recipe = replace(
        tiny,
        model=superres.Model(method=method.upper(), encoder=encoder, base="none"),
        lora=replace(tiny.lora, modules_to_save=None),
        train=replace(tiny.train, steps=2),
    )
    task = build(recipe)
    assert {name for name, layer in task.model.named_modules() if hasattr(layer, "lora_A")} >= ADAPTED[method, encoder]
    before = task.predict(test[0])
    fit(task, batches, recipe.train)
    trained = task.eval().predict(test[0])
    assert torch.isfinite(trained).all()
    # of LM-LTE's kin the last layer starts at zero and is not adapted: nothing shows at first
    assert torch.equal(trained, before) == (method != "liif" and method != "lm-liif")
    save(task, recipe, tmp_path)
    again = load(tmp_path)
    assert type(again.model) is type(task.model)
    state = lora.get_lora_state_dict(task.model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in lora.get_lora_state_dict(again.model).items())
    picture = Image(np.random.default_rng(0).random((9, 11, 3), dtype=np.float32))
    assert isinstance(again, superres.SuperResolution)
    large = superres.enhance(again, picture, 2.5)
    assert large.pixels.shape == (22, 28, 3)
    merged = lora.merge_lora_weights(again.model, inplace=False)
    inp = torch.rand(1, 3, 6, 7)
    torch.testing.assert_close(merged.render(inp, (9, 9)), again.model.render(inp, (9, 9)), atol=1e-5, rtol=1e-4)


def test_the_whole_network_is_kept_too(tmp_path: Path):
    tiny, batches, _ = superres.tiny()
    recipe = replace(
        tiny,
        model=superres.Model(method="LM-CiaoSR", encoder="edsr-tiny", base="none"),
        lora=None,
        train=replace(tiny.train, steps=2),
    )
    task = build(recipe)
    fit(task, batches, recipe.train)
    save(task, recipe, tmp_path)
    state, again = task.state_dict(), load(tmp_path).state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())
