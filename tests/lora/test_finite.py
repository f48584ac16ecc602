"""NaN and infinity in an adapter: whoever saves, loads or merges it hears of it; a safe merge refuses."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lorgnette.lora import (
    LoRAConfig,
    get_lora_state_dict,
    inject_lora,
    load_adapter,
    load_lora_state_dict,
    merge_lora_weights,
    save_adapter,
)

X = torch.randn(2, 4)


def make(bad: float | None = None, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).to(dtype)
    if bad is not None:
        inject_lora(model, target_modules=["0", "1"], rank=2)
        model[1].lora_B.data[0, 0] = bad
    return model


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_it_is_said_where_it_is_saved_loaded_and_merged(bad, tmp_path):
    said = r"'1\.lora_B' of the adapter holds NaN or infinity"
    model = make(bad)
    with pytest.warns(UserWarning, match=f"save_adapter: {said}"):
        save_adapter(model, tmp_path)
    with pytest.warns(UserWarning, match=said):
        load_adapter(make(), tmp_path)
    with pytest.warns(UserWarning, match=said):
        load_lora_state_dict(make(0.0), get_lora_state_dict(model))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for inplace in (True, False):
        with pytest.raises(ValueError, match=f"merge_lora_weights: {said}"):
            merge_lora_weights(model, inplace, safe=True)
    assert all(torch.equal(t.nan_to_num(7), before[n].nan_to_num(7)) for n, t in model.state_dict().items())
    with pytest.warns(UserWarning, match=f"merge_lora_weights: {said}"):
        merge_lora_weights(model)


def test_trained_tensors_of_the_base_count_too(tmp_path):
    model = inject_lora(make(), LoRAConfig(target_modules=["0"], modules_to_save=["1"]))
    model[1].bias.data[1] = float("nan")
    with pytest.warns(UserWarning, match=r"'1\.bias' of the adapter"):
        save_adapter(model, tmp_path)
    with pytest.warns(UserWarning, match=r"'1\.bias' of the adapter"):
        load_adapter(make(), tmp_path)


def test_a_safe_merge_refuses_what_is_too_large_for_the_weight():
    model = make(60000.0, torch.float16)
    model[1].lora_A.data.fill_(60000.0)
    with pytest.raises(ValueError, match=r"'1 merged into float16' of the adapter holds NaN or infinity"):
        merge_lora_weights(model, safe=True)
    assert model[1].weight.isfinite().all()


def test_what_is_finite_is_not_spoken_of(tmp_path):
    model = make(0.5)
    wanted = model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_adapter(model, tmp_path)
        load_adapter(make(), tmp_path)
        torch.testing.assert_close(merge_lora_weights(model, safe=True)(X), wanted)
        base = make(0.5)
        base[0].weight.data[0, 0] = float("nan")  # not the adapter's doing
        merge_lora_weights(base, safe=True)
